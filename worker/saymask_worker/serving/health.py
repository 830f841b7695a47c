"""Whether a worker of this machine serves the queue, for supervisors of containers."""

from __future__ import annotations

import socket

import redis
from pydantic import ValidationError

from saymask.contract import WORKER_KEY_PATTERN, WorkerStatus
from saymask.errors import WorkerUnavailable
from saymask_worker.config.settings import WorkerSettings
from saymask_worker.serving.main import connect


def check_own_worker(settings: WorkerSettings) -> WorkerStatus:
    """Return the status of a worker of this machine whose models are loaded.

    Raises:
        QueueUnavailable: Redis cannot be reached.
        WorkerUnavailable: none has a recent heartbeat, or all still load their models.
    """
    connection: redis.Redis = connect(settings)
    host = socket.gethostname()
    values = [connection.get(key) for key in connection.scan_iter(WORKER_KEY_PATTERN)]
    for status in (_read_status(value) for value in values if value):
        if status is not None and status.host == host and status.state != "loading":
            return status
    raise WorkerUnavailable(f"No worker of {host} serves the queue.", "See the worker's log.")


def _read_status(value: bytes) -> WorkerStatus | None:
    """Parse a heartbeat; one of another version says nothing about this machine's worker."""
    try:
        return WorkerStatus.model_validate_json(value)
    except ValidationError:
        return None
