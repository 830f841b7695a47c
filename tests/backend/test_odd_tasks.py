"""One odd task, photo or project stops nothing: it is named, the others are done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from saymask.errors import InvalidRequest, WorkerUnavailable
from saymask.left_out import LeftOut
from saymask.masks import encode_coco_rle
from saymask_backend.label_studio.events import to_new_event
from saymask_backend.label_studio.predict_request import PredictTask
from saymask_backend.records.records import UnreadImage
from saymask_backend.records.stores import Stores
from saymask_backend.services.project_tasks import map_concurrently
from tests.backend.http import KEY, typed
from tests.backend.label_studio import LabelStudioServer
from tests.backend.submissions import process
from tests.conftest import Valkey, await_state, load_capture, log_of
from tests.factories import HEIGHT, PROJECT, WIDTH, annotation, brush, event, square

SAYMASK = Path(sys.executable).parent / "saymask"
# Tasks that cannot be used: as listed, and what their line says.
ODD: list[tuple[Any, str]] = [
    ({"id": 901}, "task 901: The task has no photo in data['image']."),
    ({"id": 902, "data": None}, "task 902: The task has no photo"),
    ({"id": 903, "data": ["/data/a.png"]}, "task 903: The task has no photo"),
    ({"id": 904, "data": {"image": None}}, "task 904: The task has no photo"),
    ({"id": 905, "data": {"image": 7}}, "task 905: The task has no photo"),
    ({"id": 906, "data": {"image": " "}}, "task 906: The task has no photo"),
    ({"id": 907, "data": {"text": "no photo"}}, "Its fields: text"),
    ({"data": {"text": "nameless"}}, "task 0: The task has no photo"),
    ({"id": "x", "data": {"image": "/data/a.png"}}, "task x: Label Studio's answer is not valid"),
    ("no task", "task 'no task': Label Studio's answer is not valid"),
]


@pytest.fixture
def saymask(
    valkey: Valkey, studio: LabelStudioServer, tmp_path: Path
) -> Callable[..., dict[str, Any]]:
    """A command against the server; its JSON."""

    def run(*arguments: str, status: int = 0) -> dict[str, Any]:
        environment = {
            "SAYMASK_REDIS_URL": valkey.url,
            "SAYMASK_DATA_DIR": str(tmp_path / "data"),
            "SAYMASK_LABEL_STUDIO_URL": studio.url,
            "SAYMASK_LABEL_STUDIO_API_KEY": KEY,
        }
        done = subprocess.run(
            [SAYMASK, *arguments, "--json"], capture_output=True, text=True, check=False,
            env={**os.environ, **environment}, timeout=60,
        )  # fmt: skip
        assert done.returncode == status, done.stdout + done.stderr
        return json.loads(done.stdout or "{}")

    return run


def add_odd_tasks(studio: LabelStudioServer) -> None:
    """Good tasks before, between and after odd ones."""
    for number, (body, _) in enumerate(ODD):
        studio.add_task({"image": f"/data/{number}.png", "expression": f"thing {number}"})
        studio.add("tasks", project=1, annotations=[], odd=body)
    studio.add_task({"image": "/data/last.png", "expression": "the last"})


GOOD = len(ODD) + 1


def check_named(failed: list[str]) -> None:
    for _, line in ODD:
        assert any(line in one for one in failed), (line, failed)
    assert len(failed) == len(ODD)


def test_odd_tasks_of_prepare(
    saymask: Callable[..., Any], studio: LabelStudioServer, start_worker: Callable[..., Any]
) -> None:
    start_worker()
    add_odd_tasks(studio)
    report = saymask("prepare", "--project", "1", status=1)
    assert report["prepared"] == GOOD
    check_named(report["failed"])


def test_odd_tasks_of_preannotate(
    saymask: Callable[..., Any], studio: LabelStudioServer, start_worker: Callable[..., Any]
) -> None:
    start_worker()
    add_odd_tasks(studio)
    refused = studio.add_task({"image": "/data/a.png", "expression": "refused"})
    studio.refused = {refused}
    dry = saymask("preannotate", "--project", "1", "--dry-run", status=1)
    assert dry["predicted"] == GOOD + 1
    check_named(dry["failed"])
    report = saymask("preannotate", "--project", "1", status=1)
    assert (report["predicted"], report["expressions"]) == (GOOD, GOOD)
    *odd, last = report["failed"]
    check_named(odd)
    assert f"task {refused}: Label Studio answered 400" in last
    assert len(studio.objects["predictions"]) == GOOD
    again = saymask("preannotate", "--project", "1", status=1)
    assert (again["predicted"], again["up_to_date"]) == (0, GOOD)


def test_one_expression_for_every_task_without_one(
    saymask: Callable[..., Any], studio: LabelStudioServer, start_worker: Callable[..., Any]
) -> None:
    start_worker()
    plain = [studio.add_task({"image": f"/data/{number}.png"}) for number in range(3)]
    own = studio.add_task({"image": "/data/a.png", "expression": "the cat"})
    project = ("preannotate", "--project", "1")
    assert saymask(*project)["no_expression"] == 3
    plate = (*project, "--expression", " the licence  plate ")
    assert saymask(*plate, "--dry-run")["predicted"] == 3
    first = saymask(*plate)
    assert (first["predicted"], first["expressions"], first["up_to_date"]) == (3, 3, 1)
    assert saymask(*plate)["up_to_date"] == 4
    wheels = saymask(*project, "--expression", "the wheel", "--expression", "the lamp")
    assert (wheels["predicted"], wheels["expressions"]) == (3, 6)
    texts = {
        body["task"]: [e["value"]["text"][0] for e in body["result"] if e["type"] == "textarea"]
        for body in studio.objects["predictions"].values()
    }
    assert set(texts) == {*plain, own}
    assert all({"the wheel", "the lamp"} <= set(texts[task]) for task in plain)
    assert saymask(*project, "--expression", "  ", status=2) == {}


def test_proposals_stay_where_one_expression_is_given_for_every_task(
    saymask: Callable[..., Any], studio: LabelStudioServer, start_worker: Callable[..., Any]
) -> None:
    start_worker()
    studio.add_task({"image": "/data/a.png"})
    assert saymask("propose", "--project", "1")["expressions"]
    proposed = dict(studio.objects["predictions"])
    plate = saymask("preannotate", "--project", "1", "--expression", "the licence plate")
    assert (plate["predicted"], plate["up_to_date"]) == (0, 1)
    assert studio.objects["predictions"] == proposed


def test_proposals_name_the_model_that_wrote_them(
    saymask: Callable[..., Any], studio: LabelStudioServer, start_worker: Callable[..., Any]
) -> None:
    start_worker()
    studio.add_task({"image": "/data/a.png"})
    origins = {}
    for describer in ("rules", "endpoint"):
        report = saymask("propose", "--project", "1", "--describer", describer)
        assert report["photos"] == 1, "another describer gives other proposals"
        (body,) = studio.objects["predictions"].values()
        origins[describer] = json.dumps(body["result"])
    assert "proposed by eyes-2b; also: cat" in origins["endpoint"]
    assert "proposed; also: cat" in origins["rules"]


def test_odd_tasks_of_propose(
    saymask: Callable[..., Any], studio: LabelStudioServer, start_worker: Callable[..., Any]
) -> None:
    start_worker()
    for number, (body, _) in enumerate(ODD):
        studio.add_task({"image": f"/data/{number}.png", "saymask_proposed": "not ours"})
        studio.add("tasks", project=1, annotations=[], odd=body)
    report = saymask("propose", "--project", "1", status=1)
    assert (report["photos"], report["tasks"]) == (len(ODD), len(ODD))
    check_named(report["failed"])


def test_false_expressions_are_made_of_accepted_ones_once(
    saymask: Callable[..., Any],
    studio: LabelStudioServer,
    start_worker: Callable[..., Any],
    app_stores: Stores,
    valkey: Valkey,
) -> None:
    """An interrupted run continues; a photo in two tasks counts once."""
    start_worker()
    said = {"a.png": ["the left cup", "the cup on the left"], "b.png": ["the lamp"]}
    app_stores.migrate()
    for image, texts in [*said.items(), ("a.png", ["red"])]:
        task = studio.add_task({"image": f"/data/{image}"})
        regions = [brush(text, square(4), "referent", "manual", text) for text in texts]
        body = event(task, annotation(task, [entry for region in regions for entry in region]))
        (record, *_) = process(app_stores, {**body, "project": {**PROJECT, "id": 1}})[-1:]
        unread = UnreadImage(record.project, record.image, task)
        app_stores.records.set_image_hash(unread, image[0] * 64)
    studio.add_task({"image": "/data/c.png"})
    command = ("propose", "--project", "1", "--negatives")
    dry = saymask(*command, "--dry-run")
    assert (dry["photos"], dry["expressions"], dry["empty"]) == (2, 2, 1)
    assert len(studio.objects["tasks"]) == 4, "a dry run stores nothing"
    studio.refused = {5}
    interrupted = saymask(*command, status=1)
    assert len(interrupted["failed"]) == 1
    studio.refused = set()
    again = saymask(*command, "--per-image", "3")
    assert (again["photos"], again["expressions"], again["failed"]) == (2, 2, [])
    assert saymask(*command)["expressions"] == 0
    predictions = {p["task"]: p for p in studio.objects["predictions"].values()}
    assert set(predictions) == {5, 6}
    fields = [
        {entry["from_name"]: entry["value"] for entry in predictions[task]["result"]}
        for task in (5, 6)
    ]
    assert [values["expression"]["text"] for values in fields] == [
        ["the right cup"], ["the cup on the right"],
    ]  # fmt: skip
    assert all(values["verdict"] == {"choices": ["no referent"]} for values in fields)
    asked = log_of(valkey, "false")
    assert any(line.endswith("the left cup; the cup on the left; red") for line in asked)
    (offered,) = app_stores.requests.load_offers(record.project, 5)[-1:]
    assert (offered.is_proposed, offered.candidates) == (True, ())


def test_two_tasks_with_one_photo_are_both_proposed_for(
    saymask: Callable[..., Any], studio: LabelStudioServer, start_worker: Callable[..., Any]
) -> None:
    """They wait for one answer together, longer than until they look who has asked since."""
    start_worker()
    for name in ("slow", "slow", "b", "c", "slow"):
        studio.add_task({"image": f"/data/{name}.png"})
    report = saymask("propose", "--project", "1")
    assert (report["photos"], report["tasks"], report["failed"]) == (5, 5, [])
    assert len({p["task"] for p in studio.objects["predictions"].values()}) == 5


def test_odd_tasks_and_files_of_import(
    saymask: Callable[..., Any], studio: LabelStudioServer, tmp_path: Path
) -> None:
    add_odd_tasks(studio)
    path = tmp_path / "instances.json"
    names, mask = ("a.png", "b.png", "c.png"), encode_coco_rle(square(4))
    for number, name in enumerate(names):
        Image.new("RGB", (WIDTH, HEIGHT), (number, 0, 0)).save(tmp_path / name)
    content = {
        "images": [
            {"id": n, "file_name": name, "height": HEIGHT, "width": WIDTH}
            for n, name in enumerate(names)
        ],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1, "segmentation": mask, "iscrowd": 0}
            for n in range(len(names))
        ],
        "categories": [{"id": 1, "name": "cat"}],
    }  # fmt: skip
    path.write_text(json.dumps(content), "utf-8")
    studio.refused_file = "b.png"
    report = saymask("import", "coco", str(path), "--project", "1", status=1)
    assert (report["photos"], report["tasks"]) == (2, 2)
    *unreadable, refused = report["failed"]
    assert [line.partition(":")[0] for line in unreadable] == ["task x", "task 'no task'"]
    assert refused.startswith("b.png: Label Studio answered 400")
    studio.refused_file = ""
    again = saymask("import", "coco", str(path), "--project", "1", status=1)
    assert (again["tasks"], again["existing"]) == (1, 2)


def test_odd_tasks_of_sync(saymask: Callable[..., Any], studio: LabelStudioServer) -> None:
    add_odd_tasks(studio)
    (report,) = saymask("sync", "--project", "1", status=1)["projects"]
    assert report["tasks"] == GOOD + len(ODD)
    assert [line.partition(":")[0] for line in report["problems"]] == ["task x", "task 'no task'"]


def test_sync_of_all_projects_goes_on_past_one(
    saymask: Callable[..., Any], studio: LabelStudioServer, tmp_path: Path
) -> None:
    """One project is gone, one is not for saymask, one cannot be read; the last is compared."""
    stores = Stores(f"sqlite:///{tmp_path / 'data' / 'saymask.db'}")
    stores.migrate()
    studio.objects["projects"][2] = {"id": 2, "label_config": "<View/>"}
    studio.objects["projects"][3] = {"id": 3, "label_config": 7}
    studio.objects["projects"][9] = {**studio.objects["projects"][1], "id": 9}
    for number in (2, 3, 4, 9):
        stores.events.append_event(to_new_event({"action": "X", "project": {"id": number}}))
    stores.close()
    report = saymask("sync", status=1)
    assert [one["project_id"] for one in report["projects"]] == [9]
    named = {
        kind: [line.partition(":")[0] for line in report[kind]] for kind in ("failed", "skipped")
    }
    assert named == {"failed": ["project 3"], "skipped": ["project 2", "project 4"]}


def test_odd_tasks_of_a_batch(
    build_client: Callable[..., TestClient], start_worker: Callable[..., Any]
) -> None:
    start_worker()
    body = load_capture("batch_predict_on_task_open")
    good = {"id": 1, "data": {"image": "/data/upload/1/a.png", "expression": "the cat"}}
    body["tasks"] = [task for odd, _ in ODD for task in (good, odd)]
    answer = build_client().post("/predict", json=body)
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    assert len(results) == len(body["tasks"])
    assert [bool(result) for result in results] == [True, False] * len(ODD)


def test_odd_tasks_of_a_webhook(
    build_client: Callable[..., TestClient], start_worker: Callable[..., Any], valkey: Valkey
) -> None:
    start_worker()
    body = load_capture("TASKS_CREATED")
    good = {"id": 1, "data": {"image": "/data/upload/1/a.png"}}
    body["tasks"] = [*(odd for odd, _ in ODD), good]
    client = build_client()
    assert client.post("/webhook", json=body).status_code == 200
    await_state(lambda: len(log_of(valkey, "prepare")) == 1, "the good one is not prepared")
    await_state(lambda: client.get("/ready").json()["photos"]["failed"] == len(ODD), "not counted")


def test_the_editor_asks_about_a_task_without_a_photo(
    build_client: Callable[..., TestClient],
) -> None:
    body = typed("the cat")
    body["tasks"] = [{"id": 1, "data": None}]
    answer = build_client().post("/predict", json=body)
    assert answer.status_code == 400
    assert "no photo" in answer.json()["cause"]


def test_four_tasks_are_asked_at_a_time_and_finished_in_order() -> None:
    together = threading.Barrier(4)
    finished: list[int] = []
    positions: list[tuple[int, int]] = []
    failed = LeftOut()

    def ask(task: PredictTask) -> int:
        together.wait(60)
        if task.task_id == 3:
            raise InvalidRequest("Odd.")
        return task.task_id

    def finish(task: PredictTask, answer: int) -> None:
        if task.task_id == 5:
            raise InvalidRequest("It is gone.")
        finished.append(answer)

    tasks = [PredictTask(number, "") for number in range(1, 9)]
    map_concurrently(tasks, ask, finish, failed, lambda *done: positions.append(done))
    assert finished == [1, 2, 4, 6, 7, 8]
    assert failed.lines == ("task 3: Odd.", "task 5: It is gone.")
    assert positions == [(number, 8) for number in range(1, 9)]


def test_an_error_that_concerns_all_tasks_ends_the_rest() -> None:
    asked: list[int] = []

    def ask(task: PredictTask) -> None:
        asked.append(task.task_id)
        raise WorkerUnavailable("No worker answers.")

    tasks = [PredictTask(number, "") for number in range(1, 30)]
    with pytest.raises(WorkerUnavailable):
        map_concurrently(tasks, ask, lambda *_: None, LeftOut(), lambda *_: None)
    assert len(asked) <= 4
