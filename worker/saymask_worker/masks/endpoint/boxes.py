"""The question for a box, and how the common families of models write boxes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

import numpy as np
from pydantic import BaseModel, Field, FiniteFloat, ValidationError

from saymask.drawing import to_data_url
from saymask_worker.config.settings import Coordinates
from saymask_worker.images.resize import cap_longest_side, resize_pixels
from saymask_worker.images.types import DecodedImage
from saymask_worker.masks.endpoint.client import ChatClient

Box: TypeAlias = tuple[float, float, float, float]
"""Left, top, right, bottom."""

# Families that count in pixels scale what they are sent to multiples of 28; these they keep.
_STEP_PX = 28
_LONGEST_PX = 36 * _STEP_PX
# Coordinates may leave the image by this share of its side, and are cut.
_OUTSIDE_MAX = 0.02
# A box has at least this share of the image's width and height: in other units it nearly vanishes.
_SIDE_MIN = 0.002

_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "bbox_2d": {
            "anyOf": [
                {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4},
                {"type": "null"},
            ]
        }
    },
    "required": ["bbox_2d"],
    "additionalProperties": False,
}


class _Answer(BaseModel):
    bbox_2d: Annotated[list[FiniteFloat], Field(min_length=4, max_length=4)] | None


@dataclass(frozen=True)
class SentImage:
    """An image as a server gets it: a JPEG in a ``data:`` address, (h, w) pixels."""

    url: str
    size_hw: tuple[int, int]


def shrink(image: DecodedImage) -> SentImage:
    """Scale an image down to at most 1,008 pixels, sides in multiples of 28."""
    height, width = cap_longest_side(image.size_hw, _LONGEST_PX)
    size_hw = _round(height), _round(width)
    pixels = resize_pixels(image.pixels, size_hw).astype(np.float32)
    return SentImage(to_data_url(pixels, _LONGEST_PX), size_hw)


def _round(side_px: int) -> int:
    return max(1, round(side_px / _STEP_PX)) * _STEP_PX


def ask_numbers(
    client: ChatClient, image: SentImage, expression: str, coordinates: Coordinates
) -> Box | None:
    """Ask for the box of an expression's referent; None where the image shows no such thing.

    Returns:
        The model's four numbers as they are.

    Raises:
        EndpointError: see ``ChatClient.ask``.
    """
    return client.ask(image.url, _write_question(image, expression, coordinates), _SCHEMA, _read)


def ask_box(
    client: ChatClient, image: SentImage, expression: str, coordinates: Coordinates
) -> Box | None:
    """Ask for the box of an expression's referent; None where the image shows no such thing.

    Returns:
        A box in shares of the image's width and height, 0 to 1.

    Raises:
        EndpointError: see ``ChatClient.ask``; also for a box outside the image.
    """

    def read(answer: Any) -> Box | None:
        numbers = _read(answer)
        return None if numbers is None else to_shares(numbers, image.size_hw, coordinates)

    return client.ask(image.url, _write_question(image, expression, coordinates), _SCHEMA, read)


def name_units(image: SentImage, coordinates: Coordinates) -> str:
    """Return a few words for a model about the numbers of a box."""
    height, width = image.size_hw
    return {
        "thousand": "integers from 0 to 1000, relative to the image's width and height",
        "pixels": f"in pixels of this image, which is {width} wide and {height} high",
        "unit": "numbers from 0 to 1, relative to the image's width and height",
    }[coordinates]


def _write_question(image: SentImage, expression: str, coordinates: Coordinates) -> str:
    units = name_units(image, coordinates)
    return (
        f"Find the one object that this expression refers to: {json.dumps(expression)}."
        ' Answer with JSON alone: {"bbox_2d": [left, top, right, bottom]}, '
        f'{units}; or {{"bbox_2d": null}} if the image does not show it.'
    )


def _read(answer: Any) -> Box | None:
    try:
        numbers = _Answer.model_validate(answer).bbox_2d
    except ValidationError as error:
        raise ValueError("it holds no box of four numbers") from error
    if numbers is None:
        return None
    left, top, right, bottom = numbers
    return left, top, right, bottom


def to_shares(numbers: Sequence[float], size_hw: tuple[int, int], coordinates: Coordinates) -> Box:
    """Convert a model's four numbers to a box in shares of width and height, 0 to 1.

    Corners in another order are put right.

    Raises:
        ValueError: the box lies outside the image, or is next to nothing.
    """
    scale_xy = _find_scale(size_hw, coordinates)
    xs = sorted(x / scale_xy[0] for x in numbers[0::2])
    ys = sorted(y / scale_xy[1] for y in numbers[1::2])
    shown = ", ".join(f"{number:g}" for number in numbers)
    if min(*xs, *ys) < -_OUTSIDE_MAX or max(*xs, *ys) > 1 + _OUTSIDE_MAX:
        raise ValueError(f"its box ({shown}) lies outside the image in {coordinates} coordinates")
    left, top, right, bottom = (min(max(side, 0.0), 1.0) for side in (xs[0], ys[0], xs[1], ys[1]))
    if min(right - left, bottom - top) < _SIDE_MIN:
        raise ValueError(f"its box ({shown}) is next to nothing in {coordinates} coordinates")
    return left, top, right, bottom


def from_shares(box: Box, size_hw: tuple[int, int], coordinates: Coordinates) -> list[float]:
    """Convert a box in shares of width and height to the numbers that a model reads."""
    scale_xy = _find_scale(size_hw, coordinates)
    digits = 3 if coordinates == "unit" else None
    return [round(side * scale_xy[index % 2], digits) for index, side in enumerate(box)]


def _find_scale(size_hw: tuple[int, int], coordinates: Coordinates) -> tuple[int, int]:
    """The numbers that mean the image's right and bottom edge."""
    height, width = size_hw
    return {"thousand": (1000, 1000), "pixels": (width, height), "unit": (1, 1)}[coordinates]
