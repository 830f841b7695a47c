"""Training a supervised model on records, to be served as another source of candidates."""
