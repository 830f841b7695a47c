"""Speed. Each benchmark prints A, B and their ratio from one run; none is a test."""
