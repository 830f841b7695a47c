"""Every error a user can meet, with its cause, its cure and its HTTP status.

SaymaskError
  InvalidRequest            400  the request itself is wrong
    InvalidExpression       422
    InvalidLabelConfig      422
    InvalidMask             422
    InvalidAnnotation       422  an event or annotation saymask cannot understand
  PhotoError                422  the photo cannot be used
    PhotoUnreadable
    PhotoTooLarge           413
    PhotoUnreachable        502
    PhotoForbidden          403
  QueueError                503  the photo and the expression are fine, we are not
    QueueUnavailable
    WorkerUnavailable
    DeadlineExceeded        504
    JobSuperseded           409
  DatasetError              500  an evaluation set is missing, damaged or hostile
  WeightsError              500  checkpoints missing or not what they should be
  ConfigError               500  a setting is wrong
  InternalError             500  a bug
"""

from __future__ import annotations


class SaymaskError(Exception):
    """Base of all errors with a message for people.

    Args:
        cause: what is wrong, with the offending value.
        cure: what the reader can do about it.
    """

    http_status = 500

    def __init__(self, cause: str, cure: str = "") -> None:
        super().__init__(cause, cure)
        self.cause = cause
        self.cure = cure

    @property
    def code(self) -> str:
        """The stable name that crosses Redis and HTTP."""
        return type(self).__name__

    def __str__(self) -> str:
        return f"{self.cause} {self.cure}".strip()


class InvalidRequest(SaymaskError):
    http_status = 400


class InvalidExpression(InvalidRequest):
    http_status = 422


class InvalidLabelConfig(InvalidRequest):
    http_status = 422


class InvalidAnnotation(InvalidRequest):
    """Kept as it came, counted and shown; never dropped."""

    http_status = 422


class InvalidMask(InvalidRequest):
    http_status = 422


class PhotoError(SaymaskError):
    http_status = 422


class PhotoUnreadable(PhotoError):
    pass


class PhotoTooLarge(PhotoError):
    http_status = 413


class PhotoUnreachable(PhotoError):
    http_status = 502


class PhotoForbidden(PhotoError):
    http_status = 403


class QueueError(SaymaskError):
    http_status = 503


class QueueUnavailable(QueueError):
    pass


class WorkerUnavailable(QueueError):
    pass


class DeadlineExceeded(QueueError):
    http_status = 504


class JobSuperseded(QueueError):
    http_status = 409


class DatasetError(SaymaskError):
    pass


class WeightsError(SaymaskError):
    pass


class ConfigError(SaymaskError):
    pass


class InternalError(SaymaskError):
    pass


def _all_subclasses(cls: type[SaymaskError]) -> list[type[SaymaskError]]:
    return [cls, *(s for c in cls.__subclasses__() for s in _all_subclasses(c))]


def from_code(code: str, cause: str, cure: str) -> SaymaskError:
    """Rebuild the error that a worker reported; an unknown code becomes InternalError."""
    for cls in _all_subclasses(SaymaskError):
        if cls.__name__ == code:
            return cls(cause, cure)
    return InternalError(f"{code}: {cause}", cure)
