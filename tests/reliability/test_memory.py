"""Memory that a webhook or sync can ask for: processes with a limit, that go on living."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from saymask.contract import Candidate, CocoRle, SegmentResult, Timings
from saymask.masks import pack_brush_rle
from saymask.runs import RunMask
from saymask_backend.records.requests import NewRequest
from saymask_backend.records.stores import Stores
from saymask_backend.records.types import build_region_id
from saymask_backend.services.record import Recorder
from tests.backend.submissions import ALL, A, send
from tests.backend.test_sync import Studio
from tests.conftest import free_port, start_backend
from tests.factories import KEY, PROJECT, annotation, brush, event, offer, typed

ROOT = Path(__file__).parents[2]
PHOTO_HW = (9_000, 13_333)
_EXPRESSIONS = 20

_RECORD = """
import resource, sys
from saymask_backend.records.stores import Stores
from saymask_backend.services.record import Recorder
stores = Stores(sys.argv[1])
stores.events.count_events_by_state()
grown = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
limit = grown + 300_000_000
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
Recorder(stores).process_waiting()
"""

_SYNC = """
import os, signal, sys
from contextlib import closing
from saymask_backend.label_studio.client import LabelStudioClient
from saymask_backend.records.stores import Stores
from saymask_backend.services import record
from saymask_backend.services.sync import Synchroniser
decide = record.decide
def dying(submission, *rest):
    if submission.annotation_id == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return decide(submission, *rest)
record.decide = dying
stores = Stores(sys.argv[1])
with closing(LabelStudioClient(sys.argv[2], "key")) as client:
    report = Synchroniser(client, stores, record.Recorder(stores)).sync(7)
    print(report.missing, len(report.problems))
"""


@pytest.fixture
def studio() -> Iterator[Studio]:
    studio = Studio()
    yield studio
    studio.server.shutdown()
    studio.server.server_close()


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


def ellipse(size_hw: tuple[int, int], center_x: int) -> RunMask:
    """An object over a third of the photo's height, as runs."""
    height = size_hw[0]
    reach = height // 6
    columns = np.arange(center_x - reach + 1, center_x + reach)
    half = np.sqrt(reach**2 - (columns - center_x) ** 2).astype(np.int64)
    middle = columns * height + height // 2
    return RunMask(size_hw, middle - half, middle + half + 1)


def offer_large(stores: Stores, number: int) -> tuple[str, RunMask]:
    """An expression on a photo of 120 megapixels with three candidates; id and mask of the best."""
    expression = f"thing {number}"
    request_id = stores.requests.add_request(NewRequest(KEY, 1, expression, 3, "/data/1.png"))
    masks = [ellipse(PHOTO_HW, 2_000 + 400 * number + 30 * rank) for rank in range(3)]
    candidates = tuple(
        Candidate(
            rank=rank, score=1 / rank, mask=CocoRle.model_validate(mask.to_coco_rle()),
            box_xywh=mask.box_xywh, predicted_iou=0.9, stability_score=0.9,
        )
        for rank, mask in enumerate(masks, 1)
    )  # fmt: skip
    result = SegmentResult(
        image_sha256="0" * 64, expression=expression, size_hw=PHOTO_HW, candidates=candidates,
        head_noun_phrase=None, proposals_count=9, model_version="saymask-test", from_cache=True,
        timings=Timings(),
    )  # fmt: skip
    stores.requests.save_answer(request_id, result, 40.0)
    return build_region_id(request_id, 1), masks[0]


def region(region_id: str, rle: list[int], size_hw: tuple[int, int]) -> dict[str, Any]:
    (entry,) = brush(region_id, A, "top-1", "prediction")
    value = {**entry["value"], "rle": rle}
    return {
        **entry, "value": value, "original_height": size_hw[0], "original_width": size_hw[1],
    }  # fmt: skip


def test_twenty_expressions_on_120_megapixels_in_300_megabytes(stores: Stores, url: str) -> None:
    """Decoded, the candidates alone would take 7.2 GB."""
    accepted = [offer_large(stores, number) for number in range(_EXPRESSIONS)]
    regions = [region(name, mask.to_brush_rle(), PHOTO_HW) for name, mask in accepted]
    send(stores, event(1, annotation(5, regions)), event(2, annotation(6, [typed("x")])))
    finished = run(_RECORD, url)
    assert finished.returncode == 0, finished.stderr
    assert stores.events.count_events_by_state() == {"understood": 2}
    records = [r for r in stores.records.iterate_records(ALL) if r.annotation_id == 5]
    assert [r.outcome for r in records] == ["accepted"] * _EXPRESSIONS
    assert records[0].coco_rle == accepted[0][1].to_coco_rle()


