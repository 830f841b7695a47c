"""The names of all settings, so that a misspelt or unknown one is reported, not ignored.

Backend and worker read one environment and one settings file, and neither knows the other's.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from dotenv import dotenv_values

from saymask.private_files import find_settings_file

_PREFIX = "SAYMASK_"
NAMES = frozenset(
    _PREFIX + name
    for name in [
        "ALLOWED_HOSTS",
        "BACKGROUND_GRACE_S",
        "BACKGROUND_WORKERS",
        "BASIC_AUTH_PASSWORD",
        "BASIC_AUTH_USER",
        "CACHE_DIR",
        "CACHE_MAX_MB",
        "DATABASE_URL",
        "DATA_DIR",
        "DEADLINE_S",
        "DEVICE",
        "ENCODER",
        "EXPRESSION_FIELDS",
        "FIRST_LOOK",
        "HOST",
        "IDLE_UNLOAD_S",
        "K",
        "LABEL_STUDIO_API_KEY",
        "LABEL_STUDIO_PORT",
        "LABEL_STUDIO_PROGRAM",
        "LABEL_STUDIO_PUBLIC_URL",
        "LABEL_STUDIO_URL",
        "LOG_FORMAT",
        "METHOD",
        "MODELS_DIR",
        "NOUNS",
        "OPEN_PHOTOS_MAX_MB",
        "PHOTO_MAX_MB",
        "PHOTO_PRIVATE_HOSTS",
        "POINTS_PER_SIDE",
        "PORT",
        "PREPARED_DIR",
        "PROPOSALS",
        "QUEUES",
        "QUEUE_PORT",
        "REDIS_URL",
        "SCORING",
        "SOURCES",
        "SYNC_EVERY_S",
        "UP_DIR",
        "URL",
        "WEBHOOK_SECRET",
    ]
)
"""Of the backend, the worker, ``saymask up`` and the Label Studio ML example."""


def list_unknown_settings() -> list[str]:
    """Return the ``SAYMASK_...`` names of environment and settings file that nothing reads."""
    file = find_settings_file()
    given = {name.upper() for name in (*os.environ, *(dotenv_values(file) if file else ()))}
    return sorted(name for name in given - NAMES if name.startswith(_PREFIX))


def to_variable(location: Iterable[str | int]) -> str:
    """Return the variable of a setting, from the location in a validation error of pydantic."""
    return _PREFIX + "_".join(map(str, location)).upper().removeprefix(_PREFIX)
