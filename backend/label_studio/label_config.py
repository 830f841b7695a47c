"""Reading a project's labelling configuration: which tags are ours, whatever they are called."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from xml.etree import ElementTree

from backend.errors import InvalidLabelConfig

_CURE = (
    "The config needs one Image, one BrushLabels and one TextArea for the expression, both"
    " toName the image. See label_config.xml in the package, printed by: saymask label-config"
)


# The one tag known by its name: nothing else tells it from a project's own text fields.
NOTICE = "saymask_notice"


@dataclass(frozen=True)
class LabelConfig:
    """The tags saymask works with, by the names the project gave them.

    Attributes:
        image: name of the Image tag; ``image_key`` is its field in the task data.
        mask: name of the BrushLabels tag; ``mask_labels`` its label values in order.
        expression: name of the TextArea that holds the whole photo's expression.
        region_expression: name of the perRegion TextArea, or None.
        verdict: name of the Choices that offers ``no referent`` and ``ambiguous``, or None.
        notice: name of the TextArea in which saymask answers the annotator in words, or None.
        click, box: names of the smart KeyPoint and Rectangle (with labels or without) that refine
            a mask, or None.
    """

    image: str
    image_key: str
    mask: str
    mask_labels: tuple[str, ...]
    expression: str
    region_expression: str | None
    verdict: str | None
    notice: str | None = None
    click: str | None = None
    box: str | None = None

    def label_for_rank(self, rank: int) -> str:
        """``top-<rank>``; beyond the last such label that one, without any the first label."""
        ranked = [f"top-{n}" for n in range(1, rank + 1) if f"top-{n}" in self.mask_labels]
        return ranked[-1] if ranked else self.mask_labels[0]


@lru_cache(maxsize=256)
def load_label_config(xml: str) -> LabelConfig:
    """Find our tags in a labelling config.

    Raises:
        InvalidLabelConfig: not XML, or a tag is missing or doubled; says which.
    """
    root = _parse(xml)
    image = _only(root, list(root.iter("Image")), "Image")
    key = image.get("value", "")
    if not key.startswith("$") or image.get("valueList"):
        raise InvalidLabelConfig(
            f'The Image tag must have value="$field", got {key or image.get("valueList")!r}.', _CURE
        )
    name = _name(image, "Image")
    brushes = [e for e in root.iter("BrushLabels") if e.get("toName") == name]
    mask = _only(root, brushes, f'BrushLabels with toName="{name}"')
    labels = tuple(e.get("value", "") for e in mask.iter("Label") if e.get("value"))
    if not labels:
        raise InvalidLabelConfig("The BrushLabels tag has no Label.", _CURE)
    areas = [e for e in root.iter("TextArea") if e.get("toName") == name]
    per_region = [e for e in areas if e.get("perRegion", "").lower() == "true"]
    whole = [e for e in areas if e not in per_region and e.get("smart", "true") != "false"]
    expression = _only(root, whole, f'smart TextArea with toName="{name}"')
    return LabelConfig(
        image=name,
        image_key=key[1:],
        mask=_name(mask, "BrushLabels"),
        mask_labels=labels,
        expression=_name(expression, "TextArea"),
        region_expression=_name(per_region[0], "TextArea") if per_region else None,
        verdict=_find_verdict(root, name),
        notice=next((e.get("name") for e in areas if e.get("name") == NOTICE), None),
        click=_find_smart(root, name, ("KeyPoint", "KeyPointLabels")),
        box=_find_smart(root, name, ("Rectangle", "RectangleLabels")),
    )


def _find_smart(root: ElementTree.Element, image: str, tags: tuple[str, ...]) -> str | None:
    for element in root.iter():
        smart = element.get("smart", "true").lower() != "false"
        if element.tag in tags and element.get("toName") == image and smart:
            return _name(element, element.tag)
    return None


def _find_verdict(root: ElementTree.Element, image: str) -> str | None:
    for choices in root.iter("Choices"):
        values = {choice.get("value") for choice in choices.iter("Choice")}
        if choices.get("toName") == image and values & {"no referent", "ambiguous"}:
            return _name(choices, "Choices")
    return None


def default_label_config() -> str:
    """The labelling config saymask recommends."""
    return (resources.files("backend") / "label_studio" / "label_config.xml").read_text("utf-8")


def _parse(xml: str) -> ElementTree.Element:
    if "<!DOCTYPE" in xml or "<!ENTITY" in xml:
        raise InvalidLabelConfig("The labelling config must not declare entities.", _CURE)
    try:
        # Entities, the way to attack this parser, were refused above.
        return ElementTree.fromstring(xml)  # noqa: S314
    except ElementTree.ParseError as error:
        raise InvalidLabelConfig(f"The labelling config is no XML: {error}.", _CURE) from error


def _only(
    root: ElementTree.Element, found: list[ElementTree.Element], what: str
) -> ElementTree.Element:
    if len(found) != 1:
        tags = sorted({element.tag for element in root.iter()})
        raise InvalidLabelConfig(
            f"Expected one {what} in the labelling config, found {len(found)}"
            f" (tags there: {', '.join(tags)}).",
            _CURE,
        )
    return found[0]


def _name(element: ElementTree.Element, tag: str) -> str:
    name = element.get("name")
    if not name:
        raise InvalidLabelConfig(f"A {tag} tag has no name.", _CURE)
    return name
