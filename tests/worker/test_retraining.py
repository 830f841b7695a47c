"""Training on request: status, verdict, serving, failures, a worker that is killed. Real Valkey."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from filelock import FileLock
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer

from saymask.contract import (
    JOB_TRAIN,
    QUEUE_TRAINING,
    TRAINING_JOB_ID,
    TRAINING_META,
    JobReply,
    TrainingStatus,
    TrainRequest,
    WorkerStatus,
)
from saymask.datasets import load_dataset
from saymask.errors import DatasetError
from saymask.left_out import LeftOut
from saymask.masks import decode_coco_rle
from saymask.model_registry import ModelRegistry, Verdict
from saymask_backend.queue.training import TrainingQueue
from saymask_worker.config.settings import WorkerSettings, load_worker_settings
from saymask_worker.images.types import DecodedImage
from saymask_worker.masks.sources.base import SourceMask
from saymask_worker.serving.main import run_training_worker
from saymask_worker.serving.model_comparison import compare_sources
from saymask_worker.serving.training_jobs import TrainingHandler
from saymask_worker.training.samples import read_samples, split_samples
from tests.conftest import Valkey, await_state
from tests.refcoco import write_refcoco
from tests.worker.fake_learning import FakeLearn

MESSAGE = {"schema_version": 1, "project_id": 3, "run": "run-0001", "epochs": 2}


@pytest.fixture
def client(valkey: Valkey) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey.url) as opened:
        yield opened


@pytest.fixture
def settings(tmp_path: Path, valkey: Valkey) -> WorkerSettings:
    registry = ModelRegistry(tmp_path / "models")
    (registry.folder / registry.create_run() / "data").mkdir()
    return load_worker_settings(
        models_dir=tmp_path / "models", redis_url=valkey.url, queues="training"
    )


def fetch_job(client: redis.Redis) -> Job:
    return Job.fetch(TRAINING_JOB_ID, connection=client, serializer=JSONSerializer)


def read_status(client: redis.Redis) -> TrainingStatus:
    return TrainingStatus.model_validate(fetch_job(client).meta[TRAINING_META])


def read_heartbeats(client: redis.Redis) -> str:
    keys = client.scan_iter("saymask:worker:*")
    return b"".join(client.get(key) or b"" for key in keys).decode()


def work_off(
    client: redis.Redis, settings: WorkerSettings, learn: FakeLearn, **changed: object
) -> dict[str, Any]:
    """Have a training worker in this process do the run; returns its reply."""
    job = enqueue(client, **changed)
    run_training_worker(settings, burst=True, build_learn=lambda _: learn, niceness=0)
    reply: dict[str, Any] = job.return_value(refresh=True)
    return reply


@pytest.mark.parametrize("low", [0.1, -0.1])
def test_a_model_is_served_only_if_it_is_better_beyond_its_interval(
    client: redis.Redis, settings: WorkerSettings, tmp_path: Path, low: float
) -> None:
    reply = JobReply.model_validate(work_off(client, settings, FakeLearn(low)))
    registry, status = ModelRegistry(tmp_path / "models"), read_status(client)
    (model,) = registry.list_models()
    assert model.verdict == Verdict("", 0.2, low, 0.3, 30, 12)
    assert reply.train is not None
    assert reply.train.is_served == model.is_served == (low > 0)
    assert status.state == ("served" if low > 0 else "not better")
    assert (status.run, status.project_id, status.held_out_iou) == ("run-0001", 3, 0.25)
    assert "+0.200 against proposals alone" in status.text


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (DatasetError("There are 3 refs.", "Accept more."), "There are 3 refs. Accept more."),
        (OSError(28, "No space left on device"), "saymask train --resume run-0001"),
    ],
)
def test_errors_stand_in_the_status(
    client: redis.Redis, settings: WorkerSettings, error: Exception, text: str
) -> None:
    reply = work_off(client, settings, FakeLearn(error=error))
    assert reply["failure"]["cause"]
    assert read_status(client).state == "failed"
    assert text in read_status(client).text


def test_one_worker_at_a_time_is_at_a_run(
    client: redis.Redis, settings: WorkerSettings, tmp_path: Path
) -> None:
    with FileLock(tmp_path / "models" / "run-0001" / ".lock"):
        reply = work_off(client, settings, FakeLearn())
    assert "in progress on another worker" in reply["failure"]["cause"]
    assert TRAINING_META not in fetch_job(client).meta, "the status is the other worker's"


def test_a_bug_is_told_and_raised(client: redis.Redis, settings: WorkerSettings) -> None:
    assert work_off(client, settings, FakeLearn(error=KeyError("x"))) is None
    assert "KeyError" in str(fetch_job(client).latest_result().exc_string)
    assert "A bug: KeyError" in read_status(client).text


def test_a_run_without_an_export_and_a_message_of_another_shape(settings: WorkerSettings) -> None:
    handler = TrainingHandler(settings, FakeLearn())
    assert "no export" in handler.train({**MESSAGE, "run": "run-0009"})["failure"]["cause"]
    assert "unknown shape" in handler.train({**MESSAGE, "run": "../x"})["failure"]["cause"]
    nowhere = TrainingHandler(load_worker_settings(), FakeLearn())
    assert "SAYMASK_MODELS_DIR" in nowhere.train(MESSAGE)["failure"]["cure"]


@dataclass
class Trainers:
    """Starts training workers whose runs wait for a file, and counts how often runs began."""

    folder: Path
    environment: dict[str, str]
    processes: list[subprocess.Popen[bytes]]

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.worker.fake_learning"]
        self.processes.append(subprocess.Popen(command, env=self.environment))
        return self.processes[-1]

    @property
    def tries(self) -> int:
        path = self.folder / "tries"
        return len(path.read_text()) if path.exists() else 0


@pytest.fixture
def trainers(settings: WorkerSettings, valkey: Valkey, tmp_path: Path) -> Iterator[Trainers]:
    environment = {
        **os.environ, "SAYMASK_REDIS_URL": valkey.url, "SAYMASK_QUEUES": "training",
        "SAYMASK_MODELS_DIR": str(tmp_path / "models"),
    }  # fmt: skip
    opened = Trainers(tmp_path / "models" / "run-0001", environment, [])
    yield opened
    for process in opened.processes:
        process.kill()
        process.wait()


def enqueue(client: redis.Redis, **changed: object) -> Job:
    queue = Queue(QUEUE_TRAINING, connection=client, serializer=JSONSerializer)
    message = {**MESSAGE, **changed}
    return queue.enqueue_call(
        JOB_TRAIN, args=(message,), timeout=1_000_000, job_id=TRAINING_JOB_ID, result_ttl=-1
    )


def test_a_killed_worker_s_run_goes_on_with_the_next(
    client: redis.Redis, trainers: Trainers
) -> None:
    job = enqueue(client)
    first = trainers.start()
    await_state(lambda: trainers.tries == 1, "the run did not begin", 60)
    (key,) = client.scan_iter("saymask:worker:*")
    status = WorkerStatus.model_validate_json(client.get(key))
    assert (status.queues, status.model_version) == ("training", "")
    assert not status.serves(background=True)
    assert status.rss_mb < 400, "no models while it waits"
    first.send_signal(signal.SIGKILL)
    first.wait()
    trainers.start()
    await_state(lambda: trainers.tries == 2, "the run was not taken up again", 60)
    (trainers.folder / "go").touch()
    await_state(lambda: read_status(client).is_over, "the run did not end", 60)
    assert read_status(client).state == "served"
    await_state(lambda: job.get_status(refresh=True) == "finished", "the job is open")
    await_state(lambda: '"jobs_done":1' in read_heartbeats(client), "no job is counted", 60)


def test_a_worker_that_is_told_to_end_leaves_its_run_to_the_next(
    client: redis.Redis, trainers: Trainers
) -> None:
    enqueue(client)
    first = trainers.start()
    await_state(lambda: trainers.tries == 1, "the run did not begin", 60)
    first.send_signal(signal.SIGTERM)
    first.wait(30)
    assert read_status(client).state == "waiting"
    trainers.start()
    await_state(lambda: trainers.tries == 2, "the run was not taken up again", 60)


def test_a_run_is_stopped_on_request_and_only_that_one(
    client: redis.Redis, trainers: Trainers
) -> None:
    enqueue(client)
    trainers.start()
    await_state(lambda: trainers.tries == 1, "the run did not begin", 60)
    queue = TrainingQueue(client)
    queue.stop(read_status(client))
    await_state(lambda: not queue.is_training(), "the run was not stopped", 60)
    assert read_status(client).state == "failed"
    assert "It was stopped" in read_status(client).text
    assert "saymask train --resume run-0001" in read_status(client).text
    assert fetch_job(client).get_status() == "stopped"
    # The wish was for that run: the next one is not stopped.
    queue.enqueue(TrainRequest.model_validate(MESSAGE))
    await_state(lambda: trainers.tries == 2, "the next run did not begin", 60)
    (trainers.folder / "go").touch()
    await_state(lambda: read_status(client).is_over, "the run did not end", 60)
    assert read_status(client).state == "served"


def test_a_run_whose_worker_is_gone_can_be_taken_back(
    client: redis.Redis, trainers: Trainers
) -> None:
    enqueue(client)
    first = trainers.start()
    await_state(lambda: trainers.tries == 1, "the run did not begin", 60)
    first.kill()
    first.wait()
    queue = TrainingQueue(client)
    await_state(lambda: not queue.list_workers(), "its heartbeat goes on")
    queue.stop(read_status(client))
    assert not queue.is_training()
    assert read_status(client).state == "failed"


class ByName:
    """Offers the right mask of each photo's left or right square, or the wrong one."""

    fingerprint = "1"

    def __init__(self, name: str, *, is_right: bool) -> None:
        self.name, self._is_right = name, is_right

    def segment(self, image: DecodedImage, expression: str) -> Sequence[SourceMask]:
        mask = np.zeros(image.size_hw, bool)
        if ("dog" in expression.lower()) == self._is_right:
            mask[8:28, 40:60] = True
        else:
            mask[4:20, 2:18] = mask[10:26, 10:26] = True
        return [SourceMask(mask, 0.99, source=self.name)]


