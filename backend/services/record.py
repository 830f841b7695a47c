"""Events become records: idempotent, in any order, any number of times.

An event that cannot be interpreted is kept with the reason. When the database fails, events stay
waiting and are tried again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from backend.label_studio.events import parse_event, read_submission
from backend.label_studio.label_config import LabelConfig
from backend.label_studio.schema import DeletionEvent, SubmissionEvent
from backend.records.annotations import Source
from backend.records.database import StoreError
from backend.records.decisions import decide
from backend.records.events import WaitingEvent
from backend.records.stores import Stores
from backend.records.submission import Submission
from saymask.errors import SaymaskError

log = logging.getLogger(__name__)

_BATCH_SIZE = 20


class Recorder:
    """Turns events and submissions into records."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores

    def process_waiting(self, should_stop: Callable[[], bool] = lambda: False) -> int:
        """Process every waiting event; returns how many there were.

        Raises:
            StoreError: the database cannot be used now; the rest keeps waiting.
        """
        count = 0
        while not should_stop():
            waiting = self._stores.events.list_waiting(_BATCH_SIZE)
            if not waiting:
                return count
            for event in waiting:
                if should_stop():
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
        offers = self._stores.requests.load_offers(submission.project_id, submission.task_id)
        decisions = decide(submission, offers, config.label_for_rank)
        return self._stores.annotations.save_submission(submission, decisions, source, event_id)

    def _process(self, event: WaitingEvent) -> None:
        events = self._stores.events
        try:
            self._interpret(event)
        except StoreError:
            raise
        except SaymaskError as error:
            log.warning("event %s cannot be interpreted: %s", event.id, error)
            events.mark_event(event.id, "problem", str(error))
        except Exception as error:
            # A bug in the rules must neither stop the other events nor lose this one.
            log.exception("event %s cannot be interpreted", event.id)
            reason = f"{type(error).__name__}: {error}. This is a bug; the log has its trace."
            events.mark_event(event.id, "problem", reason)

    def _interpret(self, event: WaitingEvent) -> None:
        parsed = parse_event(event.body)
        if isinstance(parsed, SubmissionEvent):
            submission, config = read_submission(parsed)
            self.record(submission, config, "webhook", event.id)
        elif isinstance(parsed, DeletionEvent):
            for annotation in parsed.annotations:
                self._stores.annotations.save_deletion(annotation.id, parsed.project.id, "webhook")
            self._stores.events.mark_event(event.id, "understood")
        else:
            self._stores.events.mark_event(event.id, "nothing")
