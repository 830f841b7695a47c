"""Numbers in the expression's field pick a rank, and what becomes of them in the records."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from saymask.contract import Candidate, CocoRle
from saymask.masks import Mask, compute_box_xywh, encode_coco_rle
from saymask_backend.label_studio.label_config import (
    default_label_config,
    load_label_config,
    switch_suggestions,
)
from saymask_backend.label_studio.predict_request import read_rank
from saymask_backend.label_studio.predictions import choose_shown
from saymask_backend.records.stores import Stores
from saymask_backend.records.types import RecordView
from tests.backend.test_answers import ask, body, click, lines, notice
from tests.backend.test_records import process
from tests.conftest import Valkey, log_of
from tests.factories import HEIGHT, KEY, WIDTH, annotation, brush, event, offer, square, typed

Build = Callable[..., TestClient]
ONE = switch_suggestions(default_label_config(), shows_one=True)


def typed_lines(*texts: str, entry: str = "a", config: str = "") -> dict[str, Any]:
    request = body({**lines(*texts), "id": entry})
    return request | ({"label_config": config} if config else {})


def regions_of(answer: dict[str, Any]) -> list[tuple[str, str]]:
    """Id and label of each suggested region."""
    return [
        (entry["id"], entry["value"]["brushlabels"][0])
        for entry in answer["result"]
        if entry["type"] == "brushlabels"
    ]


def field_of(answer: dict[str, Any]) -> dict[str, Any] | None:
    return next((e for e in answer["result"] if e["from_name"] == "expression"), None)


@pytest.mark.parametrize("config", ["", ONE], ids=["together", "one"])
def test_a_number_shows_that_rank_in_the_same_region_and_asks_no_worker(
    build_client: Build,
    start_worker: Callable[..., Any],
    valkey: Valkey,
    app_stores: Stores,
    config: str,
) -> None:
    start_worker()
    client = build_client()
    first = ask(client, typed_lines("the cat", config=config))
    (request,) = app_stores.requests.list_recent()
    others = [] if config else [(f"sm{request.id}_3", "top-3")]
    assert regions_of(first) == [*others, (f"sm{request.id}", "top-1")]
    assert field_of(first) is None
    hidden = "1 shown; type 2 or 3" if config else "2 shown; type 2"
    assert notice(first) == f'"the cat": 3 suggestions, {hidden} for another.'
    for rank in (2, 3, 1):
        answer = ask(client, typed_lines("the cat", f" {rank} ", config=config))
        assert regions_of(answer) == [(f"sm{request.id}", f"top-{rank}")]
        assert notice(answer) == f'"the cat": suggestion {rank} of 3.'
        field = field_of(answer)
        assert field is not None
        assert (field["id"], field["value"]["text"]) == ("a", ["the cat"])
    past = ask(client, typed_lines("the cat", "7", config=config))
    assert notice(past) == '"the cat" has no suggestion 7; type 1 to 3.'
    kept = [] if config else [(f"sm{request.id}", "top-1")]
    assert regions_of(past) == kept, "suggestions stay, what is in place is left alone"
    assert [line for line in log_of(valkey) if "segment" in line] == ["segment the cat"]
    stored = app_stores.requests.load_offer(request.id)
    assert stored is not None
    assert stored.shown == ((1, 2, 3) if config else (1, 3, 2))
    assert len(app_stores.requests.list_recent()) == 1


def test_a_number_before_any_expression(
    build_client: Build, start_worker: Callable[..., Any], app_stores: Stores
) -> None:
    start_worker()
    client = build_client()
    assert "Type what you mean first" in notice(ask(client, typed_lines("2")))
    assert app_stores.requests.list_recent() == []
    ask(client, typed_lines("the cat"))
    # A field that keeps one line only holds nothing but the number.
    answer = ask(client, typed_lines("2"))
    assert notice(answer) == '"the cat": suggestion 2 of 3.'
    field = field_of(answer)
    assert field is not None
    assert field["value"]["text"] == ["the cat"]


def test_each_annotator_picks_from_an_answer_of_their_own(
    build_client: Build, start_worker: Callable[..., Any], app_stores: Stores
) -> None:
    start_worker()
    client = build_client()
    for entry, texts in (("a", ["the cat"]), ("b", ["the cat"]), ("b", ["the cat", "the dog"])):
        ask(client, typed_lines(*texts, entry=entry))
    dog, cat_b, cat_a = (request.id for request in app_stores.requests.list_recent())
    assert regions_of(ask(client, typed_lines("the cat", "2", entry="a"))) == [
        (f"sm{cat_a}", "top-2")
    ]
    assert regions_of(ask(client, typed_lines("the cat", "the dog", "2", entry="b"))) == [
        (f"sm{dog}", "top-2")
    ]
    # Corrected in its place, the first line is the last that was asked.
    ask(client, typed_lines("the black cat", "the dog", entry="b"))
    black = app_stores.requests.list_recent()[0].id
    assert black not in (cat_a, cat_b, dog)
    assert regions_of(ask(client, typed_lines("the black cat", "the dog", "3", entry="b"))) == [
        (f"sm{black}", "top-3")
    ]


@pytest.mark.parametrize("origin", ["prediction-changed", "touched"])
def test_an_edited_mask_is_not_exchanged(
    build_client: Build, start_worker: Callable[..., Any], app_stores: Stores, origin: str
) -> None:
    start_worker()
    client = build_client()
    ask(client, typed_lines("the cat", config=ONE))
    (request,) = app_stores.requests.list_recent()
    (edited,) = brush(f"sm{request.id}", square(4), "top-1", origin)
    if origin == "touched":  # strokes that Label Studio has not merged yet
        edited |= {"origin": "prediction"}
        edited["value"]["touches"] = [{"type": "eraser", "points": [1, 2]}]
    pick = typed_lines("the cat", "2", config=ONE)
    pick["tasks"][0]["drafts"] = [{"id": 1, "result": [edited]}]
    answer = ask(client, pick)
    assert regions_of(answer) == [(f"sm{request.id}-2", "top-2")]
    assert "The mask that you edited stays." in notice(answer)
    pick = typed_lines("the cat", "7", config=ONE)
    pick["tasks"][0]["annotations"] = [{"id": 1, "result": [edited, {"value": 3}, 7]}]
    assert regions_of(ask(client, pick)) == []


def test_a_first_look_is_replaced_in_its_place(
    build_client: Build, start_worker: Callable[..., Any], app_stores: Stores
) -> None:
    worker = start_worker(FAKE_WORKER_QUEUES="interactive")
    client = build_client()
    request = typed_lines("the cat", config=ONE)
    request["tasks"][0]["data"]["image"] = "/data/unseen slow.png"
    ask(client, request)
    (look,) = app_stores.requests.list_recent()
    request["params"]["context"]["result"][0]["value"]["text"] = ["the cat", "1"]
    early = ask(client, request)
    assert "not ready. Type 1 again" in notice(early)
    assert regions_of(early) == [(f"sm{look.id}", "top-1")]
    assert len(app_stores.requests.list_recent()) == 1
    while "not ready" in notice(answer := ask(client, request)):
        assert worker.poll() is None
    assert notice(answer) == '"the cat": suggestion 1 of 3.'
    assert regions_of(answer) == [(f"sm{look.id}", "top-1")]
    full, _ = app_stores.requests.list_recent()
    assert full.id != look.id
    request["params"]["context"]["result"][0]["value"]["text"] = ["the cat", "2"]
    assert regions_of(ask(client, request)) == [(f"sm{look.id}", "top-2")]
    stored = app_stores.requests.load_offer(full.id)
    assert stored is not None
    assert stored.shown == (1, 2)


def test_an_expression_of_the_task_s_data_is_asked_when_another_rank_is_wanted(
    build_client: Build, start_worker: Callable[..., Any], app_stores: Stores
) -> None:
    """Only its best candidate was asked for before."""
    start_worker()
    client = build_client()
    opened = typed_lines("the cat")
    opened["params"]["context"] = None
    opened["tasks"][0]["data"]["expression"] = "the cat"
    (predicted,) = regions_of(ask(client, opened))
    answer = ask(client, typed_lines("the cat", "2"))
    newest = app_stores.requests.list_recent()[0]
    assert regions_of(answer) == [(f"sm{newest.id}", "top-2")]
    assert predicted[0] != f"sm{newest.id}"


@pytest.mark.parametrize(
    ("text", "rank"),
    [("1", 1), (" 12 ", 12), ("0", 0), ("9" * 5000, 999_999_999), ("2nd", None), ("²", None),
     ("number 2", None), ("-1", None), ("1.5", None), ("٢", None), ("", None)],
)  # fmt: skip
def test_what_is_a_number(text: str, rank: int | None) -> None:
    assert read_rank(text) == rank


def shift(mask: Mask, columns: int) -> Mask:
    return np.roll(mask, columns, axis=1)


def test_what_is_shown_together() -> None:
    whole = np.zeros((HEIGHT, WIDTH), bool)
    whole[:, :30] = True
    part, other = square(2), np.zeros((HEIGHT, WIDTH), bool)
    other[:, 30:40] = True  # touches the whole
    overlapping, far = shift(other, 6), square(50)
    # Separate, but its marks would lie on those of the one before.
    near = square(50, y=17, side=3)
    candidates = [
        Candidate(
            rank=rank, score=1, mask=CocoRle.model_validate(encode_coco_rle(mask)),
            box_xywh=compute_box_xywh(mask), predicted_iou=1, stability_score=1,
        )
        for rank, mask in enumerate((whole, part, other, overlapping, far, near), 1)
    ]  # fmt: skip
    together = load_label_config(default_label_config())
    assert choose_shown(candidates, together) == (1, 3, 5)
    assert choose_shown(candidates[1:], together) == (2, 3, 5)
    assert choose_shown(candidates, load_label_config(ONE)) == (1,)
    assert choose_shown([], together) == ()


@pytest.mark.parametrize(
    "opening",
    [
        "<View>", '<View style="a" className="b c">', "<View className='x'>",
        '<View style="a>b" className = "x">', "<View\n>", "<!-- a <View> -->\n<View>",
        '<View className="not-saymask-one saymask-one-extra">',
    ],
)  # fmt: skip
def test_switching_how_suggestions_are_shown(opening: str) -> None:
    xml = default_label_config().replace("<View>", opening, 1)
    one = switch_suggestions(xml, shows_one=True)
    assert load_label_config(one).shows_one
    assert switch_suggestions(one, shows_one=True) == one
    again = switch_suggestions(one, shows_one=False)
    assert again in (xml, xml.replace("='x'", '="x"'), xml.replace(" = ", "="))
    assert not load_label_config(again).shows_one
    assert switch_suggestions(xml, shows_one=False) == xml


def test_numbers_of_regions_are_expressions(stores: Stores) -> None:
    """On jerseys, for example; only what is typed for the whole image picks a suggestion."""
    regions = [
        *brush("a", square(4), "referent", "manual", "24"),
        *brush("b", square(40), "referent", "manual", "13"),
    ]
    records = process(stores, event(5, annotation(9, regions)))
    assert sorted(record.expression for record in records) == ["13", "24"]


def test_a_click_of_another_annotator_changes_no_number(
    build_client: Build, start_worker: Callable[..., Any], app_stores: Stores
) -> None:
    start_worker()
    client = build_client()
    ask(client, typed_lines("the cat", entry="a"))
    (mine,) = app_stores.requests.list_recent()
    ask(client, typed_lines("the cat", entry="b"))
    ask(client, body(click("c", 50, 50)))
    assert regions_of(ask(client, typed_lines("the cat", "2", entry="a"))) == [
        (f"sm{mine.id}", "top-2")
    ]


def test_an_edited_extra_is_not_shown_again(
    build_client: Build, start_worker: Callable[..., Any], app_stores: Stores
) -> None:
    start_worker()
    client = build_client()
    ask(client, typed_lines("the cat"))
    (request,) = app_stores.requests.list_recent()
    past = typed_lines("the cat", "7")
    edited = brush(f"sm{request.id}_3", square(4), "top-3", "prediction-changed")
    past["tasks"][0]["drafts"] = [{"result": edited}, None]
    assert regions_of(ask(client, past)) == [(f"sm{request.id}", "top-1")]
    past["tasks"][0]["drafts"] = "odd"
    assert len(regions_of(ask(client, past))) == 2


def test_another_photo_of_the_task_is_asked_about(
    build_client: Build, start_worker: Callable[..., Any], app_stores: Stores
) -> None:
    start_worker()
    client = build_client()
    ask(client, typed_lines("the cat"))
    pick = typed_lines("the cat", "2")
    pick["tasks"][0]["data"]["image"] = "/data/other.png"
    answer = ask(client, pick)
    newest, first = app_stores.requests.list_recent()
    assert newest.id != first.id
    assert regions_of(answer) == [(f"sm{newest.id}", "top-2")]


def submit(
    stores: Stores, region_id: str, mask: Mask, label: str, origin: str = "prediction"
) -> RecordView:
    field = typed("the cat")
    # A number that stayed in the field is no expression.
    field["value"]["text"].append("2")
    result = [field, *brush(region_id, mask, label, origin, "the cat")]
    (record,) = process(stores, event(5, annotation(9, result)))
    return record


MASKS = [square(4), square(6), square(40)]


@pytest.mark.parametrize(
    ("mask", "label", "outcome", "rank"),
    [
        (MASKS[1], "top-2", "accepted", 2),
        (MASKS[2], "top-3", "accepted", 3),
        (MASKS[2], "referent", "relabelled", 3),
        # Edited: the most similar that was shown; the label may be another region's.
        (square(6, side=11), "top-1", "edited", 2),
        (square(6, side=11), "referent", "edited", 2),
    ],
)
def test_the_rank_in_an_exchanged_region_is_recorded(
    stores: Stores, mask: Mask, label: str, outcome: str, rank: int
) -> None:
    first, *_ = offer(stores, 5, "the cat", MASKS)
    region_id = first.partition("_")[0]
    stores.requests.add_shown(int(region_id[2:]), (1,))
    stores.requests.add_shown(int(region_id[2:]), (2,))
    origin = "prediction" if outcome != "edited" else "prediction-changed"
    record = submit(stores, region_id, mask, label, origin)
    assert (record.outcome, record.rank, record.shown) == (outcome, rank, [1, 2])
    assert record.expression == record.typed_expression == "the cat"
    assert record.region_ids == [region_id]


def test_a_region_that_showed_two_answers(stores: Stores) -> None:
    """A first look and the full answer that replaced it."""
    first, *_ = offer(stores, 5, "the cat", MASKS[:1])
    later, *_ = offer(stores, 5, "the cat", MASKS[1:])
    region_id, newer = first.partition("_")[0], int(later.partition("_")[0][2:])
    with stores.database.session() as session, session.begin():
        from saymask_backend.records.tables import Request

        session.get_one(Request, newer).region_id = region_id
    assert stores.requests.load_offers(KEY, 5)[1].region_id == region_id
    record = submit(stores, f"{region_id}-2", MASKS[2], "top-2")
    assert (record.outcome, record.rank, record.request_id) == ("accepted", 2, newer)
    assert record.shown is None


@pytest.mark.parametrize("kind", ["brushlabels", "bitmasklabels"])
def test_a_label_that_the_editor_gave_to_a_field_is_no_mask(stores: Stores, kind: str) -> None:
    """It does so when a suggestion changes the field while a region is selected."""
    stray = {
        "id": "typed", "from_name": "mask", "to_name": "image", "type": kind, "origin": "manual",
        "value": {kind: ["top-1"]},
    }  # fmt: skip
    first, *_ = offer(stores, 5, "the cat", MASKS)
    region = brush(first, MASKS[0], "top-1", "prediction", "the cat")
    (record,) = process(stores, event(5, annotation(9, [typed("the cat"), stray, *region])))
    assert (record.outcome, record.rank, record.notes) == ("accepted", 1, [])


def test_clicks_change_the_mask_in_place_where_one_is_shown(
    build_client: Build, start_worker: Callable[..., Any], app_stores: Stores
) -> None:
    start_worker()
    client = build_client()
    ask(client, typed_lines("the cat", config=ONE))
    (request,) = app_stores.requests.list_recent()
    ask(client, typed_lines("the cat", "3", config=ONE))
    clicked = ask(client, body(click("c", 50, 50)) | {"label_config": ONE})
    assert [region for region, _ in regions_of(clicked)] == [f"sm{request.id}"]
    together = ask(client, body(click("c", 50, 50), click("d", 60, 50)))
    assert regions_of(together)[-1][0] != f"sm{request.id}"
