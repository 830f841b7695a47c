"""``saymask-worker``: the worker's command line."""

from worker.cli.main import main

__all__ = ["main"]
