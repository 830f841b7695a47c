"""A worker process without models: real queue, real heartbeat, predictable masks.

What it does with an expression: ``sleep N ...`` takes N seconds, ``fail`` reports an error,
``bug`` raises, ``nothing`` finds nothing, ``die`` kills the process (once, if the file named by
FAKE_WORKER_DIES_ONCE exists; it is removed first). Anything else gives k square masks.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import types
from pathlib import Path

import numpy as np
import redis
from rq import Queue, SimpleWorker
from rq.serializers import JSONSerializer

from backend.contract import (
    PHOTO_KEY,
    QUEUE_BACKGROUND,
    QUEUE_INTERACTIVE,
    WORKER_KEY,
    Candidate,
    CocoRle,
    JobFailure,
    JobReply,
    PrepareRequest,
    PrepareResult,
    RefineRequest,
    SegmentRequest,
    SegmentResult,
    Timings,
    WorkerStatus,
)
from backend.masks import compute_area, decode_coco_rle, encode_coco_rle

VERSION = "saymask-fake-1"


def candidate(rank: int) -> Candidate:
    mask = np.zeros((48, 64), bool)
    mask[rank : rank + 8, rank : rank + 10] = True
    return Candidate(
        rank=rank,
        score=1 / rank,
        mask=CocoRle.model_validate(encode_coco_rle(mask)),
        box_xywh=(rank, rank, 10, 8),
        predicted_iou=0.9,
        stability_score=0.9,
    )


def mask_area(mask: CocoRle) -> int:
    return compute_area(decode_coco_rle(mask.as_dict()))


def main(url: str) -> None:
    connection = redis.Redis.from_url(url)
    name = f"fake-{os.getpid()}"
    log_key = "fake:log"
    kind = os.environ.get("FAKE_WORKER_QUEUES", "all")

    def segment(message: dict) -> dict:
        request = SegmentRequest.model_validate(message)
        connection.rpush(log_key, f"segment {request.expression}")
        words = request.expression.split()
        if words[0] == "sleep":
            time.sleep(float(words[1]))
        if words[0] == "die":
            marker = Path(os.environ.get("FAKE_WORKER_DIES_ONCE", "/nonexistent"))
            if marker.exists():
                marker.unlink()
                os.kill(os.getpid(), 9)
        if words[0] == "bug":
            raise RuntimeError("a bug in the worker")
        if words[0] == "fail":
            failure = JobFailure(code="PhotoUnreadable", cause="The photo is damaged.", cure="No.")
            return JobReply(failure=failure).model_dump(mode="json")
        if not connection.exists(PHOTO_KEY.format(sha256=request.photo_sha256)):
            raise RuntimeError("the photo did not come along")
        count = 0 if words[0] == "nothing" else request.k
        result = SegmentResult(
            photo_sha256=request.photo_sha256,
            expression=request.expression,
            size_hw=(48, 64),
            candidates=tuple(candidate(rank) for rank in range(1, count + 1)),
            confidence=0.2 if words[0] == "doubtful" else 0.9,
            head_noun_phrase="the cat",
            proposals_count=count,
            model_version=VERSION,
            from_cache=False,
            timings=Timings(),
        )
        return JobReply(segment=result).model_dump(mode="json")

    def refine(message: dict) -> dict:
        request = RefineRequest.model_validate(message)
        clicks = " ".join(
            f"{'+' if c.positive else '-'}{c.x:.0f},{c.y:.0f}" for c in request.clicks
        )
        box = "" if request.box_xyxy is None else f" box {[round(v) for v in request.box_xyxy]}"
        start = "" if request.start is None else f" from {mask_area(request.start)}"
        connection.rpush(log_key, f"refine {request.expression!r} {clicks}{box}{start}")
        result = SegmentResult(
            photo_sha256=request.photo_sha256,
            expression=request.expression,
            size_hw=(48, 64),
            candidates=(candidate(1),),
            head_noun_phrase=None,
            proposals_count=1,
            model_version=VERSION,
            from_cache=False,
            timings=Timings(),
        )
        return JobReply(segment=result).model_dump(mode="json")

    def prepare(message: dict) -> dict:
        request = PrepareRequest.model_validate(message)
        connection.rpush(log_key, f"prepare {request.photo_sha256[:8]}")
        result = PrepareResult(
            photo_sha256=request.photo_sha256,
            proposals_count=1,
            model_version=VERSION,
            from_cache=False,
            timings=Timings(),
        )
        return JobReply(prepare=result).model_dump(mode="json")

    jobs = types.ModuleType("worker.jobs")
    jobs.segment, jobs.prepare, jobs.refine = segment, prepare, refine
    sys.modules["worker.jobs"] = jobs

    def beat() -> None:
        status = WorkerStatus(
            name=name, pid=os.getpid(), host="here", state="idle", model_version=VERSION,
            encoder="fake", proposals="fake", device="cpu", started_at=0.0, rss_mb=1.0, jobs_done=0,
            queues=kind,
        )  # fmt: skip
        while True:
            connection.set(WORKER_KEY.format(name=name), status.model_dump_json(), px=3000)
            time.sleep(0.5)

    threading.Thread(target=beat, daemon=True).start()
    queues = [
        Queue(queue, connection=connection, serializer=JSONSerializer)
        for queue in (QUEUE_INTERACTIVE, QUEUE_BACKGROUND)
        if kind == "all" or kind in queue
    ]
    worker = SimpleWorker(queues, connection=connection, name=name, serializer=JSONSerializer)
    worker.work(logging_level="WARNING")


if __name__ == "__main__":
    main(sys.argv[1])
