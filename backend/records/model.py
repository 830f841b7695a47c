"""Tables. Rows are written once; what changes (a request gets its answer) is filled in once."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, DateTime, Float, ForeignKey, Integer, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from sqlalchemy.types import TypeDecorator

BigId = BigInteger().with_variant(Integer, "sqlite")


class UtcDateTime(TypeDecorator[datetime]):
    """Aware UTC times in and out; SQLite keeps no time zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _dialect: Any) -> datetime | None:
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: datetime | None, _dialect: Any) -> datetime | None:
        if value is not None and value.tzinfo is None:
            return value.replace(tzinfo=UTC)
        return value


class Base(DeclarativeBase):
    pass


class Request(Base):
    """One expression typed for one task, and how it ended.

    ``status`` is ``waiting``, ``answered`` or ``failed``.
    """

    __tablename__ = "request"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
    project_id: Mapped[int] = mapped_column(Integer, index=True)
    task_id: Mapped[int] = mapped_column(Integer, index=True)
    expression: Mapped[str] = mapped_column(Text)
    k: Mapped[int] = mapped_column(Integer)
    photo: Mapped[str] = mapped_column(Text)
    photo_sha256: Mapped[str | None] = mapped_column(String(64), index=True)
    status: Mapped[str] = mapped_column(String(16), index=True)
    answered_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    latency_ms: Mapped[float | None] = mapped_column(Float)
    model_version: Mapped[str | None] = mapped_column(String(200))
    head_noun_phrase: Mapped[str | None] = mapped_column(Text)
    height_px: Mapped[int | None] = mapped_column(Integer)
    width_px: Mapped[int | None] = mapped_column(Integer)
    from_cache: Mapped[bool | None] = mapped_column()
    timings: Mapped[dict[str, float] | None] = mapped_column(JSON)
    notices: Mapped[list[str] | None] = mapped_column(JSON)
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_text: Mapped[str | None] = mapped_column(Text)
    candidates: Mapped[list[CandidateRow]] = relationship(
        back_populates="request", order_by="CandidateRow.rank", cascade="all, delete-orphan"
    )


class CandidateRow(Base):
    """A mask that was offered. ``region_id`` is the id Label Studio keeps for it."""

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
    request: Mapped[Request] = relationship(back_populates="candidates")


class Event(Base):
    """A webhook as it came, secrets removed. ``body`` is the JSON text."""

    __tablename__ = "event"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    received_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
    action: Mapped[str] = mapped_column(String(64), index=True)
    project_id: Mapped[int | None] = mapped_column(Integer, index=True)
    task_id: Mapped[int | None] = mapped_column(Integer, index=True)
    annotation_id: Mapped[int | None] = mapped_column(Integer, index=True)
    body: Mapped[str] = mapped_column(Text)
