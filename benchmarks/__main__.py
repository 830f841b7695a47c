"""What speed-ups, long days, many annotators and many photos cost, as Markdown or JSON."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path

from benchmarks.measure import report

_EXAMPLES = """\
examples:
  python -m benchmarks --only load --annotators 8
  python -m benchmarks --only memory --count 3 --json
  python -m benchmarks --only exports --records 1000000 --database postgresql://host/empty
an earlier revision against this one: python -m benchmarks.against --help
"""


# Each part is a module; these options are the arguments of its ``measure``.
_PARTS = {
    "stages": ("rounds",),
    "recall": ("grid", "photos"),
    "load": ("annotators",),
    "day": ("minutes",),
    "memory": ("count", "photos"),
    "exports": ("records", "database"),
    "confirming": ("dataset",),
    "regions": (),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--grid", type=int, default=16, help="recall: points per side (default 16)")
    parser.add_argument("--rounds", type=int, default=3, help="stages: rounds (default 3)")
    parser.add_argument("--photos", type=Path, help="recall, memory: a folder of .jpg files")
    parser.add_argument("--minutes", type=float, default=30.0, help="day: minutes (default 30)")
    parser.add_argument("--annotators", type=int, default=32, help="load: at most (default 32)")
    parser.add_argument("--count", type=int, default=300, help="memory: photos (default 300)")
    parser.add_argument("--records", type=int, default=50_000, help="exports (default 50000)")
    parser.add_argument("--database", help="exports: address of an empty one (default SQLite)")
    parser.add_argument("--dataset", type=Path, help="confirming: a folder in RefCOCO's layout")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--only", choices=_PARTS, action="append", help="one part; repeatable")
    arguments = parser.parse_args()
    tables = []
    for name in arguments.only or (part for part in _PARTS if part != "confirming"):
        print(f"{name} ...", file=sys.stderr, flush=True)
        # Imported now: exports are measured in processes that have loaded nothing else.
        part = import_module(f"benchmarks.{name}")
        tables.append(part.measure(*(getattr(arguments, option) for option in _PARTS[name])))
    report("benchmarks", tables, as_json=arguments.json)


if __name__ == "__main__":
    main()
