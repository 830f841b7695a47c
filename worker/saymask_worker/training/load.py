"""Importing what trains, which needs packages that a worker can do without."""

from __future__ import annotations

from types import ModuleType

from saymask.errors import ConfigError


def load_training() -> ModuleType:
    """Return ``saymask_worker.training.command``.

    Raises:
        ConfigError: training's packages are missing.
    """
    try:
        from saymask_worker.training import command
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"Training needs the package {error.name}.", "pip install 'saymask[worker,train]'"
        ) from error
    return command
