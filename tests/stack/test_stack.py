"""The whole of saymask, started as a user starts it, driven by API and in a real browser."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from saymask.datasets import load_dataset
from saymask.datasets.parquet import BatchRows
from saymask.left_out import LeftOut
from saymask.masks import decode_brush_rle, decode_coco_rle, encode_coco_rle
from saymask_backend.label_studio.client import LabelStudioClient
from saymask_backend.records.types import RecordFilter
from saymask_worker.batch.folders import PartFolder
from saymask_worker.batch.rows import ImageRows, build_part
from tests.browser.editor import SCREENSHOTS
from tests.conftest import await_state, free_port
from tests.factories import brush
from tests.stack import annotating_day
from tests.stack.running import PROGRAM, SAYMASK, Running, connect, running, start_up, tasks_of

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("stack")) as stack:
        yield stack


def type_expression(
    client: LabelStudioClient, task_id: int, *lines: str, project: int = 1
) -> list[dict[str, Any]]:
    """What the editor sends when an annotator types; all lines of the field."""
    backend_id = client.request("GET", "/api/ml", params={"project": project})[0]["id"]
    context = {
        "result": [
            {"value": {"text": list(lines)}, "id": "x", "from_name": "expression",
             "to_name": "image", "type": "textarea", "origin": "manual"},
        ]
    }  # fmt: skip
    answer = client.request(
        "POST",
        f"/api/ml/{backend_id}/interactive-annotating",
        json={"task": task_id, "context": context},
    )
    assert "data" in answer, answer
    return answer["data"]["result"]


def test_expression_to_annotation_by_api(stack: Running) -> None:
    client, stores = stack.client(), stack.open_stores()
    tasks = tasks_of(client)
    assert len(tasks) == 6
    cat = next(task for task in tasks if "chelsea" in task["data"]["image"])
    regions = type_expression(client, cat["id"], "the cat")
    brushes = [region for region in regions if region["type"] == "brushlabels"]
    assert brushes[-1]["value"]["brushlabels"] == ["top-1"], "the best is drawn last"
    best = brushes[-1]
    mask = decode_brush_rle(best["value"]["rle"], (best["original_height"], best["original_width"]))
    assert mask.shape == (300, 451)
    assert mask[150, 150], "the middle of the cat's face"
    assert not mask[150, 445], "the background at the right edge"

    texts = [r for r in regions if r["id"] == best["id"]]
    created = client.request(
        "POST",
        f"/api/tasks/{cat['id']}/annotations",
        json={"result": texts, "lead_time": 4.2},
    )
    deadline = time.monotonic() + 20
    while stores.events.count_events_by_action().get("ANNOTATION_CREATED", 0) < 1:
        assert time.monotonic() < deadline, "the webhook did not arrive"
        time.sleep(0.2)
    await_state(lambda: stores.records.count_records(RecordFilter()) > 0, "nothing was recorded")
    record = next(stores.records.iterate_records(RecordFilter()))
    request = next(r for r in stores.requests.list_recent() if r.expression == "the cat")
    assert (record.annotation_id, record.request_id) == (created["id"], request.id)
    stores.close()
    client.close()


def test_commands_find_the_installation_without_variables(stack: Running, tmp_path: Path) -> None:
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("SAYMASK_", "REDIS_"))}

    def run(*arguments: str) -> Any:
        done = subprocess.run(
            [SAYMASK, *arguments, "--json"], capture_output=True, text=True, check=False,
            env={**kept, "SAYMASK_UP_DIR": str(stack.data_dir)}, cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    (report,) = run("sync", "--project", "1")["projects"]
    assert (report["missing"], report["problems"]) == (0, [])
    assert run("stats")["quality"]["samples"] == 1
    assert [record["expression"] for record in run("records", "list")] == ["the cat"]
    exported = run("export", "coco", str(tmp_path / "out"), "--project", "1")
    assert (exported["photos"], exported["expressions"]) == (1, 1)


def test_photo_uploaded_later_is_prepared_and_segmented(
    stack: Running, samples: dict[str, Path]
) -> None:
    client = stack.client()
    with samples["coffee"].open("rb") as file:
        client.request("POST", "/api/projects/1/import", files={"file": ("late.jpg", file)})
    task = tasks_of(client)[-1]
    assert type_expression(client, task["id"], "the spoon")
    client.close()


def test_broken_photo_is_an_error_one_can_find(stack: Running) -> None:
    client = stack.client()
    broken = client.request(
        "POST", "/api/projects/1/import", files={"file": ("broken.png", b"\x89PNG no image")}
    )
    assert broken["task_count"] == 1
    task = tasks_of(client)[-1]
    backend_id = client.request("GET", "/api/ml", params={"project": 1})[0]["id"]
    context = {
        "result": [
            {"value": {"text": ["x y"]}, "from_name": "expression", "to_name": "image",
             "type": "textarea"},
        ]
    }  # fmt: skip
    answer = client.request(
        "POST",
        f"/api/ml/{backend_id}/interactive-annotating",
        json={"task": task["id"], "context": context},
    )
    (notice,) = answer["data"]["result"]
    assert notice["value"]["text"][0].startswith("The photo cannot be used")
    page = httpx.get(stack.backend_url).text
    assert "The file is not an image" in page
    client.close()


@pytest.mark.parametrize("way", ["webhooks", "sync alone"])
def test_a_scripted_day_gives_the_known_truth(
    stack: Running, samples: dict[str, Path], way: str
) -> None:
    """Every outcome, told by webhooks; then again with webhooks cut off, told by sync."""
    with closing(stack.client()) as client:
        project, is_new = client.find_or_create_project(f"A day, {way}")
        assert is_new
        connect(client, project, stack)
        hooks = client.request("GET", "/api/webhooks", params={"project": project})
        if way == "sync alone":
            for hook in hooks:
                client.request("DELETE", f"/api/webhooks/{hook['id']}/")
        photos = [samples[name] for name in ("astronaut", "chelsea", "coffee", "rocket")]
        client.import_images(project, [*photos, *photos[:2]])
        tasks = [task["id"] for task in tasks_of(client, project)]
        annotating_day.work(
            client,
            tasks,
            lambda task, *lines: type_expression(client, task, *lines, project=project),
        )
    if way == "sync alone":
        assert (
            stack.saymask("stats", "--json", "--project", str(project))["quality"]["samples"] == 0
        )
        (report,) = stack.saymask("sync", "--json", "--project", str(project))["projects"]
        assert (report["annotations"], report["missing"], report["problems"]) == (9, 9, [])
        (report,) = stack.saymask("sync", "--json", "--project", str(project))["projects"]
        assert report["missing"] == report["outdated"] == report["deleted"] == 0
    else:
        (report,) = stack.saymask("sync", "--json", "--project", str(project))["projects"]
        assert report["missing"] == report["outdated"] == report["deleted"] == 0, "webhooks lost"
    stats = stack.saymask("stats", "--json", "--project", str(project))
    quality = stats["quality"]
    truth = dict(annotating_day.TRUTH)
    assert quality["seconds"]["count"] == truth.pop("seconds_count")
    total = truth.pop("seconds_total")
    assert quality["per_hour"] == round(quality["seconds"]["count"] / total * 3600, 1)
    assert {name: quality[name] for name in truth} == truth
    assert stats["events"].get("problem", 0) == 0
    edited = stack.saymask("records", "list", "--json", "--outcome", "edited", "--project",
                     str(project))  # fmt: skip
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    picture = SCREENSHOTS / "record.png"
    stack.saymask("records", "overlay", str(edited[0]["id"]), "-o", str(picture))
    assert picture.stat().st_size > 10_000


def test_export_import_export_gives_the_same(stack: Running, tmp_path: Path) -> None:
    """Everything of the scripted day leaves, comes back as a project of its own, leaves again."""
    day = next(p for p in projects(stack) if p["title"] == "A day, webhooks")
    arguments = ("--json", "--split", "1/0/0")
    first = tmp_path / "first"
    stack.saymask("export", "grefcoco", str(first), *arguments, "--project", str(day["id"]))
    with closing(stack.client()) as client:
        project, _ = client.find_or_create_project("A day, imported")
        connect(client, project, stack)
        to_project = ("--project", str(project), "--json")
        checked, _ = client.find_or_create_project("A day, to check")
        report = stack.saymask("import", "grefcoco", str(first), *to_project, "--as-annotations")
        assert (report["photos"], report["no_referent"], report["existing"]) == (4, 1, 0)
        again = stack.saymask("import", "grefcoco", str(first), *to_project, "--as-annotations")
        assert (again["tasks"], again["existing"]) == (0, report["tasks"])
        stack.saymask("import", "grefcoco", str(first), "--project", str(checked), "--json")
        predictions = [p for task in tasks_of(client, checked) for p in task["predictions"]]
        assert len(predictions) == report["tasks"]
        assert {p["model_version"] for p in predictions} == {"imported"}
    stack.saymask("sync", "--project", str(project))
    second = tmp_path / "second"
    stack.saymask("export", "grefcoco", str(second), *arguments, "--project", str(project))
    assert read_grefs(first) == read_grefs(second)
    assert len(read_grefs(first)) == 8


def write_rows(folder: Path, samples: dict[str, Path]) -> None:
    """Rows as a batch writes them: one sure, one doubtful, each with a square."""
    target = PartFolder(str(folder))
    target.begin({"source": str(samples["chelsea"].parent), "model_version": "batch"})
    parts = []
    for name, text, confidence in (("chelsea", "the cat", 0.9), ("coffee", "the cup", 0.3)):
        height, width = np.array(Image.open(samples[name])).shape[:2]
        mask = np.zeros((height, width), bool)
        mask[40:140, 60:200] = True
        rle = encode_coco_rle(mask)
        sha256 = hashlib.sha256(samples[name].read_bytes()).hexdigest()
        candidate = {
            "rank": 1, "score": 2.0, **rle, "box_xywh": [60, 40, 140, 100],
            "predicted_iou": 0.9, "stability_score": 0.9, "source": "proposals",
        }  # fmt: skip
        row = {
            "image": samples[name].name, "sha256": sha256, "height": height, "width": width,
            "expression": text, "provenance": "proposed", "noun_phrase": text.split()[-1],
            "confidence": confidence, "notices": [], "model_version": "batch",
            "candidates": [candidate],
        }  # fmt: skip
        parts.append(ImageRows(samples[name].name, sha256, (row,)))
    target.write(*build_part(parts))


def test_doubtful_rows_of_a_batch_are_reviewed_and_decisions_join_them(
    stack: Running, samples: dict[str, Path], tmp_path: Path
) -> None:
    rows = tmp_path / "rows"
    write_rows(rows, samples)
    with closing(stack.client()) as client:
        project, _ = client.find_or_create_project("Rows of a batch")
        connect(client, project, stack)
        chosen = ("--project", str(project), "--doubtful", "0.5", "--json")
        report = stack.saymask("import", "parquet", str(rows), *chosen)
        assert (report["tasks"], report["expressions"]) == (1, 1)
        (task,) = tasks_of(client, project)
        assert task["data"]["expressions"] == ["the cup"]
        body = {"result": task["predictions"][0]["result"], "lead_time": 3}
        client.request("POST", f"/api/tasks/{task['id']}/annotations", json=body)
    stack.saymask("sync", "--project", str(project))
    out = tmp_path / "decisions.parquet"
    written = stack.saymask(
        "decisions", str(rows), "--project", str(project), "--out", str(out), "--json"
    )
    assert written == {"decisions": 1, "unmatched": 0}
    (decision,) = pq.read_table(out).to_pylist()
    (row,) = (r for r in BatchRows(str(rows)).iterate() if r["expression"] == "the cup")
    for name in ("image", "sha256", "expression"):
        assert decision[name] == row[name]
    assert decision["outcome"] == "accepted"
    mask = {"size": decision["size"], "counts": decision["counts"]}
    offered = {name: row["candidates"][0][name] for name in ("size", "counts")}
    assert (decode_coco_rle(mask) == decode_coco_rle(offered)).all()


def test_lists_of_exactly_one_page(stack: Running, samples: dict[str, Path]) -> None:
    """What comes after the last full page is "not found"."""
    with closing(stack.client()) as client:
        project, _ = client.find_or_create_project("A hundred")
        connect(client, project, stack)
        photo = client.upload_image(project, samples["chelsea"], "chelsea.jpg")
        client.import_tasks(project, [{"data": {"image": photo}}] * 100)
        before = len(client.list_projects())
        for number in range(before, 31):
            client.request("POST", "/api/projects/", json={"title": f"Another {number}"})
        assert len(client.list_projects()) == max(before, 31)
        tasks = list(client.iterate_tasks(project, LeftOut()))
        assert len({task.id for task in tasks}) == 100
        client.create_prediction(tasks[0].id, {"result": [], "model_version": "x"})
        assert [p.model_version for p in client.list_predictions(tasks[0].id)] == ["x"]
        assert len(client.list_tasks_after(project, tasks[-3].id, 2)) == 2
    to_project = ("--project", str(project), "--json")
    assert stack.saymask("prepare", *to_project)["prepared"] == 100
    assert stack.saymask("preannotate", *to_project, "--dry-run")["no_expression"] == 100
    (report,) = stack.saymask("sync", *to_project)["projects"]
    assert report["tasks"] == 100
    with closing(stack.client()) as client:
        client.import_tasks(project, [{"data": {"image": " "}}])
    report = stack.saymask("prepare", *to_project, status=1)
    assert (report["prepared"], len(report["failed"])) == (100, 1)


def both(stack: Running, *arguments: str) -> list[Any]:
    """A command twice at the same time; the JSON of each."""
    command = [SAYMASK, *arguments, "--json"]
    running = [
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=stack.environment,
        )
        for _ in range(2)
    ]  # fmt: skip
    outputs = [one.communicate(timeout=200) for one in running]
    assert [one.returncode for one in running] == [0, 0], outputs
    return [json.loads(output) for output, _ in outputs]


def test_two_commands_at_once_make_one_of_each(stack: Running, samples: dict[str, Path]) -> None:
    both(stack, "connect", "--create", "Twice at once", "--backend-url", stack.backend_url)
    (project,) = [p["id"] for p in projects(stack) if p["title"] == "Twice at once"]
    with closing(stack.client()) as client:
        assert len(client.list_ml_backends(project)) == len(client.list_webhooks(project)) == 1
        client.import_images(project, [samples["chelsea"]])
        (task,) = tasks_of(client, project)
        for number in range(4):
            mask = np.zeros((300, 451), bool)
            mask[40:140, 60 + number : 200] = True
            result = brush(f"own{number}", mask, "referent", "manual", f"thing {number}")
            client.request("POST", f"/api/tasks/{task['id']}/annotations", json={"result": result})
    stack.saymask("sync", "--project", str(project))
    reports = both(stack, "verify", "--project", str(project), "--sample", "3")
    assert sorted(report["added"] for report in reports) == [1, 3]
    (own,) = [p for p in projects(stack) if p["title"] == f"Verification of project {project}"]
    with closing(stack.client()) as client:
        drawn = [task["data"]["saymask_record"] for task in tasks_of(client, own["id"])]
        assert len(drawn) == len(set(drawn)) == 4
        client.update_project(own["id"], description="of somebody else")
    stack.saymask("verify", "--project", str(project), "--sample", "3", status=2)


def read_grefs(folder: Path) -> set[tuple[str, str]]:
    """Every sentence with its photo's content and its mask."""
    dataset = load_dataset("export", folder, "train")
    return {
        (image.path.name, expression.text, json.dumps(expression.target, default=str))
        for image in dataset.images
        for expression in image.expressions
    }


