"""Natural expressions for photos of COCO that somebody has: a set in RefCOCO's layout.

The expressions are in this repository, the photos are not. Given a set in RefCOCO's layout whose
annotations have COCO's ids, this writes another one beside it, for ``saymask-worker evaluate``.
"""

from __future__ import annotations

import argparse
import json
import pickle
from pathlib import Path
from typing import Any

EXPRESSIONS = Path(__file__).parent / "data" / "natural_expressions.json"
SPLIT = "val"


def write_set(root: Path, out: Path) -> int:
    """Write the set; returns how many expressions have their photo and annotation in ``root``."""
    instances = json.loads((root / "refcoco" / "instances.json").read_text("utf-8"))
    categories = {a["id"]: a["category_id"] for a in instances["annotations"]}
    expressions = json.loads(EXPRESSIONS.read_text("utf-8"))["expressions"]
    refs: dict[int, dict[str, Any]] = {}
    kinds = {}
    for item in expressions:
        if item["ann_id"] not in categories:
            continue
        ref = refs.setdefault(
            item["ann_id"],
            {
                "ref_id": item["sent_id"], "ann_id": item["ann_id"], "image_id": item["image_id"],
                "category_id": categories[item["ann_id"]], "split": SPLIT, "sentences": [],
            },
        )  # fmt: skip
        words = item["sent"].split()
        ref["sentences"].append(
            {"sent_id": item["sent_id"], "sent": item["sent"], "raw": item["sent"], "tokens": words}
        )
        kinds[str(item["sent_id"])] = item["kind"]
    folder = out / "refcoco"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "refs(unc).p").write_bytes(pickle.dumps(list(refs.values()), protocol=2))
    (folder / "instances.json").write_text(json.dumps(instances), encoding="utf-8")
    (out / "types.json").write_text(json.dumps(kinds), encoding="utf-8")
    images = out / "images"
    if not images.exists():
        images.symlink_to((root / "images").resolve())
    return len(kinds)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.natural",
        description=__doc__,
        epilog="Example: python -m tests.natural ROOT natural && saymask-worker evaluate"
        " --dataset refcoco --root natural --split val --methods main,terms --out evaluation",
    )
    parser.add_argument("root", type=Path, help="a set in RefCOCO's layout, with its photos")
    parser.add_argument("out", type=Path, help="folder to write")
    arguments = parser.parse_args()
    print(f"{write_set(arguments.root, arguments.out)} expressions in {arguments.out}")


if __name__ == "__main__":
    main()
