"""What a submission is decided to be: accepted, edited, drawn and the other outcomes."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from saymask.masks import decode_brush_rle, decode_coco_rle
from saymask_backend.label_studio.events import read_project_key
from saymask_backend.records.requests import NewRequest
from saymask_backend.records.stores import Stores
from tests.backend.submissions import A, B, C, process
from tests.conftest import load_capture
from tests.factories import annotation, brush, event, offer, square, typed, verdict


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
    from saymask_backend.records.tables import Request

    # The recorder's labels are called candidate; ours for every rank is then the first label.
    project, task_id = read_project_key(body["project"]), body["task"]["id"]
    request_id = stores.requests.add_request(
        NewRequest(project, task_id, "the red circle", len(masks), "/x.png")
    )
    with stores.database.session() as session, session.begin():
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
    stores.requests.save_answer(request_id, result, 1.0)
    with stores.database.session() as session, session.begin():
        for candidate, sent in zip(
            session.get_one(Request, request_id).candidates, ids, strict=False
        ):
            candidate.region_id = sent