def test_a_backend_of_limited_memory_records_the_honest_and_survives_the_rest(
    stores: Stores, url: str
) -> None:
    """By webhook, with everything a backend does besides."""
    accepted = [offer_large(stores, number) for number in range(_EXPRESSIONS)]
    honest = [region(name, mask.to_brush_rle(), PHOTO_HW) for name, mask in accepted]
    size_hw = (11_585, 11_585)
    counts = np.array([0, size_hw[0] * size_hw[1]])
    huge = region("own", pack_brush_rle(size_hw, counts), size_hw)
    port = free_port()
    backend = start_backend(url, port)
    try:
        pages = int(Path(f"/proc/{backend.pid}/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + 700_000_000
        resource.prlimit(backend.pid, resource.RLIMIT_AS, (limit, limit))
        for number, result in ((5, honest), (6, [huge]), (7, [typed("x")])):
            body = event(1, annotation(number, result))
            httpx.post(f"http://127.0.0.1:{port}/webhook", json=body).raise_for_status()
        deadline = time.monotonic() + 60
        while stores.events.count_events_by_state() != {"understood": 2, "problem": 1}:
            assert time.monotonic() < deadline, stores.events.count_events_by_state()
            assert backend.poll() is None
            time.sleep(0.1)
    finally:
        backend.terminate()
        backend.wait(20)
    outcomes = Counter(r.outcome for r in stores.records.iterate_records(ALL))
    assert outcomes == {"accepted": _EXPRESSIONS, "no_mask": 1}
    assert "claims a photo of" in stores.events.list_problems()[0].problem


@pytest.mark.parametrize("is_known", [True, False], ids=["photo known", "photo never read"])
def test_a_small_rle_of_a_huge_mask(stores: Stores, url: str, is_known: bool) -> None:
    """135 kB of JSON that claim 11,585 x 11,585 pixels."""
    size_hw = (11_585, 11_585)
    if is_known:
        offer(stores, 1, "the cat", [A])
    counts = np.array([0, size_hw[0] * size_hw[1]])
    huge = region("own", pack_brush_rle(size_hw, counts), size_hw)
    send(stores, event(1, annotation(5, [huge])), event(2, annotation(6, [typed("x")])))
    finished = run(_RECORD, url)
    assert finished.returncode == 0, finished.stderr
    recorded = sorted(r.annotation_id for r in stores.records.iterate_records(ALL))
    if not is_known:
        assert recorded == [5, 6]
        return
    assert recorded == [6]
    (problem,) = stores.events.list_problems()
    assert "claims a photo of 11585 x 11585 pixels; the task's photo has 48 x 64" in problem.problem
    assert "saymask records retry" in problem.problem


def test_stripes_in_many_regions_are_a_problem_not_an_end(stores: Stores, url: str) -> None:
    """Each region is allowed, all together are some gigabytes."""
    size_hw = (9_000, 4_000)
    counts = np.concatenate(([0], np.full(400, 10_000), [32_000_000]))
    rle = pack_brush_rle(size_hw, counts)
    regions = [region(f"own{n}", rle, size_hw) for n in range(60)]
    send(stores, event(1, annotation(5, regions)), event(2, annotation(6, [typed("x")])))
    finished = run(_RECORD, url)
    assert finished.returncode == 0, finished.stderr
    assert [r.annotation_id for r in stores.records.iterate_records(ALL)] == [6]
    assert "runs of pixels" in stores.events.list_problems()[0].problem


def test_a_sync_that_ends_the_process_is_set_aside_after_three_attempts(
    stores: Stores, url: str, studio: Studio
) -> None:
    """The process is really killed while it decides; each run is a process of its own."""
    studio.tasks = {1: [annotation(5, [typed("x")])], 2: [annotation(6, [typed("y")])]}
    codes = [run(_SYNC, url, studio.url).returncode for _ in range(4)]
    assert codes == [-9, -9, -9, 0]
    assert [r.annotation_id for r in stores.records.iterate_records(ALL)] == [6]
    (problem,) = stores.events.list_problems()
    assert (problem.source, problem.annotation_id) == ("sync", 5)
    assert "set aside" in problem.problem
    again = run(_SYNC, url, studio.url)
    assert (again.returncode, again.stdout.split()) == (0, ["0", "1"])
    assert len(stores.events.list_problems()) == 1, "nothing is added by each sync"
    assert stores.events.retry_problems() == 1
    assert Recorder(stores).process_waiting() == 1
    assert stores.records.count_records(ALL) == 2
    assert stores.events.count_events_by_state() == {}, "what sync read is not kept"


def test_what_a_webhook_set_aside_is_not_tried_by_sync(
    stores: Stores, url: str, studio: Studio
) -> None:
    body = annotation(5, [typed("x")])
    send(stores, event(1, body))
    studio.tasks = {1: [body]}
    codes = [run(_SYNC, url, studio.url).returncode for _ in range(5)]
    assert codes == [-9, -9, -9, 0, 0]
    problems = stores.events.list_problems()
    assert [p.source for p in problems] == ["sync", "webhook"]
    assert all("set aside" in p.problem for p in problems)
    changed = annotation(5, [typed("z")], after_s=5)
    send(stores, event(1, changed, "ANNOTATION_UPDATED"))
    Recorder(stores).process_waiting()
    assert [r.expression for r in stores.records.iterate_records(ALL)] == ["z"]


def test_events_are_loaded_one_at_a_time(stores: Stores) -> None:
    send(stores, *[event(n, annotation(n, [typed("x")])) for n in range(1, 4)])
    for waiting in stores.events.list_waiting(9):
        assert not hasattr(waiting, "body")
        body = stores.events.load_body(waiting)
        assert body is not None
        assert json.loads(body)["project"]["id"] == PROJECT["id"]
    assert Recorder(stores).process_waiting() == 3
