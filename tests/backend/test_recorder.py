"""From events to records: any order, any number of times, and nothing lost on the way."""

from __future__ import annotations

import itertools
import json
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import event as sa_event

from saymask.masks import decode_coco_rle
from saymask_backend.label_studio.events import to_new_event
from saymask_backend.records.database import StoreError
from saymask_backend.records.stores import Stores
from saymask_backend.records.types import RecordFilter
from saymask_backend.services.record import Recorder
from tests.backend.submissions import ALL, A, process, send
from tests.conftest import list_bodies
from tests.factories import KEY, annotation, brush, deletion, event, offer, square, typed


def test_update_keeps_history_and_the_view_is_the_newest(stores: Stores) -> None:
    ids = offer(stores, 1, "the cat", [A])
    created = event(1, annotation(5, brush(ids[0], A, "top-1", "prediction", "the cat")))
    edited = brush(ids[0], square(4, side=6), "top-1", "prediction-changed", "the cat")
    updated = event(1, annotation(5, edited, after_s=60), "ANNOTATION_UPDATED")
    (record,) = process(stores, created, updated)
    assert record.outcome == "edited"
    past = stores.annotations.load_history(5, KEY)
    assert [entry.record.outcome for entry in past if entry.record] == ["accepted", "edited"]
    assert process(stores, deletion(5)) == []
    assert [e.record is None for e in stores.annotations.load_history(5, KEY)] == [
        False,
        False,
        True,
    ]
    assert stores.records.load_record(record.id) == record


def test_any_order_any_number_of_times(stores: Stores) -> None:
    ids = offer(stores, 1, "the cat", [A])
    first = event(1, annotation(5, brush(ids[0], A, "top-1", "prediction", "the cat")))
    text = brush(ids[0], A, "top-1", "prediction", "the black cat")
    second = event(1, annotation(5, text, after_s=5), "ANNOTATION_UPDATED")
    back = event(
        1,
        annotation(5, brush(ids[0], A, "top-1", "prediction", "the cat"), after_s=9),
        "ANNOTATION_UPDATED",
    )
    other = event(2, annotation(6, [typed("the cat")]))
    views = set()
    for number, order in enumerate(itertools.permutations([first, second, back, other])):
        bodies = json.loads(json.dumps(order).replace('"id": 5,', f'"id": {100 + number},'))
        bodies = json.loads(json.dumps(bodies).replace('"id": 6,', f'"id": {1000 + number},'))
        process(stores, *bodies, *bodies[::-1])
        rows = stores.records.iterate_records(ALL)
        mine = [r for r in rows if r.annotation_id in (100 + number, 1000 + number)]
        views.add(tuple(sorted((r.outcome, r.expression, r.decided_at) for r in mine)))
    assert len(views) == 1
    assert [row[:2] for row in views.pop()] == [("accepted", "the cat"), ("no_mask", "the cat")]


def test_a_deletion_known_before_its_creation(stores: Stores) -> None:
    assert process(stores, deletion(5), event(1, annotation(5, [typed("x")])), deletion(5)) == []


def test_what_is_not_understood_is_kept_counted_and_tried_again(stores: Stores) -> None:
    broken = event(1, annotation(5, [{"from_name": "mask", "type": "brushlabels", "id": "x"}]))
    no_config = {"action": "ANNOTATION_CREATED", "annotation": {}, "project": {"id": 7}}
    fine = event(1, annotation(6, [typed("x")]))
    assert len(process(stores, broken, no_config, {"action": "PROJECT_UPDATED"}, fine)) == 1
    recorder = Recorder(stores)
    assert stores.events.count_events_by_state() == {"problem": 2, "nothing": 1, "understood": 1}
    newest, oldest = stores.events.list_problems()
    assert "label_config" in newest.problem
    assert "Region x" in oldest.problem
    assert stores.events.retry_problems() == 2
    assert recorder.process_waiting() == 2
    assert stores.events.count_events_by_state()["problem"] == 2
    assert len(list_bodies(stores)) == 4


