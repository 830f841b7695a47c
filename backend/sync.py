"""Comparing a project's annotations in Label Studio with the records, and filling every gap.

Label Studio gives a webhook one second and never tries again; what was lost comes in here.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from backend.errors import InvalidAnnotation, InvalidLabelConfig, SaymaskError
from backend.label_studio.annotations import hash_content, load_submission
from backend.label_studio.client import LabelStudioClient, NotFound
from backend.label_studio.label_config import LabelConfig
from backend.label_studio.project_tasks import read_label_config
from backend.recorder import Recorder
from backend.records.ledger import Ledger
from backend.records.sync_log import SyncLog, SyncState

log = logging.getLogger(__name__)

PAGE_SIZE = 50


@dataclass(frozen=True)
class SyncReport:
    """What a comparison found. ``problems`` are annotations that could not be understood."""

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
        return self.missing + self.outdated + self.deleted


class Synchroniser:
    """Reads projects through Label Studio's API.

    Args:
        client: logged in as a user who sees the projects.
        page_size: tasks per call.
    """

    def __init__(
        self,
        client: LabelStudioClient,
        ledger: Ledger,
        log_: SyncLog,
        recorder: Recorder,
        page_size: int = PAGE_SIZE,
    ) -> None:
        self._client = client
        self._ledger = ledger
        self._log = log_
        self._recorder = recorder
        self._page_size = page_size

    def sync(
        self, project_id: int, progress: Callable[[int, int], None] = lambda _done, _total: None
    ) -> SyncReport:
        """Compare one project; ``progress`` hears tasks read and tasks in all.

        Raises:
            LabelStudioError: unreachable, refused or no such project; what was filled stays, and
                the next call goes on where this one broke off.
            InvalidLabelConfig: the project is not made for saymask.
        """
        # What waits here would otherwise look like a gap.
        self._recorder.process_waiting()
        config = read_label_config(self._client, project_id)
        state = self._log.begin(project_id)
        taken_up = state.next_page > 1
        known = self._ledger.current_versions(project_id)
        problems: list[str] = []
        while True:
            tasks, total = self._read_page(project_id, state.next_page)
            found = Counter(state.counts)
            seen = set(state.seen)
            for task in tasks:
                found["tasks"] += 1
                for annotation in task.get("annotations") or []:
                    found["annotations"] += 1
                    seen.add(int(annotation["id"]))
                    kind = self._compare(annotation, task, project_id, config, known, problems)
                    found[kind] += 1
            is_last = len(tasks) < self._page_size
            state = replace(
                state, next_page=state.next_page + 1, seen=frozenset(seen), counts=dict(found)
            )
            progress(found["tasks"], max(total, found["tasks"]))
            if is_last:
                break
            self._log.save(state)
        state = self._find_deleted(state, project_id, known)
        self._log.save(replace(state, finished_at=datetime.now(UTC)))
        counts = state.counts
        return SyncReport(
            project_id=project_id,
            tasks=counts.get("tasks", 0),
            annotations=counts.get("annotations", 0),
            missing=counts.get("missing", 0),
            outdated=counts.get("outdated", 0),
            deleted=counts.get("deleted", 0),
            problems=tuple(problems),
            taken_up=taken_up,
        )

    def _read_page(self, project_id: int, page: int) -> tuple[list[dict[str, Any]], int]:
        parameters = {
            "project": project_id, "page": page, "page_size": self._page_size, "fields": "all",
        }  # fmt: skip
        try:
            answer = self._client.request("GET", "/api/tasks", params=parameters)
        except NotFound:
            # The page after the last one, when the last one was full.
            return [], 0
        return answer["tasks"], int(answer.get("total", 0))

    def _compare(
        self,
        annotation: dict[str, Any],
        task: dict[str, Any],
        project_id: int,
        config: LabelConfig,
        known: dict[int, str],
        problems: list[str],
    ) -> str:
        annotation_id = int(annotation["id"])
        ours = known.get(annotation_id)
        if ours == hash_content(annotation):
            return "same"
        try:
            submission = load_submission(annotation, task, project_id, config)
        except InvalidAnnotation as error:
            log.warning("annotation %s is not understood: %s", annotation_id, error)
            problems.append(f"annotation {annotation_id}: {error}")
            return "problem"
        if not self._recorder.record(submission, config, "sync"):
            return "same"
        return "missing" if ours is None else "outdated"

    def _find_deleted(self, state: SyncState, project_id: int, known: dict[int, str]) -> SyncState:
        """Annotations we know and Label Studio did not show: each is asked for by name, because a
        list that changes while it is read may leave one out."""
        counts = Counter(state.counts)
        for annotation_id in sorted(set(known) - state.seen):
            try:
                self._client.request("GET", f"/api/annotations/{annotation_id}/")
            except NotFound:
                self._ledger.write_deletion(annotation_id, project_id, "sync")
                counts["deleted"] += 1
        return replace(state, counts=dict(counts))

    def sync_all(self, stop: Callable[[], bool]) -> None:
        """Every project we ever heard of, for the background loop."""
        for project_id in self._ledger.projects():
            if stop():
                return
            try:
                report = self.sync(project_id)
            except NotFound:
                log.info("project %s is gone from Label Studio", project_id)
            except InvalidLabelConfig as error:
                log.info("project %s is not made for saymask: %s", project_id, error.cause)
            except SaymaskError as error:
                log.warning("project %s could not be compared: %s", project_id, error)
            else:
                level = logging.WARNING if report.filled else logging.INFO
                log.log(
                    level,
                    "project %s: %s annotations, %s were missing, %s outdated, %s deleted",
                    project_id, report.annotations, report.missing, report.outdated, report.deleted,
                )  # fmt: skip
