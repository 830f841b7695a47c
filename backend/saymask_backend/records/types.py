"""Plain data about what was asked, offered, submitted and recorded; without SQL and JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, Literal, get_args

from saymask.contract import PROPOSALS_SOURCE
from saymask.runs import RunMask, read_coco_runs

Origin = Literal["manual", "prediction", "prediction-changed"]
Verdict = Literal["no referent", "ambiguous"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
Provenance = Literal["typed", "given", "proposed", "reworded"]
PROVENANCE_LABELS: dict[Provenance, str] = {
    "typed": "typed by the annotator",
    "given": "given in the task's data",
    "proposed": "proposed, and decided as it was",
    "reworded": "proposed, and reworded by the annotator",
}


def to_key(expression: str) -> str:
    """Return a key that is equal for expressions which differ in blanks and capitals only."""
    return " ".join(expression.split()).casefold()


@dataclass(frozen=True, order=True)
class ProjectKey:
    """A project of one installation of Label Studio.

    Two installations, and one that was set up anew, number their projects, tasks and annotations
    from 1. Together with the second in which a project was created, its number is unique, and
    Label Studio sends both with every call.

    Attributes:
        id: Label Studio's number; 0 when it did not say.
        created: Unix time of the project's creation, seconds; 0 when it is unknown.
    """

    id: int
    created: int = 0


def to_project_key(project_id: int, created_at: datetime | None) -> ProjectKey:
    """Build the key from what Label Studio's API and webhooks say."""
    return ProjectKey(project_id, int(created_at.timestamp()) if created_at else 0)


def build_region_id(request_id: int, rank: int | None = None) -> str:
    """Return the id of a candidate's region, or of the one that shows a request's candidates.

    Region ids survive accept, edit and submit, so a candidate is recognised by it.
    """
    return f"sm{request_id}" if rank is None else f"sm{request_id}_{rank}"


def choose_region_id(region_id: str, edited: frozenset[str]) -> str:
    """Return the id under which the next candidate is shown: of no region that was ``edited``."""
    number, chosen = 1, region_id
    while chosen in edited:
        number += 1
        chosen = f"{region_id}-{number}"
    return chosen


def find_first_region_id(region_id: str) -> str:
    """Return the id from which ``choose_region_id`` made one."""
    return region_id.partition("-")[0]


@dataclass(frozen=True)
class OfferedCandidate:
    """A candidate as it was offered by ``source``, with Label Studio's ``region_id``.

    Most candidates of a task are never looked at, so ``mask`` is read when it is asked for.
    """

    id: int
    region_id: str
    rank: int
    score: float
    coco_rle: dict[str, Any]
    box_xywh: tuple[int, int, int, int]
    source: str = PROPOSALS_SOURCE

    @property
    def mask(self) -> RunMask:
        """The mask, read anew each time."""
        return read_coco_runs(self.coco_rle)


@dataclass(frozen=True)
class Offer:
    """One answered request of a task.

    Attributes:
        clicks: 0 where the expression was typed.
        kind: as in ``tables.Request``.
        region_id: of the region in which one candidate after another is shown.
        shown: the ranks that were shown, in order; empty where that is unknown.
    """

    request_id: int
    created_at: datetime
    expression: str
    image_sha256: str | None
    size_hw: tuple[int, int] | None
    head_noun_phrase: str | None
    model_version: str | None
    latency_ms: float | None
    clicks: int
    candidates: tuple[OfferedCandidate, ...]
    kind: str = "typed"
    region_id: str = ""
    shown: tuple[int, ...] = ()

    @property
    def is_proposed(self) -> bool:
        """Whether expression and mask were proposed together, without a request of a person."""
        return self.kind == "proposed"

    def find_rank(self, rank: int) -> OfferedCandidate | None:
        """Return the candidate of a rank, or None."""
        return next((c for c in self.candidates if c.rank == rank), None)


@dataclass(frozen=True)
class SubmittedRegion:
    """One brush region.

    Attributes:
        region_id: the candidate's, when the region began as one of our candidates.
        origin: how the region came about, according to Label Studio.
        mask: of the image's size.
        expression: of this region alone, or None.
        is_proposed: it came with the task, proposed by saymask and not confirmed.
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


@dataclass(frozen=True)
class RecordFilter:
    """Which records; None does not restrict. ``since`` bounds the decision's time.

    ``is_verified`` keeps those whose verdicts of second annotators are all ``confirmed``.
    """

    project_id: int | None = None
    since: datetime | None = None
    outcomes: tuple[str, ...] = ()
    annotator: str | None = None
    min_iou: float | None = None
    provenances: tuple[str, ...] = ()
    is_verified: bool = False


@dataclass(frozen=True)
class RecordView:
    """One record; fields as in ``tables.RecordRow``. ``coco_rle`` is the final mask or None."""

    id: int
    annotation_id: int
    project_id: int
    project_created: int
    task_id: int
    decided_at: datetime
    image: str
    image_sha256: str | None
    height_px: int | None
    width_px: int | None
    expression: str
    typed_expression: str | None
    outcome: str
    request_id: int | None
    candidate_id: int | None
    offered: int
    rank: int | None
    score: float | None
    iou: float | None
    first_iou: float | None
    coco_rle: dict[str, Any] | None
    area_px: int | None
    parts: list[dict[str, Any]]
    head_noun_phrase: str | None
    region_ids: list[str]
    dabs: int
    clicks: int
    annotator: str | None
    seconds: float | None
    model_version: str | None
    latency_ms: float | None
    source: str | None
    notes: list[str]
    provenance: str = "typed"
    shown: list[int] | None = None

    @property
    def project(self) -> ProjectKey:
        """The project with its installation."""
        return ProjectKey(self.project_id, self.project_created)

    def to_json(self) -> dict[str, Any]:
        """Return the fields for JSON, under the names of the database's columns."""
        names = {"image": "photo", "image_sha256": "photo_sha256"}
        return {names.get(name, name): value for name, value in asdict(self).items()}


RECORD_FIELDS = tuple(field.name for field in fields(RecordView))
