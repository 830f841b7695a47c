"""The queue of training runs: one at a time, for which nobody waits."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from redis.exceptions import LockError
from rq import Queue
from rq.job import Job
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer

from backend.queue_state import QueueState, redis_errors
from saymask.contract import (
    CALL_META,
    JOB_TRAIN,
    QUEUE_TRAINING,
    TRAIN_TIMEOUT_S,
    TRAINING_KEY,
    TRAINING_STOP_KEY,
    TrainingStatus,
    TrainRequest,
)
from saymask.errors import TrainingUnderway
from saymask.logs import call_id

_RESULT_TTL_S = 600
_CLAIM_KEY = "saymask:training-start"
# A claim of a process that was killed ends after this; exports take minutes.
_CLAIM_S = 900
# A worker pops a job some milliseconds before it marks it as started.
_POPPED_GRACE_S = 2.0


class TrainingQueue(QueueState):
    """Sends runs to the training workers, and tells how far they are."""

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Keep every other process from starting a run meanwhile.

        Raises:
            TrainingUnderway: another one is starting a run.
        """
        lock = self._redis.lock(_CLAIM_KEY, timeout=_CLAIM_S, blocking=False)
        with redis_errors():
            is_ours = lock.acquire()
        if not is_ours:
            raise TrainingUnderway(
                "A training run is being started already.", "The status page shows how far it is."
            )
        try:
            yield
        finally:
            try:
                with redis_errors():
                    lock.release()
            except LockError:
                # It took so long that the claim ended by itself.
                pass

    def enqueue(self, request: TrainRequest) -> None:
        """Enqueue a run, and tell that it waits for a worker."""
        status = TrainingStatus(
            run=request.run, project_id=request.project_id, state="waiting", updated_at=time.time()
        )
        self.set_training_status(status)
        with redis_errors():
            self._open().enqueue_call(
                JOB_TRAIN,
                args=(request.model_dump(mode="json"),),
                job_id=f"saymask-train-{request.run}-{uuid.uuid4().hex[:8]}",
                timeout=TRAIN_TIMEOUT_S,
                result_ttl=_RESULT_TTL_S,
                failure_ttl=_RESULT_TTL_S,
                meta={CALL_META: call_id.get()},
            )

    def set_training_status(self, status: TrainingStatus) -> None:
        """Tell how far the newest run is."""
        with redis_errors():
            self._redis.set(TRAINING_KEY, status.model_dump_json())

    def stop(self, status: TrainingStatus) -> None:
        """Take a run back that waits; ask one that is at work to stop after its step."""
        with redis_errors():
            waiting = [job for job in self._open().jobs if _find_run(job) == status.run]
            for job in waiting:
                job.delete()
            if not waiting:
                self._redis.set(TRAINING_STOP_KEY, status.run, ex=TRAIN_TIMEOUT_S)
                return
        text = "It was stopped before it began."
        self.set_training_status(
            status.model_copy(update={"state": "failed", "text": text, "updated_at": time.time()})
        )

    def is_training(self) -> bool:
        """Return whether a run waits or is at work."""
        until = time.monotonic() + _POPPED_GRACE_S
        with redis_errors():
            queue = self._open()
            started = StartedJobRegistry(queue=queue)
            while queue.count + started.get_job_count(cleanup=False) == 0:
                if time.monotonic() > until:
                    return False
                time.sleep(0.1)
        return True

    def _open(self) -> Queue:
        return Queue(QUEUE_TRAINING, connection=self._redis, serializer=JSONSerializer)


def _find_run(job: Job) -> str:
    arguments = job.args
    return str(arguments[0].get("run", "")) if arguments else ""
