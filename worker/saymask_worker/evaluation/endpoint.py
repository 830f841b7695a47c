"""Checking the chat server of the source ``endpoint``: its coordinates, how often it is right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import get_args

from saymask.datasets import DatasetImage, load_dataset
from saymask.errors import counted
from saymask.left_out import LeftOut, OnProgress
from saymask.masks import compute_box_xywh, decode_coco_rle
from saymask_worker.config.settings import Coordinates, EndpointConfig
from saymask_worker.images.decode import decode_image
from saymask_worker.masks.endpoint.boxes import Box, SentImage, ask_numbers, shrink, to_shares
from saymask_worker.masks.endpoint.client import ChatClient

_RIGHT_IOU = 0.5
# Boxes xyxy in pixels, drawn by hand.
_SAMPLES: tuple[tuple[str, str, Box], ...] = (
    ("astronaut.jpg", "the black helmet", (277, 344, 512, 512)),
    ("china.jpg", "the pagoda", (64, 29, 371, 415)),
    ("coffee.jpg", "the spoon", (325, 67, 425, 329)),
    ("flower.jpg", "the large flower in the middle", (169, 85, 446, 362)),
    ("rocket.jpg", "the rocket", (308, 127, 336, 409)),
)


@dataclass(frozen=True)
class Photo:
    """An image, and expressions about it with their referents' boxes xyxy in pixels."""

    name: str
    read: Callable[[], bytes]
    referents: tuple[tuple[str, Box], ...]


@dataclass(frozen=True)
class EndpointReport:
    """The result of a check.

    Attributes:
        expressions: that were asked.
        boxes: that were given.
        right: of these, with an IoU of at least 0.5, by the coordinates in which they are read.
    """

    expressions: int
    boxes: int
    right: Mapping[Coordinates, int]

    def fits(self, coordinates: Coordinates) -> bool:
        """Whether boxes are right, and no other coordinates make more of them right."""
        return 0 < self.right[coordinates] == max(self.right.values())

    def probability(self, coordinates: Coordinates) -> float:
        """Return the share of right boxes, pulled towards a half by one of each kind."""
        return (self.right[coordinates] + 1) / (self.boxes + 2)

    def describe(self, coordinates: Coordinates) -> str:
        """Return the lines for people; ``coordinates`` are those of the settings."""
        counts = ", ".join(f"{count} as {name}" for name, count in self.right.items())
        asked = counted(self.expressions, "expression")
        text = f"{asked}, boxes for {self.boxes}; right: {counts}"
        best = max(self.right, key=lambda name: self.right[name])
        if self.fits(coordinates):
            return f"{text}\nSAYMASK_ENDPOINT_COORDINATES={coordinates} fits."
        if self.right[best]:
            return f"{text}\nSet SAYMASK_ENDPOINT_COORDINATES={best}."
        return f"{text}\nThis model finds nothing; choose one that is trained to give boxes."


def load_samples() -> list[Photo]:
    """Return the sample photos."""
    folder = files("saymask") / "samples"
    return [
        Photo(name, (folder / name).read_bytes, ((expression, box),))
        for name, expression, box in _SAMPLES
    ]


def load_photos(name: str, root: Path, split: str, limit: int, left_out: LeftOut) -> list[Photo]:
    """Return a dataset's first images, with those expressions that have a target.

    Raises:
        DatasetError: it cannot be read.
    """
    dataset = load_dataset(name, root, split, limit=limit)
    for line in dataset.left_out:
        left_out.add("dataset", line)
    return [
        Photo(image.path.name, image.path.read_bytes, tuple(_list_referents(image)))
        for image in dataset.images
    ]


def _list_referents(image: DatasetImage) -> Iterator[tuple[str, Box]]:
    for expression in image.expressions:
        mask = decode_coco_rle(expression.target)
        if mask.any():
            x, y, width, height = compute_box_xywh(mask)
            yield expression.text, (x, y, x + width, y + height)


def check_endpoint(
    config: EndpointConfig, photos: Sequence[Photo], left_out: LeftOut, progress: OnProgress
) -> EndpointReport:
    """Ask for every referent, and read each answer in every kind of coordinates.

    ``left_out`` gets what the server did not answer.
    """
    client = ChatClient(config)
    right: Counter[Coordinates] = Counter(dict.fromkeys(get_args(Coordinates), 0))
    counts: Counter[str] = Counter()
    for done, photo in enumerate(photos, start=1):
        with left_out.guard(photo.name):
            image = decode_image(photo.read())
            sent = shrink(image)
            for expression, truth in photo.referents:
                counts["expressions"] += 1
                with left_out.guard(f"{photo.name}, {expression!r}"):
                    numbers = ask_numbers(client, sent, expression, config.coordinates)
                    if numbers is not None:
                        counts["boxes"] += 1
                        shares = _to_shares(truth, image.size_hw)
                        right.update(_read_right(numbers, shares, sent))
        progress(done, len(photos))
    return EndpointReport(counts["expressions"], counts["boxes"], dict(right))


def _read_right(numbers: Box, truth: Box, sent: SentImage) -> Iterator[Coordinates]:
    """The coordinates in which a model's numbers are the true box."""
    for coordinates in get_args(Coordinates):
        try:
            box = to_shares(numbers, sent.size_hw, coordinates)
        except ValueError:
            continue
        if _compute_iou(box, truth) >= _RIGHT_IOU:
            yield coordinates


def _to_shares(box: Box, size_hw: tuple[int, int]) -> Box:
    height, width = size_hw
    return box[0] / width, box[1] / height, box[2] / width, box[3] / height


def _compute_iou(first: Box, second: Box) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    inside = max(0.0, width) * max(0.0, height)
    areas = ((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return inside / (sum(areas) - inside)
