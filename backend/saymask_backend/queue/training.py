"""The training queue: one job, that of the newest run."""

from __future__ import annotations

import time

import redis
from rq import Queue
from rq.command import send_stop_job_command
from rq.exceptions import DuplicateJobError, InvalidJobOperation
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from saymask.contract import (
    CALL_META,
    JOB_TRAIN,
    QUEUE_TRAINING,
    TRAIN_TIMEOUT_S,
    TRAINING_JOB_ID,
    TRAINING_META,
    TrainingStatus,
    TrainRequest,
)
from saymask.errors import InvalidRequest, TrainingUnderway
from saymask.logs import call_id
from saymask_backend.queue.state import QueueState, redis_errors

# The job is kept until the next run: its meta is the status.
_KEPT = -1
_OPEN = (JobStatus.QUEUED, JobStatus.STARTED)


class TrainingQueue(QueueState):
    """Sends runs to the training workers and reports their progress."""

    def enqueue(self, request: TrainRequest) -> None:
        """Enqueue a run, with the status that it waits for a worker.

        Raises:
            TrainingUnderway: another run is not over.
        """
        status = TrainingStatus(
            run=request.run, project_id=request.project_id, state="waiting", updated_at=time.time()
        )
        with redis_errors():
            queue = self._open()
            self._delete_finished()
            job = self._create_job(status, JobStatus.QUEUED, request)
            try:
                queue.enqueue_job(job, unique=True)
            except DuplicateJobError as error:
                raise TrainingUnderway(
                    "A training run has just been started.",
                    "The status page shows how far it is.",
                ) from error

    def tell_failure(self, status: TrainingStatus) -> None:
        """Store why a run could not be enqueued.

        Raises:
            TrainingUnderway: another run is not over.
        """
        with redis_errors():
            self._delete_finished()
            self._create_job(status, JobStatus.FAILED, None).save()

    def stop(self, status: TrainingStatus) -> None:
        """Cancel a run that waits; ask one that is at work to stop after its step.

        Raises:
            InvalidRequest: there is none, or a worker is just about to begin it.
        """
        with redis_errors():
            job = self._fetch(TRAINING_JOB_ID)
            if job is None or job.get_status(refresh=False) not in _OPEN:
                raise InvalidRequest("No run is underway.", "See: saymask models list")
            is_held = any(worker.name == job.worker_name for worker in self._read_workers())
            if job.get_status(refresh=False) == JobStatus.STARTED and is_held:
                send_stop_job_command(self._redis, job.id, serializer=JSONSerializer)
            elif self._redis.lrem(self._open().key, 1, job.id) or job.worker_name:
                stopped = {
                    "state": "failed", "text": "It was stopped before it began.",
                    "updated_at": time.time(),
                }  # fmt: skip
                job.meta[TRAINING_META] = status.model_copy(update=stopped).model_dump(mode="json")
                job.save_meta()
                job.cancel()
            else:
                raise InvalidRequest("The run is just beginning.", "Stop it again.")

    def is_training(self) -> bool:
        """Return whether a run waits or is at work."""
        with redis_errors():
            job = self._fetch(TRAINING_JOB_ID)
        return job is not None and job.get_status(refresh=False) in _OPEN

    def _delete_finished(self) -> None:
        """Delete the job of the last run.

        Raises:
            TrainingUnderway: it is not over.
        """
        job = self._fetch(TRAINING_JOB_ID)
        if job is None:
            return
        with self._redis.pipeline() as pipeline:
            pipeline.watch(job.key)
            try:
                if job.get_status() in _OPEN:
                    raise InvalidJobOperation
                pipeline.multi()
                job.delete(pipeline=pipeline)
                pipeline.execute()
            except (InvalidJobOperation, redis.exceptions.WatchError) as error:
                raise TrainingUnderway(
                    "A training run is not over.", "The status page shows how far it is."
                ) from error

    def _create_job(
        self, status: TrainingStatus, job_status: JobStatus, request: TrainRequest | None
    ) -> Job:
        return self._open().create_job(
            JOB_TRAIN,
            args=(request.model_dump(mode="json"),) if request is not None else (),
            job_id=TRAINING_JOB_ID,
            timeout=TRAIN_TIMEOUT_S,
            result_ttl=_KEPT,
            failure_ttl=_KEPT,
            status=job_status,
            meta={CALL_META: call_id.get(), TRAINING_META: status.model_dump(mode="json")},
        )

    def _open(self) -> Queue:
        return Queue(QUEUE_TRAINING, connection=self._redis, serializer=JSONSerializer)
