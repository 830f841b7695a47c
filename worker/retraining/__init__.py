"""Training on request: models that are served only if they are better than what was served."""
