"""Proposing expressions for images that nobody has described yet, with the masks they mean."""
