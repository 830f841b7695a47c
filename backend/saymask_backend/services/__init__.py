"""The use cases, one per module. They return saymask's own data, never Label Studio's JSON."""
