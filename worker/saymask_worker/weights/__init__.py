"""Checkpoints: their list, the store on this machine, and how they are fetched."""

from saymask_worker.weights.checkpoints import (
    CHECKPOINTS,
    DEFAULT,
    find_checkpoint,
    hash_file,
)
from saymask_worker.weights.store import WeightStore, default_cache_dir

__all__ = [
    "CHECKPOINTS",
    "DEFAULT",
    "WeightStore",
    "default_cache_dir",
    "find_checkpoint",
    "hash_file",
]