def projects(stack: Running) -> list[dict[str, Any]]:
    with closing(stack.client()) as client:
        return client.request("GET", "/api/projects", params={"page_size": 100})["results"]


def test_worker_that_dies_is_started_again_and_the_stack_keeps_its_data(stack: Running) -> None:
    def answering() -> dict[str, str]:
        """pid to state of the workers that take typed expressions."""
        workers = httpx.get(f"{stack.backend_url}/ready").json()["workers"]
        assert {"interactive", "background", "training"} >= {worker["queues"] for worker in workers}
        return {w["pid"]: w["state"] for w in workers if w["queues"] == "interactive"}

    (killed,) = answering()
    os.kill(killed, signal.SIGKILL)
    deadline = time.monotonic() + 90
    while killed in answering() or not set(answering().values()) & {"idle", "busy"}:
        assert time.monotonic() < deadline, answering()
        time.sleep(0.5)

    with closing(stack.client()) as client:
        before = len(tasks_of(client))
    stack.stop()
    for url in (stack.studio_url, stack.backend_url):
        with pytest.raises(httpx.ConnectError):
            httpx.get(url)
    stack.start_again()
    with closing(stack.client()) as client:
        tasks = tasks_of(client)
        assert len(tasks) == before
        assert type_expression(client, tasks[1]["id"], "the cat")


