"""From events to records, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import itertools
import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import event as sa_event

from backend.label_studio.events import to_new_event
from backend.records.database import StoreError
from backend.records.requests import NewRequest
from backend.records.stores import Stores
from backend.records.views import RecordFilter, RecordView
from backend.services.record import Recorder
from saymask.masks import decode_brush_rle, decode_coco_rle
from tests.conftest import load_capture
from tests.factories import annotation, brush, deletion, event, offer, square, typed, verdict

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


A, B, C = square(4), square(24), square(44)


def test_accepted_unchanged(stores: Stores) -> None:
    ids = offer(stores, 1, "the cat", [A, B, C])
    result = [typed("the cat"), *brush(ids[1], B, "top-2", "prediction", "the cat")]
    (record,) = process(stores, event(1, annotation(5, result)))
    assert (record.outcome, record.rank, record.score, record.offered) == ("accepted", 2, 0.5, 3)
    assert (record.iou, record.first_iou) == (1.0, 0.0)
    assert (record.expression, record.annotator, record.seconds) == ("the cat", "1", 12.0)
    assert (record.model_version, record.latency_ms) == ("saymask-test", 40.0)
    assert record.image_sha256 == f"{1:064x}"
    assert record.coco_rle is not None
    assert (decode_coco_rle(record.coco_rle) == B).all()
    assert record.area_px == 144


def test_edited_is_seen_in_the_mask_not_in_the_origin(stores: Stores) -> None:
    ids = offer(stores, 1, "the cat", [A])
    smaller = square(4, side=6)
    # Label Studio says "prediction", the mask says otherwise.
    (record,) = process(
        stores, event(1, annotation(5, brush(ids[0], smaller, "top-1", "prediction", "the cat")))
    )
    assert (record.outcome, record.rank, record.iou) == ("edited", 1, 0.25)


def test_a_stroke_added_beside_the_candidate_is_an_edit(stores: Stores) -> None:
    ids = offer(stores, 1, "the cat", [A])
    result = [
        *brush(ids[0], A, "top-1", "prediction", "the cat"),
        *brush("own", square(30, 20, 14), "referent", "manual", "the cat"),
    ]
    (record,) = process(stores, event(1, annotation(5, result)))
    assert record.outcome == "edited"
    assert record.area_px == 144 + 196
    assert record.region_ids == [ids[0], "own"]


@pytest.mark.parametrize("origin", ["prediction", "prediction-changed"])
def test_relabelled(stores: Stores, origin: str) -> None:
    ids = offer(stores, 1, "the cat", [A])
    result = brush(ids[0], A, "referent", origin, "the cat")
    (record,) = process(stores, event(1, annotation(5, result)))
    assert (record.outcome, record.iou) == ("relabelled", 1.0)


def test_drawn_after_rejection_and_without_suggestions(stores: Stores) -> None:
    offer(stores, 1, "The  Cat", [A])
    offer(stores, 2, "the cat", [])
    result = [typed("the cat"), *brush("x", B, "referent", "manual")]
    first, second, third = process(
        stores,
        event(1, annotation(5, result)),
        event(2, annotation(6, result)),
        event(3, annotation(7, result)),
    )
    assert (first.outcome, first.rank, first.first_iou) == ("drawn_after_rejection", None, 0.0)
    assert first.typed_expression == "The  Cat"
    assert (second.outcome, second.offered) == ("drawn", 0)
    assert (third.outcome, third.request_id) == ("drawn", None)


@pytest.mark.parametrize(
    ("choice", "outcome"), [("no referent", "no_referent"), ("ambiguous", "ambiguous")]
)
def test_verdicts(stores: Stores, choice: str, outcome: str) -> None:
    offer(stores, 1, "the dog", [A])
    (record,) = process(stores, event(1, annotation(5, [typed("the dog"), verdict(choice)])))
    assert (record.outcome, record.coco_rle, record.offered) == (outcome, None, 1)


def test_skipped_takes_the_last_expression_typed(stores: Stores) -> None:
    offer(stores, 1, "the dog", [A])
    offer(stores, 1, "the cat", [A])
    (record,) = process(stores, event(1, annotation(5, [], was_cancelled=True)))
    assert (record.outcome, record.expression, record.offered) == ("skipped", "the cat", 1)


def test_nothing_said(stores: Stores) -> None:
    (record,) = process(stores, event(1, annotation(5, [typed("the cat")])))
    assert (record.outcome, record.coco_rle) == ("no_mask", None)


def test_several_expressions_on_one_photo(stores: Stores) -> None:
    cat, dog = offer(stores, 1, "the cat", [A]), offer(stores, 1, "the dog", [B])
    result = [
        typed("the bird"),
        *brush(cat[0], A, "top-1", "prediction", "the cat"),
        *brush(dog[0], B, "top-1", "prediction", "the dog"),
        *brush("x", C, "referent", "manual"),
    ]
    records = process(stores, event(1, annotation(5, result)))
    assert {r.expression: r.outcome for r in records} == {
        "the bird": "drawn", "the cat": "accepted", "the dog": "accepted",
    }  # fmt: skip
    assert {r.seconds for r in records} == {4.0}


def test_the_text_at_the_region_is_its_expression(stores: Stores) -> None:
    ids = offer(stores, 1, "the cat", [A])
    result = brush(ids[0], A, "top-1", "prediction", "the black cat")
    (record,) = process(stores, event(1, annotation(5, result)))
    assert (record.expression, record.typed_expression) == ("the black cat", "the cat")


def test_two_candidates_for_one_expression_are_one_referent(stores: Stores) -> None:
    ids = offer(stores, 1, "two cats", [A, B])
    result = [
        *brush(ids[0], A, "top-1", "prediction", "two cats"),
        *brush(ids[1], B, "top-2", "prediction", "two cats"),
    ]
    (record,) = process(stores, event(1, annotation(5, result)))
    assert (record.outcome, record.rank, record.area_px, record.iou) == ("accepted", 1, 288, 1.0)


def test_stray_dab_under_the_mark_is_left_out_and_reported(stores: Stores) -> None:
    ids = offer(stores, 1, "the cat", [A])
    dab = square(9, 17, 4)
    result = [
        typed("the cat"),
        *brush(ids[0], A, "top-1", "prediction", "the cat"),
        *brush("dab", dab, "top-1", "manual"),
    ]
    (record,) = process(stores, event(1, annotation(5, result)))
    assert (record.outcome, record.dabs, record.area_px) == ("accepted", 1, 144)
    assert "stray" in record.notes[0]


def test_a_small_thing_drawn_elsewhere_is_no_dab(stores: Stores) -> None:
    ids = offer(stores, 1, "the cat", [A])
    result = [
        *brush(ids[0], A, "top-1", "prediction", "the cat"),
        *brush("x", square(50, 40, 4), "referent", "manual", "the button"),
    ]
    records = process(stores, event(1, annotation(5, result)))
    assert {r.expression: (r.outcome, r.dabs) for r in records} == {
        "the cat": ("accepted", 0), "the button": ("drawn", 0),
    }  # fmt: skip


def test_candidates_of_somebody_else_are_taken_by_label_studios_word(stores: Stores) -> None:
    records = process(
        stores,
        event(1, annotation(5, brush("cand0_1", A, "top-1", "prediction", "the cat"))),
        event(2, annotation(6, brush("cand0_2", A, "top-1", "prediction-changed", "the cat"))),
    )
    assert [r.outcome for r in records] == ["accepted", "edited"]
    assert all(r.rank is None and "not one of ours" in r.notes[0] for r in records)


def test_other_tools_are_named(stores: Stores) -> None:
    polygon = {"id": "p", "from_name": "poly", "type": "polygonlabels", "value": {"points": []}}
    (record,) = process(stores, event(1, annotation(5, [typed("x"), polygon])))
    assert record.notes == ["1 of type polygonlabels left out"]


def test_anti_aliased_masks_count_from_half_covered(stores: Stores) -> None:
    captured = load_capture("accept_then_erase__ANNOTATION_CREATED")
    (record,) = process(stores, captured)
    (entry,) = [e for e in captured["annotation"]["result"] if e["type"] == "brushlabels"]
    expected = decode_brush_rle(entry["value"]["rle"], (480, 640))
    assert record.coco_rle is not None
    assert (decode_coco_rle(record.coco_rle) == expected).all()


CAPTURES = {
    "accept1_unchanged": ("accepted", 1),
    "accept_all": ("accepted", 3),
    "accept_then_erase": ("edited", 1),
    "accept_then_relabel": ("relabelled", 1),
    "reject_all_draw": ("drawn_after_rejection", 1),
    "pending_ignored_submit": ("no_mask", 0),
    "per_region_text": ("accepted", 1),
    "skip_was_cancelled": ("skipped", 0),
}


@pytest.mark.parametrize("name", CAPTURES)
def test_recorded_payloads(name: str, stores: Stores) -> None:
    """Real payloads; our candidates get the ids and masks the recorder's backend had sent."""
    body = load_capture(f"{name}__ANNOTATION_CREATED")
    plain = load_capture("accept_all__ANNOTATION_CREATED")["annotation"]["result"]
    sent = [e for e in plain if e["type"] == "brushlabels"]
    masks = [decode_brush_rle(e["value"]["rle"], (480, 640)) for e in sent]
    ours = [e["id"] for e in body["annotation"]["result"] if e.get("origin") != "manual"]
    ours = list(dict.fromkeys(ours)) or ["unused"]
    _offer_as(stores, body, masks[: len(ours)], ours)
    outcome, regions = CAPTURES[name]
    (record,) = process(stores, body)
    assert (record.outcome, len(record.region_ids)) == (outcome, regions)
    if name == "per_region_text":
        assert record.expression == "the red circleedited by annotator"
        assert record.typed_expression == "the red circle"