def test_a_bug_loses_no_event(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("saymask_backend.services.record.decide", bug)
    assert process(stores, event(1, annotation(5, [typed("x")]))) == []
    recorder = Recorder(stores)
    assert "ZeroDivisionError" in stores.events.list_problems()[0].problem
    monkeypatch.undo()
    stores.events.retry_problems()
    recorder.process_waiting()
    assert stores.records.count_records(ALL) == 1


def test_failing_in_the_middle_leaves_nothing_half_written(stores: Stores) -> None:
    send(stores, event(1, annotation(5, [typed("x")])))
    recorder = Recorder(stores)

    def fail(_conn: object, _cursor: object, statement: str, *_: object) -> None:
        if "UPDATE event" in statement:
            raise StoreError("The disk went away.")

    sa_event.listen(stores.database.engine, "before_cursor_execute", fail)
    with suppress(StoreError):
        recorder.process_waiting()
    sa_event.remove(stores.database.engine, "before_cursor_execute", fail)
    assert stores.records.count_records(ALL) == 0
    assert stores.events.count_events_by_state() == {"waiting": 1}
    assert recorder.process_waiting() == 1
    assert stores.records.count_records(ALL) == 1


def test_filters_and_paging(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saymask_backend.records.records._PAGE_SIZE", 3)
    for number in range(10):
        send(stores, event(number + 1, annotation(number, [typed("x")], completed_by=number % 2)))
    recorder = Recorder(stores)
    recorder.process_waiting()
    ids = [r.id for r in stores.records.iterate_records(ALL)]
    assert ids == sorted(ids)
    assert len(ids) == 10
    assert [r.id for r in stores.records.iterate_records(ALL, newest_first=True, limit=4)] == ids[
        ::-1
    ][:4]
    assert stores.records.count_records(RecordFilter(annotator="1")) == 5
    assert stores.records.count_records(RecordFilter(project_id=8)) == 0
    assert stores.records.count_records(RecordFilter(outcomes=("accepted",))) == 0
    assert (
        stores.records.count_records(RecordFilter(since=datetime.now(UTC) + timedelta(hours=3)))
        == 0
    )
    assert len(stores.records.load_figures(ALL)) == 10


def test_masks_are_exact(stores: Stores) -> None:
    rng = np.random.default_rng(3)
    noisy = rng.random((48, 64)) > 0.5
    (record,) = process(
        stores, event(1, annotation(5, brush("x", noisy, "referent", "manual", "n")))
    )
    assert record.coco_rle is not None
    assert (decode_coco_rle(record.coco_rle) == noisy).all()


def test_many_records_photo_by_photo(stores: Stores) -> None:
    """More than one reading from the database: groups stay whole."""
    recorder = Recorder(stores)
    for number in range(1, 621):
        photo = number % 7 + 1
        mask = brush(f"own{number}", square(4), "referent", "manual")
        body = event(photo, annotation(number, [typed("the cat"), *mask]))
        stores.events.append_event(to_new_event(body))
    recorder.process_waiting()
    for image in stores.records.list_unread_images(ALL):
        stores.records.set_image_hash(image, f"{image.task_id:064x}")
    groups = list(stores.records.iterate_by_image(RecordFilter()))
    assert [{r.image_sha256 for r in group} for group in groups] == [
        {f"{photo:064x}"} for photo in range(1, 8)
    ]
    assert sum(map(len, groups)) == 620


@pytest.mark.parametrize(
    ("action", "name", "good"),
    [("ANNOTATIONS_DELETED", "annotations", 5), ("TASKS_DELETED", "tasks", 1)],
)
def test_an_odd_id_among_deletions_is_named_and_the_others_are_recorded(
    stores: Stores, action: str, name: str, good: int
) -> None:
    process(stores, event(1, annotation(5, [typed("x")])))
    odd = [{"id": "x"}, {"id": -1}, {}, None, 5, [[]]]
    reported = {**deletion(), "action": action, name: [*odd, {"id": good}]}
    assert process(stores, reported) == []
    (problem,) = stores.events.list_problems()
    assert "6 of the deletions could not be read" in problem.problem
    assert "item 0: Its id is not valid" in problem.problem
    stores.events.retry_problems()
    Recorder(stores).process_waiting()
    assert stores.events.count_events_by_state() == {"understood": 1, "problem": 1}


def test_another_recorder_at_work_is_told(
    stores: Stores, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    send(stores, event(1, annotation(5, [typed("x")])))
    with closing(Stores(url)) as others, others.database.recording_lock(0) as is_theirs:
        assert is_theirs
        assert Recorder(stores).process_waiting(wait_s=0.01) == 0
    assert "Another process has been recording" in caplog.text
    assert Recorder(stores).process_waiting() == 1
