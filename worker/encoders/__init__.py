"""CLIP-space features of proposals and of text."""
