"""The file that an interrupted evaluation continues from: one line of JSON per image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from saymask.errors import DatasetError
from worker.evaluation.answers import ImageAnswers

ANSWERS_FILE = "outcomes.jsonl"


class AnswerLog:
    """One line per image, behind a line that says what was run.

    Args:
        out: folder of the evaluation.
        provenance: of this run.

    Raises:
        DatasetError: the file belongs to another run.
    """

    def __init__(self, out: Path, provenance: dict[str, Any]) -> None:
        self._path = out / ANSWERS_FILE
        out.mkdir(parents=True, exist_ok=True)
        if not self._path.exists():
            self._path.write_text(json.dumps(provenance) + "\n", encoding="utf-8")
            return
        before = _read_provenance(self._path)
        if before is None:
            raise DatasetError(f"{self._path} holds something else.", "Choose another --out.")
        keys = before.keys() | provenance.keys()
        changed = [key for key in sorted(keys) if before.get(key) != provenance.get(key)]
        if changed:
            raise DatasetError(
                f"{self._path} belongs to another run: {', '.join(changed)} differ.",
                "Choose another --out, or delete that folder.",
            )

    def drop_incomplete_line(self) -> None:
        """Remove a last line that was cut off; its image is evaluated again."""
        data = self._path.read_bytes()
        if not data.endswith(b"\n"):
            self._path.write_bytes(data[: data.rfind(b"\n") + 1])

    def read(self) -> list[ImageAnswers]:
        """Return what was done before.

        Raises:
            DatasetError: a line is damaged; names it.
        """
        images = []
        for number, line in enumerate(self._path.read_bytes().split(b"\n")[1:-1], start=2):
            try:
                images.append(ImageAnswers.model_validate_json(line))
            except ValidationError as error:
                raise DatasetError(f"{self._path} is damaged in line {number}.") from error
        return images

    def append(self, image: ImageAnswers) -> None:
        """Keep one more image."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(image.model_dump_json() + "\n")


def load_answers(out: Path) -> tuple[dict[str, Any], list[ImageAnswers]]:
    """Return provenance and answers of a finished run, sorted by file name.

    Raises:
        DatasetError: there is none, it is damaged or not finished.
    """
    path = out / ANSWERS_FILE
    provenance = _read_provenance(path)
    if provenance is None:
        raise DatasetError(f"{path} holds no evaluation.", "Give the --out of an earlier run.")
    images = AnswerLog(out, provenance).read()
    if len(images) < provenance["photos"]:
        raise DatasetError(
            f"{path} is not finished: {len(images)} of {provenance['photos']} photos.",
            "Run that evaluation again; it continues where it stopped.",
        )
    return provenance, sorted(images, key=lambda image: image.image)


def _read_provenance(path: Path) -> dict[str, Any] | None:
    try:
        with path.open(encoding="utf-8") as file:
            header = json.loads(file.readline())
    except (OSError, ValueError):
        return None
    return header if isinstance(header, dict) and "model_version" in header else None
