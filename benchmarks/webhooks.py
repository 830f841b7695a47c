"""Webhooks as fast as eight annotators could never send them: all stored, how soon answered."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import threading
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from backend.label_studio.label_config import default_label_config
from backend.local_stack.processes import ProcessGroup
from backend.records.stores import Stores
from backend.records.views import RecordFilter
from benchmarks.measure import Row, find_free_port, percentile
from saymask.masks import encode_brush_rle

WEBHOOKS, SECONDS, CONNECTIONS = 500, 10.0, 8
_HEIGHT, _WIDTH = 480, 640


def _body(number: int) -> dict[str, Any]:
    """An annotation with one mask of a usual size, as Label Studio sends it."""
    y, x = np.mgrid[:_HEIGHT, :_WIDTH]
    mask = (y - 200) ** 2 + (x - 300 - number % 50) ** 2 < 90**2
    region = {
        "id": f"own{number}", "type": "brushlabels", "from_name": "mask", "to_name": "image",
        "origin": "manual", "original_width": _WIDTH, "original_height": _HEIGHT,
        "value": {"format": "rle", "rle": encode_brush_rle(mask), "brushlabels": ["referent"]},
    }  # fmt: skip
    moment = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number)
    return {
        "action": "ANNOTATION_CREATED",
        "project": {"id": 1, "label_config": default_label_config()},
        "task": {"id": number, "data": {"image": f"/data/upload/{number}.jpg"}},
        "annotation": {
            "id": number, "result": [region], "was_cancelled": False, "lead_time": 9.0,
            "completed_by": 1, "updated_at": moment.isoformat(),
        },
    }  # fmt: skip


def _measure(url: str, folder: Path) -> tuple[list[float], float]:
    """Seconds per webhook, and until the last record was written."""
    bodies = [json.dumps(_body(number)).encode() for number in range(1, WEBHOOKS + 1)]
    port = find_free_port()
    stack = ProcessGroup(folder / "logs", lambda _line: None)
    environment = {"SAYMASK_DATABASE_URL": url, "SAYMASK_PORT": str(port)}
    program = str(Path(sys.executable).parent / "saymask")
    try:
        backend = stack.start("backend", [program, "serve"], environment)
        address = f"http://127.0.0.1:{port}"
        stack.wait_until(backend, lambda: _is_up(address), 60, "The backend")
        started = time.perf_counter()
        times: list[float] = []

        def send(first: int) -> None:
            with httpx.Client(timeout=30) as client:
                for number in range(first, WEBHOOKS, CONNECTIONS):
                    pause = started + number * SECONDS / WEBHOOKS - time.perf_counter()
                    time.sleep(max(0.0, pause))
                    sent = time.perf_counter()
                    client.post(f"{address}/webhook", content=bodies[number]).raise_for_status()
                    times.append(time.perf_counter() - sent)

        threads = [threading.Thread(target=send, args=(n,)) for n in range(CONNECTIONS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with closing(Stores(url)) as stores:
            while (count := stores.records.count_records(RecordFilter())) < WEBHOOKS:
                if time.perf_counter() - started > 10 * SECONDS:
                    raise RuntimeError(f"{count} of {WEBHOOKS} webhooks became records")
                time.sleep(0.1)
        return times, time.perf_counter() - started
    finally:
        stack.stop()


def _is_up(address: str) -> bool:
    try:
        return httpx.get(f"{address}/health", timeout=2).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def compare(postgresql: str | None) -> list[Row]:
    """Median and p95, SQLite always, PostgreSQL where an empty database is named."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        urls = {"SQLite": f"sqlite:///{folder / 'bench.db'}"}
        if postgresql:
            urls["PostgreSQL"] = postgresql
        for name, url in urls.items():
            times, whole_s = _measure(url, folder)
            rows.append(
                Row(
                    f"{WEBHOOKS} webhooks in {SECONDS:.0f} s over {CONNECTIONS} connections,"
                    f" {name}, all recorded after {whole_s:.1f} s: median / p95",
                    f"{statistics.median(times) * 1000:.0f} ms",
                    f"{percentile(times, 0.95) * 1000:.0f} ms", "", "A 50 ms, B 200 ms",
                )
            )  # fmt: skip
    return rows
