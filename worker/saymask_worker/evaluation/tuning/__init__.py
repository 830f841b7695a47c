"""Weights of the score fitted to recorded decisions."""
