"""``python -m benchmarks``: what speed-ups, long days and many annotators cost, as Markdown.

Where two ways are compared, A and B come from one run.
"""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image

from benchmarks import day, exports, load, memory, recall, stages
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


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog="Example: python -m benchmarks --only load --annotators 8."
        " An earlier revision against this one: python -m benchmarks.against --help.",
    )
    parser.add_argument("--grid", type=int, default=16, help="recall: points per side (default 16)")
    parser.add_argument("--rounds", type=int, default=3, help="stages: rounds (default 3)")
    parser.add_argument("--photos", type=Path, help="recall, memory: a folder of .jpg files")
    parser.add_argument("--minutes", type=float, default=30.0, help="day: minutes (default 30)")
    parser.add_argument("--annotators", type=int, default=32, help="load: at most (default 32)")
    parser.add_argument("--count", type=int, default=300, help="memory: photos (default 300)")
    parser.add_argument("--out", type=Path, help="write the table here as well")
    parts: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
        "stages": lambda a: stages.compare(a.rounds),
        "recall": lambda a: recall.compare(a.grid, a.photos),
        "load": lambda a: load.measure(a.annotators),
        "day": lambda a: day.run(a.minutes),
        "memory": lambda a: memory.measure(a.count, a.photos),
        "exports": lambda _a: exports.compare(),
    }
    parser.add_argument("--only", choices=parts, action="append", help="one part; repeatable")
    arguments = parser.parse_args()
    rows: list[Row] = []
    for name in arguments.only or parts:
        print(f"{name} ...", file=sys.stderr, flush=True)
        rows += parts[name](arguments)
    text = f"{describe_machine()}\n\n{to_markdown(rows)}\n"
    print(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
