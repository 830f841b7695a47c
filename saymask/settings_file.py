"""The settings file of a local installation, written by ``saymask up``.

It lies in the installation's folder (``.saymask`` below the working directory, or
``SAYMASK_UP_DIR``), so that every command run there finds database, queue and Label Studio.
Environment variables come first.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from saymask.errors import ConfigError
from saymask.private_files import open_private_file

UP_DIR_VARIABLE = "SAYMASK_UP_DIR"
DEFAULT_UP_DIR = ".saymask"
_FILE_NAME = "settings.env"


def find_settings_file() -> Path | None:
    """Return the settings file of the local installation, or None."""
    path = Path(os.environ.get(UP_DIR_VARIABLE) or DEFAULT_UP_DIR) / _FILE_NAME
    return path if path.is_file() else None


def write_settings_file(directory: Path, variables: Mapping[str, str]) -> Path:
    """Write variables to the settings file of an installation, readable by its owner only.

    Raises:
        ConfigError: a value cannot be written in the dotenv format.
    """
    for name, value in variables.items():
        if "'" in value or "\n" in value:
            raise ConfigError(
                f"{name} contains a quotation mark or a line break.",
                "In an address, write %27 for the quotation mark.",
            )
    lines = [f"{name}='{value}'\n" for name, value in variables.items()]
    path = directory / _FILE_NAME
    path.unlink(missing_ok=True)
    with open_private_file(path) as file:
        file.writelines(["# Written by saymask up; environment variables come first.\n", *lines])
    return path
