"""The whole of saymask, started as a user starts it, driven by API and in a real browser."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from backend.datasets.load import load_dataset
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.project import connect_backend, find_or_create_project, upload_photos
from backend.masks import decode_brush_rle
from backend.records.store import Store
from tests import annotator
from tests.browser import CHROMIUM_FLAGS, SCREENSHOTS, chromium
from tests.conftest import free_port
from worker.weights import DEFAULT, WeightStore

pytestmark = pytest.mark.stack

PROGRAM = os.environ.get("SAYMASK_LABEL_STUDIO_PROGRAM", "")
# A coarse grid: these tests are about the way, not about the masks, and must not time out where
# two cores do everything at once.
QUICK = {
    "SAYMASK_SYNC_EVERY_S": "0",
    "SAYMASK_ENCODER": "starter",
    "SAYMASK_POINTS_PER_SIDE": "10",
    "SAYMASK_MAX_PROPOSALS": "40",
}


@dataclass
class Running:
    process: subprocess.Popen[str]
    data_dir: Path
    studio_url: str
    backend_url: str
    output: Path

    @property
    def login(self) -> dict[str, str]:
        return json.loads((self.data_dir / "login.json").read_text("utf-8"))

    def client(self) -> LabelStudioClient:
        return LabelStudioClient(self.studio_url, self.login["token"], timeout_s=120)

    def store(self) -> Store:
        return Store(f"sqlite:///{self.data_dir / 'saymask.db'}")

    def wait_until_up(self) -> None:
        deadline = time.monotonic() + 400
        while "status page" not in self.output.read_text("utf-8"):
            assert self.process.poll() is None, self.output.read_text("utf-8")
            assert time.monotonic() < deadline, self.output.read_text("utf-8")
            time.sleep(0.3)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(40)


def start_up(data_dir: Path, ports: list[int]) -> Running:
    output = data_dir.parent / f"up-{time.monotonic_ns()}.log"
    arguments = ["up", "--label-studio", PROGRAM, "--data-dir", str(data_dir)]
    arguments += ["--label-studio-port", str(ports[0]), "--port", str(ports[1])]
    arguments += ["--queue-port", str(ports[2])]
    environment = {k: v for k, v in os.environ.items() if k != "REDIS_URL"}
    with output.open("w") as file:
        process = subprocess.Popen(
            [str(Path(sys.executable).parent / "saymask"), *arguments],
            stdout=file, stderr=subprocess.STDOUT, text=True,
            env={**environment, **QUICK},
        )  # fmt: skip
    return Running(
        process,
        data_dir,
        f"http://127.0.0.1:{ports[0]}",
        f"http://127.0.0.1:{ports[1]}",
        output,
    )


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    if not PROGRAM:
        pytest.skip("no Label Studio: set SAYMASK_LABEL_STUDIO_PROGRAM (make test does)")
    missing = [name for name in DEFAULT if not WeightStore().is_present(name)]
    if missing:
        pytest.skip(f"weights not pulled: {missing} (saymask-worker models pull)")
    root = tmp_path_factory.mktemp("stack")
    running = start_up(root / "data", [free_port() for _ in range(3)])
    try:
        running.wait_until_up()
        yield running
    finally:
        running.stop()


def tasks_of(client: LabelStudioClient, project: int = 1) -> list[dict[str, Any]]:
    answer = client.request("GET", "/api/tasks", params={"project": project, "fields": "all"})
    return sorted(answer["tasks"], key=lambda task: task["id"])


def type_expression(
    client: LabelStudioClient, task_id: int, text: str, project: int = 1
) -> list[dict[str, Any]]:
    """What the editor sends when an annotator types."""
    backend_id = client.request("GET", "/api/ml", params={"project": project})[0]["id"]
    context = {
        "result": [
            {"value": {"text": [text]}, "id": "x", "from_name": "expression", "to_name": "image",
             "type": "textarea", "origin": "manual"},
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
    client, store = stack.client(), stack.store()
    tasks = tasks_of(client)
    assert len(tasks) == 6
    cat = next(task for task in tasks if "chelsea" in task["data"]["image"])
    regions = type_expression(client, cat["id"], "the cat")
    brushes = [region for region in regions if region["type"] == "brushlabels"]
    assert [r["value"]["brushlabels"] for r in brushes] == [["top-3"], ["top-2"], ["top-1"]]
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
    while store.count_events().get("ANNOTATION_CREATED", 0) < 1:
        assert time.monotonic() < deadline, "the webhook did not arrive"
        time.sleep(0.2)
    event = next(e for e in store.events() if e["action"] == "ANNOTATION_CREATED")
    assert event["body"]["annotation"]["id"] == created["id"]
    assert "token" not in event["body"]["project"]
    stored = {r["id"] for r in event["body"]["annotation"]["result"]}
    request = next(r for r in store.recent_requests() if r.expression == "the cat")
    assert stored <= {c["region_id"] for c in store.candidates(request.id)}
    store.close()
    client.close()


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
    assert answer["errors"]
    page = httpx.get(stack.backend_url).text
    assert "The file is no image saymask can read." in page
    client.close()


def wait_for_suggestions(page: Any) -> None:
    page.wait_for_function(
        "window.Htx?.annotationStore?.selected?.suggestions?.size > 0", timeout=90_000
    )


def pills(page: Any) -> list[tuple[float, float]]:
    """Page positions of the reject and accept marks, pair by pair."""
    return page.evaluate(
        """() => { const im = window.Htx.annotationStore.selected.names.get('image');
        const st = im.stageRef, b = st.container().getBoundingClientRect();
        return st.find('Circle').map(n => { const r = n.getClientRect();
          return [b.x + r.x + r.width / 2, b.y + r.y + r.height / 2]; }); }"""
    )


@pytest.mark.browser
def test_annotator_types_accepts_and_submits_in_a_browser(stack: Running, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    client = stack.client()
    # The marks to accept and reject lie under a mask's box: take an object above the lower edge.
    task_id = next(t["id"] for t in tasks_of(client) if "coffee" in t["data"]["image"])
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            tmp_path / "profile",
            executable_path=chromium(),
            headless=True,
            args=CHROMIUM_FLAGS,
            viewport={"width": 1400, "height": 900},
        )
        page = context.new_page()
        page.goto(f"{stack.studio_url}/user/login/")
        page.fill("input[name=email]", stack.login["email"])
        page.fill("input[name=password]", stack.login["password"])
        page.click("button[type=submit]")
        page.wait_for_function("!location.pathname.includes('login')", timeout=60_000)
        page.goto(f"{stack.studio_url}/projects/1/data?task={task_id}")
        page.click('text="Auto-Annotation"', timeout=60_000)
        field = page.locator('textarea[aria-label="TextArea Input"]').first
        field.click()
        field.type("the spoon")
        started = time.monotonic()
        page.keyboard.press("Shift+Enter")
        wait_for_suggestions(page)
        print(f"suggestions after {time.monotonic() - started:.2f} s")
        page.wait_for_timeout(1000)
        page.screenshot(path=SCREENSHOTS / "suggestions.png")
        suggestions = page.evaluate(
            "[...window.Htx.annotationStore.selected.suggestions.values()]"
            ".map(s => [s.labelName, s.origin, s.score])"
        )
        assert sorted(s[0] for s in suggestions) == ["top-1", "top-2", "top-3"]
        assert {s[1] for s in suggestions} == {"prediction"}

        page.keyboard.press("v")
        accept = pills(page)[-1]
        page.mouse.click(*accept)
        page.wait_for_function(
            "[...window.Htx.annotationStore.selected.areas.values()]"
            ".some(a => a.type === 'brushregion')",
            timeout=15_000,
        )
        page.screenshot(path=SCREENSHOTS / "accepted.png")
        page.locator("button", has_text="Submit").last.click()
        store = stack.store()
        deadline = time.monotonic() + 20
        while True:
            events = [
                e["body"]["annotation"]
                for e in store.events()
                if e["action"] == "ANNOTATION_CREATED"
                and e["body"]["annotation"]["task"] == task_id
            ]
            if events:
                break
            assert time.monotonic() < deadline, "the submitted annotation did not arrive"
            time.sleep(0.2)
        brushes = [r for r in events[0]["result"] if r["type"] == "brushlabels"]
        assert [r["origin"] for r in brushes] == ["prediction"]
        request = next(
            r
            for r in store.recent_requests()
            if r.expression == "the spoon" and r.task_id == task_id
        )
        offered = {c["region_id"]: c for c in store.candidates(request.id)}
        assert brushes[0]["id"] in offered
        texts = [r for r in events[0]["result"] if r["from_name"] == "region_expression"]
        assert texts[0]["value"]["text"] == ["the spoon"]
        store.close()

        page.goto(stack.backend_url)
        assert "ready" in page.locator("h1").inner_text()
        page.set_viewport_size({"width": 1000, "height": 900})
        page.screenshot(path=SCREENSHOTS / "status.png")
        context.close()
    client.close()


@pytest.mark.parametrize("way", ["webhooks", "sync alone"])
def test_a_scripted_day_gives_the_known_truth(
    stack: Running, samples: dict[str, Path], way: str
) -> None:
    """Every outcome, told by webhooks; then again with webhooks cut off, told by sync."""
    with closing(stack.client()) as client:
        project, is_new = find_or_create_project(client, f"A day, {way}")
        assert is_new
        connect_backend(client, project, stack.backend_url)
        hooks = client.request("GET", "/api/webhooks", params={"project": project})
        if way == "sync alone":
            for hook in hooks:
                client.request("DELETE", f"/api/webhooks/{hook['id']}/")
        photos = [samples[name] for name in ("astronaut", "chelsea", "coffee", "rocket")]
        upload_photos(client, project, [*photos, *photos[:2]])
        tasks = [task["id"] for task in tasks_of(client, project)]
        annotator.work(
            client, tasks, lambda task, text: type_expression(client, task, text, project)
        )
    if way == "sync alone":
        assert (
            saymask(stack, "stats", "--json", "--project", str(project))["quality"]["samples"] == 0
        )
        (report,) = saymask(stack, "sync", "--json", "--project", str(project))
        assert (report["annotations"], report["missing"], report["problems"]) == (9, 9, [])
        (report,) = saymask(stack, "sync", "--json", "--project", str(project))
        assert report["missing"] == report["outdated"] == report["deleted"] == 0
    else:
        (report,) = saymask(stack, "sync", "--json", "--project", str(project))
        assert report["missing"] == report["outdated"] == report["deleted"] == 0, "webhooks lost"
    stats = saymask(stack, "stats", "--json", "--project", str(project))
    quality = stats["quality"]
    truth = dict(annotator.TRUTH)
    assert quality["seconds"]["count"] == truth.pop("seconds_count")
    total = truth.pop("seconds_total")
    assert quality["per_hour"] == round(quality["seconds"]["count"] / total * 3600, 1)
    assert {name: quality[name] for name in truth} == truth
    assert stats["events"].get("problem", 0) == 0
    edited = saymask(stack, "records", "list", "--json", "--outcome", "edited", "--project",
                     str(project))  # fmt: skip
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    picture = SCREENSHOTS / "record.png"
    saymask(stack, "records", "overlay", str(edited[0]["id"]), "-o", str(picture))
    assert picture.stat().st_size > 10_000


def test_export_import_export_gives_the_same(stack: Running, tmp_path: Path) -> None:
    """Everything of the scripted day leaves, comes back as a project of its own, leaves again."""
    day = next(p for p in projects(stack) if p["title"] == "A day, webhooks")
    arguments = ("--json", "--split", "1/0/0")
    first = tmp_path / "first"
    saymask(stack, "export", "grefcoco", str(first), *arguments, "--project", str(day["id"]))
    with closing(stack.client()) as client:
        project, _ = find_or_create_project(client, "A day, imported")
        connect_backend(client, project, stack.backend_url)
        to_project = ("--project", str(project), "--json")
        checked, _ = find_or_create_project(client, "A day, to check")
        report = saymask(stack, "import", "grefcoco", str(first), *to_project, "--as-annotations")
        assert (report["photos"], report["no_referent"], report["there"]) == (4, 1, 0)
        again = saymask(stack, "import", "grefcoco", str(first), *to_project, "--as-annotations")
        assert (again["tasks"], again["there"]) == (0, report["tasks"])
        saymask(stack, "import", "grefcoco", str(first), "--project", str(checked), "--json")
        predictions = [p for task in tasks_of(client, checked) for p in task["predictions"]]
        assert len(predictions) == report["tasks"]
        assert {p["model_version"] for p in predictions} == {"imported"}
    saymask(stack, "sync", "--project", str(project))
    second = tmp_path / "second"
    saymask(stack, "export", "grefcoco", str(second), *arguments, "--project", str(project))
    assert read_grefs(first) == read_grefs(second)
    assert len(read_grefs(first)) == 8


def read_grefs(folder: Path) -> set[tuple[str, str]]:
    """Every sentence with its photo's content and its mask."""
    dataset = load_dataset("export", folder, "train")
    return {
        (photo.path.name, expression.text, json.dumps(expression.target, default=str))
        for photo in dataset.photos
        for expression in photo.expressions
    }


