"""``python -m benchmarks``: every speed-up as A, B and ratio from one run, as a Markdown table."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image

from benchmarks import (
    answers,
    busy,
    clicks,
    device,
    exports,
    features,
    load,
    proposals,
    service,
    stages,
    webhooks,
    workers,
)
from benchmarks.measure import Row, to_markdown


def describe_machine() -> str:
    """Hardware and versions, one line."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line for line in info.read_text("utf-8").splitlines() if "model name" in line]
        cpu = names[0].partition(":")[2].strip() if names else cpu
    return (
        f"{cpu}, {psutil.cpu_count()} cores, {gpu}; Python {platform.python_version()},"
        f" torch {torch.__version__}, numpy {np.__version__}, Pillow {Image.__version__}"
    )


def _compare_session() -> list[Row]:
    # Only here: it needs the tests' packages.
    from benchmarks import session

    return session.compare()


def _compare_confirming() -> list[Row]:
    # Only here: it needs the tests' packages.
    from benchmarks import confirming

    return confirming.compare()


def _play_day(minutes: float) -> list[Row]:
    # Only here: it needs the tests' packages.
    from benchmarks import day

    return day.run(minutes)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog="Example: python -m benchmarks --only proposals --grid 32 --rounds 1",
    )
    parser.add_argument("--grid", type=int, default=16, help="points per side (default 16)")
    parser.add_argument("--rounds", type=int, default=3, help="of which medians are taken")
    parser.add_argument(
        "--photos",
        type=Path,
        help="for recall and points: a folder of .jpg files; for clicks: a set in RefCOCO's layout",
    )
    parser.add_argument("--postgresql", help="for webhooks: URL of an empty PostgreSQL database")
    parser.add_argument("--minutes", type=float, default=30.0, help="of the day (default 30)")
    parser.add_argument("--annotators", type=int, default=32, help="at most, of the load")
    parser.add_argument("--out", type=Path, help="write the table here as well")
    parts: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
        "answers": lambda _a: answers.measure(),
        "proposals": lambda a: proposals.compare(a.grid, a.rounds),
        "recall": lambda a: proposals.compare_quality(a.grid, a.photos),
        "points": lambda a: proposals.compare_points(a.photos),
        "stages": lambda a: stages.compare(a.rounds),
        "device": lambda _a: device.measure(),
        "features": lambda a: features.compare(a.rounds),
        "workers": lambda _a: workers.compare(),
        "busy": lambda _a: busy.compare(),
        "service": lambda _a: service.compare(),
        "webhooks": lambda a: webhooks.compare(a.postgresql),
        "exports": lambda _a: exports.compare(),
        "clicks": lambda a: clicks.compare(a.photos),
        "day": lambda a: _play_day(a.minutes),
        "session": lambda _a: _compare_session(),
        "confirming": lambda _a: _compare_confirming(),
        "load": lambda a: load.measure(a.annotators),
    }
    parser.add_argument("--only", choices=parts, action="append", help="one part; repeatable")
    arguments = parser.parse_args()
    rows: list[Row] = []
    # What needs photos of yours, or a Label Studio, runs when they are named.
    left_out = set() if arguments.photos else {"clicks"}
    left_out |= (
        set() if os.environ.get("SAYMASK_LABEL_STUDIO_PROGRAM") else {"session", "confirming"}
    )
    default = [name for name in parts if name not in left_out]
    for name in arguments.only or default:
        print(f"{name} ...", file=sys.stderr, flush=True)
        rows += parts[name](arguments)
    text = f"{describe_machine()}\n\n{to_markdown(rows)}\n"
    print(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