def test_a_taken_port_is_explained(tmp_path: Path) -> None:
    if not PROGRAM:
        pytest.skip("no Label Studio: set SAYMASK_LABEL_STUDIO_PROGRAM (make test does)")
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = start_up(tmp_path / "data", [port, free_port(), free_port()])
        try:
            assert refused.process.wait(120) == 2
        finally:
            refused.process.kill()
        assert f"SAYMASK_LABEL_STUDIO_PORT={port + 1}" in refused.output.read_text("utf-8")


SIZES_HW = {
    "astronaut": (512, 512), "chelsea": (300, 451), "china": (427, 640), "coffee": (400, 600),
    "flower": (427, 640), "rocket": (427, 640),
}  # fmt: skip


def annotate_squares(client: LabelStudioClient) -> int:
    """Two drawn squares on each sample photo; returns how many."""
    count = 0
    for task in tasks_of(client):
        stem = Path(task["data"]["image"]).stem.rpartition("-")[2]
        if stem not in SIZES_HW:
            continue
        height, width = SIZES_HW.pop(stem)
        result = []
        for side, text in enumerate(("the left square", "the right square")):
            mask = np.zeros((height, width), bool)
            left = 20 + side * width // 2
            mask[50:200, left : left + 150] = True
            result += brush(f"own{task['id']}{side}", mask, "referent", "manual", text)
            count += 1
        body = {"result": result, "lead_time": 9.0}
        client.request("POST", f"/api/tasks/{task['id']}/annotations", json=body)
    return count


