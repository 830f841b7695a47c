"""Models trained from records: a folder per training run, and which of them is served.

Backend and workers share the folder. A model is ready when its description stands beside it, and
served when ``serving.json`` names it; that file is replaced whole, so a reader never sees half of
it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from saymask.errors import ConfigError, InvalidRequest
from saymask.private_files import make_folder_inside, make_private_folder

SERVING_FILE = "serving.json"
VERDICT_FILE = "verdict.json"
MODEL_FOLDER = "model"
_DESCRIPTION = "model.json"
MIN_COMPARED_IMAGES = 10


@dataclass(frozen=True)
class Verdict:
    """What the comparison of a model with the one served before it came to.

    Attributes:
        against: name of the model it was compared with; empty for proposals alone.
        difference: of the mean IoU of rank 1 on held-out images, new minus old.
        low: lower end of its 95 % interval; the model is served when it is above 0.
        high: upper end.
        expressions: how many were compared.
        images: how many these were about; an interval over a few says nothing.
    """

    against: str
    difference: float
    low: float
    high: float
    expressions: int
    images: int

    @property
    def is_better(self) -> bool:
        """Whether the new model is better beyond its interval, on enough images to tell."""
        return self.low > 0 and self.images >= MIN_COMPARED_IMAGES


@dataclass(frozen=True)
class ModelEntry:
    """A trained model.

    Attributes:
        name: of its folder.
        is_served: whether workers offer its candidates.
        metrics: of its training, for example ``held_out_iou`` and ``refs``.
        verdict: of its comparison, or None.
    """

    name: str
    is_served: bool
    metrics: dict[str, Any]
    verdict: Verdict | None

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


class ModelRegistry:
    """The folder of trained models.

    Args:
        folder: created with the first model.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def create_run(self) -> str:
        """Create the folder of the next run, and return its name.

        Raises:
            ConfigError: the folder cannot be written.
        """
        try:
            make_private_folder(self.folder)
        except OSError as error:
            raise _explain_writing(self.folder, error) from error
        with self._lock():
            # Those that were served too: the number of a deleted run is not given again.
            known = [path.name for path in self.folder.iterdir()] + self._read_history()
            name = f"run-{max(map(_read_number, known), default=0) + 1:04d}"
            make_folder_inside(self.folder, name, exist_ok=False)
        return name

    def list_models(self) -> list[ModelEntry]:
        """Return every model that is ready, oldest first."""
        if not self.folder.is_dir():
            return []
        served = self.read_served()
        names = sorted(
            path.parent.parent.name for path in self.folder.glob(f"*/{MODEL_FOLDER}/{_DESCRIPTION}")
        )
        return [self._read(name, is_served=name == served) for name in names]

    def read_served(self) -> str:
        """Return the name of the model that is served; empty for none."""
        history = self._read_history()
        return history[-1] if history else ""

    def serve(self, name: str) -> None:
        """Have workers offer a model's candidates, beginning with their next expression.

        Raises:
            InvalidRequest: there is no such model, or it is not ready.
        """
        ready = [model.name for model in self.list_models()]
        if name not in ready:
            raise InvalidRequest(
                f"There is no model {name!r} in {self.folder}.",
                f"Use {', '.join(ready)}." if ready else "Train one: saymask train --project 1",
            )
        with self._lock():
            history = self._read_history()
            if history[-1:] != [name]:
                self._write_history([*history, name])

    def roll_back(self) -> str:
        """Serve what was served before and still exists; returns its name, empty for none.

        Raises:
            InvalidRequest: nothing is served.
        """
        ready = [model.name for model in self.list_models()]
        with self._lock():
            *earlier, served = self._read_history() or [""]
            if not served:
                raise InvalidRequest(
                    "No trained model is served, so there is nothing to take back.",
                    "See: saymask models list",
                )
            self._write_history([name for name in earlier if name in ready])
        return self.read_served()

    def model_folder(self, name: str) -> Path:
        """Return where a run's model is."""
        return self.folder / name / MODEL_FOLDER

    def write_verdict(self, name: str, verdict: Verdict) -> None:
        """Keep what a comparison came to."""
        _write(self.folder / name / VERDICT_FILE, asdict(verdict))

    @contextmanager
    def _lock(self) -> Iterator[None]:
        try:
            with FileLock(self.folder / ".lock", timeout=30):
                yield
        except OSError as error:
            raise _explain_writing(self.folder, error) from error

    def _read(self, name: str, *, is_served: bool) -> ModelEntry:
        described = _load(self.model_folder(name) / _DESCRIPTION)
        path = self.folder / name / VERDICT_FILE
        verdict = Verdict(**_load(path)) if path.exists() else None
        return ModelEntry(name, is_served, dict(described.get("metrics", {})), verdict)

    def _read_history(self) -> list[str]:
        path = self.folder / SERVING_FILE
        try:
            return [str(name) for name in json.loads(path.read_text("utf-8"))["served"]]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{path} cannot be read: {error}.", "Remove it, and serve a model again."
            ) from error

    def _write_history(self, history: list[str]) -> None:
        _write(self.folder / SERVING_FILE, {"served": history})


def _read_number(name: str) -> int:
    _, _, number = name.rpartition("-")
    return int(number) if number.isdigit() else 0


def _load(path: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is damaged: {error}.", "Remove it, and serve anew.") from error
    return values


def _write(path: Path, values: dict[str, Any]) -> None:
    part = path.with_suffix(".part")
    try:
        with part.open("w", encoding="utf-8") as file:
            json.dump(values, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise _explain_writing(path, error) from error


def _explain_writing(path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"{path} cannot be written: {error}.",
        "Make room, or set SAYMASK_MODELS_DIR to a folder that can be.",
    )
