"""Tables. Rows are written once; the answer to a request is filled in once.

Columns called ``photo`` in the database are called ``image`` here.
"""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import (
    JSON,
    BigInteger,
    ColumnElement,
    DateTime,
    Float,
    ForeignKey,
    Integer,
    String,
    Text,
    UniqueConstraint,
    func,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.types import TypeDecorator

from saymask_backend.records.types import ProjectKey

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

View = TypeVar("View", bound="DataclassInstance")

BigId = BigInteger().with_variant(Integer, "sqlite")


class UtcDateTime(TypeDecorator[datetime]):
    """Aware UTC times in and out; SQLite keeps no time zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _dialect: Any) -> datetime | None:
        """Convert to UTC for the database."""
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: datetime | None, _dialect: Any) -> datetime | None:
        """Mark the database's times as UTC."""
        if value is not None and value.tzinfo is None:
            return value.replace(tzinfo=UTC)
        return value


class Base(DeclarativeBase):
    """Base of all tables."""


class Request(Base):
    """One expression asked for one task, and how it ended.

    ``status`` is ``waiting``, ``answered`` or ``failed``. ``kind`` is ``typed``, ``clicked`` (with
    how many ``clicks``), ``ahead``: for an expression in the task's data, or ``proposed``:
    expression and mask were proposed together. A failed one of kind ``ahead`` is replaced when it
    is asked again.

    ``region_id`` is that of the region which shows one candidate after another; it is the earlier
    request's where this one replaces a first look. ``shown`` lists the ranks of each showing.
    """

    __tablename__ = "request"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
    project_id: Mapped[int] = mapped_column(Integer, index=True)
    project_created: Mapped[int] = mapped_column(BigInteger, server_default="0")
    task_id: Mapped[int] = mapped_column(Integer, index=True)
    expression: Mapped[str] = mapped_column(Text)
    kind: Mapped[str] = mapped_column(String(16), server_default="typed")
    clicks: Mapped[int] = mapped_column(Integer, server_default="0")
    click_ids: Mapped[list[str] | None] = mapped_column(JSON)
    editor_entry_id: Mapped[str | None] = mapped_column(String(200))
    region_id: Mapped[str | None] = mapped_column(String(64))
    is_first_look: Mapped[bool | None] = mapped_column()
    shown: Mapped[list[list[int]] | None] = mapped_column(JSON)
    k: Mapped[int] = mapped_column(Integer)
    image: Mapped[str] = mapped_column("photo", Text)
    image_sha256: Mapped[str | None] = mapped_column("photo_sha256", String(64), index=True)
    status: Mapped[str] = mapped_column(String(16), index=True)
    answered_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    latency_ms: Mapped[float | None] = mapped_column(Float)
    model_version: Mapped[str | None] = mapped_column(String(200))
    head_noun_phrase: Mapped[str | None] = mapped_column(Text)
    height_px: Mapped[int | None] = mapped_column(Integer)
    width_px: Mapped[int | None] = mapped_column(Integer)
    confidence: Mapped[float | None] = mapped_column(Float)
    from_cache: Mapped[bool | None] = mapped_column()
    timings: Mapped[dict[str, float] | None] = mapped_column(JSON)
    notices: Mapped[list[str] | None] = mapped_column(JSON)
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_text: Mapped[str | None] = mapped_column(Text)
    candidates: Mapped[list[CandidateRow]] = relationship(
        back_populates="request", order_by="CandidateRow.rank", cascade="all, delete-orphan"
    )

    @property
    def best_score(self) -> float | None:
        """Score of the first candidate, None without any."""
        return self.candidates[0].score if self.candidates else None


class CandidateRow(Base):
    """A mask that was offered; ``region_id`` is the id under which Label Studio keeps it."""

    __tablename__ = "candidate"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    request_id: Mapped[int] = mapped_column(ForeignKey("request.id"), index=True)
    rank: Mapped[int] = mapped_column(Integer)
    region_id: Mapped[str] = mapped_column(String(64), unique=True)
    score: Mapped[float] = mapped_column(Float)
    coco_rle: Mapped[dict[str, Any]] = mapped_column(JSON)
    box_xywh: Mapped[list[int]] = mapped_column(JSON)
    predicted_iou: Mapped[float] = mapped_column(Float)
    stability_score: Mapped[float] = mapped_column(Float)
    source: Mapped[str] = mapped_column(String(64), server_default="proposals")
    request: Mapped[Request] = relationship(back_populates="candidates")


class Event(Base):
    """A webhook, or an annotation as sync read it; without secrets.

    ``body`` is the JSON text of what recording reads, empty when that is done. ``source`` is
    ``webhook`` or ``sync``; what sync read is removed once it is recorded. ``content_hash`` is that
    of the annotation, where it is about one. ``state`` is ``waiting``, ``understood``, ``nothing``
    (it changes no record) or ``problem``; ``problem`` is the reason. ``attempts`` counts how often
    processing began; ``last_request_id`` is the newest request when the event was received.
    """

    __tablename__ = "event"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    received_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
    action: Mapped[str] = mapped_column(String(64), index=True)
    project_id: Mapped[int | None] = mapped_column(Integer, index=True)
    project_created: Mapped[int] = mapped_column(BigInteger, server_default="0")
    task_id: Mapped[int | None] = mapped_column(Integer, index=True)
    annotation_id: Mapped[int | None] = mapped_column(Integer, index=True)
    body: Mapped[str] = mapped_column(Text)

    state: Mapped[str] = mapped_column(String(16), index=True, server_default="waiting")
    processed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    problem: Mapped[str | None] = mapped_column(Text)
    attempts: Mapped[int] = mapped_column(Integer, server_default="0")
    last_request_id: Mapped[int | None] = mapped_column(BigId)
    source: Mapped[str] = mapped_column(String(16), server_default="webhook")
    content_hash: Mapped[str | None] = mapped_column(String(64))


class AnnotationVersion(Base):
    """One state of a Label Studio annotation, as a webhook or the API reported it.

    A deletion is a version too. The current state of an annotation is the version with the latest
    ``ordered_at``, a time of our clock, in whatever order versions arrived: when it was received,
    or read from Label Studio's API; for one that Label Studio saved before another we know, a time
    before that. So neither a wrong clock nor a wrong deletion hides what comes later.
    """

    __tablename__ = "annotation_version"
    __table_args__ = (
        UniqueConstraint(
            "project_id", "project_created", "annotation_id", "updated_at", "content_hash",
            "ordered_at", name="uq_annotation_version_content",
        ),
    )  # fmt: skip

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    annotation_id: Mapped[int] = mapped_column(Integer, index=True)
    project_id: Mapped[int] = mapped_column(Integer, index=True)
    project_created: Mapped[int] = mapped_column(BigInteger, server_default="0")
    task_id: Mapped[int] = mapped_column(Integer, index=True)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)
    ordered_at: Mapped[datetime] = mapped_column(UtcDateTime, server_default=func.now())
    seen_at: Mapped[datetime] = mapped_column(UtcDateTime)
    source: Mapped[str] = mapped_column(String(16))
    deleted: Mapped[bool] = mapped_column()
    content_hash: Mapped[str] = mapped_column(String(64))


