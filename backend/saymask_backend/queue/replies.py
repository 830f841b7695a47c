"""What the workers replied, as RQ keeps it."""

from __future__ import annotations

import logging

from pydantic import ValidationError
from rq.job import Job
from rq.results import Result

from saymask.contract import JobReply
from saymask.errors import InternalError, from_code

log = logging.getLogger(__name__)


def read_success(job: Job) -> JobReply | None:
    """Return the reply of a finished job if it can be shared.

    A failure is worth another try: the image may have arrived, the bug been fixed.
    """
    result = job.latest_result()
    try:
        reply = read_reply(result) if result is not None else None
    except InternalError as error:
        log.info("the result of job %s cannot be used: %s", job.id, error)
        return None
    return reply if reply is not None and reply.failure is None else None


def raise_failure(reply: JobReply) -> JobReply:
    """Return a reply, or raise the failure that it carries."""
    if reply.failure is not None:
        raise from_code(reply.failure.code, reply.failure.cause, reply.failure.cure)
    return reply


def read_reply(result: Result) -> JobReply:
    """Read what a job returned.

    Raises:
        InternalError: the job ended in an exception, or its reply has an unknown shape.
    """
    if result.type == Result.Type.SUCCESSFUL:
        try:
            return JobReply.model_validate(result.return_value)
        except ValidationError as error:
            raise InternalError(
                "The worker's reply has an unknown shape.",
                "Backend and worker must be of the same saymask version.",
            ) from error
    trace = (result.exc_string or "no trace").strip()
    log.error("worker failed:\n%s", trace)
    raise InternalError(f"The worker failed: {trace.splitlines()[-1]}", "See the worker's log.")
