"""A log with one line of JSON per image, from which an interrupted run continues."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from saymask.errors import DatasetError

Line = TypeVar("Line", bound=BaseModel)


class ResumableLog(Generic[Line]):
    """A file with one line per image, after a line of provenance.

    Args:
        path: of the file.
        line: type of the lines.
        provenance: of this run; it has a ``model_version``.

    Raises:
        DatasetError: the file belongs to another run.
    """

    def __init__(self, path: Path, line: type[Line], provenance: dict[str, Any]) -> None:
        self._path = path
        self._line = line
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_text(json.dumps(provenance) + "\n", encoding="utf-8")
            return
        before = read_provenance(path)
        if before is None:
            raise DatasetError(f"{path} holds something else.", "Choose another --out.")
        keys = before.keys() | provenance.keys()
        changed = [key for key in sorted(keys) if before.get(key) != provenance.get(key)]
        if changed:
            raise DatasetError(
                f"{path} belongs to another run: {', '.join(changed)} differ.",
                "Choose another --out, or delete that folder.",
            )

    def drop_incomplete_line(self) -> None:
        """Remove a last line that was cut off; its image is done again."""
        data = self._path.read_bytes()
        if not data.endswith(b"\n"):
            self._path.write_bytes(data[: data.rfind(b"\n") + 1])

    def read(self) -> list[Line]:
        """Return what was done before.

        Raises:
            DatasetError: a line is damaged; names it.
        """
        lines = []
        for number, line in enumerate(self._path.read_bytes().split(b"\n")[1:-1], start=2):
            try:
                lines.append(self._line.model_validate_json(line))
            except ValidationError as error:
                raise DatasetError(f"{self._path} is damaged in line {number}.") from error
        return lines

    def append(self, line: Line) -> None:
        """Keep one more image."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line.model_dump_json() + "\n")


def read_provenance(path: Path) -> dict[str, Any] | None:
    """Return the provenance in a file's first line; None where there is none."""
    try:
        with path.open(encoding="utf-8") as file:
            header = json.loads(file.readline())
    except (OSError, ValueError):
        return None
    return header if isinstance(header, dict) and "model_version" in header else None
