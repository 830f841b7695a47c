"""How often a proposed expression is right: photos with annotated objects, by confidence.

A pair of expression and mask counts as right when the mask has an IoU above .5 with an annotated
object, the noun is that object's, and what the expression says is true of that object alone among
the annotated ones. Colours are not annotated: a pair that is told apart by a colour alone counts as
wrong. Pairs whose noun is no category of the dataset cannot be judged; they are counted apart.

Example: python -m benchmarks.proposing --root ROOT --split val
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.measure import show_share
from saymask.datasets import DatasetImage, load_dataset
from saymask.masks import Mask, compute_iou, decode_coco_rle
from worker.methods.geometry import compute_geometry
from worker.nouns import load_nouns
from worker.pipeline.build import build_pipeline
from worker.pipeline.opening import open_image
from worker.pipeline.pipeline import Pipeline
from worker.proposing.families import NounFamilies, build_families
from worker.proposing.generation import FINDERS, Description, Landmark, Scene
from worker.proposing.propose import ProposedExpression
from worker.proposing_config import ProposingConfig
from worker.resize import to_original_size
from worker.settings import load_worker_settings

_RIGHT_IOU = 0.5
# Category of COCO to the families that mean it, where the names differ.
_FAMILIES = {
    "airplane": ("airplane",), "potted plant": ("plant",), "dining table": ("table", "desk"),
    "tv": ("television",), "cell phone": ("phone",), "remote": ("remote control",),
    "hair drier": ("hair dryer",), "sports ball": ("ball",), "wine glass": ("glass",),
    "stop sign": ("traffic sign",), "tie": ("necktie", "bow tie"), "mouse": ("mouse",),
    "cow": ("cow",), "donut": ("donut",), "couch": ("couch",), "bird": ("bird", "chicken"),
    "handbag": ("handbag",), "cup": ("cup", "glass"), "orange": ("orange",),
}  # fmt: skip


@dataclass(frozen=True)
class Judged:
    """A proposed pair and whether it is right; ``why`` not, else empty."""

    image: str
    text: str
    confidence: float
    why: str


def judge_image(
    image: DatasetImage,
    pipeline: Pipeline,
    families: NounFamilies,
    seed: int,
) -> list[Judged]:
    """Propose expressions for an image and judge each."""
    data = image.path.read_bytes()
    prepared, _ = open_image(pipeline, data)
    proposed = pipeline.propose_expressions(prepared, data, seed)
    instances = [(i.category, decode_coco_rle(i.mask)) for i in image.instances]
    truth = _Truth(instances, families, pipeline.config.proposing)
    return [
        Judged(
            image.path.name,
            item.expressions[0],
            item.confidence,
            truth.find_fault(
                item, to_original_size(prepared.proposals.masks[item.object.index], image.size_hw)
            ),
        )
        for item in proposed
    ]


class _Truth:
    """The annotated objects of one image."""

    def __init__(
        self,
        instances: Sequence[tuple[str, Mask]],
        families: NounFamilies,
        config: ProposingConfig,
    ) -> None:
        self._instances = [pair for pair in instances if pair[1].any()]
        self._families = families
        self._config = config

    def find_fault(self, item: ProposedExpression, mask: Mask) -> str:
        """Return why a pair is wrong; empty where it is right."""
        family = self._families.heads[item.object.family]
        ious = [compute_iou(mask, truth) for _, truth in self._instances]
        target = int(np.argmax(ious)) if ious else -1
        names = {category for category, _ in self._instances}
        if not any(_is_called(category, family) for category in _CATEGORIES):
            return "no category"
        if target < 0 or ious[target] <= _RIGHT_IOU:
            return "no object"
        if not _is_called(self._instances[target][0], family):
            return "another noun" if names else "no object"
        return "" if self._is_alone(item.description, target, family) else "not of it alone"

    def _is_alone(self, description: Description, target: int, family: str) -> bool:
        """Whether the same description would be found from the annotated objects."""
        masks = np.stack([mask for _, mask in self._instances])
        others = [
            place
            for place, (category, _) in enumerate(self._instances)
            if place != target and _is_called(category, family)
        ]
        if not description.attributes:
            return not others
        if not others:
            return True
        if any(attribute.kind == "color" for attribute in description.attributes):
            return False
        colors = np.zeros((len(masks), 11), dtype=np.float32)
        landmarks = self._find_landmarks(description)
        scene = Scene(compute_geometry(masks), colors, landmarks)
        # What is clear by proposals may be less clear by the annotation, and true all the same.
        lenient = replace(
            self._config, size_ratio_min=1.0, side_gap_min=0.0, height_gap_min=0.0,
            row_gap_min=0.0, near_gap_min=0.0,
        )  # fmt: skip
        return _holds(description, scene, target, others, lenient)

    def _find_landmarks(self, description: Description) -> tuple[Landmark, ...]:
        wanted = {a.value for a in description.attributes if a.kind == "landmark"}
        return tuple(
            Landmark(place, noun)
            for noun in wanted
            for place, (category, _) in enumerate(self._instances)
            if _is_called(category, noun)
        )


def _holds(
    description: Description, scene: Scene, target: int, others: list[int], config: ProposingConfig
) -> bool:
    (attribute,) = description.attributes
    return any(
        found is not None and found.value == attribute.value and found.rank == attribute.rank
        for found in [FINDERS[attribute.kind](scene, target, others, config)]
    )


_CATEGORIES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat",
    "traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog",
    "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella",
    "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite",
    "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange",
    "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant",
    "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone",
    "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors",
    "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip


def _is_called(category: str, family: str) -> bool:
    return family in _FAMILIES.get(category, (category,))


def summarise(judged: Sequence[Judged], images: int, per_image: int) -> str:
    """The table: precision and yield by the least confidence, with 95 % intervals over images."""
    lines = ["| confidence | pairs | an image | right | of those with a category | why not |"]
    lines.append("|---|---|---|---|---|---|")
    for least in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9):
        selected = _choose(judged, least, per_image)
        judgeable = [pair for pair in selected if pair.why != "no category"]
        why = ", ".join(f"{n} {w}" for w, n in Counter(o.why for o in selected).items() if w)
        lines.append(
            f"| {least:.1f} | {len(selected)} | {len(selected) / images:.2f} | {_show(selected)} |"
            f" {_show(judgeable)} | {why} |"
        )
    return "\n".join(lines)


def _choose(judged: Sequence[Judged], least: float, per_image: int) -> list[Judged]:
    counts: Counter[str] = Counter()
    selected = []
    for pair in sorted(judged, key=lambda pair: -pair.confidence):
        if pair.confidence >= least and counts[pair.image] < per_image:
            counts[pair.image] += 1
            selected.append(pair)
    return selected


def _show(judged: Sequence[Judged]) -> str:
    return show_share([(pair.image, not pair.why) for pair in judged])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True, help="a set in RefCOCO's layout")
    parser.add_argument("--split", default="val")
    parser.add_argument("--per-image", type=int, default=2, help="most pairs of an image")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write every judged pair here")
    arguments = parser.parse_args()
    settings = load_worker_settings()
    pipeline = build_pipeline(settings)
    families = build_families(load_nouns(settings.nouns).things)
    dataset = load_dataset("refcoco", arguments.root, arguments.split)
    judged: list[Judged] = []
    for number, image in enumerate(dataset.images, start=1):
        judged += judge_image(image, pipeline, families, arguments.seed)
        print(f"{number} of {len(dataset.images)} photos", end="\r", file=sys.stderr, flush=True)
    print(pipeline.model_version)
    print(summarise(judged, len(dataset.images), arguments.per_image))
    if arguments.json:
        rows = [vars(pair) for pair in judged]
        arguments.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