class RecordRow(Base):
    """What one version of an annotation decides about one expression. Never changed.

    ``coco_rle`` is the final mask, or None where none was given; ``iou`` compares it with the
    accepted candidate, ``first_iou`` with the candidate of rank 1. ``parts`` are the regions of a
    mask that has several; ``clicks`` those that led to the accepted candidate, ``source`` what
    offered it; ``provenance`` is where the expression comes from, see ``types.Provenance``.
    ``shown`` lists the ranks that the annotator saw, as far as they are known. ``image_sha256``
    alone may be filled in later, when the image of an expression that was never
    sent to a worker is read for the first time.
    """

    __tablename__ = "record"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    version_id: Mapped[int] = mapped_column(ForeignKey("annotation_version.id"), index=True)
    annotation_id: Mapped[int] = mapped_column(Integer, index=True)
    project_id: Mapped[int] = mapped_column(Integer, index=True)
    project_created: Mapped[int] = mapped_column(BigInteger, server_default="0")
    task_id: Mapped[int] = mapped_column(Integer, index=True)
    decided_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
    image: Mapped[str] = mapped_column("photo", Text)
    image_sha256: Mapped[str | None] = mapped_column("photo_sha256", String(64), index=True)
    height_px: Mapped[int | None] = mapped_column(Integer)
    width_px: Mapped[int | None] = mapped_column(Integer)
    expression: Mapped[str] = mapped_column(Text)
    typed_expression: Mapped[str | None] = mapped_column(Text)
    outcome: Mapped[str] = mapped_column(String(32), index=True)
    request_id: Mapped[int | None] = mapped_column(ForeignKey("request.id"), index=True)
    candidate_id: Mapped[int | None] = mapped_column(ForeignKey("candidate.id"))
    offered: Mapped[int] = mapped_column(Integer)
    shown: Mapped[list[int] | None] = mapped_column(JSON(none_as_null=True))
    rank: Mapped[int | None] = mapped_column(Integer)
    score: Mapped[float | None] = mapped_column(Float)
    iou: Mapped[float | None] = mapped_column(Float)
    first_iou: Mapped[float | None] = mapped_column(Float)
    coco_rle: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    area_px: Mapped[int | None] = mapped_column(Integer)
    parts: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    head_noun_phrase: Mapped[str | None] = mapped_column(Text)
    region_ids: Mapped[list[str]] = mapped_column(JSON)
    dabs: Mapped[int] = mapped_column(Integer)
    clicks: Mapped[int] = mapped_column(Integer, server_default="0")
    annotator: Mapped[str | None] = mapped_column(String(200), index=True)
    seconds: Mapped[float | None] = mapped_column(Float)
    model_version: Mapped[str | None] = mapped_column(String(200))
    latency_ms: Mapped[float | None] = mapped_column(Float)
    source: Mapped[str | None] = mapped_column(String(64))
    notes: Mapped[list[str]] = mapped_column(JSON)
    provenance: Mapped[str] = mapped_column(String(16), server_default="typed")