def projects(stack: Running) -> list[dict[str, Any]]:
    with closing(stack.client()) as client:
        return client.request("GET", "/api/projects", params={"page_size": 100})["results"]


def saymask(stack: Running, *arguments: str) -> Any:
    """A command of ours against the running stack; its JSON, if it prints any."""
    done = subprocess.run(
        [str(Path(sys.executable).parent / "saymask"), *arguments],
        check=False, text=True, capture_output=True,
        env={
            **os.environ,
            "SAYMASK_DATABASE_URL": f"sqlite:///{stack.data_dir / 'saymask.db'}",
            "SAYMASK_LABEL_STUDIO_URL": stack.studio_url,
            "SAYMASK_LABEL_STUDIO_API_KEY": stack.login["token"],
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout) if "--json" in arguments else done.stdout


def test_worker_that_dies_is_started_again_and_the_stack_keeps_its_data(stack: Running) -> None:
    """Last: it restarts the whole stack."""

    def answering() -> dict[str, str]:
        """pid to state of the workers that take typed expressions."""
        workers = httpx.get(f"{stack.backend_url}/ready").json()["workers"]
        assert {"interactive", "background"} >= {worker["queues"] for worker in workers}
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
    ports = [int(url.rsplit(":", 1)[1]) for url in (stack.studio_url, stack.backend_url)]
    again = start_up(stack.data_dir, [*ports, free_port()])
    stack.process, stack.output = again.process, again.output
    stack.wait_until_up()
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
        running = start_up(tmp_path / "data", [port, free_port(), free_port()])
        assert running.process.wait(30) == 2
        assert f"SAYMASK_LABEL_STUDIO_PORT={port + 1}" in running.output.read_text("utf-8")
