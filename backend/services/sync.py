"""Comparing a project's annotations in Label Studio with the records, and filling every gap.

Label Studio gives a webhook one second and never tries again; lost ones are found here.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Literal

from backend.label_studio.annotations import to_submission
from backend.label_studio.client import LabelStudioClient, NotFound, Page, read_each
from backend.label_studio.label_config import LabelConfig
from backend.label_studio.schema import AnnotationBody, TaskBody, hash_content, validate
from backend.records.project_key import ProjectKey
from backend.records.stores import Stores
from backend.records.sync_runs import SyncRunState
from backend.services.record import Recorder
from saymask.errors import InvalidAnnotation, InvalidLabelConfig, SaymaskError
from saymask.left_out import LeftOut

log = logging.getLogger(__name__)

PAGE_SIZE = 50
Comparison = Literal["same", "missing", "outdated", "problem"]


@dataclass(frozen=True)
class SyncReport:
    """The result of a comparison.

    ``problems`` are tasks and annotations that cannot be interpreted.
    """

    project_id: int
    tasks: int
    annotations: int
    missing: int
    outdated: int
    deleted: int
    problems: tuple[str, ...]
    taken_up: bool

    @property
    def filled(self) -> int:
        """Number of gaps that were filled."""
        return self.missing + self.outdated + self.deleted


@dataclass(frozen=True)
class _Project:
    """The project that is compared.

    Attributes:
        hashes: annotation id to content hash of what is current in the records.
        problems: gets what cannot be interpreted.
    """

    key: ProjectKey
    config: LabelConfig
    hashes: dict[int, str]
    problems: LeftOut


class Synchroniser:
    """Compares projects through Label Studio's API.

    Args:
        client: logged in as a user who sees the projects.
        stores: of the records.
        recorder: writes what is missing.
        page_size: tasks per call.
    """

    def __init__(
        self,
        client: LabelStudioClient,
        stores: Stores,
        recorder: Recorder,
        page_size: int = PAGE_SIZE,
    ) -> None:
        self._client = client
        self._stores = stores
        self._recorder = recorder
        self._page_size = page_size

    def sync(
        self, project_id: int, progress: Callable[[int, int], None] = lambda _done, _total: None
    ) -> SyncReport:
        """Compare one project; ``progress`` is called with tasks read and tasks in all.

        Raises:
            LabelStudioError: unreachable, refused or no such project. What was filled stays, and
                the next call begins at the same page, so that a large project is compared as a
                whole in the end, however often that breaks off.
            InvalidLabelConfig: the project is not set up for saymask.
        """
        # Waiting events would otherwise look like gaps.
        self._recorder.process_waiting()
        body = self._client.get_project(project_id)
        config = body.read_label_config()
        state = self._stores.sync_runs.begin_run(body.key)
        first_page = state.next_page
        hashes = self._stores.annotations.load_current_hashes(body.key)
        project = _Project(body.key, config, hashes, LeftOut())
        for page in self._iterate_pages(project_id, first_page):
            state = self._compare_page(project, page, state)
            progress(state.counts["tasks"], max(page.total, state.counts["tasks"]))
            self._stores.sync_runs.save_run(state)
        state = self._compare_earlier(project, state, first_page)
        counts = Counter(state.counts)
        counts["deleted"] += self._find_deleted(project, state.seen)
        finished = replace(state, counts=dict(counts), finished_at=datetime.now(UTC))
        self._stores.sync_runs.save_run(finished)
        return SyncReport(
            project_id=project_id,
            tasks=counts["tasks"],
            annotations=counts["annotations"],
            missing=counts["missing"],
            outdated=counts["outdated"],
            deleted=counts["deleted"],
            problems=project.problems.lines,
            taken_up=first_page > 1,
        )

    def sync_all(self, should_stop: Callable[[], bool]) -> None:
        """Compare every project that was ever seen; failures are logged."""
        for project_id in self._stores.list_projects():
            if should_stop():
                return
            try:
                report = self.sync(project_id)
            except NotFound:
                log.info("project %s is gone from Label Studio", project_id)
            except InvalidLabelConfig as error:
                log.info("project %s is not set up for saymask: %s", project_id, error.cause)
            except SaymaskError as error:
                log.warning("project %s could not be compared: %s", project_id, error)
            else:
                log.log(
                    logging.WARNING if report.filled else logging.INFO,
                    "project %s: %s annotations, %s were missing, %s outdated, %s deleted",
                    project_id, report.annotations, report.missing, report.outdated, report.deleted,
                )  # fmt: skip

    def _compare_earlier(
        self, project: _Project, state: SyncRunState, first_page: int
    ) -> SyncRunState:
        """Compare again what the interrupted run had compared: gaps may have come since."""
        totals = {name: state.counts.get(name, 0) for name in ("tasks", "annotations")}
        for page in islice(self._iterate_pages(project.key.id, 1), first_page - 1):
            state = self._compare_page(project, page, state)
        return replace(state, counts={**state.counts, **totals})

    def _iterate_pages(self, project_id: int, first: int) -> Iterator[Page]:
        return self._client.iterate_task_pages(project_id, None, self._page_size, first)

    def _compare_page(self, project: _Project, page: Page, state: SyncRunState) -> SyncRunState:
        counts = Counter(state.counts)
        seen = set(state.seen)
        counts["tasks"] += len(page.items)
        for task in read_each(page.items, TaskBody, "task", project.problems):
            for annotation in task.annotations:
                counts["annotations"] += 1
                if type(annotation.get("id")) is not int:
                    project.problems.add(f"task {task.id}", "One of its annotations has no id.")
                    continue
                seen.add(annotation["id"])
                counts[self._compare(project, annotation, task, page.asked_at)] += 1
        return replace(
            state, next_page=state.next_page + 1, seen=frozenset(seen), counts=dict(counts)
        )

    def _compare(
        self, project: _Project, annotation: dict[str, Any], task: TaskBody, asked_at: datetime
    ) -> Comparison:
        annotation_id: int = annotation["id"]
        recorded = project.hashes.get(annotation_id)
        if recorded == hash_content(annotation):
            return "same"
        try:
            body = validate(
                AnnotationBody.model_validate, annotation, InvalidAnnotation, "The annotation"
            )
            submission = to_submission(body, task, project.key, project.config)
            saved_at = self._client.to_our_time(submission.updated_at)
            is_new = self._recorder.record_seen(submission, project.config, asked_at, saved_at)
        except SaymaskError as error:
            if error.concerns_all:
                raise
            log.warning("annotation %s cannot be interpreted: %s", annotation_id, error)
            project.problems.add(f"annotation {annotation_id}", error)
            return "problem"
        if not is_new:
            return "same"
        return "missing" if recorded is None else "outdated"

    def _find_deleted(self, project: _Project, seen: frozenset[int]) -> int:
        """Record the deletion of annotations that Label Studio did not list.

        Each is looked up by its id, because a list that changes while it is read may skip one.
        """
        deleted = 0
        for annotation_id in sorted(set(project.hashes) - seen):
            if not self._client.has_annotation(annotation_id):
                self._stores.annotations.save_deletion(
                    annotation_id, project.key, "sync", datetime.now(UTC)
                )
                deleted += 1
        return deleted
