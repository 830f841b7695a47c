"""Candidate sources: whatever offers masks for an image and an expression."""
