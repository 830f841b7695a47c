"""What the editor gets: words for every outcome, clicks, several expressions, predictions made
before anyone opens a task. Real queue and database, a worker without models."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from saymask.contract import QUEUE_BACKGROUND, Candidate, SegmentResult, Timings
from saymask.errors import ImageForbidden, InvalidRequest, QueueUnavailable
from saymask.masks import encode_coco_rle
from saymask_backend.label_studio.label_config import default_label_config, load_label_config
from saymask_backend.label_studio.notices import describe_answer, describe_failure, quote
from saymask_backend.label_studio.predict_request import (
    MAX_TASK_EXPRESSIONS,
    VisualPrompt,
    parse_predict_request,
)
from saymask_backend.queue.job_queue import JobQueue
from saymask_backend.queue.state import PrepareCounts
from saymask_backend.records.stores import Stores
from saymask_backend.records.types import RecordFilter
from saymask_backend.services.predict import choose_start
from tests import factories
from tests.backend.http import ImageServer
from tests.conftest import Valkey, log_of

Build = Callable[..., TestClient]
CONFIG = default_label_config()


def body(*entries: dict[str, Any], task: int = 5, **data: Any) -> dict[str, Any]:
    context = {"result": list(entries)} if entries else None
    return {
        "tasks": [{"id": task, "data": {"image": "/data/upload/1/cat.png", **data}}],
        "project": "1.1795224194",
        "label_config": CONFIG,
        "params": {"context": context},
    }


def lines(*texts: str) -> dict[str, Any]:
    return {"from_name": "expression", "type": "textarea", "id": "t", "value": {"text": [*texts]}}


def click(number: str, x: float, y: float, positive: bool = True) -> dict[str, Any]:
    return {
        "from_name": "click", "type": "keypoint", "id": number, "is_positive": positive,
        "original_width": 64, "original_height": 48, "value": {"x": x, "y": y, "width": 0.2},
    }  # fmt: skip


def drawn_box(number: str, x: float, y: float, width: float, height: float) -> dict[str, Any]:
    return {
        "from_name": "box", "type": "rectangle", "id": number, "original_width": 64,
        "original_height": 48, "value": {"x": x, "y": y, "width": width, "height": height},
    }  # fmt: skip


def ask(client: TestClient, request: dict[str, Any]) -> Any:
    answer = client.post("/predict", json=request)
    assert answer.status_code == 200, answer.text
    return answer.json()["results"][0]


def notice(answer: dict[str, Any]) -> str:
    (text,) = (r["value"]["text"] for r in answer["result"] if r["from_name"] == "saymask_notice")
    return text[0]


def test_every_outcome_is_said(build_client: Build, start_worker: Callable[..., Any]) -> None:
    start_worker()
    client = build_client()
    assert notice(ask(client, body(lines("the cat")))).startswith('"the cat": 3 suggestions')
    assert "another object fits almost as well" in notice(ask(client, body(lines("doubtful cat"))))
    assert notice(ask(client, body(lines("nothing here")))).startswith("Nothing found")
    assert "The photo is damaged" in notice(ask(client, body(lines("fail please"))))
    assert "a bug in the worker" in notice(ask(client, body(lines("bug"))))
    assert "5000 characters" in notice(ask(client, body(lines("x" * 5000))))
    missing = body(lines("the cat"))
    missing["tasks"][0]["data"]["image"] = "/data/missing.png"
    assert notice(ask(client, missing)).startswith("The photo cannot be used")
    assert "404" in notice(ask(client, missing))


def test_offline_is_said(build_client: Build) -> None:
    client = build_client(redis_url="redis://127.0.0.1:1/0")
    assert notice(ask(client, body(lines("the cat")))).startswith('saymask is offline ("the cat")')


def test_of_several_lines_the_new_one_is_asked(
    build_client: Build, start_worker: Callable[..., Any], valkey: Valkey
) -> None:
    start_worker()
    client = build_client()
    for typed in (
        ["the cat"],
        ["the cat", "the dog"],
        ["the black cat", "the dog"],  # changed in its place
        ["the black cat", "the dog", "the cat"],  # typed once more
    ):
        ask(client, body(lines(*typed)))
    asked = [line for line in log_of(valkey) if line.startswith("segment")]
    assert asked == ["segment the cat", "segment the dog", "segment the black cat"]
    last = ask(client, body(lines("the black cat", "the dog", "the cat")))
    assert notice(last).startswith('"the cat": 3 suggestions')


def test_clicks_refine_what_was_offered(
    build_client: Build, start_worker: Callable[..., Any], valkey: Valkey
) -> None:
    start_worker()
    client = build_client()
    ask(client, body(lines("the cat")))
    first = ask(client, body(click("a", 50, 50)))
    assert notice(first).startswith('"the cat", after 1 click: 1 suggestion.')
    texts = [r["value"]["text"] for r in first["result"] if r["from_name"] == "region_expression"]
    assert texts == [["the cat"]]
    ask(client, body(click("a", 50, 50), click("b", 25, 75, False)))
    ask(client, body(drawn_box("c", 25, 25, 50, 90)))
    # Another expression: what was clicked before is about something else.
    ask(client, body(lines("the cat", "the dog")))
    stale = [click("a", 50, 50), click("b", 25, 75, False)]
    assert ask(client, body(*stale))["result"] == []
    ask(client, body(*stale, click("d", 0, 100)))
    refined = [line for line in log_of(valkey) if line.startswith("refine")]
    assert refined == [
        "refine 'the cat' +32,24 from 80",
        "refine 'the cat' +32,24 -16,36 from 80",
        "refine 'the cat'  box [16, 12, 48, 48]",
        "refine 'the dog' +0,48 from 80",
    ]


def test_the_record_counts_clicks(
    build_client: Build, start_worker: Callable[..., Any], app_stores: Stores
) -> None:
    start_worker()
    client = build_client()
    ask(client, body(lines("the cat")))
    answer = ask(client, body(click("a", 50, 50), click("b", 25, 75, False)))
    brushes = [r for r in answer["result"] if r["from_name"] != "saymask_notice"]
    leftover = click("a", 50, 50)
    submitted = factories.annotation(
        1, [lines("the cat"), *brushes, leftover, answer["result"][-1]]
    )
    event = {
        "action": "ANNOTATION_CREATED", "project": {"id": 1, "label_config": CONFIG},
        "task": {"id": 5, "data": {"image": "/data/upload/1/cat.png"}}, "annotation": submitted,
    }  # fmt: skip
    assert client.post("/webhook", json=event).status_code == 200
    (record,) = wait_for_records(app_stores)
    assert (record.outcome, record.clicks, record.expression) == ("accepted", 2, "the cat")
    assert record.notes == []
    assert "after clicks (2 in all)" in client.get("/").text


def wait_for_records(app_stores: Stores) -> list[Any]:
    deadline = time.monotonic() + 10
    while not (found := list(app_stores.records.iterate_records(RecordFilter()))):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def test_tasks_with_expressions_are_predicted(
    build_client: Build, start_worker: Callable[..., Any], valkey: Valkey
) -> None:
    start_worker()
    client = build_client()
    assert ask(client, body()) == []
    one = ask(client, body(expression="the cat"))
    assert one["score"] == 0.9
    assert one["model_version"] == "saymask-fake-1"
    assert [r["from_name"] for r in one["result"]] == ["expression", "mask", "region_expression"]
    several = ask(client, body(expressions=["the cat", "doubtful dog", "the cat"], task=6))
    assert several["score"] == 0.2, "the least sure of them"
    assert [r["value"]["text"] for r in several["result"] if r["type"] == "textarea"] == [
        ["the cat"], ["doubtful dog"],
    ]  # fmt: skip
    nothing = ask(client, body(expression="nothing at all", task=7))
    assert nothing["score"] == 0.0
    batch = {**body(), "tasks": [body(expression="fail", task=8)["tasks"][0],
                                 body(expression="the bird", task=9)["tasks"][0]]}  # fmt: skip
    results = client.post("/predict", json=batch).json()["results"]
    assert results[0] == [], "a task that fails costs no other its prediction"
    assert results[1]["score"] == 0.9


def test_a_task_with_20_000_expressions_is_answered_and_adds_nothing_again(
    build_client: Build, start_worker: Callable[..., Any], valkey: Valkey, app_stores: Stores
) -> None:
    start_worker()
    client = build_client()
    request = body(expressions=[f"thing {number}" for number in range(20_000)])
    deadline = time.monotonic() + 60
    # What one opening of the task does not finish, the next one continues.
    while not (answer := ask(client, request)):
        assert time.monotonic() < deadline
    masks = [r for r in answer["result"] if r["type"] == "brushlabels"]
    assert len(masks) == MAX_TASK_EXPRESSIONS
    assert notice(answer) == (
        "This task has 20,000 expressions; only the first 100 are used, 19,900 are left out."
    )
    asked = log_of(valkey)
    again = ask(client, request)
    assert [r["id"] for r in again["result"]] == [r["id"] for r in answer["result"]]
    assert log_of(valkey) == asked
    assert app_stores.requests.count_requests() == {"answered": MAX_TASK_EXPRESSIONS}


def test_an_expression_that_cannot_be_used_costs_no_other_its_answer(
    build_client: Build, start_worker: Callable[..., Any]
) -> None:
    start_worker()
    client = build_client()
    long = "cat " * 2_000
    answer = ask(client, body(expressions=[long, "the cat"]))
    assert [r["type"] for r in answer["result"]].count("brushlabels") == 1
    assert "cannot be used: The expression has" in notice(answer)
    assert ask(client, body(expressions=[long], task=6)) == []


def test_a_task_that_fails_adds_one_request_however_often_it_is_opened(
    build_client: Build, start_worker: Callable[..., Any], app_stores: Stores
) -> None:
    start_worker()
    client = build_client()
    for _ in range(4):
        assert ask(client, body(expression="fail")) == []
    assert app_stores.requests.count_requests() == {"failed": 1}


def test_an_expression_is_the_same_in_whichever_code_points(
    build_client: Build, start_worker: Callable[..., Any], app_stores: Stores
) -> None:
    """Typed on a Mac, where a letter and its accent come apart, and submitted composed."""
    apart, composed = "the cafe\u0301 sign", "the caf\u00e9 sign"
    start_worker()
    client = build_client()
    answer = ask(client, body(lines(apart)))
    assert [r["value"]["text"] for r in answer["result"] if r["from_name"] == "region_expression"]
    own = factories.brush("own", factories.square(30), "referent", "manual")
    submitted = factories.annotation(5, [factories.typed(composed), *own])
    webhook = {
        "action": "ANNOTATION_CREATED", "annotation": submitted,
        "project": {"id": 1, "label_config": CONFIG},
        "task": {"id": 5, "data": {"image": "/data/upload/1/cat.png"}},
    }  # fmt: skip
    client.post("/webhook", json=webhook).raise_for_status()
    (record,) = wait_for_records(app_stores)
    assert (record.outcome, record.expression) == ("drawn_after_rejection", composed)
    assert ask(client, body(expression=apart, task=6))["result"][0]["value"]["text"] == [composed]


def test_fields_of_expressions_can_be_named(
    build_client: Build, start_worker: Callable[..., Any]
) -> None:
    start_worker()
    client = build_client(expression_fields="phrase, caption")
    assert ask(client, body(expression="the cat")) == []
    assert ask(client, body(caption="the cat"))["score"] == 0.9


def test_photos_prepared_ahead_are_counted(
    build_client: Build, start_worker: Callable[..., Any], valkey: Valkey
) -> None:
    client = build_client()
    missing = body()
    missing["tasks"][0]["data"]["image"] = "/data/missing.png"
    ask(client, missing)
    status = client.get("/ready").json()
    assert status["photos"]["failed"] == 1
    assert "404" in status["photos"]["last_failure"]
    assert "1 failed" in client.get("/").text


def test_the_next_photos_are_prepared_too(
    build_client: Build, start_worker: Callable[..., Any], valkey: Valkey, photos: ImageServer
) -> None:
    start_worker()
    photos.next_tasks = [{"id": 6, "data": {"image": "/data/upload/1/next.png"}}]
    client = build_client()
    ask(client, body())
    asked = [path for path, _ in photos.asked if path.startswith("/api/tasks")]
    assert len(asked) == 1
    assert "greater" in asked[0]
    deadline = time.monotonic() + 10
    while len(log_of(valkey, "prepare")) < 2:
        assert time.monotonic() < deadline, log_of(valkey, "prepare")
        time.sleep(0.05)
    assert [path for path, _ in photos.fetched] == [
        "/data/upload/1/cat.png", "/data/upload/1/next.png",
    ]  # fmt: skip


@pytest.fixture
def queue(valkey: Valkey) -> Iterator[JobQueue]:
    queue = JobQueue(valkey.url, 10)
    yield queue
    queue.close()


def test_counts_without_any_photo(queue: JobQueue) -> None:
    assert queue.get_prepare_counts() == PrepareCounts()
    with pytest.raises(QueueUnavailable):
        JobQueue("redis://127.0.0.1:1/0", 1).get_prepare_counts()
    assert queue.get_depths()[QUEUE_BACKGROUND] == 0


def result(count: int, confidence: float | None = None) -> SegmentResult:
    mask = {"size": (48, 64), "counts": encode_coco_rle(factories.square(4))["counts"]}
    one = Candidate.model_validate(
        {"rank": 1, "score": 0.5, "mask": mask, "box_xywh": (4, 4, 12, 12), "predicted_iou": 1,
         "stability_score": 1}
    )  # fmt: skip
    return SegmentResult(
        image_sha256="0" * 64, expression="the cat", size_hw=(48, 64), candidates=(one,) * count,
        confidence=confidence, head_noun_phrase=None, notices=("No noun.",) if count else (),
        proposals_count=count, model_version="v", from_cache=True, timings=Timings(),
    )  # fmt: skip


def test_words() -> None:
    assert describe_answer(result(1), [1]) == '"the cat": 1 suggestion. No noun.'
    assert "Uncertain" in describe_answer(result(2, 0.1), [1])
    assert "Uncertain" not in describe_answer(result(2, 0.9), [1])
    assert describe_answer(result(2), [1, 1], 3).startswith('"the cat", after 3 clicks: 2 sugg')
    failure = describe_failure(ImageForbidden("It is private.", "Make it public."), "a cat")
    assert failure == 'The photo cannot be used ("a cat"): It is private. Make it public.'
    assert quote("a\n b") == '"a b"'
    assert len(quote("x" * 500)) == 62
    assert quote(" ") == "No expression"


def test_where_clicks_start_from() -> None:
    masks = [encode_coco_rle(factories.square(4)), encode_coco_rle(factories.square(30))]

    def start(*clicks: tuple[float, float, bool], box: Any = None) -> Any:
        return choose_start(VisualPrompt(clicks, box, ("a",) * (len(clicks) + bool(box))), masks)

    assert start((6, 6, True)) == masks[0]
    assert start((35, 6, True)) == masks[1], "the candidate under the click"
    assert start((35, 6, False)) == masks[1]
    assert start((60, 40, True)) == masks[0], "none is under it: the best"
    assert start((64, 48, True)) == masks[0], "the very corner"
    assert start(box=(0, 0, 9, 9)) is None
    assert choose_start(VisualPrompt(((1, 1, True),), None, ("a",)), []) is None


@pytest.mark.parametrize(
    "value", [{"x": "left", "y": 1}, {"x": float("nan"), "y": 1}, {"y": 1}, None]
)
def test_broken_clicks_are_refused(value: Any) -> None:
    broken = {**click("a", 1, 1), "value": value}
    with pytest.raises(InvalidRequest, match=r"Region a, params\.context\.result\.0\.value"):
        parse_predict_request(body(broken))


def test_drags_beyond_the_photo_end_at_its_edge() -> None:
    prompt = parse_predict_request(body(drawn_box("a", -10, 50, 200, 80))).prompt
    assert prompt is not None
    assert prompt.box_xyxy == (0.0, 24.0, 64.0, 48.0)
    assert prompt.count == 1


def test_our_config_has_every_field() -> None:
    config = load_label_config(CONFIG)
    assert (config.notice, config.click, config.box) == ("saymask_notice", "click", "box")
    assert config.region_expression == "region_expression"
    assert config.verdict == "verdict"
