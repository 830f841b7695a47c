"""Events become records: idempotent, in any order, any number of times.

Webhooks and what sync read go the same way. An event that cannot be interpreted is kept with the
reason. When the database fails, events stay waiting and are tried again. An event whose processing
ended the program three times is set aside.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from saymask.errors import InvalidAnnotation, SaymaskError
from saymask.left_out import LeftOut
from saymask.redaction import explain
from saymask_backend.label_studio.events import (
    DeletionEvent,
    SubmissionEvent,
    TasksDeletedEvent,
    parse_event,
    read_ids,
    read_submission,
)
from saymask_backend.records.database import StoreError
from saymask_backend.records.decisions import decide
from saymask_backend.records.events import MAX_ATTEMPTS, WaitingEvent
from saymask_backend.records.stores import Stores
from saymask_backend.records.types import Offer, Submission, find_first_region_id

log = logging.getLogger(__name__)

_BATCH_SIZE = 20
_LOCK_WAIT_S = 30.0
_MAX_NAMED_CHARS = 500
_SET_ASIDE = (
    f"Processing it ended this program {MAX_ATTEMPTS} times, most likely for lack of memory; it is"
    " set aside. Try again: saymask records retry."
)


class Recorder:
    """Turns events into records."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores

    def process_waiting(
        self, should_stop: Callable[[], bool] = lambda: False, wait_s: float = _LOCK_WAIT_S
    ) -> int:
        """Process every waiting event; returns how many there were.

        One thread of all processes does so at a time; when another does it for longer than
        ``wait_s``, this returns 0, and events may still wait.

        Raises:
            StoreError: the database cannot be used now; the rest keeps waiting.
        """
        with self._stores.database.recording_lock(wait_s) as is_ours:
            if is_ours:
                return self._process_all(should_stop)
        if wait_s:
            log.warning(
                "Another process has been recording for %g s; events that still wait are not"
                " included.", wait_s,
            )  # fmt: skip
        return 0

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

    def _record(self, reported: SubmissionEvent, event: WaitingEvent) -> None:
        """Decide and write what was reported; requests are compared by their ids."""
        offers = self._stores.requests.load_offers(reported.project.key, reported.task.id)
        sizes = frozenset(offer.size_hw for offer in offers if offer.size_hw is not None)
        submission, config = read_submission(reported, sizes)
        last_request_id = _find_last_request(event, submission, offers)
        decisions = decide(submission, offers, config.label_for_rank, last_request_id)
        self._stores.annotations.save_submission(
            submission, decisions, event.source, event.received_at, event.id
        )

    def _process_group(self, events: Sequence[WaitingEvent]) -> None:
        """Process events whose attempt is counted together; a failing database counts for none."""
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
        try:
            body = events.load_body(event)
            if body is None:
                log.error("event %s: %s", event.id, _SET_ASIDE)
                events.mark_event(event.id, "problem", _SET_ASIDE)
            else:
                self._interpret(event, body)
        except StoreError:
            raise
        except SaymaskError as error:
            log.warning("event %s cannot be interpreted: %s", event.id, error)
            events.mark_event(event.id, "problem", str(error))
        except MemoryError as error:
            log.exception("event %s does not fit into memory", event.id)
            reason = f"There is not enough memory for it: {error}. Then: saymask records retry."
            events.mark_event(event.id, "problem", reason)
        except Exception as error:
            # A bug in the rules must neither stop the other events nor lose this one.
            log.exception("event %s cannot be interpreted", event.id)
            reason = (
                f"{type(error).__name__}: {explain(error)}. This is a bug; the log has its trace."
            )
            events.mark_event(event.id, "problem", reason)

    def _interpret(self, event: WaitingEvent, body: str) -> None:
        parsed = parse_event(body)
        if isinstance(parsed, SubmissionEvent):
            self._record(parsed, event)
        elif isinstance(parsed, DeletionEvent | TasksDeletedEvent):
            self._delete(parsed, event)
            self._stores.events.mark_event(event.id, "understood")
        else:
            self._stores.events.mark_event(event.id, "nothing")

    def _delete(self, reported: DeletionEvent | TasksDeletedEvent, event: WaitingEvent) -> None:
        """Write every reported deletion, then raise InvalidAnnotation for those without an id."""
        annotations = self._stores.annotations
        left_out = LeftOut()
        if isinstance(reported, DeletionEvent):
            for annotation_id in read_ids(reported.annotations, left_out):
                annotations.save_deletion(
                    annotation_id, reported.project, "webhook", event.received_at
                )
        else:
            for task_id in read_ids(reported.tasks, left_out):
                annotations.save_task_deletion(
                    task_id, reported.project, "webhook", event.received_at
                )
        if left_out:
            raise InvalidAnnotation(
                f"{len(left_out)} of the deletions could not be read, the others are recorded:"
                f" {'; '.join(left_out.lines)[:_MAX_NAMED_CHARS]}",
                "Compare with Label Studio: saymask sync",
            )


def _find_last_request(event: WaitingEvent, submission: Submission, offers: Sequence[Offer]) -> int:
    """The newest request that was answered before a submission; accepted ones were."""
    newest = event.last_request_id
    if newest is None:
        before = (o.request_id for o in offers if o.created_at <= event.received_at)
        newest = max(before, default=0)
    submitted = {region.region_id for region in submission.regions}
    submitted |= {find_first_region_id(region_id) for region_id in submitted}
    accepted = (
        offer.request_id
        for offer in offers
        if submitted & {offer.region_id, *(c.region_id for c in offer.candidates)}
    )
    return max(newest, *accepted, 0)


def _group_by_risk(events: Sequence[WaitingEvent]) -> Iterator[Sequence[WaitingEvent]]:
    """New events together; retry suspects one at a time, so that a crash identifies the culprit."""
    for is_new, group in groupby(events, key=lambda event: event.attempts == 0):
        if is_new:
            yield list(group)
        else:
            yield from ([event] for event in group)
