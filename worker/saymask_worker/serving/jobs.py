"""What a worker does with a job: a dict in, a dict out; errors come back as replies."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial

import redis
from pydantic import ValidationError
from rq import get_current_job

from saymask.contract import (
    CALL_META,
    JOB_PREPARE,
    JOB_PROPOSE,
    JOB_REFINE,
    JOB_SEGMENT,
    PREPARED_KEY,
    FalseExpression,
    JobReply,
    PrepareRequest,
    PrepareResult,
    ProposedPair,
    ProposeRequest,
    ProposeResult,
    RefineRequest,
    SegmentRequest,
    Timings,
)
from saymask.errors import InternalError, InvalidRequest, PreparedNotKept, SaymaskError
from saymask.logs import call_id
from saymask.masks import decode_coco_rle
from saymask_worker.images.types import VisualPrompt
from saymask_worker.serving.images import PreparedImages
from saymask_worker.serving.loaded_pipeline import LoadedPipeline, ServedPipeline
from saymask_worker.serving.other_workers import crash_guard, interactive_section
from saymask_worker.serving.rq_worker import JobFunctions, Message, to_failure
from saymask_worker.serving.sessions import ImageSessions

log = logging.getLogger(__name__)


class JobHandler:
    """Answers the jobs of one process."""

    def __init__(
        self,
        pipeline: LoadedPipeline[ServedPipeline],
        connection: redis.Redis,
        worker_name: str,
        sessions: ImageSessions,
    ) -> None:
        self._pipeline = pipeline
        self._redis = connection
        self._worker_name = worker_name
        self._images = PreparedImages(connection, worker_name)
        self._sessions = sessions

    @property
    def functions(self) -> JobFunctions:
        """Job name to the function that answers it."""
        return {
            JOB_SEGMENT: self.segment,
            JOB_REFINE: self.refine,
            JOB_PREPARE: self.prepare,
            JOB_PROPOSE: self.propose,
        }

    def segment(self, message: Message) -> Message:
        """Answer ``JOB_SEGMENT``: a SegmentRequest in, a JobReply out."""
        return self._reply(self._segment, message)

    def refine(self, message: Message) -> Message:
        """Answer ``JOB_REFINE``: a RefineRequest in, a JobReply out."""
        return self._reply(self._refine, message)

    def prepare(self, message: Message) -> Message:
        """Answer ``JOB_PREPARE``: a PrepareRequest in, a JobReply out.

        The outcome is counted where the status page reads it.
        """
        reply = self._reply(self._prepare, message)
        failure = reply["failure"]
        self._redis.hincrby(PREPARED_KEY, "failed" if failure else "prepared", 1)
        if failure:
            self._redis.hset(PREPARED_KEY, "last_failure", failure["cause"])
        return reply

    def propose(self, message: Message) -> Message:
        """Answer ``JOB_PROPOSE``: a ProposeRequest in, a JobReply out."""
        return self._reply(self._propose, message)

    def _reply(
        self, answer: Callable[[ServedPipeline, Message], JobReply], message: Message
    ) -> Message:
        started = time.perf_counter()
        _adopt_call_id()
        try:
            sha256 = str(message.get("photo_sha256"))
            # In this order: a worker that ends while it loads its models blames no image.
            guard = crash_guard(self._redis, self._worker_name, sha256)
            with self._pipeline.use() as pipeline, guard:
                reply = answer(pipeline, message)
        except SaymaskError as error:
            log.warning("%s", error)
            reply = JobReply(failure=to_failure(error))
        except ValidationError as error:
            reply = refuse_shape(error)
        except redis.RedisError:
            # The queue went away: RQ retries the job.
            raise
        except Exception as error:
            # A bug in any model or library: the annotator gets an answer, the worker continues.
            log.exception("a job failed")
            cause = f"The worker failed: {type(error).__name__}: {error}"
            reply = JobReply(failure=to_failure(InternalError(cause, "See the worker's log.")))
        _log_reply(reply, started)
        return reply.model_dump(mode="json")

    def _segment(self, pipeline: ServedPipeline, message: Message) -> JobReply:
        request = SegmentRequest.model_validate(message)
        sha256 = request.image_sha256
        with self._sessions.open(sha256, partial(self._images.read, sha256)) as session:
            prepared, timings = self._images.open(
                pipeline,
                session,
                sha256,
                accepts_first_look=request.accepts_first_look,
                prepares=request.prepares,
            )
            with interactive_section(self._redis, self._worker_name):
                result = session.segment(
                    pipeline, prepared, request.expression, request.k, preparation=timings
                )
        return JobReply(segment=result)

    def _refine(self, pipeline: ServedPipeline, message: Message) -> JobReply:
        request = RefineRequest.model_validate(message)
        prompt = VisualPrompt(
            points_xy=tuple((click.x, click.y) for click in request.clicks),
            positive=tuple(click.positive for click in request.clicks),
            box_xyxy=request.box_xyxy,
            start=decode_coco_rle(request.start.as_dict()) if request.start else None,
        )
        sha256 = request.image_sha256
        with (
            self._sessions.open(sha256, partial(self._images.read, sha256)) as session,
            interactive_section(self._redis, self._worker_name),
        ):
            result = session.refine(pipeline, request.expression, prompt, request.k)
        return JobReply(segment=result)

    def _prepare(self, pipeline: ServedPipeline, message: Message) -> JobReply:
        request = PrepareRequest.model_validate(message)
        prepared, timings = self._images.prepare(pipeline, request.image_sha256)
        if prepared.not_kept is not None:
            raise PreparedNotKept(*prepared.not_kept)
        result = PrepareResult(
            image_sha256=request.image_sha256,
            proposals_count=len(prepared.proposals),
            model_version=pipeline.model_version,
            from_cache=timings is None,
            timings=timings or Timings(),
        )
        return JobReply(prepare=result)

    def _propose(self, pipeline: ServedPipeline, message: Message) -> JobReply:
        request = ProposeRequest.model_validate(message)
        sha256 = request.image_sha256
        prepared, timings = self._images.prepare(pipeline, sha256, prepares=request.prepares)
        data = self._images.read(sha256)
        pairs: tuple[ProposedPair, ...] = ()
        false: tuple[FalseExpression, ...] | None = None
        if request.accepted:
            false = pipeline.propose_false(
                prepared, data, request.accepted, request.count, request.seed
            )
        else:
            pairs = pipeline.propose(
                prepared,
                data,
                request.count,
                request.confidence_min,
                request.seed,
                request.describer,
            )
        result = ProposeResult(
            image_sha256=sha256,
            size_hw=prepared.proposals.size_hw,
            pairs=pairs,
            false=false,
            model_version=pipeline.model_version,
            from_cache=timings is None,
            timings=timings or Timings(),
        )
        return JobReply(propose=result)


def _adopt_call_id() -> None:
    """Let this thread's log lines name the call for which the job was enqueued."""
    job = get_current_job()
    call_id.set(str(job.meta.get(CALL_META, "-")) if job is not None else "-")


def _log_reply(reply: JobReply, started: float) -> None:
    ms = round((time.perf_counter() - started) * 1000, 1)
    result = reply.segment or reply.prepare or reply.propose
    if result is not None:
        fields = {"ms": ms, "image": result.image_sha256[:12], "from_cache": result.from_cache}
        fields |= {"stages": {k: v for k, v in result.timings.model_dump().items() if v}}
        kind = "expression answered" if reply.segment else "image prepared"
        kind = "expressions proposed" if reply.propose else kind
        log.info("%s in %.1f ms", kind, ms, extra={"fields": fields})


def refuse_shape(error: ValidationError) -> JobReply:
    """Return the reply to a job whose message does not validate."""
    refusal = InvalidRequest(
        f"The job has an unknown shape: {error}",
        "Backend and worker must be of the same saymask version.",
    )
    return JobReply(failure=to_failure(refusal))
