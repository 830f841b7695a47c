"""An annotator's day: a real Label Studio, real weights, a real Chromium."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import httpx
import numpy as np
import pytest
from lightning_fabric import Fabric
from PIL import Image
from rich.console import Console

from saymask.masks import decode_coco_rle, encode_coco_rle
from saymask.model_registry import ModelRegistry
from saymask_worker.training.config import TrainingConfig
from saymask_worker.training.models import build_cris
from saymask_worker.training.samples import Sample
from saymask_worker.training.trainer import Trainer
from saymask_worker.weights import WeightStore
from tests.browser.editor import Editor
from tests.stack.running import Running, records_of, tasks_of, workers_of

pytestmark = [pytest.mark.stack, pytest.mark.browser]

CAT = (0.3, 0.5)
LEFT_HALF = "the left half"


def test_first_use_from_login_to_submit(stack: Running, editor: Editor) -> None:
    with closing(stack.client()) as client:
        task = next(t["id"] for t in tasks_of(client) if "coffee" in t["data"]["image"])
    editor.open(1, task)
    editor.picture("opened")
    hint = "getComputedStyle(document.querySelector('.saymask-notice'), '::before').content"
    assert "Type what you mean" in editor.page.evaluate(hint)
    took = editor.type("the spoon")
    print(f"suggestions after {took:.2f} s")
    editor.page.wait_for_timeout(700)
    editor.picture("suggestions")
    suggested = editor.state["suggestions"]
    assert suggested[-1][1] == "top-1", "the best is drawn last"
    assert {origin for *_, origin in suggested} == {"prediction"}
    assert editor.notice is not None
    assert editor.notice.startswith('"the spoon": 3 suggestions')
    editor.accept(1)
    editor.picture("accepted")
    editor.submit()
    (record,) = records_of(stack, task, 1)
    assert (record.outcome, record.rank, record.clicks) == ("accepted", 1, 0)
    assert record.expression == "the spoon"
    assert record.notes == []
    # The call that Label Studio makes after a submit brings no new suggestions.
    editor.wait_for_state("suggestions", [])
    editor.page.goto(stack.backend_url)
    assert "ready" in editor.page.locator("h1").inner_text()
    editor.page.set_viewport_size({"width": 1000, "height": 900})
    editor.picture("status")


def test_three_expressions_on_one_photo(
    stack: Running, editor: Editor, new_task: Callable[..., int]
) -> None:
    task = new_task("astronaut")
    editor.open(1, task)
    for expression in ("the helmet", "the american flag", "orange space suit"):
        editor.type(expression)
        offered = {re.split("[_#]", number)[0] for number, *_ in editor.state["suggestions"]}
        assert len(offered) == 1, "suggestions of the expression before are gone"
        editor.accept(1)
    regions = editor.state["regions"]
    assert [region["text"] for region in regions] == [
        "the helmet", "the american flag", "orange space suit",
    ]  # fmt: skip
    editor.page.wait_for_timeout(500)
    editor.picture("three-expressions")
    editor.submit()
    found = records_of(stack, task, 3)
    assert {r.expression: r.outcome for r in found} == dict.fromkeys(
        ("the helmet", "the american flag", "orange space suit"), "accepted"
    )


def test_accept_erase_submit_update(
    stack: Running, editor: Editor, new_task: Callable[..., int]
) -> None:
    task = new_task("chelsea")
    editor.open(1, task)
    editor.type("the cat")
    editor.accept(1)
    editor.select_region()
    editor.press("e")
    editor.stroke((0.2, 0.4), (0.5, 0.4))
    editor.picture("erased")
    editor.submit()
    (record,) = records_of(stack, task, 1)
    assert (record.outcome, record.rank) == ("edited", 1)
    assert record.iou is not None
    assert 0.5 < record.iou < 1
    editor.select_region()
    editor.press("e")
    editor.stroke((0.2, 0.6), (0.5, 0.6))
    editor.submit("Update")
    deadline = time.monotonic() + 20
    while (again := records_of(stack, task, 1)[0]).iou == record.iou:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert again.outcome == "edited"
    assert again.iou is not None
    assert again.iou < record.iou


def test_reject_all_and_draw(stack: Running, editor: Editor, new_task: Callable[..., int]) -> None:
    task = new_task("rocket")
    editor.open(1, task)
    editor.auto_annotation()
    editor.type("the left tower")
    assert editor.state["suggestions"]
    editor.reject_all()
    editor.wait_for_state("suggestions", [])
    editor.choose("referent")
    editor.stroke((0.2, 0.3), (0.2, 0.7), (0.25, 0.7))
    editor.picture("drawn")
    editor.submit()
    (record,) = records_of(stack, task, 1)
    assert (record.outcome, record.expression) == ("drawn_after_rejection", "the left tower")
    assert record.dabs == 0


def test_no_referent(stack: Running, editor: Editor, new_task: Callable[..., int]) -> None:
    task = new_task("china")
    editor.open(1, task)
    editor.type("the elephant")
    editor.choose("no referent")
    editor.submit()
    (record,) = records_of(stack, task, 1)
    assert (record.outcome, record.coco_rle) == ("no_referent", None)


def test_worker_away_while_searching(
    stack: Running, editor: Editor, new_task: Callable[..., int]
) -> None:
    """The notice is seen, nothing accepted is lost, and work continues when the worker is back."""
    task = new_task("flower")
    editor.open(1, task)
    editor.type("the flower")
    editor.accept(1)
    before = editor.notice
    workers = workers_of(stack)
    assert workers
    for worker in workers:
        os.kill(worker.pid, signal.SIGSTOP)
    try:
        editor.type("the leaves", wait=False)
        editor.page.wait_for_timeout(600)
        assert editor.is_searching
        shown = "getComputedStyle(document.querySelector('.saymask-notice'), '::before').content"
        assert "Searching" in editor.page.evaluate(shown)
        editor.picture("searching")
        said = editor.wait_for_notice(before)
        assert said.startswith('saymask is offline ("the leaves")')
        editor.page.wait_for_timeout(300)
        editor.picture("offline")
    finally:
        for worker in workers:
            os.kill(worker.pid, signal.SIGCONT)
    assert len(editor.state["regions"]) == 1, "what was accepted is still there"
    deadline = time.monotonic() + 60
    while True:
        editor.type("the petals")
        if editor.state["suggestions"]:
            break
        assert time.monotonic() < deadline, editor.notice
        time.sleep(1)
    editor.submit()
    (record,) = [r for r in records_of(stack, task, 1) if r.outcome == "accepted"]
    assert record.expression == "the flower"


def test_unreadable_photos_and_refused_expressions_are_said(
    stack: Running, editor: Editor, new_task: Callable[..., int], tmp_path: Path
) -> None:
    task = new_task("flower")
    editor.open(1, task)
    editor.type("?!")
    assert editor.notice is not None
    assert editor.notice.startswith("The expression cannot be used")
    with closing(stack.client()) as client:
        missing = "/data/upload/1/gone.png"
        client.import_tasks(1, [{"data": {"image": missing}}])
        task = int(tasks_of(client)[-1]["id"])
    editor.page.goto(f"{stack.studio_url}/projects/1/data?task={task}")
    editor.page.wait_for_selector(".saymask-expression input", timeout=60_000)
    editor.type("the cat")
    assert editor.notice.startswith("The photo cannot be used")
    editor.picture("photo-gone")


def test_predicted_tasks_are_accepted_in_two_clicks(
    stack: Running, editor: Editor, new_task: Callable[..., int]
) -> None:
    tasks = [
        new_task("astronaut", expression="the helmet"),
        new_task("astronaut", expressions=["the american flag", "the helmet"]),
    ]
    counted = stack.saymask("preannotate", "--project", "1", "--dry-run", "--json")
    assert (counted["predicted"], counted["expressions"]) == (2, 3)
    report = stack.saymask("preannotate", "--project", "1", "--json")
    assert (report["predicted"], report["expressions"], report["failed"]) == (2, 3, [])
    again = stack.saymask("preannotate", "--project", "1", "--json")
    assert (again["predicted"], again["up_to_date"]) == (0, 2)
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
    editor.page.goto(f"{stack.studio_url}/projects/1/data")
    row = editor.page.locator(".dm-table__row-wrapper, [class*=table__row]", has_text=str(tasks[1]))
    row.last.click()
    editor.actions += 1
    editor.wait_open()
    editor.page.wait_for_timeout(700)
    editor.picture("predicted")
    assert [r["text"] for r in editor.state["regions"]] == ["the american flag", "the helmet"]
    editor.submit()
    assert editor.actions == 2
    done = {r.expression: r.outcome for r in records_of(stack, tasks[1], 2)}
    assert done == {"the american flag": "accepted", "the helmet": "accepted"}


def test_clicks_refine(stack: Running, editor: Editor, new_task: Callable[..., int]) -> None:
    task = new_task("chelsea")
    editor.open(1, task)
    editor.auto_annotation()
    editor.type("the ear")
    editor.pick_smart_tool()
    assert editor.click_photo(*CAT).startswith('"the ear", after 1 click')
    said = editor.click_photo(0.97, 0.05, outside=True)
    assert said.startswith('"the ear", after 2 clicks')
    editor.page.wait_for_timeout(500)
    editor.picture("clicks")
    editor.wait_for_state("clicks", 2)
    assert len(editor.state["suggestions"]) >= 1
    if len(editor.state["suggestions"]) > 1:
        editor.press("v")
        editor.accept(1)
        editor.reject_all()
    else:
        editor.accept_all()
    editor.wait_for_state("clicks", 0)  # they go with the suggestions they led to
    editor.submit()
    (record,) = records_of(stack, task, 1)
    assert (record.outcome, record.clicks, record.expression) == ("accepted", 2, "the ear")


def test_a_box_refines(stack: Running, editor: Editor, new_task: Callable[..., int]) -> None:
    task = new_task("coffee")
    editor.open(1, task)
    editor.auto_annotation()
    editor.type("the spoon")
    before = editor.notice
    editor.pick_smart_tool()
    editor.pick_smart_box()
    editor.stroke((0.52, 0.12), (0.73, 0.9))
    assert editor.wait_for_notice(before).startswith('"the spoon", after 1 click')
    editor.page.wait_for_timeout(400)
    editor.picture("box")
    editor.accept_all()
    editor.submit()
    (record,) = records_of(stack, task, 1)
    assert (record.clicks, record.expression) == (1, "the spoon")


def test_doubt_is_said(editor: Editor, new_task: Callable[..., int]) -> None:
    editor.open(1, new_task("china"))
    for expression in ("the thing", "the window", "a part", "the tower", "the tree"):
        editor.type(expression)
        assert editor.notice is not None
        if "another object fits almost as well" in editor.notice:
            break
    editor.page.wait_for_timeout(500)
    editor.picture("doubtful")
    assert "Uncertain" in editor.notice


def train_left_half(photo: Path, out: Path) -> float:
    """Train a real CRIS to answer with the left half of a photo; returns the IoU."""
    with Image.open(photo) as image:
        width, height = image.size
    mask = np.zeros((height, width), bool)
    mask[:, : width // 2] = True
    target = encode_coco_rle(mask)
    samples = [Sample(str(number), photo, target, (LEFT_HALF,)) for number in range(24)]
    config = TrainingConfig(side_px=128, epochs=3, batch=4, rate=1e-3, flip_share=0.0, patience=3)
    model = build_cris("starter", WeightStore())
    fabric = Fabric(accelerator="cpu", devices=1)
    trainer = Trainer(model, config, samples, samples[:4], out, fabric, Console(quiet=True))
    return trainer.run().best_iou


def test_a_trained_model_s_candidate_is_offered_accepted_and_counted(
    stack: Running, editor: Editor, new_task: Callable[..., int], samples: dict[str, Path]
) -> None:
    registry = ModelRegistry(stack.data_dir / "models")
    run = registry.create_run()
    iou = train_left_half(samples["chelsea"], registry.folder / run)
    assert iou > 0.8, "it has not learned its photo"
    stack.saymask("models", "serve", run)
    try:
        task = new_task("chelsea")
        editor.open(1, task)
        editor.type(LEFT_HALF)
        editor.page.wait_for_timeout(500)
        editor.picture("trained")
        with closing(stack.open_stores()) as stores:
            request = next(r for r in stores.requests.list_recent() if r.task_id == task)
            offer = stores.requests.load_offer(request.id)
        assert offer is not None
        ranks = {candidate.source: candidate.rank for candidate in offer.candidates}
        assert set(ranks) == {"proposals", "trained"}, offer
        editor.accept(ranks["trained"])
        editor.submit()
        (record,) = records_of(stack, task, 1)
        assert (record.outcome, record.source) == ("accepted", "trained")
        assert record.model_version is not None
        assert record.model_version.endswith(f"-trained.{run}")
        assert record.coco_rle is not None
        mask = decode_coco_rle(record.coco_rle)
        assert mask[:, : mask.shape[1] // 2].mean() > 0.8
        counted = stack.saymask("stats", "--project", "1", "--json")["sources"]
        assert counted["trained"] == {"offered": 1, "accepted": 1}
        page = httpx.get(f"{stack.backend_url}/").text
        assert "Source of the accepted candidate" in page
    finally:
        stack.saymask("models", "rollback")
