"""Speed. Each benchmark prints A, B and their ratio from one run; none is a test."""

# Before PyTorch, for whose threads it chooses how they wait.
import saymask_worker  # noqa: F401