class VerificationRow(Base):
    """The verdict of a second annotator, who saw only image and expression, about one record.

    ``verdict`` is as in ``verifications.Verdict``. An annotation that is changed later replaces
    its earlier verdict.
    """

    __tablename__ = "verification"
    __table_args__ = (
        UniqueConstraint("project_id", "annotation_id", name="uq_verification_annotation"),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    record_id: Mapped[int] = mapped_column(ForeignKey("record.id"), index=True)
    project_id: Mapped[int] = mapped_column(Integer, index=True)
    annotation_id: Mapped[int] = mapped_column(Integer)
    verifier: Mapped[str | None] = mapped_column(String(200))
    verdict: Mapped[str] = mapped_column(String(16))
    decided_at: Mapped[datetime] = mapped_column(UtcDateTime)


class SyncRun(Base):
    """One comparison of a project with Label Studio; an interrupted one is resumed."""

    __tablename__ = "sync_run"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    project_id: Mapped[int] = mapped_column(Integer, index=True)
    project_created: Mapped[int] = mapped_column(BigInteger, server_default="0")
    started_at: Mapped[datetime] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    next_page: Mapped[int] = mapped_column(Integer)
    seen: Mapped[list[int]] = mapped_column(JSON)
    counts: Mapped[dict[str, int]] = mapped_column(JSON)


def read_row(kind: type[View], row: Base) -> View:
    """Copy a row into a dataclass whose fields have the names of its columns."""
    return kind(**{field.name: getattr(row, field.name) for field in fields(kind)})


def of_project(table: Any, project: ProjectKey) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions that rows are about a project of one installation."""
    return table.project_id == project.id, table.project_created == project.created
