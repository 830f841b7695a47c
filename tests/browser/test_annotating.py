"""An annotator's day: a real Label Studio, real weights, a real Chromium."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
from backend.label_studio.project import upload_photos
from backend.label_studio.project_tasks import create_tasks, upload_photo

from backend.records.views import RecordFilter, RecordView
from tests.browser.editor import Desk, open_desk
from tests.stack.running import Running, running, tasks_of

pytestmark = [pytest.mark.stack, pytest.mark.browser]

CAT = (0.3, 0.5)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("annotating")) as one:
        yield one


@pytest.fixture
def desk(stack: Running, tmp_path: Path) -> Iterator[Desk]:
    with open_desk(stack, tmp_path / "profile") as one:
        yield one


@pytest.fixture
def new_task(stack: Running, samples: dict[str, Path]) -> Callable[..., int]:
    """A task of its own for a test."""

    def make(photo: str, **data: Any) -> int:
        with closing(stack.client()) as client:
            if data:
                reference = upload_photo(client, 1, samples[photo])
                create_tasks(client, 1, [{"data": {"image": reference, **data}}])
            else:
                upload_photos(client, 1, [samples[photo]])
            return int(tasks_of(client)[-1]["id"])

    return make


def records_of(stack: Running, task: int, count: int) -> list[RecordView]:
    """As soon as there are so many."""
    deadline = time.monotonic() + 20
    with closing(stack.store()) as stores:
        while True:
            found = [r for r in stores.records.iterate_records(RecordFilter()) if r.task_id == task]
            if len(found) >= count:
                return found
            assert time.monotonic() < deadline, found
            time.sleep(0.2)


def test_first_use_from_login_to_submit(stack: Running, desk: Desk) -> None:
    with closing(stack.client()) as client:
        task = next(t["id"] for t in tasks_of(client) if "coffee" in t["data"]["image"])
    desk.open(1, task)
    desk.picture("opened")
    hint = "getComputedStyle(document.querySelector('.saymask-notice'), '::before').content"
    assert "Type what you mean" in desk.page.evaluate(hint)
    took = desk.type("the spoon")
    print(f"suggestions after {took:.2f} s")
    desk.page.wait_for_timeout(700)
    desk.picture("suggestions")
    suggested = desk.state["suggestions"]
    assert [label for _, label, _ in suggested] == ["top-3", "top-2", "top-1"]
    assert {origin for *_, origin in suggested} == {"prediction"}
    assert desk.notice is not None
    assert desk.notice.startswith('"the spoon": 3 suggestions.')
    desk.accept(1)
    desk.picture("accepted")
    desk.submit()
    (record,) = records_of(stack, task, 1)
    assert (record.outcome, record.rank, record.clicks) == ("accepted", 1, 0)
    assert record.expression == "the spoon"
    assert record.notes == []
    # The call Label Studio makes after a submit brings no fresh suggestions.
    assert desk.state["suggestions"] == []
    desk.page.goto(stack.backend_url)
    assert "ready" in desk.page.locator("h1").inner_text()
    desk.page.set_viewport_size({"width": 1000, "height": 900})
    desk.picture("status")


def test_three_expressions_on_one_photo(
    stack: Running, desk: Desk, new_task: Callable[..., int]
) -> None:
    task = new_task("astronaut")
    desk.open(1, task)
    for expression in ("the helmet", "the american flag", "orange space suit"):
        desk.type(expression)
        offered = {number.split("_")[0] for number, *_ in desk.state["suggestions"]}
        assert len(offered) == 1, "suggestions of the expression before are gone"
        desk.accept(1)
    regions = desk.state["regions"]
    assert [region["text"] for region in regions] == [
        "the helmet", "the american flag", "orange space suit",
    ]  # fmt: skip
    desk.page.wait_for_timeout(500)
    desk.picture("three-expressions")
    desk.submit()
    found = records_of(stack, task, 3)
    assert {r.expression: r.outcome for r in found} == dict.fromkeys(
        ("the helmet", "the american flag", "orange space suit"), "accepted"
    )


def test_accept_erase_submit_update(
    stack: Running, desk: Desk, new_task: Callable[..., int]
) -> None:
    task = new_task("chelsea")
    desk.open(1, task)
    desk.type("the cat")
    desk.accept(1)
    desk.select_region()
    desk.press("e")
    desk.stroke((0.2, 0.4), (0.5, 0.4))
    desk.picture("erased")
    desk.submit()
    (record,) = records_of(stack, task, 1)
    assert (record.outcome, record.rank) == ("edited", 1)
    assert record.iou is not None
    assert 0.5 < record.iou < 1
    desk.select_region()
    desk.press("e")
    desk.stroke((0.2, 0.6), (0.5, 0.6))
    desk.submit("Update")
    deadline = time.monotonic() + 20
    while (again := records_of(stack, task, 1)[0]).iou == record.iou:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert again.outcome == "edited"
    assert again.iou is not None
    assert again.iou < record.iou


def test_reject_all_and_draw(stack: Running, desk: Desk, new_task: Callable[..., int]) -> None:
    task = new_task("rocket")
    desk.open(1, task)
    desk.auto_annotation()
    desk.type("the left tower")
    assert desk.state["suggestions"]
    desk.reject_all()
    assert desk.state["suggestions"] == []
    desk.choose("referent")
    desk.stroke((0.2, 0.3), (0.2, 0.7), (0.25, 0.7))
    desk.picture("drawn")
    desk.submit()
    (record,) = records_of(stack, task, 1)
    assert (record.outcome, record.expression) == ("drawn_after_rejection", "the left tower")
    assert record.dabs == 0


def test_no_referent(stack: Running, desk: Desk, new_task: Callable[..., int]) -> None:
    task = new_task("china")
    desk.open(1, task)
    desk.type("the elephant")
    desk.choose("no referent")
    desk.submit()
    (record,) = records_of(stack, task, 1)
    assert (record.outcome, record.coco_rle) == ("no_referent", None)


def workers_of(stack: Running) -> list[psutil.Process]:
    family = psutil.Process(stack.process.pid).children(recursive=True)
    return [p for p in family if any("saymask-worker" in part for part in p.cmdline())]


def test_worker_away_while_searching(
    stack: Running, desk: Desk, new_task: Callable[..., int]
) -> None:
    """The notice is seen, what was accepted is not lost, and it goes on when the worker is back."""
    task = new_task("flower")
    desk.open(1, task)
    desk.type("the flower")
    desk.accept(1)
    before = desk.notice
    workers = workers_of(stack)
    assert workers
    for worker in workers:
        os.kill(worker.pid, signal.SIGSTOP)
    try:
        desk.type("the leaves", wait=False)
        desk.page.wait_for_timeout(600)
        assert desk.is_searching
        shown = "getComputedStyle(document.querySelector('.saymask-notice'), '::before').content"
        assert "Searching" in desk.page.evaluate(shown)
        desk.picture("searching")
        said = desk.wait_for_notice(before)
        assert said.startswith('saymask is offline ("the leaves")')
        desk.page.wait_for_timeout(300)
        desk.picture("offline")
    finally:
        for worker in workers:
            os.kill(worker.pid, signal.SIGCONT)
    assert len(desk.state["regions"]) == 1, "what was accepted is still there"
    deadline = time.monotonic() + 60
    while True:
        desk.type("the petals")
        if desk.state["suggestions"]:
            break
        assert time.monotonic() < deadline, desk.notice
        time.sleep(1)
    desk.submit()
    (record,) = [r for r in records_of(stack, task, 1) if r.outcome == "accepted"]
    assert record.expression == "the flower"


def test_unreadable_photos_and_refused_expressions_are_said(
    stack: Running, desk: Desk, new_task: Callable[..., int], tmp_path: Path
) -> None:
    task = new_task("flower")
    desk.open(1, task)
    desk.type("?!")
    assert desk.notice is not None
    assert desk.notice.startswith("The expression cannot be used")
    with closing(stack.client()) as client:
        missing = "/data/upload/1/gone.png"
        create_tasks(client, 1, [{"data": {"image": missing}}])
        task = int(tasks_of(client)[-1]["id"])
    desk.page.goto(f"{stack.studio_url}/projects/1/data?task={task}")
    desk.page.wait_for_selector(".saymask-expression input", timeout=60_000)
    desk.type("the cat")
    assert desk.notice.startswith("The photo cannot be used")
    desk.picture("photo-gone")


def test_predicted_tasks_are_accepted_in_two_clicks(
    stack: Running, desk: Desk, new_task: Callable[..., int]
) -> None:
    tasks = [
        new_task("astronaut", expression="the helmet"),
        new_task("astronaut", expressions=["the american flag", "the helmet"]),
    ]
    counted = stack.saymask("preannotate", "--project", "1", "--dry-run", "--json")
    assert (counted["made"], counted["expressions"]) == (2, 3)
    report = stack.saymask("preannotate", "--project", "1", "--json")
    assert (report["made"], report["expressions"], report["failed"]) == (2, 3, [])
    again = stack.saymask("preannotate", "--project", "1", "--json")
    assert (again["made"], again["current"]) == (0, 2)
    with closing(stack.client()) as client:
        found = {t["id"]: t for t in tasks_of(client) if t["id"] in tasks}
        versions = {p["model_version"] for t in found.values() for p in t["predictions"]}
        assert all(version.startswith("saymask-starter") for version in versions)
        scores = {t["id"]: t["predictions"][0]["score"] for t in found.values()}
        assert all(0 < score < 1 for score in scores.values())
        order = json.dumps({"ordering": ["-tasks:predictions_score"]})
        page = client.request("GET", "/api/tasks", params={"project": 1, "query": order})
    sorted_ids = [task["id"] for task in page["tasks"] if task["id"] in tasks]
    assert sorted_ids == sorted(tasks, key=lambda task: -scores[task]), "the surest first"
    desk.page.goto(f"{stack.studio_url}/projects/1/data")
    row = desk.page.locator(".dm-table__row-wrapper, [class*=table__row]", has_text=str(tasks[1]))
    row.last.click()
    desk.actions += 1
    desk.wait_open()
    desk.page.wait_for_timeout(700)
    desk.picture("predicted")
    assert [r["text"] for r in desk.state["regions"]] == ["the american flag", "the helmet"]
    desk.submit()
    assert desk.actions == 2
    done = {r.expression: r.outcome for r in records_of(stack, tasks[1], 2)}
    assert done == {"the american flag": "accepted", "the helmet": "accepted"}


def test_clicks_refine(stack: Running, desk: Desk, new_task: Callable[..., int]) -> None:
    task = new_task("chelsea")
    desk.open(1, task)
    desk.auto_annotation()
    desk.type("the ear")
    desk.pick_smart_tool()
    assert desk.click_photo(*CAT).startswith('"the ear", after 1 click')
    said = desk.click_photo(0.97, 0.05, outside=True)
    assert said.startswith('"the ear", after 2 clicks')
    desk.page.wait_for_timeout(500)
    desk.picture("clicks")
    assert desk.state["clicks"] == 2
    assert len(desk.state["suggestions"]) >= 1
    if len(desk.state["suggestions"]) > 1:
        desk.press("v")
        desk.accept(1)
        desk.reject_all()
    else:
        desk.accept_all()
    assert desk.state["clicks"] == 0, "clicks go with the suggestions they led to"
    desk.submit()
    (record,) = records_of(stack, task, 1)
    assert (record.outcome, record.clicks, record.expression) == ("accepted", 2, "the ear")


def test_a_box_refines(stack: Running, desk: Desk, new_task: Callable[..., int]) -> None:
    task = new_task("coffee")
    desk.open(1, task)
    desk.auto_annotation()
    desk.type("the spoon")
    before = desk.notice
    desk.pick_smart_tool()
    desk.pick_smart_box()
    desk.stroke((0.52, 0.12), (0.73, 0.9))
    assert desk.wait_for_notice(before).startswith('"the spoon", after 1 click')
    desk.page.wait_for_timeout(400)
    desk.picture("box")
    desk.accept_all()
    desk.submit()
    (record,) = records_of(stack, task, 1)
    assert (record.clicks, record.expression) == (1, "the spoon")


def test_doubt_is_said(desk: Desk, new_task: Callable[..., int]) -> None:
    desk.open(1, new_task("china"))
    for expression in ("the thing", "the window", "a part", "the tower", "the tree"):
        desk.type(expression)
        assert desk.notice is not None
        if "another object fits almost as well" in desk.notice:
            break
    desk.page.wait_for_timeout(500)
    desk.picture("doubtful")
    assert "Doubtful" in desk.notice


def test_prepare_and_doctor(stack: Running) -> None:
    report = stack.saymask("prepare", "--project", "1", "--json", status=1)
    assert report["prepared"] >= 6
    assert len(report["failed"]) == 1, "the photo that is gone"
    assert "Is the photo still there?" in report["failed"][0]
    checks = stack.saymask("doctor", "--json")
    assert {check["state"] for check in checks} == {"ok"}, checks


def test_connect_makes_a_project_work_and_says_what_does_not(stack: Running) -> None:
    first = stack.saymask("connect", "--create", "Fresh photos", "--json")
    states = {check["name"]: check["state"] for check in first}
    assert states["project"] == states["attachment"] == "changed"
    assert states["test event"] == "ok"
    assert states["test expression"] == "unknown", "there is no task yet"
    again = stack.saymask("connect", "--create", "Fresh photos", "--json")
    assert {c["state"] for c in again} == {"ok", "unknown"}, again
    with closing(stack.client()) as client:
        found = client.request("GET", "/api/projects", params={"page_size": 100})["results"]
        number = next(p["id"] for p in found if p["title"] == "Fresh photos")
        (hook,) = client.request("GET", "/api/webhooks", params={"project": number})
        client.request("DELETE", f"/api/webhooks/{hook['id']}/")
        broken = stack.saymask("doctor", "--project", str(number), "--json", status=1)
        problems = {check["name"] for check in broken if check["state"] == "problem"}
        assert problems == {f"project {number}: webhook", f"project {number}: test event"}
        for check in broken:
            assert check["cure"] or check["state"] != "problem", "every problem has a cure"
        mended = stack.saymask("connect", "--project", str(number), "--json")
        assert {c["name"] for c in mended if c["state"] == "changed"} == {"webhook"}
        plain = client.request("POST", "/api/projects", json={"title": "Not ours"})
        written = stack.saymask("connect", "--project", str(plain["id"]), "--json")
        assert {c["name"]: c["state"] for c in written}["labelling config"] == "changed"
    wrong = stack.saymask("connect", "--project", "1", "--api-key", "0" * 40, "--json", status=1)
    assert {c["name"]: c["state"] for c in wrong}["API key"] == "problem"
