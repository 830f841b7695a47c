"""What backend and worker read alike, and the names of all settings of both.

They read one environment and one settings file, and neither knows the other's settings: by the
names, a misspelt or unknown one is reported, not ignored.
"""

from __future__ import annotations

import os
from typing import Any, TypeVar

from dotenv import dotenv_values
from pydantic import AliasChoices, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from saymask.errors import ConfigError
from saymask.logs import LogFormat
from saymask.private_files import find_settings_file
from saymask.redaction import SecretAddress

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
        "ENDPOINT_COORDINATES",
        "ENDPOINT_KEY",
        "ENDPOINT_MODEL",
        "ENDPOINT_URL",
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


class SharedSettings(BaseSettings):
    """Settings of backend and worker; each is the environment variable ``SAYMASK_<NAME>``."""

    model_config = SettingsConfigDict(
        env_prefix="SAYMASK_",
        env_ignore_empty=True,
        populate_by_name=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    redis_url: SecretAddress = Field(
        "redis://127.0.0.1:6379/0",
        validation_alias=AliasChoices("SAYMASK_REDIS_URL", "REDIS_URL"),
        description="Valkey, or Redis from 7 on, that carries the queue. REDIS_URL is read too.",
    )
    log_format: LogFormat = Field(
        "text", description="Log lines as `text`, or as `json` with the call's id in each."
    )


Kind = TypeVar("Kind", bound=SharedSettings)


def read_settings(kind: type[Kind], **overrides: Any) -> Kind:
    """Read the environment, then the settings file of a local installation, if there is one.

    Args:
        kind: of settings.
        overrides: settings by name, before anything else.

    Raises:
        ConfigError: a value is wrong; names the variable.
    """
    try:
        return kind(_env_file=find_settings_file(), **overrides)
    except ValidationError as error:
        lines = [f"{_to_variable(item['loc'])}: {item['msg']}" for item in error.errors()]
        raise ConfigError(
            f"Some settings are wrong: {'; '.join(lines)}.", "Correct the SAYMASK_... variables."
        ) from error


def list_unknown_settings() -> list[str]:
    """Return the ``SAYMASK_...`` names of environment and settings file that nothing reads."""
    file = find_settings_file()
    given = {name.upper() for name in (*os.environ, *(dotenv_values(file) if file else ()))}
    return sorted(name for name in given - NAMES if name.startswith(_PREFIX))


def _to_variable(location: tuple[str | int, ...]) -> str:
    return _PREFIX + "_".join(map(str, location)).upper().removeprefix(_PREFIX)
