"""``python -m benchmarks.quality ROOT --split val``: how often the right object comes first.

ROOT is a data set in RefCOCO's layout: ``refcoco/refs(unc).p``, ``refcoco/instances.json`` and
``images/mscoco/images/train2014/``. Prints top-1, within the best 3 and 5 (IoU above 0.5) and
mean IoU of the first, for the default scoring and with terms switched off, each with a 95 %
bootstrap interval over photos.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import pickle
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco
from rich.progress import track

from worker.config import ScoringConfig, load_worker_settings
from worker.language import clean_expression
from worker.pipeline import build_pipeline
from worker.scoring import compute_scores

_PLAIN = {("builtins", name) for name in ("dict", "list", "tuple", "set", "str", "int", "float")}
_SAMPLES = 2000


class PlainUnpickler(pickle.Unpickler):
    """Admits plain containers only: a pickle may otherwise run any code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _PLAIN:
            raise pickle.UnpicklingError(f"the file wants {module}.{name}; refused")
        return super().find_class(module, name)


@dataclass(frozen=True)
class Sentence:
    """One expression and the mask (H, W) it means."""

    text: str
    target: NDArray[np.bool_]


def load_sentences(root: Path, split: str) -> dict[Path, list[Sentence]]:
    """All sentences of a split, by photo."""
    instances = json.loads((root / "refcoco" / "instances.json").read_text("utf-8"))
    raw = io.BytesIO((root / "refcoco" / "refs(unc).p").read_bytes())
    refs = PlainUnpickler(raw, encoding="latin1").load()
    images = {image["id"]: image for image in instances["images"]}
    annotations = {annotation["id"]: annotation for annotation in instances["annotations"]}
    found: dict[Path, list[Sentence]] = defaultdict(list)
    for ref in refs:
        if ref["split"] != split:
            continue
        image = images[ref["image_id"]]
        target = _to_mask(annotations[ref["ann_id"]]["segmentation"], image)
        path = root / "images" / "mscoco" / "images" / "train2014" / image["file_name"]
        found[path] += [Sentence(s.get("raw", s["sent"]), target) for s in ref["sentences"]]
    if not found:
        raise SystemExit(f"No ref of split {split!r} in {root}.")
    return dict(found)


def _to_mask(segmentation: Any, image: dict[str, Any]) -> NDArray[np.bool_]:
    height, width = image["height"], image["width"]
    if isinstance(segmentation, list):
        rle = coco.merge(coco.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        rle = coco.frPyObjects(segmentation, height, width)
    else:
        rle = segmentation
    return coco.decode(rle).astype(bool)


def variants_of(scoring: ScoringConfig) -> dict[str, ScoringConfig]:
    """The default, and what is left of it with terms switched off."""
    no_words = replace(
        scoring,
        place_weight=0.0,
        side_weight=0.0,
        ordinal_weight=0.0,
        size_weight=0.0,
        relation_weight=0.0,
    )
    method = replace(no_words, area_weight=0.0)
    return {
        "corrected (default)": scoring,
        "without the prior for wholes": replace(scoring, area_weight=0.0),
        "without words of place, order, size, relation": no_words,
        "global and local features alone": method,
        "crops alone": replace(method, visual_global_weight=0.0),
        "global context alone": replace(method, visual_global_weight=1.0),
    }


def interval(hits: list[list[float]]) -> tuple[float, float, float]:
    """Mean, and 95 % bootstrap interval over photos, of values grouped by photo."""
    rng = np.random.default_rng(0)
    sums = np.array([sum(group) for group in hits])
    counts = np.array([len(group) for group in hits])
    picks = rng.integers(0, len(hits), (_SAMPLES, len(hits)))
    means = sums[picks].sum(axis=1) / counts[picks].sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(sums.sum() / counts.sum()), float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--split", default="val")
    arguments = parser.parse_args()
    sentences = load_sentences(arguments.root, arguments.split)
    pipeline = build_pipeline(load_worker_settings())
    variants = variants_of(pipeline.config.scoring)
    rows: dict[str, list[list[tuple[float, ...]]]] = {name: [] for name in variants}
    oracle: list[list[float]] = []
    for path, items in track(sentences.items(), "photos", total=len(sentences)):
        data = path.read_bytes()
        known = pipeline.load_prepared(hashlib.sha256(data).hexdigest())
        prepared = known or pipeline.prepare(data)[0]
        masks = prepared.proposals.masks
        oracle.append([])
        for name in variants:
            rows[name].append([])
        for item in items:
            ious = np.array([(m & item.target).sum() / (m | item.target).sum() for m in masks])
            oracle[-1].append(float(ious.max(initial=0.0) > 0.5))
            parsed = pipeline._parser.parse(clean_expression(item.text))
            text = pipeline._encode_text(parsed)
            for name, scoring in variants.items():
                order = compute_scores(
                    prepared.features, text, prepared.geometry, parsed, scoring
                ).order
                ranked = ious[order] if len(order) else np.zeros(1)
                hit = ranked > 0.5
                rows[name][-1].append(
                    (float(hit[0]), float(hit[:3].any()), float(hit[:5].any()), float(ranked[0]))
                )
    count = sum(len(items) for items in sentences.values())
    print(
        f"{arguments.split}: {len(sentences)} photos, {count} sentences, {pipeline.model_version}"
    )
    print("a proposal above IoU 0.5 exists for {:.3f} [{:.3f}, {:.3f}]".format(*interval(oracle)))
    print("| scoring | top-1 | best 3 | best 5 | mean IoU |\n|---|---|---|---|---|")
    for name, groups in rows.items():
        cells = []
        for column in range(4):
            values = [[row[column] for row in group] for group in groups]
            cells.append("{:.3f} [{:.3f}, {:.3f}]".format(*interval(values)))
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
