"""Records as exports, statistics and people read them, and which of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any

from saymask_backend.records.project_key import ProjectKey


@dataclass(frozen=True)
class RecordFilter:
    """Which records; None does not restrict. ``since`` and ``until`` bound the decision's time.

    ``is_verified`` leaves those that a second person confirmed and nobody denied.
    """

    project_id: int | None = None
    since: datetime | None = None
    until: datetime | None = None
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

    @property
    def project(self) -> ProjectKey:
        """The project with its installation."""
        return ProjectKey(self.project_id, self.project_created)

    def to_json(self) -> dict[str, Any]:
        """Return the fields for JSON, under the names of the database's columns."""
        names = {"image": "photo", "image_sha256": "photo_sha256"}
        return {names.get(name, name): value for name, value in asdict(self).items()}


RECORD_FIELDS = tuple(field.name for field in fields(RecordView))
