"""What an annotator handed in, in saymask's own words: Label Studio's JSON stays outside."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from backend.masks import Mask

Origin = Literal["manual", "prediction", "prediction-changed"]
Verdict = Literal["no referent", "ambiguous"]


@dataclass(frozen=True)
class SubmittedRegion:
    """One brush region.

    Attributes:
        region_id: as we gave it, when it began as one of our candidates.
        origin: Label Studio's own account of how it came about.
        label: None when it has none.
        mask: (H, W) bool at the photo's size.
        expression: of this region alone, or None.
    """

    region_id: str
    origin: Origin
    label: str | None
    mask: Mask
    expression: str | None


@dataclass(frozen=True)
class Submission:
    """One state of one annotation.

    Attributes:
        project_id, task_id, annotation_id: Label Studio's.
        updated_at: when Label Studio saved this state.
        annotator: Label Studio's user id, or None.
        seconds: time spent on the annotation so far.
        skipped: the annotator skipped the task.
        photo: the task's reference to its photo.
        expression: what stands in the whole photo's field, or None.
        regions: in drawing order.
        not_understood: regions of other kinds, in words.
        content_hash: equal for states in which the annotator said the same.
    """

    project_id: int
    task_id: int
    annotation_id: int
    updated_at: datetime
    annotator: str | None
    seconds: float | None
    skipped: bool
    photo: str
    expression: str | None
    verdict: Verdict | None
    regions: tuple[SubmittedRegion, ...]
    not_understood: tuple[str, ...]
    content_hash: str
