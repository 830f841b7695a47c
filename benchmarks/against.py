"""An earlier revision (A) against this one (B), both loaded at once and asked in turn.

A photo never seen: prepared in full, and until the first suggestions; prepared photos read from
disk; then expressions never typed on them. Timings of one machine only tell ratios.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.measure import NOUNS, ROOT, Cells, Table, percentile, report
from saymask_backend.local_stack.up import sample_images

_SIZES = ("small", "large", "red", "dark", "old", "wooden", "tall", "round", "striped", "empty")


class _Checkout:
    """A process that answers for one revision."""

    def __init__(self, root: Path) -> None:
        # Before the packages had names of their own, these folders held modules like ``queue``.
        has_names = (root / "worker" / "saymask_worker").is_dir()
        folders = [root, root / "backend", root / "worker"] if has_names else [root]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))}
        script = ROOT / "benchmarks" / "against_child.py"
        # Not as a module: the folder of this checkout must not come first on the path.
        code = f"exec(compile(open({str(script)!r}).read(), 'child', 'exec'))"
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", code], cwd=root, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def read(self) -> str:
        """The next line; the first one says that the models are loaded."""
        if self._process.stdout is None or not (line := self._process.stdout.readline()):
            raise RuntimeError(f"the checkout ended with status {self._process.wait()}")
        return line

    def measure(self, what: str, path: Path, expression: str = "") -> float:
        """Seconds for one request; see ``against_child``."""
        print(what, path, expression, sep="\t", file=self._process.stdin, flush=True)
        return float(self.read())

    def __enter__(self) -> _Checkout:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


@contextmanager
def check_out(revision: str) -> Iterator[Path]:
    """A folder with the files of a revision."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "checkout"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(folder), revision], check=True)
        try:
            yield folder
        finally:
            subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def compare(revision: str, photos: list[Path]) -> Table:
    """Seconds of both revisions, and the median of their ratios."""
    texts = [f"the {size} {noun}" for size in _SIZES for noun in NOUNS]
    asked = [(photos[i % len(photos)], text) for i, text in enumerate(texts)]
    seen = [(photo, "the cat") for photo in photos]
    plan = {
        ("prepare", "a photo prepared in full"): seen,
        ("first", "Enter to first suggestions on a photo never seen"): seen,
        ("open", "a prepared photo read from disk"): seen,
        ("ask", "an expression never typed on a prepared photo"): asked,
    }
    with check_out(revision) as folder, _Checkout(folder) as a, _Checkout(ROOT) as b:
        for checkout in (a, b):
            checkout.read()
            checkout.measure("prepare", photos[0])  # the first photo warms up
        rows = [
            _row(title, [[one.measure(what, *request) for one in (a, b)] for request in requests])
            for (what, title), requests in plan.items()
        ]
    return Table(f"{revision} (A) against this revision (B)", rows)


def _row(what: str, took: list[list[float]]) -> Cells:
    a, b = (list(column) for column in zip(*took, strict=True))
    return {
        "what": what, "times": len(took),
        "A, median s": statistics.median(a), "B, median s": statistics.median(b),
        "A, 95 % s": percentile(a, 0.95), "B, 95 % s": percentile(b, 0.95),
        "median of B / A": statistics.median(new / old for old, new in took),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.against", description=__doc__)
    parser.add_argument("revision", help="A, as git names it")
    parser.add_argument("--photos", type=Path, help="a folder of .jpg files (default: the samples)")
    parser.add_argument("--count", type=int, default=8, help="how many of them (default 8)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    folder = arguments.photos
    photos = sorted(folder.resolve().rglob("*.jpg")) if folder else sample_images()
    photos = photos[: arguments.count]
    if not photos:
        parser.error(f"There are no .jpg files in {folder}; name another folder with --photos.")
    report("benchmarks.against", [compare(arguments.revision, photos)], as_json=arguments.json)


if __name__ == "__main__":
    main()
