"""An OpenAI-compatible chat server as a source: it finds boxes, which segment-anything fills."""
