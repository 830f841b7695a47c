"""Expressions that a multimodal model on a chat server writes about the objects of an image."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from saymask.errors import ConfigError, InvalidExpression
from saymask.masks import Masks, compute_box_xywh
from saymask_worker.config.settings import EndpointConfig
from saymask_worker.images.types import DecodedImage
from saymask_worker.language import clean_expression
from saymask_worker.masks.endpoint.boxes import from_shares, name_units, shrink
from saymask_worker.masks.endpoint.client import ChatClient
from saymask_worker.pipeline.generation.objects import FoundObject

# More in one question confuses small models, and takes too long.
_MAX_OBJECTS = 8
_MAX_WORDINGS = 3
# People type less; longer ones describe the scene.
_MAX_CHARS = 100

_TEXT_LIST = {"type": "array", "items": {"type": "string"}}
_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "objects": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"number": {"type": "integer"}, "expressions": _TEXT_LIST},
                "required": ["number", "expressions"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["objects"],
    "additionalProperties": False,
}


class _Described(BaseModel):
    number: int
    expressions: list[str]


class _Answer(BaseModel):
    objects: list[_Described]


class EndpointDescriber:
    """Has expressions written for an image's objects, all in one question.

    Args:
        config: the server, its model and how that reads boxes.
    """

    def __init__(self, config: EndpointConfig) -> None:
        self.name = config.model
        self._client, self._coordinates = ChatClient(config), config.coordinates

    def write(
        self, image: DecodedImage, masks: Masks, objects: Sequence[FoundObject]
    ) -> list[tuple[str, ...]]:
        """Return at most three expressions for each object, those of the first eight.

        Args:
            image: to look at.
            masks: (N, h, w) of the proposals.
            objects: each one of the proposals.

        Raises:
            EndpointError: the server gives no usable answer.
        """
        sent = shrink(image)
        height, width = masks.shape[1:]
        lines = []
        for number, item in enumerate(objects[:_MAX_OBJECTS], start=1):
            x, y, w, h = compute_box_xywh(masks[item.index])
            box = x / width, y / height, (x + w) / width, (y + h) / height
            numbers = from_shares(box, sent.size_hw, self._coordinates)
            lines.append(f"{number}: {json.dumps(numbers)}")
        question = (
            "Objects in this image, each with its box [left, top, right, bottom],"
            f" {name_units(sent, self._coordinates)}:\n" + "\n".join(lines) + "\nFor each, write"
            f" {_MAX_WORDINGS} short English expressions as a person would type them, two to eight"
            " words, that refer to this object and to no other. Answer with JSON alone:"
            ' {"objects": [{"number": 1, "expressions": ["the ..."]}]}'
        )
        written = self._client.ask(sent.url, question, _SCHEMA, _read)
        return [written.get(number, ()) for number in range(1, len(objects) + 1)]


def require_describer(describer: EndpointDescriber | None) -> EndpointDescriber:
    """Return the describer of the settings; ConfigError where there is none."""
    if describer is None:
        raise ConfigError(
            "No chat server is set that could describe objects.",
            "Set the worker's SAYMASK_ENDPOINT_URL and SAYMASK_ENDPOINT_MODEL.",
        )
    return describer


def _read(answer: Any) -> dict[int, tuple[str, ...]]:
    """The usable expressions by the number of the object."""
    try:
        objects = _Answer.model_validate(answer).objects
    except ValidationError as error:
        raise ValueError("it holds no list of objects with expressions") from error
    return {item.number: _choose(item.expressions) for item in objects}


def _choose(expressions: Sequence[str]) -> tuple[str, ...]:
    chosen: dict[str, None] = {}
    for raw in expressions:
        try:
            text = clean_expression(raw).rstrip(".")
        except InvalidExpression:
            continue
        if len(text) <= _MAX_CHARS:
            chosen[text] = None
    return tuple(chosen)[:_MAX_WORDINGS]
