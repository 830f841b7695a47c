"""From Label Studio's annotation to a submission, or to a verification's answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

from saymask.errors import InvalidAnnotation, InvalidMask, SaymaskError
from saymask.runs import MAX_RUNS
from saymask_backend.label_studio.label_config import LabelConfig
from saymask_backend.label_studio.mask_values import read_mask
from saymask_backend.label_studio.predict_request import read_image, read_rank
from saymask_backend.label_studio.schema import (
    AnnotationBody,
    ChoicesEntry,
    ClickEntry,
    MaskEntry,
    TaskBody,
    TextEntry,
)
from saymask_backend.records.types import Origin, ProjectKey, Submission, SubmittedRegion, Verdict

_ORIGINS = get_args(Origin)
Choice = Literal["none", "several"]
# In verification projects.
_VERIFY_CHOICES: dict[str, Choice] = {"nothing fits": "none", "several fit": "several"}
PROPOSED_FIELD = "saymask_proposed_regions"
"""Field of an imported task's data: the ids of the regions that saymask proposed."""


def to_submission(
    annotation: AnnotationBody,
    task: TaskBody,
    project: ProjectKey,
    config: LabelConfig,
    known_sizes_hw: frozenset[tuple[int, int]] = frozenset(),
) -> Submission:
    """Convert one annotation with its task.

    ``known_sizes_hw`` are the sizes, in pixels, that the task's image has or had; none when nobody
    has read it yet.

    Raises:
        InvalidAnnotation: a mask cannot be read or claims another size than the image has, or the
            task has no image.
    """
    result = annotation.result
    typed = _read_texts(result, config.expression, are_typed=True)
    try:
        return Submission(
            project=project,
            task_id=task.id,
            annotation_id=annotation.id,
            updated_at=annotation.updated_at,
            annotator=annotation.completed_by,
            seconds=annotation.lead_time,
            skipped=annotation.was_cancelled is True,
            image=read_image(task, config),
            expression=next(reversed(typed.values()), None),
            verdict=_read_verdict(result, config),
            regions=_read_regions(annotation, task, config, known_sizes_hw),
            ignored=_describe_others(result, config),
            content_hash=annotation.content_hash,
        )
    except InvalidAnnotation:
        raise
    except SaymaskError as error:
        raise InvalidAnnotation(error.cause, error.cure) from error


def _read_texts(
    result: Sequence[object], name: str | None, *, are_typed: bool = False
) -> dict[str, str]:
    """The last text of a field for each region, by its id; the newest last.

    Numbers that were typed for the whole image picked suggestions. A region's number is its text.
    """
    texts: dict[str, str] = {}
    for entry in result:
        if isinstance(entry, TextEntry) and entry.from_name == name:
            lines = [t for t in entry.value.text if not are_typed or read_rank(t) is None]
            text = lines[-1] if lines else ""
            if text.strip():
                texts.pop(entry.id, None)
                texts[entry.id] = text
    return texts


def _read_verdict(result: Sequence[object], config: LabelConfig) -> Verdict | None:
    verdicts = (
        config.read_verdict(choice)
        for entry in result
        if isinstance(entry, ChoicesEntry) and entry.from_name == config.verdict
        for choice in entry.value.choices
    )
    return next((verdict for verdict in verdicts if verdict), None)


def _read_regions(
    annotation: AnnotationBody,
    task: TaskBody,
    config: LabelConfig,
    known_sizes_hw: frozenset[tuple[int, int]],
) -> tuple[SubmittedRegion, ...]:
    """Regions with a mask; the text with the same id is the region's expression."""
    result = annotation.result
    proposed = _read_proposed(task)
    entries = [e for e in result if isinstance(e, MaskEntry) and e.from_name == config.mask]
    _check_sizes(entries, known_sizes_hw)
    texts = _read_texts(result, config.region_expression)
    regions: list[SubmittedRegion] = []
    runs = 0
    for entry in entries:
        region = _to_region(entry, config, texts.get(entry.id), is_proposed=entry.id in proposed)
        runs += region.mask.starts.size
        if runs > MAX_RUNS:
            raise InvalidAnnotation(
                f"Its masks consist of more than {MAX_RUNS:,} runs of pixels.",
                "Distribute the regions over several tasks, or draw smoother outlines.",
            )
        regions.append(region)
    return tuple(regions)


def _check_sizes(entries: Sequence[MaskEntry], known_sizes_hw: frozenset[tuple[int, int]]) -> None:
    sizes = sorted({entry.size_hw for entry in entries})
    if len(sizes) > 1:
        raise InvalidAnnotation(f"Regions of one image have different sizes (H, W): {sizes}.")
    if sizes and known_sizes_hw and sizes[0] not in known_sizes_hw:
        known = ", ".join(f"{height} x {width}" for height, width in sorted(known_sizes_hw))
        raise InvalidAnnotation(
            f"Region {entries[0].id} claims a photo of {sizes[0][0]} x {sizes[0][1]} pixels; the"
            f" task's photo has {known} (height x width).",
            "If the photo was replaced, ask for an expression on it once, so that its size is"
            " known, then: saymask records retry",
        )


def _read_proposed(task: TaskBody) -> frozenset[str]:
    ids = task.data.get(PROPOSED_FIELD)
    return frozenset(i for i in ids if isinstance(i, str)) if isinstance(ids, list) else frozenset()


def _to_region(
    entry: MaskEntry, config: LabelConfig, expression: str | None, *, is_proposed: bool
) -> SubmittedRegion:
    try:
        mask = read_mask(entry.value, entry.size_hw)
    except InvalidMask as error:
        raise InvalidAnnotation(f"Region {entry.id}: {error.cause}", error.cure) from error
    labels = entry.value.labels
    return SubmittedRegion(
        region_id=entry.id,
        origin=cast(Origin, entry.origin) if entry.origin in _ORIGINS else "manual",
        label=(config.find_label(labels[0]) or labels[0]) if labels else None,
        mask=mask,
        expression=expression,
        is_proposed=is_proposed,
    )


def _describe_others(result: Sequence[object], config: LabelConfig) -> tuple[str, ...]:
    """Regions of other kinds, counted; clicks and boxes are part of the mask they led to."""
    ours = {
        config.mask, config.expression, config.region_expression, config.verdict, config.notice,
        config.click, config.box,
    }  # fmt: skip
    others = Counter(
        getattr(entry, "type", "")
        for entry in result
        if getattr(entry, "from_name", None) not in ours
    )
    return tuple(f"{count} of type {kind} left out" for kind, count in sorted(others.items()))


@dataclass(frozen=True)
class VerifyAnswer:
    """The answer of one person in a verification project.

    Attributes:
        clicks_xy: as shares of the image's width and height, 0 to 1.
        choice: that nothing is meant, or that several could be, or None.
    """

    clicks_xy: tuple[tuple[float, float], ...]
    choice: Choice | None


def read_answer(annotation: AnnotationBody) -> VerifyAnswer:
    """Read the clicks and the choice of an annotation in a verification project."""
    clicks = [entry.value for entry in annotation.result if isinstance(entry, ClickEntry)]
    chosen = (
        _VERIFY_CHOICES[choice]
        for entry in annotation.result
        if isinstance(entry, ChoicesEntry)
        for choice in entry.value.choices
        if choice in _VERIFY_CHOICES
    )
    return VerifyAnswer(tuple((c.x / 100, c.y / 100) for c in clicks), next(chosen, None))
