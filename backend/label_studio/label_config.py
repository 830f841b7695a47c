"""A project's labelling config: which of its tags saymask uses, whatever they are called."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from xml.etree import ElementTree

from saymask.errors import InvalidLabelConfig

_CURE = (
    "The config needs one Image, one BrushLabels and one TextArea for the expression, both"
    " toName the image. See label_config.xml in the package, printed by: saymask label-config"
)


# The only tag recognised by its name: nothing else tells it from a project's own text fields.
NOTICE = "saymask_notice"


@dataclass(frozen=True)
class LabelConfig:
    """The tags saymask uses, by the names the project gave them.

    Attributes:
        image: name of the Image tag; ``image_key`` is its field in the task data.
        mask: name of the BrushLabels tag; ``mask_labels`` its label values in order.
        expression: name of the TextArea that holds the expression for the whole image.
        region_expression: name of the perRegion TextArea, or None.
        verdict: name of the Choices that offers ``no referent`` and ``ambiguous``, or None.
        notice: name of the TextArea that shows saymask's notices, or None.
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
        """Return the label for a rank: ``top-<rank>``, the last such label, or the first of all."""
        ranked = [f"top-{n}" for n in range(1, rank + 1) if f"top-{n}" in self.mask_labels]
        return ranked[-1] if ranked else self.mask_labels[0]


@lru_cache(maxsize=256)
def load_label_config(xml: str) -> LabelConfig:
    """Find the tags that saymask uses.

    Raises:
        InvalidLabelConfig: not valid XML, or a tag is missing or repeated; names it.
    """
    root = _parse(xml)
    image = _require_one(root, list(root.iter("Image")), "Image")
    name = _read_name(image, "Image")
    brushes = _find_tags(root, "BrushLabels", name)
    mask = _require_one(root, brushes, f'BrushLabels with toName="{name}"')
    areas = _find_tags(root, "TextArea", name)
    per_region = [e for e in areas if _is_per_region(e)]
    smart = [e for e in areas if not _is_per_region(e) and e.get("smart", "true") != "false"]
    expression = _require_one(root, smart, f'smart TextArea with toName="{name}"')
    return LabelConfig(
        image=name,
        image_key=_read_image_key(image),
        mask=_read_name(mask, "BrushLabels"),
        mask_labels=_read_labels(mask),
        expression=_read_name(expression, "TextArea"),
        region_expression=_read_name(per_region[0], "TextArea") if per_region else None,
        verdict=_find_verdict(root, name),
        notice=next((e.get("name") for e in areas if e.get("name") == NOTICE), None),
        click=_find_smart(root, name, ("KeyPoint", "KeyPointLabels")),
        box=_find_smart(root, name, ("Rectangle", "RectangleLabels")),
    )


def _find_tags(root: ElementTree.Element, tag: str, image: str) -> list[ElementTree.Element]:
    return [element for element in root.iter(tag) if element.get("toName") == image]


def _is_per_region(area: ElementTree.Element) -> bool:
    return area.get("perRegion", "").lower() == "true"


def _read_image_key(image: ElementTree.Element) -> str:
    """The field of the task's data that holds the image's address."""
    value = image.get("value", "")
    if not value.startswith("$") or image.get("valueList"):
        raise InvalidLabelConfig(
            f'The Image tag must have value="$field", got {value or image.get("valueList")!r}.',
            _CURE,
        )
    return value[1:]


def _read_labels(mask: ElementTree.Element) -> tuple[str, ...]:
    labels = tuple(e.get("value", "") for e in mask.iter("Label") if e.get("value"))
    if not labels:
        raise InvalidLabelConfig("The BrushLabels tag has no Label.", _CURE)
    return labels


def _find_smart(root: ElementTree.Element, image: str, tags: tuple[str, ...]) -> str | None:
    for element in root.iter():
        smart = element.get("smart", "true").lower() != "false"
        if element.tag in tags and element.get("toName") == image and smart:
            return _read_name(element, element.tag)
    return None


def _find_verdict(root: ElementTree.Element, image: str) -> str | None:
    for choices in root.iter("Choices"):
        values = {choice.get("value") for choice in choices.iter("Choice")}
        if choices.get("toName") == image and values & {"no referent", "ambiguous"}:
            return _read_name(choices, "Choices")
    return None


def default_label_config() -> str:
    """Return the labelling config that saymask recommends."""
    return (resources.files("backend") / "label_studio" / "label_config.xml").read_text("utf-8")


def _parse(xml: str) -> ElementTree.Element:
    if "<!DOCTYPE" in xml or "<!ENTITY" in xml:
        raise InvalidLabelConfig("The labelling config must not declare entities.", _CURE)
    try:
        # Entities, the way to attack this parser, were refused above.
        return ElementTree.fromstring(xml)  # noqa: S314
    except ElementTree.ParseError as error:
        raise InvalidLabelConfig(
            f"The labelling config is not valid XML: {error}.", _CURE
        ) from error


def _require_one(
    root: ElementTree.Element, elements: list[ElementTree.Element], what: str
) -> ElementTree.Element:
    if len(elements) != 1:
        tags = sorted({element.tag for element in root.iter()})
        raise InvalidLabelConfig(
            f"Expected one {what} in the labelling config, found {len(elements)}"
            f" (its tags: {', '.join(tags)}).",
            _CURE,
        )
    return elements[0]


def _read_name(element: ElementTree.Element, tag: str) -> str:
    name = element.get("name")
    if not name:
        raise InvalidLabelConfig(f"A {tag} tag has no name.", _CURE)
    return name
