"""Recording never stops: whatever a webhook says, whenever a process ends, whoever numbers what."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event as sa_event
from sqlalchemy import text

from saymask_backend.label_studio.events import to_new_event
from saymask_backend.records.database import StoreError
from saymask_backend.records.stores import Stores
from saymask_backend.records.types import ProjectKey
from saymask_backend.services.record import Recorder
from tests.backend.submissions import ALL, A, B, process, send
from tests.factories import KEY, PROJECT, annotation, brush, deletion, event, offer, typed

SAVED_TODAY = event(1, annotation(6, [typed("x")]))


def dated(moment: str) -> dict[str, Any]:
    return event(1, annotation(5, [typed("x")], updated_at=moment))


@pytest.mark.parametrize(
    "moment",
    [
        "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "1999-12-31T23:59:59Z",
        "2100-01-01T00:00:00Z", "never", "", None, 10**30, -(10**18),
    ],
)  # fmt: skip
def test_a_time_that_no_database_keeps(stores: Stores, moment: Any) -> None:
    records = process(stores, dated(moment), SAVED_TODAY)
    assert [record.annotation_id for record in records] == [6]
    assert stores.events.count_events_by_state() == {"problem": 1, "understood": 1}
    assert "updated_at" in stores.events.list_problems()[0].problem


def test_what_the_database_refuses_concerns_one_event_only(
    stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should a value get past the checks at the boundary, the queue of events goes on."""
    send(stores, event(1, annotation(5, [typed("x")])), SAVED_TODAY)
    from saymask_backend.records import annotations

    to_row = annotations._to_row

    def overflow(submission: Any, decision: Any) -> Any:
        row = to_row(submission, decision)
        if submission.annotation_id == 5:
            row.dabs = 10**40
        return row

    monkeypatch.setattr(annotations, "_to_row", overflow)
    assert Recorder(stores).process_waiting() == 2
    assert stores.events.count_events_by_state() == {"problem": 1, "understood": 1}


def test_a_mask_that_claims_a_huge_image(stores: Stores) -> None:
    from saymask.masks import MAX_PIXELS

    side = int(MAX_PIXELS**0.5) + 1
    (region,) = brush("x", A, "referent", "manual")
    region |= {"original_width": side, "original_height": side}
    process(stores, event(1, annotation(5, [region])), SAVED_TODAY)
    assert stores.events.count_events_by_state() == {"problem": 1, "understood": 1}
    assert "the limit is" in stores.events.list_problems()[0].problem


def test_decoding_takes_a_byte_per_pixel() -> None:
    """A child process whose memory is limited decodes a mask of 100 megapixels."""
    code = """
import resource
import numpy as np
from saymask.masks import decode_brush_rle, encode_brush_rle
mask = np.zeros((10_000, 10_000), bool)
mask[100:9000, 200:8000] = True
rle = encode_brush_rle(mask)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert (decode_brush_rle(rle, mask.shape) == mask).all()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    # Alpha, the threshold and the comparison: three bytes per pixel, where RGBA alone has four.
    assert int(finished.stdout) < 320_000


def test_an_event_that_ends_the_process_is_set_aside_after_three_attempts(
    stores: Stores, url: str
) -> None:
    """The process is really killed while it decides; each run is a process of its own."""
    send(stores, event(1, annotation(5, [typed("x")])), SAVED_TODAY)
    code = """
import os, signal, sys
from saymask_backend.records.stores import Stores
from saymask_backend.services import record
decide = record.decide
def dying(submission, *rest):
    if submission.annotation_id == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return decide(submission, *rest)
