"""An earlier revision (A) against this one (B), both loaded at once and asked in turn.

A photo never seen: prepared in full, and until the first suggestions; prepared photos read from
disk; then expressions never typed on them. Timings of one machine only tell ratios.

Example: python -m benchmarks.against 24bb01a --photos PHOTOS
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

from benchmarks.measure import Row, percentile, to_markdown

ROOT = Path(__file__).parents[1]
_SIZES = ("small", "large", "red", "dark", "old", "wooden", "tall", "round")
_NOUNS = (
    "cat", "person", "table", "car", "window", "cup", "tree", "sign", "dog", "chair", "wall", "bag",
)  # fmt: skip


class _Checkout:
    """A process that answers for one revision."""

    def __init__(self, root: Path) -> None:
        folders = [root, root / "backend", root / "worker"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))}
        script = ROOT / "benchmarks" / "against_child.py"
        # Not as a module: the folder of this checkout must not come first on the path.
        code = f"exec(compile(open({str(script)!r}).read(), 'child', 'exec'))"
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", code], cwd=root, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        self._read()

    def _read(self) -> str:
        if self._process.stdout is None or not (line := self._process.stdout.readline()):
            raise RuntimeError(f"the checkout ended with status {self._process.wait()}")
        return line

    def measure(self, how: str, path: Path, *rest: str) -> float:
        """Seconds for one request; see ``against_child``."""
        if self._process.stdin is None:
            raise RuntimeError("the checkout has no input")
        print(how, path, *rest, sep="\t", file=self._process.stdin, flush=True)
        return float(self._read())

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


@contextmanager
def check_out(revision: str) -> Iterator[Path]:
    """A folder with the files of a revision."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "checkout"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--detach", str(folder), revision], check=True)
        try:
            yield folder
        finally:
            subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def compare(revision: str, photos: list[Path]) -> list[Row]:
    """Median of the seconds and of the ratios; the 95th percentile for prepared photos."""
    with check_out(revision) as folder:
        old, new = _Checkout(folder), _Checkout(ROOT)
        try:
            for checkout in (old, new):  # the first photo warms up
                checkout.measure("prepare", photos[0])
            cold = [
                (
                    old.measure("prepare", photo),
                    new.measure("prepare", photo),
                    new.measure("first", photo, "the cat"),
                )
                for photo in photos
            ]
            opened = [(old.measure("open", p), new.measure("open", p)) for p in photos]
            texts = [f"the {size} {noun}" for size in _SIZES for noun in _NOUNS]
            places = [(photos[i % len(photos)], text) for i, text in enumerate(texts)]
            warm = [(old.measure("ask", *p), new.measure("ask", *p)) for p in places]
        finally:
            old.stop()
            new.stop()
    a, b, first = (list(column) for column in zip(*cold, strict=True))
    opened_a, opened_b = (list(column) for column in zip(*opened, strict=True))
    asked_a, asked_b = (list(column) for column in zip(*warm, strict=True))
    return [
        _row("a photo prepared in full, median", a, b, 0.5, "0.5x"),
        _row("Enter to first suggestions on a photo never seen, median", a, first, 0.5, "0.33x"),
        _row("a prepared photo read from disk, median", opened_a, opened_b, 0.5, ""),
        _row("an expression never typed on a prepared photo, median", asked_a, asked_b, 0.5, ""),
        _row("the same, 95th percentile", asked_a, asked_b, 0.95, "1x"),
    ]  # fmt: skip


def _row(what: str, a: list[float], b: list[float], share: float, goal: str) -> Row:
    ratios = [new / old for old, new in zip(a, b, strict=True)]
    ratio = (
        statistics.median(ratios) if share == 0.5 else percentile(b, share) / percentile(a, share)
    )
    return Row(
        f"{what}, {len(a)} times, A / B / B by A", f"{percentile(a, share):.3f} s",
        f"{percentile(b, share):.3f} s", f"{ratio:.2f}x", goal,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("revision", help="A, as git names it")
    parser.add_argument("--photos", type=Path, required=True, help="a folder of photos")
    parser.add_argument("--count", type=int, default=8, help="how many of them")
    arguments = parser.parse_args()
    photos = sorted(arguments.photos.resolve().rglob("*.jpg"))[: arguments.count]
    if not photos:
        parser.error(f"{arguments.photos} holds no .jpg")
    print(to_markdown(compare(arguments.revision, photos)))


if __name__ == "__main__":
    main()
