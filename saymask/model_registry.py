"""Models trained from records: a folder per training run, and which of them is served.

Backend and workers share the folder. A model is ready when its folder has a description, and
served when ``serving.json`` names it; that file is replaced whole, so a reader never sees half of
it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from saymask.errors import ConfigError, InvalidRequest
from saymask.private_files import make_folder_inside, make_private_folder, replace_atomically

SERVING_FILE = "serving.json"
VERDICT_FILE = "verdict.json"
_MODEL_FOLDER = "model"
_DATA_FOLDER = "data"
_DESCRIPTION = "model.json"
MIN_COMPARED_IMAGES = 10


@dataclass(frozen=True)
class Verdict:
    """The result of comparing a model with the one served before it.

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
        is_served: whether workers offer its candidates.
        metrics: of its training, for example ``held_out_iou`` and ``refs``.
        verdict: of its comparison, or None.
        damage: why it cannot be served; empty where it can.
    """

    name: str
    is_served: bool
    metrics: dict[str, Any]
    verdict: Verdict | None
    damage: str = ""


class _Metrics(BaseModel):
    """What is shown of a training; it has more."""

    model_config = ConfigDict(extra="allow")

    held_out_iou: float | None = None
    refs: int | None = None


class _Description(BaseModel):
    """What is read here of a model's description."""

    metrics: _Metrics = _Metrics()


class _Serving(BaseModel):
    """Everything that was served, the newest last; entries that are not names are ignored."""

    served: list[Any]


_DESCRIPTIONS = TypeAdapter(_Description)
_VERDICTS = TypeAdapter(Verdict)
_SERVINGS = TypeAdapter(_Serving)
_Content = TypeVar("_Content")


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
            known = [*(path.name for path in self.folder.iterdir()), *self._read_history()]
            number = max((_read_number(str(name)) for name in known), default=0) + 1
            name = f"run-{number:04d}"
            make_folder_inside(self.folder, name, exist_ok=False)
        return name

    def list_models(self) -> list[ModelEntry]:
        """Return every model that training finished, oldest first; damaged ones say why."""
        try:
            served = self.read_served()
        except ConfigError:
            served = ""
        return [self._read(name, is_served=name == served) for name in self._list_names()]

    def list_usable(self) -> list[str]:
        """Return the names of the models that can be served, oldest first."""
        entries = [self._read(name, is_served=False) for name in self._list_names()]
        return [entry.name for entry in entries if not entry.damage]

    def read_served(self) -> str:
        """Return the name of the model that is served; empty for none.

        Raises:
            ConfigError: the file that names it is damaged.
        """
        *_, served = self._read_history() or [""]
        if not isinstance(served, str) or Path(served).name != served:
            raise ConfigError(
                f"{self.folder / SERVING_FILE} names {served!r}, which is not a model.",
                "Go back to the one before it: saymask models rollback",
            )
        return served

    def serve(self, name: str) -> None:
        """Have workers offer a model's candidates, beginning with their next expression.

        Raises:
            InvalidRequest: there is no such model, it is not ready, or it is damaged.
        """
        usable = self.list_usable()
        if name not in usable:
            raise InvalidRequest(
                f"There is no model {name!r} that can be served in {self.folder}.",
                f"Use {', '.join(usable)}." if usable else "Train one: saymask train --project 1",
            )
        with self._lock():
            history = self._read_history()
            if history[-1:] != [name]:
                self._write_history([*(n for n in history if isinstance(n, str)), name])

    def roll_back(self) -> str:
        """Serve what was served before and can still be used.

        Models that are gone or damaged by now are passed over, whatever is wrong with them or with
        the one that is served.

        Returns:
            The name of the model that is served now; empty for none.

        Raises:
            InvalidRequest: nothing is served.
            ConfigError: the file that names what is served is damaged.
        """
        usable = self.list_usable()
        with self._lock():
            *earlier, served = self._read_history() or [""]
            if served == "":
                raise InvalidRequest(
                    "No trained model is served, so there is nothing to take back.",
                    "See: saymask models list",
                )
            kept = [name for name in earlier if name in usable]
            self._write_history(kept)
        return kept[-1] if kept else ""

    def _list_names(self) -> list[str]:
        """Names of the runs that left a description of their model, oldest first."""
        return sorted(
            path.parent.parent.name
            for path in self.folder.glob(f"*/{_MODEL_FOLDER}/{_DESCRIPTION}")
        )

    def model_folder(self, name: str) -> Path:
        """Return where a run's model is."""
        return self.folder / name / _MODEL_FOLDER

    def data_folder(self, name: str) -> Path:
        """Return where the records that a run learns from are exported."""
        return self.folder / name / _DATA_FOLDER

    def write_verdict(self, name: str, verdict: Verdict) -> None:
        """Keep the result of a comparison."""
        _write(self.folder / name / VERDICT_FILE, asdict(verdict))

    @contextmanager
    def _lock(self) -> Iterator[None]:
        try:
            with FileLock(self.folder / ".lock", timeout=30):
                yield
        except OSError as error:
            raise _explain_writing(self.folder, error) from error

    def _read(self, name: str, *, is_served: bool) -> ModelEntry:
        verdict_path = self.folder / name / VERDICT_FILE
        try:
            described = _load(self.model_folder(name) / _DESCRIPTION, _DESCRIPTIONS)
            verdict = _load(verdict_path, _VERDICTS) if verdict_path.exists() else None
        except ConfigError as error:
            return ModelEntry(name, is_served, {}, None, error.cause)
        return ModelEntry(
            name, is_served, described.metrics.model_dump(exclude_unset=True), verdict
        )

    def _read_history(self) -> list[Any]:
        """All that was served, the newest last: names, and what else the file may hold."""
        path = self.folder / SERVING_FILE
        return _load(path, _SERVINGS).served if path.exists() else []

    def _write_history(self, history: list[str]) -> None:
        _write(self.folder / SERVING_FILE, {"served": history})


def _read_number(name: str) -> int:
    _, _, number = name.rpartition("-")
    return int(number) if number.isdigit() else 0


def _load(path: Path, shape: TypeAdapter[_Content]) -> _Content:
    try:
        return shape.validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(key) for key in first["loc"])
        reason = f"{where}: {first['msg']}" if where else first["msg"]
    except OSError as error:
        reason = str(error)
    raise ConfigError(
        f"{path} cannot be read: {reason}.", "Remove it, then: saymask models serve NAME"
    )


def _write(path: Path, values: dict[str, Any]) -> None:
    try:
        with replace_atomically(path, is_synced=True) as part:
            part.write_text(json.dumps(values, indent=2), encoding="utf-8")
    except OSError as error:
        raise _explain_writing(path, error) from error


def _explain_writing(path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"{path} cannot be written: {error}.",
        "Make room, or set SAYMASK_MODELS_DIR to a folder that can be.",
    )