record.decide = dying
record.Recorder(Stores(sys.argv[1])).process_waiting()
"""
    codes = []
    for _ in range(6):
        command = [sys.executable, "-c", code, url]
        root = Path(__file__).parents[2]
        codes.append(subprocess.run(command, cwd=root, env=os.environ, check=False).returncode)
        if codes[-1] == 0:
            break
    assert codes == [-9, -9, -9, 0]
    assert stores.events.count_events_by_state() == {"problem": 1, "understood": 1}
    assert "set aside" in stores.events.list_problems()[0].problem
    assert stores.events.retry_problems() == 1
    assert Recorder(stores).process_waiting() == 1
    assert stores.records.count_records(ALL) == 2


def test_a_database_that_fails_blames_no_event(stores: Stores) -> None:
    send(stores, *[event(1, annotation(5 + n, [typed("x")])) for n in range(3)])

    def fail(_c: object, _d: object, statement: str, *_: object) -> None:
        if "INSERT INTO record" in statement:
            raise StoreError("The disk is full.")

    sa_event.listen(stores.database.engine, "before_cursor_execute", fail)
    for _ in range(5):
        with pytest.raises(StoreError):
            Recorder(stores).process_waiting()
    sa_event.remove(stores.database.engine, "before_cursor_execute", fail)
    assert [waiting.attempts for waiting in stores.events.list_waiting(9)] == [0, 0, 0]
    assert Recorder(stores).process_waiting() == 3
    assert stores.records.count_records(ALL) == 3


def test_a_deletion_of_what_still_exists_ends_with_its_next_update(stores: Stores) -> None:
    created = event(1, annotation(5, [typed("x")]))
    assert process(stores, created, deletion(5)) == []
    now = datetime.now(UTC).isoformat()
    updated = event(1, annotation(5, [typed("y")], updated_at=now), "ANNOTATION_UPDATED")
    assert [record.expression for record in process(stores, updated)] == ["y"]
    assert process(stores, deletion(5)) == []


def test_a_deleted_task_takes_its_annotations_along(stores: Stores) -> None:
    process(
        stores,
        event(1, annotation(5, [typed("x")])),
        event(1, annotation(6, [typed("x")], completed_by=2)),
        event(2, annotation(7, [typed("x")])),
    )
    gone = {"action": "TASKS_DELETED", "project": PROJECT, "tasks": [{"id": 1}]}
    assert [record.task_id for record in process(stores, gone)] == [2]
    assert stores.events.count_events_by_state() == {"understood": 4}


def test_two_label_studios_with_equal_numbers(stores: Stores) -> None:
    """Annotation 1 of project 7, here and there; and a Label Studio that was set up anew."""
    other = {**PROJECT, "created_at": "2026-11-24T08:00:00Z"}
    mine = event(1, annotation(1, [typed("mine")]))
    theirs = {**event(1, annotation(1, [typed("theirs")])), "project": other}
    records = process(stores, mine, theirs)
    assert [record.expression for record in records] == ["mine", "theirs"]
    assert len({record.project for record in records}) == 2
    gone = {**deletion(1), "project": other}
    assert [record.expression for record in process(stores, gone)] == ["mine"]


def test_offers_of_another_installation_are_not_ours(stores: Stores) -> None:
    offer(stores, 1, "the cat", [A], project=ProjectKey(7, 1))
    (record,) = process(
        stores, event(1, annotation(1, brush("x", B, "referent", "manual", "the cat")))
    )
    assert (record.outcome, record.offered) == ("drawn", 0)


def test_a_record_from_the_future_outlives_neither_update_nor_deletion(stores: Stores) -> None:
    """Label Studio's clock was years ahead for a while."""
    future = annotation(5, [typed("future")], updated_at="2099-01-01T00:00:00Z")
    process(stores, event(1, future))
    now = datetime.now(UTC).isoformat()
    updated = event(1, annotation(5, [typed("now")], updated_at=now), "ANNOTATION_UPDATED")
    assert [record.expression for record in process(stores, updated)] == ["now"]
    assert process(stores, event(1, future), deletion(5)) == []


@pytest.mark.parametrize("skew_h", [-5, 0, 5])
def test_states_are_ordered_by_the_clock_that_made_them(stores: Stores, skew_h: int) -> None:
    """Label Studio's clock is hours off: updates follow what they update, whatever we saw since."""

    def saved(minute: int, text: str) -> dict[str, Any]:
        moment = datetime.now(UTC) + timedelta(hours=skew_h, minutes=minute)
        return annotation(5, [typed(text)], updated_at=moment.isoformat())

    first, second, third, fourth = (saved(n, text) for n, text in enumerate("abcd"))
    assert len(process(stores, event(1, first), event(1, second, "ANNOTATION_UPDATED"))) == 1
    # Late, and of an earlier time: it changes nothing.
    process(stores, event(1, saved(-9, "late"), "ANNOTATION_UPDATED"))
    assert [r.expression for r in stores.records.iterate_records(ALL)] == ["b"]
    # A wrong deletion, ended by the next update; a comparison by API, replaced by the next.
    process(stores, deletion(5))
    updated = process(stores, event(1, third, "ANNOTATION_UPDATED"))
    assert [r.expression for r in updated] == ["c"]
    now = datetime.now(UTC)
    stores.events.save_read(to_new_event(event(1, third, "ANNOTATION_READ")), now, now)
    Recorder(stores).process_waiting()
    updated = process(stores, event(1, fourth, "ANNOTATION_UPDATED"))
    assert [r.expression for r in updated] == ["d"]
    assert process(stores, deletion(5), event(1, second, "ANNOTATION_UPDATED")) == []


