"""Logs of backend and worker: as text or as JSON lines, each line with the call it belongs to."""

from __future__ import annotations

import json
import logging
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Literal

from saymask.redaction import hide

LogFormat = Literal["text", "json"]

call_id: ContextVar[str] = ContextVar("call_id", default="-")
"""Names the HTTP call on whose behalf this thread works, in the backend and on the worker."""

_TEXT = "%(asctime)s %(levelname)s %(name)s [%(call)s] %(message)s"


class CallFilter(logging.Filter):
    """Adds the call's id to every record."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Set ``record.call``; every record passes."""
        record.call = call_id.get()
        return True


class TextFormatter(logging.Formatter):
    """One line of text, and a trace below it; without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        return hide(super().format(record))


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, call, message, fields, trace; no secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "call": getattr(record, "call", "-"),
            "message": hide(record.getMessage()),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["trace"] = hide(self.formatException(record.exc_info))
        return json.dumps(line, default=str)


def configure_logging(log_format: LogFormat) -> None:
    """Log to stderr from level INFO on."""
    handler = logging.StreamHandler()
    handler.addFilter(CallFilter())
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter(_TEXT))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # Every request is in the database; httpx would log each image's address a second time.
    logging.getLogger("httpx").setLevel(logging.WARNING)