@dataclass
class Answers:
    """A fake pipeline that answers with the first mask of its only source."""

    sources: Sequence[ByName] = ()
    strict_sources: bool = False

    def load_prepared(self, sha256: str) -> str:
        return sha256

    def segment(
        self, prepared: str, expression: str, k: int, *, preparation: None, encoded: Any
    ) -> Any:
        from saymask_worker.images.decode import decode_image
        from saymask_worker.pipeline.candidates import build_offered

        assert self.strict_sources, "a source that fails must not count as one that is worse"
        offered = self.sources[0].segment(decode_image(encoded.read()), expression)[0]
        candidate = build_offered(offered, 1, 1.0, None)
        assert decode_coco_rle(candidate.mask.as_dict()).any()
        return type("Result", (), {"candidates": (candidate,)})()


def test_the_verdict_is_a_paired_interval_over_photos(tmp_path: Path) -> None:
    data = write_refcoco(tmp_path / "set", count=12)
    samples = read_samples(load_dataset("refcoco", data, None), LeftOut())
    pipeline: Any = Answers()
    right, wrong = ByName("new", is_right=True), ByName("old", is_right=False)
    better = compare_sources(pipeline, samples, [wrong], [right], "run-0001")
    assert better.is_better
    assert (better.against, better.expressions, better.images) == ("run-0001", 24, 12)
    few = compare_sources(pipeline, samples[:8], [wrong], [right], "")
    assert few.low > 0
    assert not few.is_better, "an interval over four photos says nothing"
    assert better.low == pytest.approx(better.difference), "every photo gains alike"
    worse = compare_sources(pipeline, samples, [right], [wrong], "")
    assert worse.difference == pytest.approx(-better.difference)
    same = compare_sources(pipeline, samples, [right], [right], "")
    assert (same.difference, same.is_better) == (0.0, False)


