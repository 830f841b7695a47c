"""A project's labelling config: which of its tags saymask uses, whatever they are called."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources
from xml.etree import ElementTree

from saymask.errors import InvalidLabelConfig
from saymask_backend.label_studio.mask_values import MASK_TAGS, MaskTag
from saymask_backend.records.types import VERDICTS, Verdict

# Recognised by its name: nothing else distinguishes it from a project's own text fields.
NOTICE = "saymask_notice"
# Recognised by its name only where a project has other fields of each region.
_REGION_EXPRESSION = "region_expression"
# The class of a View in whose project one suggestion at a time is shown.
_ONE_CLASS = "saymask-one"
_COMMENT_OR_VIEW = re.compile(
    r"""<!--.*?-->|(?P<view><View(?=[\s/>])(?:[^>"']|"[^"]*"|'[^']*')*>)""", re.DOTALL
)
_CLASS_NAME = re.compile(
    r"""\s+className\s*=\s*(?P<quote>["'])(?P<value>.*?)(?P=quote)""", re.DOTALL
)
_CURE = (
    "The config needs one Image, one BrushLabels or BitmaskLabels, and one TextArea for the"
    " expression, both toName the image. See label_config.xml in the package, printed by:"
    " saymask label-config"
)


@dataclass(frozen=True)
class Option:
    """A Label or Choice: people see ``value``, annotations hold ``sent``.

    Label Studio sends the alias where there is one, and understands both.
    """

    value: str
    sent: str

    def is_called(self, name: str) -> bool:
        """Whether a name is its value or its alias."""
        return name in (self.value, self.sent)


@dataclass(frozen=True)
class LabelConfig:
    """The tags saymask uses, by the names the project gave them.

    Attributes:
        image: name of the Image tag; ``image_key`` is its field in the task data.
        mask: name of the BrushLabels or BitmaskLabels tag; ``mask_tag`` is which of them it is,
            ``mask_labels`` its labels in order.
        expression: name of the TextArea that holds the expression for the whole image.
        region_expression: name of the perRegion TextArea, or None.
        verdict: name of the Choices that offers ``no referent`` and ``ambiguous``, or None;
            ``verdict_choices`` what it offers.
        notice: name of the TextArea that shows saymask's notices, or None.
        click, box: names of the smart KeyPoint and Rectangle (with labels or without) that refine
            a mask, or None.
        shows_one: one suggestion at a time is shown.
    """

    image: str
    image_key: str
    mask: str
    mask_tag: MaskTag
    mask_labels: tuple[Option, ...]
    expression: str
    region_expression: str | None
    verdict: str | None
    notice: str | None = None
    click: str | None = None
    box: str | None = None
    verdict_choices: tuple[Option, ...] = ()
    shows_one: bool = False

    def label_for_rank(self, rank: int) -> str:
        """Return the label for a rank: ``top-<rank>``, the last such label, or the first of all."""
        ranked = [self.find_label(f"top-{n}") for n in range(1, rank + 1)]
        return next((label for label in reversed(ranked) if label), self.mask_labels[0].sent)

    def find_label(self, name: str) -> str | None:
        """Return a label as annotations hold it, by its value or alias; None if there is none."""
        return next((label.sent for label in self.mask_labels if label.is_called(name)), None)

    def read_verdict(self, choice: str) -> Verdict | None:
        """Return what a choice means, None for one of the project's own."""
        offered = next((o for o in self.verdict_choices if o.is_called(choice)), None)
        return next((v for v in VERDICTS if offered and offered.is_called(v)), None)

    def choice_for(self, verdict: Verdict) -> str:
        """Return a verdict as annotations hold it."""
        return next((o.sent for o in self.verdict_choices if o.is_called(verdict)), verdict)


def load_label_config(xml: str) -> LabelConfig:
    """Find the tags that saymask uses.

    Raises:
        InvalidLabelConfig: not valid XML, or a tag is missing or repeated; names it.
    """
    root = _parse(xml)
    image = _require_one(root, list(root.iter("Image")), "Image")
    name = _read_name(image)
    tags = [(tag, element) for tag in MASK_TAGS for element in _find_tags(root, tag, name)]
    what = f'{" or ".join(MASK_TAGS)} with toName="{name}"'
    mask = _require_one(root, [element for _, element in tags], what)
    areas = _find_tags(root, "TextArea", name)
    per_region = [e for e in areas if _is_per_region(e)]
    smart = [e for e in areas if not _is_per_region(e) and _is_smart(e)]
    expression = _require_one(
        root, smart, f'smart TextArea with toName="{name}"', 'Set smart="false" on all others.'
    )
    verdict = _find_verdict(root, name)
    labels = _read_options(mask, "Label")
    if not labels:
        raise InvalidLabelConfig(f"The {mask.tag} {mask.get('name')!r} has no Label.", _CURE)
    return LabelConfig(
        image=name,
        image_key=_read_image_key(image),
        mask=_read_name(mask),
        mask_tag=tags[0][0],
        mask_labels=labels,
        expression=_read_name(expression),
        region_expression=_find_region_expression(root, per_region),
        verdict=_read_name(verdict) if verdict is not None else None,
        verdict_choices=_read_options(verdict, "Choice") if verdict is not None else (),
        notice=next((e.get("name") for e in areas if e.get("name") == NOTICE), None),
        click=_find_smart(root, name, ("KeyPoint", "KeyPointLabels")),
        box=_find_smart(root, name, ("Rectangle", "RectangleLabels")),
        shows_one=any(_ONE_CLASS in e.get("className", "").split() for e in root.iter("View")),
    )


def _find_tags(root: ElementTree.Element, tag: str, image: str) -> list[ElementTree.Element]:
    return [element for element in root.iter(tag) if element.get("toName") == image]


def _is_per_region(element: ElementTree.Element) -> bool:
    return element.get("perRegion", "").lower() == "true"


def _read_image_key(image: ElementTree.Element) -> str:
    """The field of the task's data that holds the image's address."""
    value = image.get("value", "")
    if not value.startswith("$") or image.get("valueList"):
        raise InvalidLabelConfig(
            f'The Image tag must have value="$field", got {value or image.get("valueList")!r}.',
            _CURE,
        )
    return value[1:]


def _find_region_expression(
    root: ElementTree.Element, areas: list[ElementTree.Element]
) -> str | None:
    """The field of each region's expression; with several, the one of the recommended name."""
    named = [area for area in areas if area.get("name") == _REGION_EXPRESSION]
    candidates = named or areas
    if not candidates:
        return None
    cure = f'Call the one that holds the region\'s expression "{_REGION_EXPRESSION}".'
    return _read_name(_require_one(root, candidates, "perRegion TextArea", cure))


def _read_options(parent: ElementTree.Element, tag: str) -> tuple[Option, ...]:
    values = [(e.get("value", ""), e.get("alias")) for e in parent.iter(tag)]
    return tuple(Option(value, alias or value) for value, alias in values if value)


def _is_smart(element: ElementTree.Element) -> bool:
    return element.get("smart", "true").lower() != "false"


def _find_smart(root: ElementTree.Element, image: str, tags: tuple[str, ...]) -> str | None:
    """The smart tag of a kind; one that is nothing else before those that are so by default."""
    found = [e for e in root.iter() if e.tag in tags and e.get("toName") == image and _is_smart(e)]
    found.sort(key=lambda e: e.get("smartOnly", "false").lower() != "true")
    return _read_name(found[0]) if found else None


def _find_verdict(root: ElementTree.Element, image: str) -> ElementTree.Element | None:
    """The Choices about the whole image that offer a verdict."""
    for choices in _find_tags(root, "Choices", image):
        options = _read_options(choices, "Choice")
        offers = any(option.is_called(verdict) for option in options for verdict in VERDICTS)
        if offers and not _is_per_region(choices):
            return choices
    return None


def default_label_config(mask_tag: MaskTag = "BrushLabels") -> str:
    """Return the labelling config that saymask recommends, with one of the tags for masks."""
    return _read_resource("label_config.xml").replace("BrushLabels", mask_tag)


def switch_suggestions(xml: str, *, shows_one: bool) -> str:
    """Return a valid labelling config changed so that one suggestion is shown, or several are.

    Raises:
        InvalidLabelConfig: the class has to be written by hand.
    """
    changed = _COMMENT_OR_VIEW.sub(lambda match: _set_class(match, shows_one=False), xml)
    if shows_one:
        # The whole config is in one View.
        first = next((m for m in _COMMENT_OR_VIEW.finditer(changed) if m["view"]), None)
        if first is not None:
            tag = _set_class(first, shows_one=True)
            changed = f"{changed[: first.start()]}{tag}{changed[first.end() :]}"
    if load_label_config(changed).shows_one is not shows_one:
        raise InvalidLabelConfig(
            "The labelling config could not be changed.",
            f'Give its first View className="{_ONE_CLASS}", or take that class away, by hand.',
        )
    return changed


def _set_class(match: re.Match[str], *, shows_one: bool) -> str:
    """Return the start tag of a View with the class or without; a comment as it is."""
    tag = match.group()
    if not match["view"]:
        return tag
    attribute = _CLASS_NAME.search(tag)
    classes = attribute["value"].split() if attribute else []
    if (_ONE_CLASS in classes) is shows_one:
        return tag
    kept = [name for name in classes if name != _ONE_CLASS]
    wanted = [_ONE_CLASS, *kept] if shows_one else kept
    written = f' className="{" ".join(wanted)}"' if wanted else ""
    start, end = attribute.span() if attribute else (len("<View"), len("<View"))
    return f"{tag[:start]}{written}{tag[end:]}"


def load_verify_config() -> str:
    """Return the labelling config of a project in which expressions are verified."""
    return _read_resource("verify_config.xml")


def _read_resource(name: str) -> str:
    return (resources.files("saymask_backend") / "label_studio" / name).read_text("utf-8")


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
    root: ElementTree.Element, elements: list[ElementTree.Element], what: str, cure: str = _CURE
) -> ElementTree.Element:
    if len(elements) == 1:
        return elements[0]
    if elements:
        names = ", ".join(f'"{element.get("name", "")}"' for element in elements)
        raise InvalidLabelConfig(
            f"Expected one {what} in the labelling config, found {len(elements)}: {names}.", cure
        )
    tags = sorted({element.tag for element in root.iter()})
    raise InvalidLabelConfig(
        f"Expected one {what} in the labelling config, found 0 (its tags: {', '.join(tags)}).",
        _CURE,
    )


def _read_name(element: ElementTree.Element) -> str:
    name = element.get("name")
    if not name:
        raise InvalidLabelConfig(f"A {element.tag} tag has no name.", _CURE)
    return name