def _offer_as(stores: Stores, body: dict, masks: list, ids: list[str]) -> None:
    from saymask.contract import Candidate, CocoRle, SegmentResult, Timings
    from saymask.masks import compute_box_xywh, encode_coco_rle

    # The recorder's labels are called candidate; ours for every rank is then the first label.
    project_id, task_id = body["project"]["id"], body["task"]["id"]
    request_id = stores.requests.add_request(
        NewRequest(project_id, task_id, "the red circle", len(masks), "/x.png")
    )
    with stores.database.session() as session, session.begin():
        from backend.records.tables import Request

        session.get_one(Request, request_id).created_at = datetime(2026, 11, 1, tzinfo=UTC)
    candidates = tuple(
        Candidate(
            rank=rank, score=0.9, mask=CocoRle.model_validate(encode_coco_rle(mask)),
            box_xywh=compute_box_xywh(mask), predicted_iou=1, stability_score=1,
        )
        for rank, mask in enumerate(masks, 1)
    )  # fmt: skip
    result = SegmentResult(
        image_sha256="0" * 64, expression="the red circle", size_hw=(480, 640),
        candidates=candidates, head_noun_phrase=None, proposals_count=3, model_version="v",
        from_cache=True, timings=Timings(),
    )  # fmt: skip
    stores.requests.save_answer(request_id, result, ids, 1.0)


