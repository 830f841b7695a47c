"""The history of a run, by epoch: a CSV file and TensorBoard's, in the folder of the run."""

from __future__ import annotations

import csv
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from tensorboardX import SummaryWriter

from saymask.private_files import replace_atomically


@dataclass(frozen=True)
class Epoch:
    """One line of the history.

    Attributes:
        epoch: from 0.
        loss: mean over its steps.
        held_out_iou: mean IoU after it.
        held_out_right: share of sentences above IoU .5.
        rate: learning rate behind the backbone.
        seconds: training and measuring.
        refs_per_s: trained on.
    """

    epoch: int
    loss: float
    held_out_iou: float
    held_out_right: float
    rate: float
    seconds: float
    refs_per_s: float


class History:
    """Writes one line per epoch."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "history.csv"
        self._folder = folder / "tensorboard"
        self._board: SummaryWriter | None = None

    def add(self, epoch: Epoch) -> None:
        """Append an epoch."""
        self._write([*self.read(), epoch])
        if self._board is None:
            # What a killed run wrote about later epochs is purged from the display.
            self._board = SummaryWriter(str(self._folder), purge_step=epoch.epoch)
        for field in fields(Epoch)[1:]:
            self._board.add_scalar(field.name, getattr(epoch, field.name), epoch.epoch)
        self._board.flush()

    def _write(self, epochs: list[Epoch]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with (
            replace_atomically(self._path) as part,
            part.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.writer(file)
            writer.writerow([field.name for field in fields(Epoch)])
            writer.writerows(astuple(one) for one in epochs)

    def close(self) -> None:
        """Close TensorBoard's file."""
        if self._board is not None:
            self._board.close()
            self._board = None

    def read(self) -> list[Epoch]:
        """Return all epochs so far."""
        if not self._path.exists():
            return []
        with self._path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return [
            Epoch(int(row["epoch"]), *(float(row[f.name]) for f in fields(Epoch)[1:]))
            for row in rows
        ]

    def cut(self, epoch: int) -> None:
        """Remove what a killed run had written after its last checkpoint."""
        kept = [one for one in self.read() if one.epoch < epoch]
        self._write(kept)
