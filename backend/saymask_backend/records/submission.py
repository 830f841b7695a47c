"""What an annotator submitted, free of Label Studio's JSON."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, get_args

from saymask.runs import RunMask
from saymask_backend.records.project_key import ProjectKey

Origin = Literal["manual", "prediction", "prediction-changed"]
Verdict = Literal["no referent", "ambiguous"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


@dataclass(frozen=True)
class SubmittedRegion:
    """One brush region.

    Attributes:
        region_id: the candidate's, when the region began as one of our candidates.
        origin: how the region came about, according to Label Studio.
        label: None when it has none.
        mask: of the image's size.
        expression: of this region alone, or None.
        is_proposed: it came with the task, proposed by saymask and confirmed by nobody.
    """

    region_id: str
    origin: Origin
    label: str | None
    mask: RunMask
    expression: str | None
    is_proposed: bool = False


@dataclass(frozen=True)
class Submission:
    """One state of one annotation.

    Attributes:
        project, task_id, annotation_id: Label Studio's.
        updated_at: when Label Studio saved this state.
        annotator: Label Studio's user id, or None.
        seconds: time spent on the annotation so far.
        skipped: the annotator skipped the task.
        image: the task's reference to its image.
        expression: the content of the field for the whole image, or None.
        verdict: the annotator's choice about that expression, or None.
        regions: in drawing order; masks of one size.
        ignored: regions of other kinds that were left out, in words.
        content_hash: equal for states with equal content.
    """

    project: ProjectKey
    task_id: int
    annotation_id: int
    updated_at: datetime
    annotator: str | None
    seconds: float | None
    skipped: bool
    image: str
    expression: str | None
    verdict: Verdict | None
    regions: tuple[SubmittedRegion, ...]
    ignored: tuple[str, ...]
    content_hash: str
