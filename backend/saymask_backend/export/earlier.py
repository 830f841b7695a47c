"""An earlier export that is to be replaced: whether it may be, and what stays the same."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pydantic import BaseModel, ValidationError

from saymask_backend.export.plan import IMAGE_FOLDER, ExportError

MANIFEST = "manifest.json"


class _Manifest(BaseModel):
    """What is read of a manifest."""

    images: str
    categories: list[str]
    files: dict[str, str]


def read_earlier(out: Path) -> list[str]:
    """Return the categories of an export that is to be replaced, in the order of their ids.

    Raises:
        ExportError: the directory is not an export, or holds anything that it did not write.
    """
    path = out / MANIFEST
    try:
        manifest = _Manifest.model_validate(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, RecursionError, ValidationError) as error:
        raise ExportError(
            f"{out} is not an earlier export: {MANIFEST} is missing or damaged.",
            "Name another directory, or remove it.",
        ) from error
    found = hash_files(out)
    found.pop(MANIFEST)
    names = found.keys() | manifest.files.keys()
    changed = sorted(n for n in names if found.get(n) != manifest.files.get(n))
    if not changed and manifest.images == "none" and _has_files(out / IMAGE_FOLDER):
        changed = [IMAGE_FOLDER]
    if changed:
        raise ExportError(
            f"{out} was changed since it was exported: {', '.join(changed[:3])}"
            + (" and others." if len(changed) > 3 else "."),
            "Name another directory, or move what is yours out of it.",
        )
    return manifest.categories


def hash_files(folder: Path) -> dict[str, str]:
    """Hash all files but the photos, of which there may be a million; by path in the folder."""
    other_paths = [path for path in folder.iterdir() if path.name != IMAGE_FOLDER]
    files = [path for path in other_paths if path.is_file()]
    for inner in (path for path in other_paths if path.is_dir()):
        files += [path for path in inner.rglob("*") if path.is_file()]
    hashes = {}
    for path in sorted(files):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        hashes[path.relative_to(folder).as_posix()] = digest
    return hashes


def _has_files(folder: Path) -> bool:
    return folder.is_dir() and any(path.is_file() for path in folder.rglob("*"))
