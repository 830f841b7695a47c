"""Every error a user can meet, with its cause, its cure and its HTTP status.

SaymaskError
  InvalidRequest            400  the request itself is wrong
    InvalidExpression       422
    InvalidLabelConfig      422
    InvalidMask             422
    InvalidAnnotation       422  an event or annotation that cannot be interpreted
  ImageError                422  the image cannot be used
    ImageUnreadable
    ImageTooLarge           413
    ImageUnreachable        502
      ImageEvicted
    ImageNotPrepared             a worker lacks the prepared image; it is prepared again
    ImageForbidden          403
  QueueError                503  image and expression are fine, the service is not
    QueueUnavailable
    WorkerUnavailable
      JobLost
    DeadlineExceeded        504
    JobSuperseded           409
    CallAbandoned           499
    ServiceBusy
  TrainingUnderway          409  one run at a time
  WorkerEnded               500  work on the image ended several workers
  DeviceMemoryExhausted     500  the GPU has no room
  PreparedNotKept           500  a photo was prepared and nothing could be written
  DatasetError              500  a dataset is missing, damaged or hostile
  EndpointError             502  the chat server that is asked as a source gives no usable answer
  WeightsError              500  checkpoints are missing or not the expected files
  ConfigError               500  a setting is wrong
    GivenMasksError              masks are given for other images, not for this one
  InternalError             500  a bug
"""

from __future__ import annotations

from typing import ClassVar

from saymask.redaction import hide

# A value that is quoted may be megabytes long.
_MAX_CHARS = 5_000


class SaymaskError(Exception):
    """Base of all errors that carry a message for people.

    Attributes:
        code: stable name on the queue, in HTTP answers and in the database.
        http_status: status of the backend's answer.
        concerns_all: it is not about one item among many: the others would meet it as well.

    Args:
        cause: what is wrong, with the offending value.
        cure: what the reader can do about it.

    Secrets are removed from both, because a message reaches annotators, logs and the database.
    """

    code: ClassVar[str] = "SaymaskError"
    http_status: ClassVar[int] = 500
    concerns_all: ClassVar[bool] = False

    def __init_subclass__(cls, *, code: str | None = None) -> None:
        """Set ``code``: the class name, unless an older name is in use outside the code."""
        super().__init_subclass__()
        cls.code = code or cls.__name__

    def __init__(self, cause: str, cure: str = "") -> None:
        self.cause = _shorten(hide(cause))
        self.cure = _shorten(hide(cure))
        super().__init__(self.cause, self.cure)

    def __str__(self) -> str:
        """Return cause and cure in one line."""
        return f"{self.cause} {self.cure}".strip()


def _shorten(text: str) -> str:
    return text if len(text) <= _MAX_CHARS else text[: _MAX_CHARS - 4] + " ..."


class InvalidRequest(SaymaskError):
    """The request itself is wrong."""

    http_status = 400


class InvalidExpression(InvalidRequest):
    """The referring expression is empty, without a word, or too long."""

    http_status = 422


class InvalidLabelConfig(InvalidRequest):
    """The project's labelling config lacks a tag that saymask needs."""

    http_status = 422


class InvalidAnnotation(InvalidRequest):
    """An annotation that cannot be interpreted; it is kept as it came, counted and shown."""

    http_status = 422


class InvalidMask(InvalidRequest):
    """A mask or its encoding is malformed, or belongs to another image size."""

    http_status = 422


class ImageError(SaymaskError, code="PhotoError"):
    """The image cannot be used."""

    http_status = 422


class ImageUnreadable(ImageError, code="PhotoUnreadable"):
    """The bytes are empty, damaged, animated or of an unsupported format."""


class ImageTooLarge(ImageError, code="PhotoTooLarge"):
    """The file or its pixels exceed a limit."""

    http_status = 413


class ImageUnreachable(ImageError, code="PhotoUnreachable"):
    """The image cannot be fetched from where the task keeps it."""

    http_status = 502


class ImageEvicted(ImageUnreachable, code="PhotoEvicted"):
    """The queue's memory no longer holds the image; it can be stored again."""


class ImageNotPrepared(ImageError, code="PhotoNotPrepared"):
    """A worker does not have the prepared image that an expression is about."""


class ImageForbidden(ImageError, code="PhotoForbidden"):
    """Access to the image was refused, or its address is private."""

    http_status = 403


class QueueError(SaymaskError):
    """Queue or workers cannot answer now; request and image are fine."""

    http_status = 503
    concerns_all = True


class QueueUnavailable(QueueError):
    """Redis cannot be reached."""


class WorkerUnavailable(QueueError):
    """No worker takes the job, or it was lost with its worker."""


class JobLost(WorkerUnavailable):
    """A job was lost with its worker; it can be enqueued again."""


class DeadlineExceeded(QueueError):
    """No answer within the deadline."""

    http_status = 504
    concerns_all = False


class JobSuperseded(QueueError):
    """A newer expression for the same task replaced this one."""

    http_status = 409
    concerns_all = False


class CallAbandoned(QueueError):
    """The caller went away; nobody will see the answer."""

    http_status = 499


class ServiceBusy(QueueError):
    """More requests wait than can be answered in time."""


class TrainingUnderway(SaymaskError):
    """A training run is being started or is not over; there is one at a time."""

    http_status = 409


class WorkerEnded(SaymaskError):
    """The image ended several workers; it alone is given up."""


class DeviceMemoryExhausted(SaymaskError):
    """The GPU has no room even for the smallest batches."""


class PreparedNotKept(SaymaskError):
    """A prepared image could not be written; the next request for it prepares it again."""


class DatasetError(SaymaskError):
    """A dataset is missing, damaged or hostile."""


class EndpointError(SaymaskError):
    """The chat server that is asked as a source gives no usable answer."""

    http_status = 502


class WeightsError(SaymaskError):
    """Checkpoints are missing or not the expected files."""

    concerns_all = True


class ConfigError(SaymaskError):
    """A setting is wrong."""

    concerns_all = True


class GivenMasksError(ConfigError):
    """The masks given for one image are missing or damaged; those of others are not concerned."""

    concerns_all = False


class InternalError(SaymaskError):
    """A bug."""


def _all_subclasses(cls: type[SaymaskError]) -> list[type[SaymaskError]]:
    return [cls, *(s for c in cls.__subclasses__() for s in _all_subclasses(c))]


def from_code(code: str, cause: str, cure: str) -> SaymaskError:
    """Rebuild the error that a worker reported; an unknown code becomes InternalError."""
    for cls in _all_subclasses(SaymaskError):
        if cls.code == code:
            return cls(cause, cure)
    return InternalError(f"{code}: {cause}", cure)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 photo``, ``2 photos``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
