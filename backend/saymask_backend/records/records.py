"""The current view: records of the newest version of each annotation that is not deleted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from sqlalchemy import Select, func, select, update

from saymask_backend.records.annotations import build_current_versions
from saymask_backend.records.database import Database, StoreError
from saymask_backend.records.tables import RecordRow, VerificationRow, of_project, read_row
from saymask_backend.records.types import RECORD_FIELDS, ProjectKey, RecordFilter, RecordView

_PAGE_SIZE = 500
# Columns that statistics skip, with placeholders.
_NOT_IN_FIGURES: dict[str, Any] = {
    "coco_rle": None,
    "parts": [],
    "region_ids": [],
    "notes": [],
    "image": "",
}


@dataclass(frozen=True)
class UnreadImage:
    """A reference whose content is unknown, with one of the tasks that have it."""

    project: ProjectKey
    reference: str
    task_id: int


class RecordStore:
    """Reads records. Each method is one transaction, unless its docstring says otherwise."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def count_records(self, record_filter: RecordFilter) -> int:
        """Return how many records the current view has."""
        query = _current(record_filter).with_only_columns(func.count(), maintain_column_froms=True)
        return self._database.scalars(query)[0]

    def count_outcomes(self) -> dict[str, int]:
        """Return how many current records have each outcome."""
        query = (
            _current(RecordFilter())
            .with_only_columns(RecordRow.outcome, func.count(), maintain_column_froms=True)
            .group_by(RecordRow.outcome)
        )
        return self._database.read_pairs(query)

    def iterate_records(
        self, record_filter: RecordFilter, *, newest_first: bool = False, limit: int | None = None
    ) -> Iterator[RecordView]:
        """Yield the current view by id, page by page; memory does not grow with its length."""
        last_id: int | None = None
        remaining = limit
        while remaining is None or remaining > 0:
            size = _PAGE_SIZE if remaining is None else min(_PAGE_SIZE, remaining)
            page = _current(record_filter)
            if last_id is not None:
                page = page.where(
                    RecordRow.id < last_id if newest_first else RecordRow.id > last_id
                )
            order = RecordRow.id.desc() if newest_first else RecordRow.id
            rows = self._database.scalars(page.order_by(order).limit(size))
            records = [read_row(RecordView, row) for row in rows]
            yield from records
            if len(records) < size:
                return
            last_id = records[-1].id
            remaining = None if remaining is None else remaining - len(records)

    def iterate_by_image(
        self, record_filter: RecordFilter, *, known_only: bool = False
    ) -> Iterator[list[RecordView]]:
        """Yield the current view image by image, in the order of the images' hashes.

        It is one long transaction: what is written meanwhile is not in it. Memory holds the
        records of one image.

        Args:
            record_filter: which records.
            known_only: leave out records whose image could not be read yet.

        Raises:
            StoreError: the database cannot be used, or a record has no image hash yet.
        """
        page = _current(record_filter).order_by(RecordRow.image_sha256, RecordRow.id)
        if known_only:
            page = page.where(RecordRow.image_sha256.is_not(None))
        # Columns, not objects: a session would keep every object it returned.
        columns = page.with_only_columns(
            *(getattr(RecordRow, name) for name in RECORD_FIELDS), maintain_column_froms=True
        )
        with self._database.session() as session:
            rows = session.execute(columns.execution_options(yield_per=_PAGE_SIZE))
            views = (RecordView(**dict(zip(RECORD_FIELDS, row, strict=True))) for row in rows)
            for sha256, group in groupby(views, key=lambda view: view.image_sha256):
                if sha256 is None:
                    raise StoreError("A record's image has not been read yet.", "Export again.")
                yield list(group)

    def load_figures(self, record_filter: RecordFilter) -> list[RecordView]:
        """Return the current view without masks, regions, images and notes, for statistics."""
        names = [name for name in RECORD_FIELDS if name not in _NOT_IN_FIGURES]
        columns = [getattr(RecordRow, name) for name in names]
        query = _current(record_filter).with_only_columns(*columns, maintain_column_froms=True)
        with self._database.session() as session:
            return [
                RecordView(**dict(zip(names, row, strict=True)), **_NOT_IN_FIGURES)
                for row in session.execute(query)
            ]

    def list_head_noun_phrases(self, project_id: int | None) -> list[str | None]:
        """Return those of all masks, history included, in the order in which they first came."""
        query = (
            select(RecordRow.head_noun_phrase)
            .where(RecordRow.area_px.is_not(None))
            .group_by(RecordRow.head_noun_phrase)
            .order_by(func.min(RecordRow.id))
        )
        if project_id is not None:
            query = query.where(RecordRow.project_id == project_id)
        return list(self._database.scalars(query))

    def load_record(self, record_id: int) -> RecordView | None:
        """Return any record, current or history, or None."""
        with self._database.session() as session:
            row = session.get(RecordRow, record_id)
            return read_row(RecordView, row) if row is not None else None

    def list_unread_images(self, record_filter: RecordFilter) -> list[UnreadImage]:
        """Return the references of images whose content is unknown."""
        reference = (RecordRow.project_id, RecordRow.project_created, RecordRow.image)
        query = (
            _current(record_filter)
            .where(RecordRow.image_sha256.is_(None))
            .with_only_columns(*reference, func.min(RecordRow.task_id), maintain_column_froms=True)
            .group_by(*reference)
            .order_by(*reference)
        )
        with self._database.session() as session:
            return [
                UnreadImage(ProjectKey(project_id, created), image, task_id)
                for project_id, created, image, task_id in session.execute(query)
            ]

    def set_image_hash(self, image: UnreadImage, sha256: str) -> None:
        """Store the content hash of an image that no worker read."""
        with self._database.session() as session, session.begin():
            session.execute(
                update(RecordRow)
                .where(
                    *of_project(RecordRow, image.project),
                    RecordRow.image == image.reference,
                    RecordRow.image_sha256.is_(None),
                )
                .values(image_sha256=sha256)
            )


def _current(record_filter: RecordFilter) -> Select[RecordRow]:
    current = build_current_versions()
    query = select(RecordRow).join(current, RecordRow.version_id == current.c.id)
    if record_filter.project_id is not None:
        query = query.where(RecordRow.project_id == record_filter.project_id)
    if record_filter.since is not None:
        query = query.where(RecordRow.decided_at >= record_filter.since)
    if record_filter.outcomes:
        query = query.where(RecordRow.outcome.in_(record_filter.outcomes))
    if record_filter.annotator is not None:
        query = query.where(RecordRow.annotator == record_filter.annotator)
    if record_filter.provenances:
        query = query.where(RecordRow.provenance.in_(record_filter.provenances))
    if record_filter.is_verified:
        verdicts = select(VerificationRow.verdict).where(VerificationRow.record_id == RecordRow.id)
        is_confirmed = VerificationRow.verdict == "confirmed"
        query = query.where(
            verdicts.where(is_confirmed).exists(), ~verdicts.where(~is_confirmed).exists()
        )
    if record_filter.min_iou is not None:
        query = query.where(RecordRow.iou >= record_filter.min_iou)
    return query
