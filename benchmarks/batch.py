"""``saymask-worker batch --engine ray``: one actor against two on this machine.

Photos per minute between the first part and the last, with the default settings; loading the
models and starting Ray is left out.

Example: python -m benchmarks.batch --photos PHOTOS
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import Row, to_markdown


def measure(photos: list[Path], actors: int) -> float:
    """Photos per minute."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "photos").mkdir()
        for photo in photos:
            (folder / "photos" / photo.name).symlink_to(photo)
        texts = "\n".join(json.dumps({"image": p.name, "expression": "the cat"}) for p in photos)
        (folder / "texts.jsonl").write_text(texts)
        command = [
            Path(sys.executable).parent / "saymask-worker", "batch", folder / "photos", "--out",
            folder / "rows", "--expressions", folder / "texts.jsonl", "--images-per-part", "1",
            "--engine", "ray", "--actors", str(actors), "--json",
        ]  # fmt: skip
        environment = os.environ | {"SAYMASK_PREPARED_DIR": str(folder / "prepared")}
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        times = sorted(part.stat().st_mtime for part in (folder / "rows").glob("part-*"))
        # The first part of every actor began with the models cold.
        return 60 * (len(times) - actors) / (times[-1] - times[actors - 1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True, help="a folder of photos")
    parser.add_argument("--count", type=int, default=12, help="how many of them")
    arguments = parser.parse_args()
    photos = sorted(arguments.photos.resolve().rglob("*.jpg"))[: arguments.count]
    one, two = measure(photos, 1), measure(photos, 2)
    row = Row(
        f"{len(photos)} photos a minute on Ray: one actor / two, one thread each",
        f"{one:.2f}", f"{two:.2f}", f"{two / one:.2f}x (B / A)", "1.8x",
    )  # fmt: skip
    print(to_markdown([row]))


if __name__ == "__main__":
    main()
