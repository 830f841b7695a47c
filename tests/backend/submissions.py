"""Sending events and processing them, for tests of records."""

from __future__ import annotations

from saymask_backend.label_studio.events import to_new_event
from saymask_backend.records.stores import Stores
from saymask_backend.records.types import RecordFilter, RecordView
from saymask_backend.services.record import Recorder
from tests.factories import square

ALL = RecordFilter()


def send(stores: Stores, *bodies: dict) -> None:
    for body in bodies:
        stores.events.append_event(to_new_event(body))


def process(stores: Stores, *bodies: dict) -> list[RecordView]:
    """The current view after these events."""
    recorder = Recorder(stores)
    send(stores, *bodies)
    recorder.process_waiting()
    return list(stores.records.iterate_records(ALL))


A = square(4)


B = square(24)


C = square(44)
