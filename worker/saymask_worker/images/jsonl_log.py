"""One line of JSON per finished item, from which an interrupted run continues."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from saymask.errors import DatasetError

Line = TypeVar("Line", bound=BaseModel)


class ResumableLog(Generic[Line]):
    """A file with one line per item, after a first line that says what was run.

    A run may be killed while it writes any line: an incomplete one is removed and written anew.

    Args:
        line: type of the lines.
        provenance: of this run, plain values.

    Raises:
        DatasetError: the file belongs to another run.
    """

    def __init__(self, path: Path, line: type[Line], provenance: dict[str, Any]) -> None:
        self._path = path
        self._line = line
        self._is_complete = False
        path.parent.mkdir(parents=True, exist_ok=True)
        header = (json.dumps(provenance) + "\n").encode()
        provenance = json.loads(header)
        if not path.exists() or header.startswith(path.read_bytes()):
            path.write_bytes(header)
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
        """Add a line, in place of one that was cut off."""
        with self._path.open("rb+") as file:
            if not self._is_complete:
                data = file.read()
                file.truncate(data.rfind(b"\n") + 1)
                self._is_complete = True
            file.seek(0, os.SEEK_END)
            file.write(line.model_dump_json().encode() + b"\n")


def read_provenance(path: Path) -> dict[str, Any] | None:
    """Return the provenance in a file's first line; None where there is none."""
    try:
        with path.open(encoding="utf-8") as file:
            header = json.loads(file.readline())
    except (OSError, ValueError):
        return None
    return header if isinstance(header, dict) else None
