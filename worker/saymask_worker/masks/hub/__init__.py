"""Models of the model hub, through transformers; an optional extra: ``saymask[hub]``."""