def test_what_is_held_out_stays_held_out_when_photos_are_added(tmp_path: Path) -> None:
    few = read_samples(
        load_dataset("refcoco", write_refcoco(tmp_path / "few", count=20), None), LeftOut()
    )
    many = read_samples(
        load_dataset("refcoco", write_refcoco(tmp_path / "many", count=40), None), LeftOut()
    )
    splits = [split_samples(samples, 0.15, 0.2, 0) for samples in (few, many)]
    for part in ("train", "held_out", "reserved"):
        names = [{s.image.name for s in getattr(split, part)} for split in splits]
        assert names[0] < names[1], part
    for split in splits:
        photos = [{s.image for s in part} for part in (split.train, split.held_out, split.reserved)]
        assert sum(map(len, photos)) == len(set().union(*photos)), "no photo is in two parts"
        assert min(map(len, photos)) >= 1


@pytest.mark.parametrize("count", [4, 5, 7])
def test_every_part_gets_a_photo_however_few_there_are(tmp_path: Path, count: int) -> None:
    data = write_refcoco(tmp_path / "set", count=count)
    samples = read_samples(load_dataset("refcoco", data, None), LeftOut())
    for seed in range(20):
        split = split_samples(samples, 0.15, 0.2, seed)
        assert split.train
        assert split.held_out
        assert split.reserved
        assert split_samples(samples, 0.2, 0.0, seed).reserved == []
