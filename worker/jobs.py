"""What RQ calls: a dict in, a dict out. Expected errors come back as replies, not as traces."""

from __future__ import annotations

import hashlib
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import redis
from pydantic import ValidationError
from rq import get_current_job

from backend.contract import (
    ANSWERING_KEY,
    PHOTO_KEY,
    PREPARED_KEY,
    JobFailure,
    JobReply,
    PrepareRequest,
    PrepareResult,
    RefineRequest,
    SegmentRequest,
    Timings,
)
from backend.errors import InternalError, InvalidRequest, PhotoUnreachable, SaymaskError
from backend.masks import decode_coco_rle
from worker.pipeline import Pipeline, PreparationTimings
from worker.proposals.clicks import EmbeddedPhoto
from worker.stages import PreparedImage, Prompt

log = logging.getLogger(__name__)

_pipeline: Pipeline | None = None
_done = 0
# Photos in front of annotators: their next expression need not read the cache again.
_recent: dict[str, PreparedImage] = {}
_RECENT_MAX = 2
# Megabytes each, so only those of photos somebody clicks on.
_embedded: dict[str, EmbeddedPhoto] = {}
_EMBEDDED_MAX = 4
_POLL_S = 0.05
_ANSWERING_MAX_S = 120.0


def install_pipeline(pipeline: Pipeline) -> None:
    """Give this process its models; called once, before the first job is taken."""
    global _pipeline
    _pipeline = pipeline
    _recent.clear()
    _embedded.clear()


def count_done() -> int:
    """Jobs this process has answered."""
    return _done


def segment(message: dict[str, Any]) -> dict[str, Any]:
    """Job ``JOB_SEGMENT``: a SegmentRequest in, a JobReply out."""
    return _reply(_segment, message)


def refine(message: dict[str, Any]) -> dict[str, Any]:
    """Job ``JOB_REFINE``: a RefineRequest in, a JobReply out."""
    return _reply(_refine, message)


def prepare(message: dict[str, Any]) -> dict[str, Any]:
    """Job ``JOB_PREPARE``: a PrepareRequest in, a JobReply out. Nobody waits for it, so the outcome
    is counted where the status page finds it."""
    reply = _reply(_prepare, message)
    failure = reply["failure"]
    connection = _connection()
    connection.hincrby(PREPARED_KEY, "failed" if failure else "prepared", 1)
    if failure:
        connection.hset(PREPARED_KEY, "last_failure", failure["cause"])
    return reply


def _reply(work: Any, message: dict[str, Any]) -> dict[str, Any]:
    global _done
    try:
        if _pipeline is None:
            raise InternalError("The worker has no models.", "Start it with: saymask-worker run")
        reply: JobReply = work(_pipeline, message)
    except SaymaskError as error:
        log.warning("%s", error)
        reply = JobReply(failure=JobFailure(code=error.code, cause=error.cause, cure=error.cure))
    except ValidationError as error:
        failure = InvalidRequest(
            f"The job has an unknown shape: {error}",
            "Backend and worker must be of the same saymask version.",
        )
        reply = JobReply(
            failure=JobFailure(code=failure.code, cause=failure.cause, cure=failure.cure)
        )
    _done += 1
    return reply.model_dump(mode="json")


def _segment(pipeline: Pipeline, message: dict[str, Any]) -> JobReply:
    request = SegmentRequest.model_validate(message)
    with _answering():
        prepared, timings = _in_front(pipeline, request.photo_sha256)
        result = pipeline.segment(prepared, request.expression, request.k, preparation=timings)
    return JobReply(segment=result)


@contextmanager
def _answering() -> Iterator[None]:
    """Tell the workers of this machine that only prepare photos to stop meanwhile."""
    connection, name = _connection(), _worker_name()
    key = ANSWERING_KEY.format(host=socket.gethostname())
    connection.zadd(key, {name: time.time() + _ANSWERING_MAX_S})
    try:
        yield
    finally:
        connection.zrem(key, name)


def give_way(connection: redis.Redis) -> None:
    """Wait while somebody on this machine is being answered. A worker that was killed meanwhile
    counts for a while and no longer."""
    key = ANSWERING_KEY.format(host=socket.gethostname())
    while connection.zcount(key, time.time(), "+inf"):
        time.sleep(_POLL_S)


def _refine(pipeline: Pipeline, message: dict[str, Any]) -> JobReply:
    request = RefineRequest.model_validate(message)
    prompt = Prompt(
        points_xy=tuple((click.x, click.y) for click in request.clicks),
        positive=tuple(click.positive for click in request.clicks),
        box_xyxy=request.box_xyxy,
        start=decode_coco_rle(request.start.as_dict()) if request.start else None,
    )
    with _answering():
        known = _embedded.pop(request.photo_sha256, None)
        photo = known or pipeline.embed(_read_photo(request.photo_sha256))
        _embedded[request.photo_sha256] = photo
        while len(_embedded) > _EMBEDDED_MAX:
            del _embedded[next(iter(_embedded))]
        result = pipeline.refine(
            photo, request.expression, prompt, request.k, from_cache=known is not None
        )
    return JobReply(segment=result)


def _prepare(pipeline: Pipeline, message: dict[str, Any]) -> JobReply:
    request = PrepareRequest.model_validate(message)
    prepared, timings = _prepared(pipeline, request.photo_sha256)
    return JobReply(
        prepare=PrepareResult(
            photo_sha256=request.photo_sha256,
            proposals_count=len(prepared.proposals),
            model_version=pipeline.model_version,
            from_cache=timings is None,
            timings=Timings(**(asdict(timings) if timings else {})),
        )
    )


def _prepared(pipeline: Pipeline, sha256: str) -> tuple[PreparedImage, PreparationTimings | None]:
    """From the cache (no timings then), else from the bytes the backend laid into Redis."""
    known = pipeline.load_prepared(sha256)
    if known is not None:
        return known, None
    return pipeline.prepare(_read_photo(sha256))


def _worker_name() -> str:
    job = get_current_job()
    return job.worker_name or "" if job is not None else ""


def _read_photo(sha256: str) -> bytes:
    data: bytes | None = _connection().get(PHOTO_KEY.format(sha256=sha256))
    if data is None:
        raise PhotoUnreachable(
            f"The photo {sha256[:12]} is no longer in the queue's memory.",
            "Type the expression again; the photo is then fetched anew.",
        )
    if hashlib.sha256(data).hexdigest() != sha256:
        raise PhotoUnreachable(f"The photo {sha256[:12]} was damaged on its way.", "Try again.")
    return data


def _in_front(pipeline: Pipeline, sha256: str) -> tuple[PreparedImage, PreparationTimings | None]:
    """The photo an annotator looks at: from memory, else as ``_prepared`` has it. Photos that are
    only prepared ahead never push one out."""
    known = _recent.get(sha256)
    prepared, timings = (known, None) if known is not None else _prepared(pipeline, sha256)
    _remember(prepared)
    return prepared, timings


def _remember(prepared: PreparedImage) -> None:
    _recent.pop(prepared.sha256, None)
    _recent[prepared.sha256] = prepared
    while len(_recent) > _RECENT_MAX:
        del _recent[next(iter(_recent))]


def _connection() -> redis.Redis:
    job = get_current_job()
    if job is None:
        raise InternalError("A photo can be read only inside a job.")
    connection: redis.Redis = job.connection
    return connection
