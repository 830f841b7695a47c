"""Events become records: idempotent, in any order, any number of times.

An event that cannot be understood stays, with the reason; a failing database or a bug leaves the
event waiting, and it is tried again.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from typing import Any

from backend.errors import InvalidAnnotation, SaymaskError
from backend.label_studio.annotations import load_submission
from backend.label_studio.label_config import LabelConfig, load_label_config
from backend.label_studio.tasks import read_id
from backend.records.database import StoreError
from backend.records.ledger import Ledger, Source, WaitingEvent
from backend.records.outcomes import decide
from backend.submission import Submission

log = logging.getLogger(__name__)

_BATCH = 20
_SUBMITTED = ("ANNOTATION_CREATED", "ANNOTATION_UPDATED")
_DELETED = "ANNOTATIONS_DELETED"


class Recorder:
    """Turns events and submissions into records."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def process_waiting(self, stop: Callable[[], bool] = lambda: False) -> int:
        """Look at every waiting event; returns how many there were.

        Raises:
            StoreError: the database cannot be used now; the rest keeps waiting.
        """
        count = 0
        while not stop():
            waiting = self._ledger.waiting_events(_BATCH)
            if not waiting:
                return count
            for event in waiting:
                if stop():
                    return count
                self._process(event)
                count += 1
        return count

    def record(
        self,
        submission: Submission,
        config: LabelConfig,
        source: Source,
        event_id: int | None = None,
    ) -> bool:
        """Decide and write one submission; returns whether it was new."""
        offers = self._ledger.offers(submission.project_id, submission.task_id)
        decisions = decide(submission, offers, config.label_for_rank)
        return self._ledger.write(submission, decisions, source, event_id)

    def _process(self, event: WaitingEvent) -> None:
        try:
            if event.action in _SUBMITTED:
                submission, config = _read_submitted(event.body)
                self.record(submission, config, "webhook", event.id)
            elif event.action == _DELETED:
                project_id, annotation_ids = _read_deleted(event.body)
                for annotation_id in annotation_ids:
                    self._ledger.write_deletion(annotation_id, project_id, "webhook")
                self._ledger.mark_event(event.id, "understood")
            else:
                self._ledger.mark_event(event.id, "nothing")
        except StoreError:
            raise
        except SaymaskError as error:
            log.warning("event %s is not understood: %s", event.id, error)
            self._ledger.mark_event(event.id, "problem", str(error))
        except Exception as error:
            # A bug in the rules must stop neither the other events nor lose this one.
            log.exception("event %s is not understood", event.id)
            reason = f"{type(error).__name__}: {error}. This is a bug; the log has its trace."
            self._ledger.mark_event(event.id, "problem", reason)


def _read_submitted(text: str) -> tuple[Submission, LabelConfig]:
    body = _read(text)
    project = body.get("project")
    if not isinstance(project, dict) or not isinstance(project.get("label_config"), str):
        raise InvalidAnnotation("Expected 'project' with its 'label_config'.")
    config = load_label_config(project["label_config"])
    project_id = read_id(project.get("id"), "project id")
    return load_submission(body.get("annotation"), body.get("task"), project_id, config), config


def _read_deleted(text: str) -> tuple[int, list[int]]:
    body = _read(text)
    project, deleted = body.get("project"), body.get("annotations")
    if not isinstance(deleted, list) or not all(isinstance(one, dict) for one in deleted):
        raise InvalidAnnotation("Expected 'annotations', a list of objects.")
    project_id = read_id(project.get("id") if isinstance(project, dict) else 0, "project id")
    return project_id, [read_id(one.get("id"), "annotation id") for one in deleted]


def _read(text: str) -> dict[str, Any]:
    body = json.loads(text)
    if not isinstance(body, dict):
        raise InvalidAnnotation("Expected a JSON object.")
    return body


class Loop:
    """A thread that does something again and again, at once when woken.

    Args:
        work: called with a function that says whether to stop.
        every_s: longest wait between two calls; ``first_after_s``: before the first.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Callable[[], bool]], object],
        every_s: float,
        first_after_s: float = 0.0,
    ) -> None:
        self._work = work
        self._every_s = every_s
        self._first_after_s = first_after_s
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        self._wake.set()

    def stop(self) -> None:
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def _run(self) -> None:
        self._stop.wait(self._first_after_s)
        while not self._stop.is_set():
            self._wake.clear()
            try:
                self._work(self._stop.is_set)
            except SaymaskError as error:
                log.warning("%s: %s", self._thread.name, error)
            except Exception:
                # The loop must outlive a bug; what was not done is tried again.
                log.exception("%s failed", self._thread.name)
            self._wake.wait(self._every_s)
