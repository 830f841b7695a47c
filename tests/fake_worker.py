"""A worker process without models: the real queue, jobs and heartbeat, with predictable masks.

What its pipeline does with an expression: ``sleep N ...`` takes N seconds, ``fail`` reports an
error, ``bug`` raises, ``away`` finds the queue away once, ``nothing`` finds nothing, ``doubtful``
has a low confidence, ``die`` kills the process (once, if the file named by FAKE_WORKER_DIES_ONCE
exists; it is removed first).
Anything else gives k square masks: the second and those after the third cover a part of the first,
the third is separate from them. An image that contains ``unseen`` gets a first look until it is
prepared. An image that contains ``slow`` is prepared in 20 batches of a tenth of a second each, and
what it shows is proposed after three seconds. An image that contains ``poison`` kills the process.
What it prepares of one that contains ``unkept`` is not kept. In every image it proposes a cat and a
dog, and takes what is on the right for false. With FAKE_WORKER_SHARES it finds what others have
prepared. What was asked of it is in the Redis list ``fake:log``.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import redis

from saymask.contract import (
    Candidate,
    CocoRle,
    Describer,
    FalseExpression,
    ProposedPair,
    SegmentResult,
    Timings,
)
from saymask.errors import ImageUnreadable
from saymask.logs import configure_logging
from saymask.masks import compute_area, encode_coco_rle
from saymask_worker.config.settings import WorkerSettings, load_worker_settings
from saymask_worker.images.types import (
    EncodedImage,
    Geometry,
    PreparedImage,
    Proposals,
    VisualFeatures,
    VisualPrompt,
)
from saymask_worker.serving.main import run_worker

VERSION = "saymask-fake-1"
LOG_KEY = "fake:log"
SHARED_KEY = "fake:prepared"


def build_candidate(rank: int) -> Candidate:
    mask = np.zeros((48, 64), bool)
    left, top = (50, 36) if rank == 3 else (rank % 8, rank % 8)
    mask[top : top + 8, left : left + 10] = True
    return Candidate(
        rank=rank,
        score=1 / rank,
        mask=CocoRle.model_validate(encode_coco_rle(mask)),
        box_xywh=(left, top, 10, 8),
        predicted_iou=0.9,
        stability_score=0.9,
    )


def build_result(
    sha256: str, expression: str, count: int, confidence: float | None = None
) -> SegmentResult:
    return SegmentResult(
        image_sha256=sha256, expression=expression, size_hw=(48, 64),
        candidates=tuple(build_candidate(rank) for rank in range(1, count + 1)),
        confidence=confidence, head_noun_phrase="the cat", proposals_count=count,
        model_version=VERSION, from_cache=False, timings=Timings(),
    )  # fmt: skip


def build_prepared(sha256: str) -> PreparedImage:
    """One proposal that fills the image; its numbers are never read."""
    one, pair = np.ones(1, np.float32), np.ones((1, 1), np.float32)
    proposals = Proposals(np.ones((1, 48, 64), bool), one, one, one, one, (48, 64))
    geometry = Geometry(one, one, one, one, one, pair, pair)
    return PreparedImage(sha256, proposals, geometry, VisualFeatures(pair, pair), ())


@dataclass(frozen=True)
class FakeEmbedding:
    sha256: str


class FakePipeline:
    """Has the interface of ``saymask_worker.pipeline.pipeline.Pipeline``."""

    device = "cpu"
    cache = None
    model_version = VERSION
    encoder_description = "fake encoder"

    def __init__(self, connection: redis.Redis, between_batches: Callable[[], None]) -> None:
        self._redis = connection
        self._between_batches = between_batches
        self._prepared: dict[str, PreparedImage] = {}

    def warm_up(self) -> None:
        """There is nothing to load."""

    def load_prepared(self, sha256: str) -> PreparedImage | None:
        if "FAKE_WORKER_SHARES" in os.environ and self._redis.sismember(SHARED_KEY, sha256):
            return build_prepared(sha256)
        return self._prepared.get(sha256)

    def prepare(self, data: bytes) -> tuple[PreparedImage, Timings]:
        sha256 = hashlib.sha256(data).hexdigest()
        self._log(f"prepare {sha256[:8]}")
        if b"poison" in data:
            os.kill(os.getpid(), 9)
        for _ in range(20 if b"slow" in data else 0):
            time.sleep(0.1)
            self._between_batches()
        if b"unkept" in data:
            prepared = replace(build_prepared(sha256), not_kept=("The disk is full.", "No."))
            return prepared, Timings()
        self._prepared[sha256] = build_prepared(sha256)
        self._redis.sadd(SHARED_KEY, sha256)
        return self._prepared[sha256], Timings()

    def look_first(self, data: bytes) -> tuple[PreparedImage, Timings] | None:
        if b"unseen" not in data:
            return None
        sha256 = hashlib.sha256(data).hexdigest()
        self._log(f"look {sha256[:8]}")
        return replace(build_prepared(sha256), is_first_look=True), Timings()

    def segment(
        self,
        prepared: PreparedImage,
        expression: str,
        k: int,
        *,
        preparation: Timings | None,
        encoded: EncodedImage | None = None,
    ) -> SegmentResult:
        self._log(f"segment {expression}")
        word, *rest = expression.split()
        if word == "sleep":
            time.sleep(float(rest[0]))
        if word == "die":
            marker = Path(os.environ.get("FAKE_WORKER_DIES_ONCE", "/nonexistent"))
            if marker.exists():
                marker.unlink()
                os.kill(os.getpid(), 9)
        if word == "away" and self._redis.incr("fake:away") == 1:
            raise redis.ConnectionError("the queue is away")
        if word == "bug":
            raise RuntimeError("a bug in the worker")
        if word == "fail":
            raise ImageUnreadable("The photo is damaged.", "No.")
        count = 0 if word == "nothing" else k
        confidence = 0.2 if word == "doubtful" else 0.9
        result = build_result(prepared.sha256, expression, count, confidence)
        return result.model_copy(update={"is_first_look": prepared.is_first_look})

    def propose(
        self,
        prepared: PreparedImage,
        data: bytes,
        count: int,
        confidence_min: float,
        seed: int,
        describer: Describer = "rules",
    ) -> tuple[ProposedPair, ...]:
        if b"slow" in data:
            time.sleep(3)
        self._log(f"propose {prepared.sha256[:8]} {count} {confidence_min} {seed} {describer}")
        pairs = [
            ProposedPair(
                expressions=(f"the {noun}", noun), noun=noun, confidence=confidence,
                candidate=build_candidate(rank),
                described_by="" if describer == "rules" else "eyes-2b",
            )
            for rank, (noun, confidence) in enumerate((("cat", 0.9), ("dog", 0.5)), start=1)
        ]  # fmt: skip
        return tuple(pair for pair in pairs if pair.confidence >= confidence_min)[:count]

    def propose_false(
        self, prepared: PreparedImage, data: bytes, accepted: Sequence[str], count: int, seed: int
    ) -> tuple[FalseExpression, ...]:
        self._log(f"false {prepared.sha256[:8]} {'; '.join(accepted)}")
        made = [
            FalseExpression(expression=text.replace("left", "right"), accepted=text)
            for text in accepted
            if "left" in text
        ]
        return tuple(made[:count])

    def embed(self, data: bytes) -> FakeEmbedding:
        return FakeEmbedding(hashlib.sha256(data).hexdigest())

    def refine(
        self,
        image: FakeEmbedding,
        expression: str,
        prompt: VisualPrompt,
        k: int,
        *,
        from_cache: bool,
    ) -> SegmentResult:
        clicks = " ".join(
            f"{'+' if positive else '-'}{x:.0f},{y:.0f}"
            for (x, y), positive in zip(prompt.points_xy, prompt.positive, strict=True)
        )
        box = "" if prompt.box_xyxy is None else f" box {[round(v) for v in prompt.box_xyxy]}"
        start = "" if prompt.start is None else f" from {compute_area(prompt.start)}"
        self._log(f"refine {expression!r} {clicks}{box}{start}")
        return build_result(image.sha256, expression, 1)

    def _log(self, line: str) -> None:
        self._redis.rpush(LOG_KEY, line)


def main(url: str) -> None:
    settings = load_worker_settings(
        redis_url=url, queues=os.environ.get("FAKE_WORKER_QUEUES", "all")
    )

    configure_logging(settings.log_format)

    def build(_settings: WorkerSettings, between_batches: Callable[[], None]) -> FakePipeline:
        connection = redis.Redis.from_url(url)
        connection.rpush(LOG_KEY, "build")
        return FakePipeline(connection, between_batches)

    run_worker(settings, build)


if __name__ == "__main__":
    main(sys.argv[1])
