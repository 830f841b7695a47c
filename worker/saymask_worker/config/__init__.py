"""Every number that changes a mask or a score, and the worker's settings."""
