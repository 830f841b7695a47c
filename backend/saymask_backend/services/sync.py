"""Comparing a project's annotations in Label Studio with the records, and filling every gap.

Label Studio gives a webhook one second and never tries again; lost ones are found here.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from saymask.errors import InvalidLabelConfig, SaymaskError
from saymask.left_out import LeftOut, OnProgress
from saymask_backend.label_studio.api_schema import ProjectBody
from saymask_backend.label_studio.client import LabelStudioClient
from saymask_backend.label_studio.events import find_id, read_saved_at, to_read_event
from saymask_backend.label_studio.rest import NotFound, Page, read_each
from saymask_backend.label_studio.schema import TaskBody, hash_content
from saymask_backend.records.events import SyncRunState
from saymask_backend.records.stores import Stores
from saymask_backend.services.record import Recorder

log = logging.getLogger(__name__)

PAGE_SIZE = 50
_STILL_WAITING = "It is stored and waits to be recorded; another process is recording. Sync again."


@dataclass(frozen=True)
class SyncReport:
    """The result of a comparison.

    Attributes:
        tasks, annotations: that Label Studio has.
        missing, outdated, deleted: gaps that were filled.
        problems: tasks and annotations that could not be recorded, and why.
        taken_up: an interrupted comparison was resumed.
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
        problems: gets what could not be recorded.
    """

    body: ProjectBody
    hashes: dict[int, str]
    problems: LeftOut


class Synchroniser:
    """Compares projects through Label Studio's API, as a user who sees them."""

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
        self, project_id: int, progress: OnProgress = lambda _done, _total: None
    ) -> SyncReport:
        """Compare one project; ``progress`` is called with tasks read and their number.

        Raises:
            LabelStudioError: unreachable, refused or no such project. What was filled stays, and
                the next call begins at the same page, so that a large project is compared as a
                whole in the end, however often that breaks off.
            InvalidLabelConfig: the project is not set up for saymask.
        """
        # Waiting events would otherwise look like gaps.
        self._recorder.process_waiting()
        body = self._client.get_project(project_id)
        body.read_label_config()
        state = self._stores.events.begin_sync(body.key)
        first_page = state.next_page
        hashes = self._stores.annotations.load_current_hashes(body.key)
        project = _Project(body, hashes, LeftOut())
        for page in self._iterate_pages(project_id, first_page):
            state = self._compare_page(project, page, state)
            progress(state.counts["tasks"], max(page.total, state.counts["tasks"]))
            self._stores.events.save_sync(state)
        state = self._compare_earlier(project, state, first_page)
        counts = Counter(state.counts)
        counts["deleted"] += self._find_deleted(project, state.seen)
        finished = replace(state, counts=dict(counts), finished_at=datetime.now(UTC))
        self._stores.events.save_sync(finished)
        names = ("tasks", "annotations", "missing", "outdated", "deleted")
        return SyncReport(
            project_id,
            **{name: counts[name] for name in names},
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
        """Compare again the pages of the interrupted run: gaps may have come since."""
        totals = {name: state.counts.get(name, 0) for name in ("tasks", "annotations")}
        for page in self._iterate_pages(project.body.id, 1) if first_page > 1 else ():
            state = self._compare_page(project, page, state)
            if page.following >= first_page:
                break
        return replace(state, counts={**state.counts, **totals})

    def _iterate_pages(self, project_id: int, first: int) -> Iterator[Page]:
        return self._client.iterate_task_pages(project_id, None, self._page_size, first)

    def _compare_page(self, project: _Project, page: Page, state: SyncRunState) -> SyncRunState:
        counts = Counter(state.counts)
        seen = set(state.seen)
        gaps: dict[int, int] = {}
        counts["tasks"] += len(page.items)
        for task in read_each(page, TaskBody, "task", project.problems):
            for annotation in task.annotations:
                counts["annotations"] += 1
                annotation_id = find_id(annotation)
                if annotation_id is None:
                    project.problems.add(f"task {task.id}", "One of its annotations has no id.")
                    continue
                seen.add(annotation_id)
                if project.hashes.get(annotation_id) != hash_content(annotation):
                    event_id = self._save(project, annotation, task, page.asked_at)
                    gaps[event_id] = annotation_id
        filled = self._fill(project, gaps)
        counts["outdated"] += sum(annotation_id in project.hashes for annotation_id in filled)
        counts["missing"] += sum(annotation_id not in project.hashes for annotation_id in filled)
        return replace(state, next_page=page.following, seen=frozenset(seen), counts=dict(counts))

    def _save(
        self, project: _Project, annotation: dict[str, Any], task: TaskBody, asked_at: datetime
    ) -> int:
        """Store what was read as an event, whose attempts are counted like a webhook's."""
        saved_at = read_saved_at(annotation)
        return self._stores.events.save_read(
            to_read_event(annotation, task, project.body),
            asked_at,
            self._client.to_our_time(saved_at) if saved_at else asked_at,
        )

    def _fill(self, project: _Project, gaps: dict[int, int]) -> list[int]:
        """Have stored events recorded; returns the annotations whose gaps were filled.

        ``gaps`` maps event ids to annotation ids.
        """
        if not gaps:
            return []
        self._recorder.process_waiting()
        unrecorded = self._stores.events.load_unrecorded(list(gaps))
        for event_id, problem in sorted(unrecorded.items()):
            reason = problem or _STILL_WAITING
            log.warning("annotation %s is not recorded: %s", gaps[event_id], reason)
            project.problems.add(f"annotation {gaps[event_id]}", reason)
        return [annotation for event_id, annotation in gaps.items() if event_id not in unrecorded]

    def _find_deleted(self, project: _Project, seen: frozenset[int]) -> int:
        """Record the deletion of annotations that Label Studio did not list.

        Each is looked up by its id, because a list that changes while it is read may skip one.
        """
        deleted = 0
        for annotation_id in sorted(set(project.hashes) - seen):
            if not self._client.has_annotation(annotation_id):
                self._stores.annotations.save_deletion(
                    annotation_id, project.body.key, "sync", datetime.now(UTC)
                )
                deleted += 1
        return deleted
