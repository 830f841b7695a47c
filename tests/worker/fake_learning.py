"""Training without models. As a program: a training worker whose runs wait for a file ``go``."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from saymask.model_registry import ModelRegistry, Verdict
from saymask_worker.config.settings import load_worker_settings
from saymask_worker.serving.main import run_training_worker
from saymask_worker.serving.training_jobs import EpochReport


class FakeLearn:
    """Trains nothing, and compares with the result it is given."""

    def __init__(self, low: float = 0.1, error: Exception | None = None) -> None:
        self._low, self._error = low, error

    def train(
        self,
        registry: ModelRegistry,
        run: str,
        epochs: int | None,
        on_epoch: Callable[[EpochReport], None],
    ) -> dict[str, Any]:
        if self._error is not None:
            raise self._error
        on_epoch(EpochReport(1, 2, 0.5, 0.25, 30.0))
        folder = registry.model_folder(run)
        folder.mkdir()
        (folder / "model.json").write_text("{}", "utf-8")
        return {"held_out_iou": 0.25, "failed": ()}

    def compare(self, registry: ModelRegistry, run: str) -> Verdict:
        return Verdict(registry.read_served(), 0.2, self._low, 0.3, 30, 12)


class Waiting(FakeLearn):
    """Counts its tries in the run's folder, and waits for a file ``go`` there, step by step."""

    def __init__(self, between_steps: Callable[[], None]) -> None:
        super().__init__()
        self._between_steps = between_steps

    def train(
        self,
        registry: ModelRegistry,
        run: str,
        epochs: int | None,
        on_epoch: Callable[[EpochReport], None],
    ) -> dict[str, Any]:
        folder = registry.folder / run
        with (folder / "tries").open("a") as file:
            file.write("x")
        while not (folder / "go").exists():
            time.sleep(0.05)
            self._between_steps()
        return super().train(registry, run, epochs, on_epoch)


if __name__ == "__main__":
    run_training_worker(load_worker_settings(), build_learn=Waiting)
