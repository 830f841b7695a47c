"""Tables of measurements, each with what is needed to repeat it."""

from __future__ import annotations

import json
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from saymask.redaction import hide

ROOT = Path(__file__).parents[1]
NOUNS = ("cat", "cup", "spoon", "woman", "flag", "flower", "rocket", "sky", "tree", "helmet")

Cells = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Table:
    """Rows that all have the same columns; a column's name holds its unit."""

    title: str
    rows: list[Cells]

    def to_markdown(self) -> str:
        """Floats have three significant digits."""
        lines = [[*self.rows[0]], ["---"] * len(self.rows[0])]
        lines += [[_format(value) for value in row.values()] for row in self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _format(value: object) -> str:
    if not isinstance(value, float):
        return "none" if value is None else str(value)
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """The result of a call, and its seconds of wall clock."""
    started = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started


def percentile(values: Sequence[float], share: float) -> float | None:
    """The value below which ``share`` of the values lie (nearest rank); None of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


def report(module: str, tables: list[Table], *, as_json: bool) -> None:
    """Print tables as Markdown, each below one line that says how to repeat it, or all as JSON."""
    run = describe_run(module)
    if as_json:
        print(json.dumps({"run": run, "tables": [asdict(table) for table in tables]}, indent=2))
        return
    header = "; ".join(f"{name}: {value}" for name, value in run.items())
    for table in tables:
        print(f"## {table.title}\n\n{header}\n\n{table.to_markdown()}\n")


def describe_run(module: str) -> dict[str, str]:
    """Command, commit, hardware, weights and configuration."""
    import torch

    from saymask_worker.config.settings import load_worker_settings
    from saymask_worker.evaluation.processes import name_device
    from saymask_worker.weights.checkpoints import find_checkpoint

    settings = load_worker_settings()
    proposals = f"{settings.proposals} {find_checkpoint(settings.proposals).sha256[:8]}"
    changed = settings.model_dump(mode="json", exclude_defaults=True, exclude={"redis_url"})
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude", "*"]
    done = subprocess.run(git, capture_output=True, text=True, check=False)
    gpu = name_device("cuda") if torch.cuda.is_available() else "no GPU"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return {
        "command": hide(shlex.join(["python", "-m", module, *sys.argv[1:]])),
        "commit": done.stdout.strip() or "unknown",
        "hardware": f"{name_device('cpu')}, {gpu}, {versions}",
        "weights": f"{proposals}, encoder {settings.encoder_name}",
        "settings": ", ".join(f"{k}={v}" for k, v in changed.items()) or "default",
    }