def test_update_keeps_history_and_the_view_is_the_newest(stores: Stores) -> None:
    ids = offer(stores, 1, "the cat", [A])
    created = event(1, annotation(5, brush(ids[0], A, "top-1", "prediction", "the cat")))
    edited = brush(ids[0], square(4, side=6), "top-1", "prediction-changed", "the cat")
    updated = event(1, annotation(5, edited, after_s=60), "ANNOTATION_UPDATED")
    (record,) = process(stores, created, updated)
    assert record.outcome == "edited"
    past = stores.annotations.load_history(5)
    assert [entry.record.outcome for entry in past if entry.record] == ["accepted", "edited"]
    assert process(stores, deletion(5)) == []
    assert [e.record is None for e in stores.annotations.load_history(5)] == [False, False, True]
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
    assert len(process(stores, broken, no_config, {"action": "TASKS_DELETED"}, fine)) == 1
    recorder = Recorder(stores)
    assert stores.events.count_events_by_state() == {"problem": 2, "nothing": 1, "understood": 1}
    newest, oldest = stores.events.list_problems()
    assert "label_config" in newest.problem
    assert "Region x" in oldest.problem
    assert stores.events.retry_problems() == 2
    assert recorder.process_waiting() == 2
    assert stores.events.count_events_by_state()["problem"] == 2
    assert len(stores.events.list_events()) == 4


def test_a_bug_loses_no_event(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("backend.services.record.decide", bug)
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
    monkeypatch.setattr("backend.records.records._PAGE_SIZE", 3)
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
    for photo in range(1, 8):
        stores.records.set_image_hash(f"/data/upload/{photo}.png", f"{photo:064x}")
    groups = list(stores.records.iterate_by_image(RecordFilter()))
    assert [{r.image_sha256 for r in group} for group in groups] == [
        {f"{photo:064x}"} for photo in range(1, 8)
    ]
    assert sum(map(len, groups)) == 620
