"""An image at each stage of its way through the worker, and arithmetic on it."""
