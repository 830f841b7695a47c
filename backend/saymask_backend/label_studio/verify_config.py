"""The labelling config of verification projects, and what people answer in them."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import Literal

from saymask_backend.label_studio.schema import AnnotationBody, ChoicesEntry, ClickEntry

Choice = Literal["none", "several"]
_CHOICES: dict[str, Choice] = {"nothing fits": "none", "several fit": "several"}


@dataclass(frozen=True)
class VerifyAnswer:
    """What one person answered.

    Attributes:
        clicks_xy: as shares of the image's width and height, 0 to 1.
        choice: that nothing is meant, or that several could be, or None.
    """

    clicks_xy: tuple[tuple[float, float], ...]
    choice: Choice | None


def load_verify_config() -> str:
    """Return the labelling config of a project in which expressions are verified."""
    return (resources.files("saymask_backend") / "label_studio" / "verify_config.xml").read_text(
        "utf-8"
    )


def read_answer(annotation: AnnotationBody) -> VerifyAnswer:
    """Read the clicks and the choice of an annotation in such a project."""
    clicks = [entry for entry in annotation.result if isinstance(entry, ClickEntry)]
    chosen = (
        _CHOICES[choice]
        for entry in annotation.result
        if isinstance(entry, ChoicesEntry)
        for choice in entry.value.choices
        if choice in _CHOICES
    )
    return VerifyAnswer(
        tuple((entry.value.x / 100, entry.value.y / 100) for entry in clicks),
        next(chosen, None),
    )
