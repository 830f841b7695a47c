"""Events become records: idempotent, in any order, any number of times.

An event that cannot be interpreted is kept with the reason. When the database fails, events stay
waiting and are tried again. An event whose processing ended the program three times is set aside.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from itertools import groupby

from backend.label_studio.event_schema import DeletionEvent, SubmissionEvent, TasksDeletedEvent
from backend.label_studio.events import parse_event, read_submission
from backend.label_studio.label_config import LabelConfig
from backend.records.database import StoreError
from backend.records.decisions import decide
from backend.records.events import WaitingEvent
from backend.records.offers import Offer
from backend.records.stores import Stores
from backend.records.submission import Submission
from saymask.errors import SaymaskError
from saymask.redaction import explain

log = logging.getLogger(__name__)

_BATCH_SIZE = 20
_MAX_ATTEMPTS = 3
_LOCK_WAIT_S = 30.0


class Recorder:
    """Turns events and submissions into records."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores

    def process_waiting(
        self, should_stop: Callable[[], bool] = lambda: False, wait_s: float = _LOCK_WAIT_S
    ) -> int:
        """Process every waiting event; returns how many there were.

        One thread of all processes does so at a time; when another does it for longer than
        ``wait_s``, this returns 0.

        Raises:
            StoreError: the database cannot be used now; the rest keeps waiting.
        """
        with self._stores.database.recording_lock(wait_s) as is_ours:
            return self._process_all(should_stop) if is_ours else 0

    def _process_all(self, should_stop: Callable[[], bool]) -> int:
        count = 0
        while not should_stop():
            waiting = self._stores.events.list_waiting(_BATCH_SIZE)
            if not waiting:
                return count
            for group in _group_by_risk(waiting):
                if should_stop():
                    return count
                self._process_group(group)
                count += len(group)
        return count

    def record_seen(
        self, submission: Submission, config: LabelConfig, seen_at: datetime, saved_at: datetime
    ) -> bool:
        """Decide and write what was read from Label Studio; returns whether it was new.

        Args:
            submission: the state of the annotation.
            config: of its project.
            seen_at: when it was read.
            saved_at: when Label Studio saved it, by our clock.
        """
        offers = self._load_offers(submission)
        earlier = [offer.request_id for offer in offers if offer.created_at <= saved_at]
        accepted = {region.region_id for region in submission.regions}
        earlier += [o.request_id for o in offers for c in o.candidates if c.region_id in accepted]
        decisions = decide(submission, offers, config.label_for_rank, max(earlier, default=0))
        return self._stores.annotations.save_submission(submission, decisions, "sync", seen_at)

    def _record_event(
        self, submission: Submission, config: LabelConfig, event: WaitingEvent
    ) -> None:
        """Decide and write what an event reported; requests are compared by their ids."""
        offers = self._load_offers(submission)
        last_request_id = event.last_request_id
        if last_request_id is None:
            before = (o.request_id for o in offers if o.created_at <= event.received_at)
            last_request_id = max(before, default=0)
        decisions = decide(submission, offers, config.label_for_rank, last_request_id)
        self._stores.annotations.save_submission(
            submission, decisions, "webhook", event.received_at, event.id
        )

    def _load_offers(self, submission: Submission) -> tuple[Offer, ...]:
        return self._stores.requests.load_offers(submission.project, submission.task_id)

    def _process_group(self, events: Sequence[WaitingEvent]) -> None:
        """Process events whose attempt is counted together.

        Raises:
            StoreError: the database cannot be used now; none of the rest counts as attempted.
        """
        self._stores.events.begin_attempt([event.id for event in events])
        for index, event in enumerate(events):
            try:
                self._process(event)
            except (StoreError, KeyboardInterrupt, SystemExit):
                self._withdraw(events[index:])
                raise

    def _withdraw(self, events: Sequence[WaitingEvent]) -> None:
        try:
            self._stores.events.withdraw_attempt([event.id for event in events])
        except StoreError as error:
            log.warning("attempts that the database prevented stay counted: %s", error)

    def _process(self, event: WaitingEvent) -> None:
        events = self._stores.events
        if event.attempts >= _MAX_ATTEMPTS:
            reason = (
                f"Processing it ended this program {event.attempts} times, most likely for lack"
                " of memory; it is set aside. Try again: saymask records retry."
            )
            log.error("event %s: %s", event.id, reason)
            events.mark_event(event.id, "problem", reason)
            return
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
            reason = (
                f"{type(error).__name__}: {explain(error)}. This is a bug; the log has its trace."
            )
            events.mark_event(event.id, "problem", reason)

    def _interpret(self, event: WaitingEvent) -> None:
        annotations = self._stores.annotations
        parsed = parse_event(event.body)
        if isinstance(parsed, SubmissionEvent):
            submission, config = read_submission(parsed)
            self._record_event(submission, config, event)
            return
        if isinstance(parsed, DeletionEvent):
            for annotation in parsed.annotations:
                annotations.save_deletion(
                    annotation.id, parsed.project, "webhook", event.received_at
                )
        elif isinstance(parsed, TasksDeletedEvent):
            for task in parsed.tasks:
                annotations.save_task_deletion(
                    task.id, parsed.project, "webhook", event.received_at
                )
        else:
            self._stores.events.mark_event(event.id, "nothing")
            return
        self._stores.events.mark_event(event.id, "understood")


def _group_by_risk(events: Sequence[WaitingEvent]) -> Iterator[Sequence[WaitingEvent]]:
    """New events together; one whose processing never ended alone, so that only it is blamed."""
    for is_new, group in groupby(events, key=lambda event: event.attempts == 0):
        if is_new:
            yield list(group)
        else:
            yield from ([event] for event in group)
