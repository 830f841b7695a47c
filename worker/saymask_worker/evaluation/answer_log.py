"""The file that an interrupted evaluation continues from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from saymask.errors import DatasetError
from saymask_worker.evaluation.answers import ImageAnswers
from saymask_worker.images.jsonl_log import ResumableLog, read_provenance

ANSWERS_FILE = "outcomes.jsonl"


def open_answers(out: Path, provenance: dict[str, Any]) -> ResumableLog[ImageAnswers]:
    """Open the log of an evaluation in a folder; see ``ResumableLog``."""
    return ResumableLog(out / ANSWERS_FILE, ImageAnswers, provenance)


def load_answers(out: Path) -> tuple[dict[str, Any], list[ImageAnswers]]:
    """Return provenance and answers of a finished run, sorted by file name.

    Raises:
        DatasetError: there is none, it is damaged or not finished.
    """
    path = out / ANSWERS_FILE
    provenance = read_provenance(path)
    if provenance is None or "photos" not in provenance:
        raise DatasetError(f"{path} holds no evaluation.", "Give the --out of an earlier run.")
    images = open_answers(out, provenance).read()
    if len(images) < provenance["photos"]:
        raise DatasetError(
            f"{path} is not finished: {len(images)} of {provenance['photos']} photos.",
            "Run that evaluation again; it continues where it stopped.",
        )
    return provenance, sorted(images, key=lambda image: image.image)