@pytest.mark.parametrize("skew_h", [-5, 0, 5])
def test_whose_clock_is_wrong_does_not_matter(stores: Stores, skew_h: int) -> None:
    """Drawn after a rejection, by ids: whatever time Label Studio's machine has."""
    saved_at = (datetime.now(UTC) + timedelta(hours=skew_h)).isoformat()
    offer(stores, 1, "the cat", [A])
    drawn = [typed("the cat"), *brush("own", B, "referent", "manual")]
    (record,) = process(stores, event(1, annotation(5, drawn, updated_at=saved_at)))
    assert record.outcome == "drawn_after_rejection"


def test_what_was_offered_after_the_submission_is_not_held_against_it(stores: Stores) -> None:
    drawn = [typed("the cat"), *brush("own", B, "referent", "manual")]
    send(stores, event(1, annotation(5, drawn)))
    offer(stores, 1, "the cat", [A])
    Recorder(stores).process_waiting()
    (record,) = stores.records.iterate_records(ALL)
    assert record.outcome == "drawn"


def test_many_readers_blame_no_event(stores: Stores, url: str, monkeypatch: Any) -> None:
    """Recorder, sync, replicas and commands at once, over a slow event: one of them works."""
    from saymask_backend.services import record

    send(stores, *[event(n, annotation(n, [typed("x")])) for n in range(1, 8)])
    decide = record.decide

    def slow(*arguments: Any) -> Any:
        time.sleep(0.1)
        return decide(*arguments)

    monkeypatch.setattr(record, "decide", slow)
    others = [Stores(url) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        counts = list(pool.map(lambda other: Recorder(other).process_waiting(), others))
    for other in others:
        other.close()
    assert sum(counts) == 7
    assert stores.events.count_events_by_state() == {"understood": 7}
    assert stores.records.count_records(ALL) == 7


def test_a_stop_in_the_middle_blames_no_event(stores: Stores, monkeypatch: Any) -> None:
    from saymask_backend.services import record

    send(stores, *[event(n, annotation(n, [typed("x")])) for n in range(1, 4)])

    def stop(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(record, "decide", stop)
    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            Recorder(stores).process_waiting()
    monkeypatch.undo()
    assert [waiting.attempts for waiting in stores.events.list_waiting(9)] == [0, 0, 0]
    assert Recorder(stores).process_waiting() == 3


def test_a_backend_of_the_version_before_writes_on(stores: Stores) -> None:
    """During an update it still inserts versions, without the new columns."""
    with stores.database.session() as session, session.begin():
        session.execute(
            text(
                "INSERT INTO annotation_version (annotation_id, project_id, task_id, updated_at,"
                " seen_at, source, deleted, content_hash) VALUES (5, 7, 1, :now, :now, 'webhook',"
                " :no, 'x')"
            ),
            {"now": datetime.now(UTC), "no": False},
        )
    assert stores.annotations.load_current_hashes(ProjectKey(7)) == {5: "x"}
    # Adopted by the project that existed then, not by one that was made later.
    later = int((datetime.now(UTC) + timedelta(hours=1)).timestamp())
    assert stores.annotations.load_current_hashes(ProjectKey(7, later)) == {}
    assert stores.annotations.load_current_hashes(KEY) == {5: "x"}


def test_the_event_knows_the_newest_request(stores: Stores) -> None:
    stores.events.append_event(to_new_event(SAVED_TODAY))
    offer(stores, 1, "the cat", [A])
    stores.events.append_event(to_new_event(SAVED_TODAY))
    assert [e.last_request_id for e in stores.events.list_waiting(9)] == [None, 1]
