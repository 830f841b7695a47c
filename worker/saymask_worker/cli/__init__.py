"""``saymask-worker``: the worker's command line."""

from saymask_worker.cli.main import main

__all__ = ["main"]
