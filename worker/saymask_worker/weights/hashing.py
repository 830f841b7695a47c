"""Hashes of files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from saymask.errors import WeightsError


def hash_file(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_file(path: Path, expected: str, what: str) -> None:
    """Check the sha256 of a file.

    Raises:
        WeightsError: it differs.
    """
    actual = hash_file(path)
    if actual != expected:
        raise WeightsError(
            f"{what} is not the expected file: expected sha256 {expected}, got {actual}.",
            "Nothing was kept. Try again; if it stays, the source has changed.",
        )
