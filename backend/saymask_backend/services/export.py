"""From records to a dataset; images that were never read are read first."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

from saymask.errors import SaymaskError
from saymask.image_files import strip_secrets
from saymask.left_out import OnProgress
from saymask_backend.export.plan import ExportPlan, ExportSummary
from saymask_backend.export.run import count_export, run_export
from saymask_backend.label_studio.images import ImageFetcher
from saymask_backend.records.stores import Stores
from saymask_backend.records.types import RecordFilter, RecordView


class Exporter:
    """Writes datasets from records; exports link to the images in ``image_dir``."""

    def __init__(self, stores: Stores, fetcher: ImageFetcher, image_dir: Path) -> None:
        self._stores = stores
        self._fetcher = fetcher
        self._image_dir = image_dir

    def hash_unread_images(
        self, record_filter: RecordFilter, progress: OnProgress, *, skip_missing: bool
    ) -> list[str]:
        """Hash images that no worker ever read: split and name depend on the content.

        Returns:
            The images that were left out, with the reason.

        Raises:
            ImageError: an image cannot be read, and ``skip_missing`` is false.
        """
        records = self._stores.records
        unread = records.list_unread_images(record_filter)
        left_out = []
        for done, image in enumerate(unread, start=1):
            try:
                data = self._fetcher.fetch(image.reference, image.task_id)
            except SaymaskError as error:
                if not skip_missing:
                    raise
                left_out.append(f"{strip_secrets(image.reference)[:120]}: {error.cause}")
            else:
                records.set_image_hash(image, hashlib.sha256(data).hexdigest())
            progress(done, len(unread))
        return left_out

    def count(
        self, plan: ExportPlan, record_filter: RecordFilter, progress: OnProgress
    ) -> ExportSummary:
        """Count what an export would hold."""
        report = self._count_records(record_filter, progress)
        return count_export(plan, self._group(plan, record_filter), report)

    def write(
        self,
        plan: ExportPlan,
        record_filter: RecordFilter,
        progress: OnProgress,
        left_out: list[str],
    ) -> ExportSummary:
        """Write an export.

        Raises:
            ExportError: see ``run_export``.
        """
        return run_export(
            plan,
            self._group(plan, record_filter),
            lambda record: self._fetcher.fetch(record.image, record.task_id),
            self._image_dir,
            self._count_records(record_filter, progress),
            left_out,
            self._stores.records.list_head_noun_phrases(record_filter.project_id),
        )

    def _group(self, plan: ExportPlan, record_filter: RecordFilter) -> Iterator[list[RecordView]]:
        return self._stores.records.iterate_by_image(record_filter, known_only=plan.skip_missing)

    def _count_records(
        self, record_filter: RecordFilter, progress: OnProgress
    ) -> Callable[[int], None]:
        """A callback for the number of records that were just finished."""
        total, done = self._stores.records.count_records(record_filter), 0

        def report(count: int) -> None:
            nonlocal done
            done += count
            progress(done, total)

        return report