def test_learning_from_records_survives_a_killed_worker(stack: Running) -> None:
    """Export, train CRIS, compare, decide: the real thing, one epoch long."""

    def read_ready() -> dict[str, Any]:
        return httpx.get(f"{stack.backend_url}/ready", timeout=30).json()

    def find_trainer() -> int | None:
        workers = read_ready()["workers"]
        return next((w["pid"] for w in workers if w["queues"] == "training"), None)

    def has_state(run: str, *states: str) -> bool:
        training = read_ready()["training"] or {}
        return training.get("run") == run and training["state"] in states

    with closing(stack.client()) as client, closing(stack.open_stores()) as stores:
        wanted = annotate_squares(client)
        assert wanted == 12

        def count_refs() -> int:
            records = stores.records.iterate_records(RecordFilter(project_id=1))
            return sum("square" in record.expression for record in records)

        await_state(lambda: count_refs() == wanted, "the webhooks did not arrive", 60)
        (run,) = stack.saymask(
            "train", "--project", "1", "--epochs", "1", "--no-wait", "--json"
        ).values()
        await_state(lambda: has_state(run, "training"), "the run did not begin", 120)
        first = find_trainer()
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await_state(lambda: find_trainer() not in (None, first), "no new worker", 60)
        over = ("served", "not better", "failed")
        await_state(lambda: has_state(run, *over), "the run did not end", 400)
        training = read_ready()["training"]
        assert training["state"] != "failed", training
        assert "photos not used for training or model selection" in training["text"]
        models = stack.saymask("models", "list", "--json")
        (model,) = [m for m in models if m["name"] == run]
        assert model["is_served"] == (training["state"] == "served")
        assert model["verdict"]["images"] >= 1
        report = stack.data_dir / "models" / run / "report.html"
        assert "Held-out photos" in report.read_text("utf-8")

        # The same by Label Studio's own button, and stopped again.
        backend_id = client.request("GET", "/api/ml", params={"project": 1})[0]["id"]
        client.request("POST", f"/api/ml/{backend_id}/train", json={})
        following = f"run-{int(run[-4:]) + 1:04d}"
        await_state(lambda: has_state(following, "training"), "the button did nothing", 120)
        said = stack.saymask("train", "--stop")
        assert f"{following} is stopped" in said
        await_state(lambda: has_state(following, "failed"), "the run was not stopped", 120)
        assert "It was stopped" in read_ready()["training"]["text"]
