"""``saymask train`` and ``models``, the button of Label Studio, the status page. Real Valkey."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis
from fastapi.testclient import TestClient

from saymask.contract import QUEUE_TRAINING, TrainingStatus, TrainRequest
from saymask.datasets import load_dataset
from saymask.errors import TrainingUnderway
from saymask.model_registry import ModelRegistry
from saymask_backend.config import load_settings
from saymask_backend.context import build_fetcher
from saymask_backend.label_studio.events import to_new_event
from saymask_backend.queue.job_queue import JobQueue
from saymask_backend.queue.training import TrainingQueue
from saymask_backend.records.stores import Stores
from saymask_backend.services.export import Exporter
from saymask_backend.services.record import Recorder
from saymask_backend.services.train import TrainingStarter
from saymask_worker.config.settings import load_worker_settings
from saymask_worker.serving.main import run_training_worker
from tests import factories
from tests.backend.test_export_command import data_uri
from tests.conftest import Valkey, await_state, load_capture
from tests.saymask.test_model_registry import add_model
from tests.stack.running import SAYMASK
from tests.worker.fake_learning import FakeLearn


def add_records(stores: Stores, photos: int = 3, project: int = factories.KEY.id) -> None:
    stores.migrate()
    for number in range(1, photos + 1):
        mask = factories.brush(f"own{number}", factories.square(8), "referent", "manual")
        body = factories.event(
            number, factories.annotation(number, [factories.typed(f"thing {number}"), *mask])
        )
        body["task"]["data"]["image"] = data_uri(number)
        body["project"] = {**body["project"], "id": project}
        stores.events.append_event(to_new_event(body))
    Recorder(stores).process_waiting()


def read_status(valkey: Valkey) -> TrainingStatus | None:
    with redis.Redis.from_url(valkey.url) as client:
        return TrainingQueue(client).get_training_status()


def read_job(valkey: Valkey) -> TrainRequest:
    """What the training queue holds, as a worker reads it."""
    from rq import Queue
    from rq.serializers import JSONSerializer

    with redis.Redis.from_url(valkey.url) as client:
        (job,) = Queue("saymask-training", connection=client, serializer=JSONSerializer).jobs
        return TrainRequest.model_validate(job.args[0])


@pytest.fixture
def saymask(tmp_path: Path, valkey: Valkey) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ, "SAYMASK_REDIS_URL": valkey.url, "COLUMNS": "200",
            "SAYMASK_DATA_DIR": str(tmp_path / "data"),
        }  # fmt: skip
        return subprocess.run(
            [SAYMASK, *arguments], check=False, text=True, capture_output=True, env=environment
        )

    return run


def test_the_button_exports_and_enqueues(
    build_client: Callable[..., TestClient], app_stores: Stores, valkey: Valkey, tmp_path: Path
) -> None:
    client = build_client()
    add_records(app_stores)
    event = load_capture("START_TRAINING")
    event["project"]["id"] = factories.KEY.id
    assert client.post("/webhook", json=event).is_success
    await_state(lambda: read_status(valkey) is not None, "nothing was enqueued")
    request = read_job(valkey)
    assert (request.run, request.project_id) == ("run-0001", factories.KEY.id)
    dataset = load_dataset("export", tmp_path / "data" / "models" / "run-0001" / "data", None)
    assert sorted(e.text for i in dataset.images for e in i.expressions) == [
        "thing 1", "thing 2", "thing 3",
    ]  # fmt: skip
    page = client.get("/").text
    assert "run-0001" in page
    assert "is waiting" in page
    assert client.get("/ready").json()["training"]["state"] == "waiting"


def test_a_button_without_records_says_so_on_the_page(
    build_client: Callable[..., TestClient], valkey: Valkey, tmp_path: Path
) -> None:
    client = build_client()
    assert client.post("/webhook", json=load_capture("START_TRAINING")).is_success
    await_state(lambda: read_status(valkey) is not None, "nothing was told")
    page = client.get("/").text
    assert "failed" in page
    assert "Nothing was selected to export" in page
    assert list((tmp_path / "data" / "models").glob("run-*")) == [], "no empty run stays"


def test_train_as_people_run_it(
    saymask: Callable[..., Any], app_stores: Stores, valkey: Valkey, tmp_path: Path
) -> None:
    with closing(app_stores):
        add_records(app_stores)
    settings = load_worker_settings(
        redis_url=valkey.url, models_dir=tmp_path / "data" / "models", queues="training"
    )
    assert json.loads(saymask("train", "--no-wait", "--json").stdout) == {"run": "run-0001"}
    again = saymask("train", "--project", str(factories.KEY.id))
    assert again.returncode == 2
    assert "run-0001 is waiting" in again.stderr
    assert "wait" in again.stderr.lower()
    work_off(settings)
    status = read_status(valkey)
    assert status is not None
    assert (status.state, status.project_id) == ("served", 0)

    shown = saymask("models", "list").stdout
    assert "run-0001" in shown
    assert "yes" in shown
    assert "proposals alone" in shown
    assert saymask("models", "rollback").stdout.strip() == "no trained model is served any more"
    assert saymask("models", "serve", "run-0001").stdout.strip() == "run-0001 is served"
    (model,) = json.loads(saymask("models", "list", "--json").stdout)
    assert (model["name"], model["is_served"]) == ("run-0001", True)
    assert "no model 'run-0009'" in saymask("models", "serve", "run-0009").stderr


def test_train_waits_and_tells_how_it_ended(
    saymask: Callable[..., Any], app_stores: Stores, valkey: Valkey, tmp_path: Path
) -> None:
    with closing(app_stores):
        add_records(app_stores)
    models_dir = tmp_path / "data" / "models"
    settings = load_worker_settings(redis_url=valkey.url, models_dir=models_dir, queues="training")
    done: list[subprocess.CompletedProcess[str]] = []
    waiting = threading.Thread(target=lambda: done.append(saymask("train", "--epochs", "2")))
    waiting.start()
    with redis.Redis.from_url(valkey.url) as client:
        await_state(
            lambda: client.llen(f"rq:queue:{QUEUE_TRAINING}") == 1, "nothing was enqueued", 60
        )
    work_off(settings, FakeLearn(low=-0.1))
    waiting.join(60)
    assert done[0].returncode == 0, done[0].stdout + done[0].stderr
    assert "3 referents on 3 photos" in done[0].stdout
    assert "run-0001 is not better" in done[0].stdout
    assert ModelRegistry(models_dir).read_served() == ""

    (models_dir / "run-0001" / "model" / "model.json").unlink()
    failed = saymask("train", "--resume", "run-0009")
    assert "no run 'run-0009'" in failed.stderr
    assert json.loads(saymask("train", "--resume", "run-0001", "--no-wait", "--json").stdout)
    request = read_job(valkey)
    assert (request.run, request.epochs) == ("run-0001", 2), "as it was begun"


def test_a_run_that_waits_is_taken_back(
    saymask: Callable[..., Any], app_stores: Stores, valkey: Valkey
) -> None:
    with closing(app_stores):
        add_records(app_stores)
    assert "No training worker runs yet" in saymask("train", "--no-wait").stdout
    assert "run-0001 is stopped" in saymask("train", "--stop").stdout
    status = read_status(valkey)
    assert status is not None
    assert (status.state, status.text) == ("failed", "It was stopped before it began.")
    assert "No run is underway" in saymask("train", "--stop").stderr


def test_two_starts_at_once_make_one_run(
    saymask: Callable[..., Any], app_stores: Stores, valkey: Valkey, tmp_path: Path
) -> None:
    """Both export; the one that comes second takes its export back."""
    with closing(app_stores):
        add_records(app_stores)
    settings = load_settings(SAYMASK_REDIS_URL=valkey.url, data_dir=tmp_path / "data")
    both = threading.Barrier(2)

    class Slow(Exporter):
        def write(self, *arguments: Any, **named: Any) -> Any:
            both.wait(30)
            return super().write(*arguments, **named)

    def start(_: int) -> str:
        stores = Stores(settings.effective_database_url)
        queue = JobQueue(valkey.url, 30)
        exporter = Slow(stores, build_fetcher(settings), tmp_path / "photos")
        models = settings.effective_models_dir
        with closing(stores), closing(queue):
            try:
                return (
                    TrainingStarter(models, exporter, Recorder(stores), queue.training)
                    .start(None)
                    .run
                )
            except TrainingUnderway as error:
                return error.code

    with ThreadPoolExecutor(2) as pool:
        outcomes = sorted(pool.map(start, range(2)))
    status = read_status(valkey)
    assert status is not None
    assert outcomes == sorted(["TrainingUnderway", status.run])
    assert [path.name for path in (tmp_path / "data" / "models").glob("run-*")] == [status.run]


def work_off(settings: Any, learn: FakeLearn | None = None) -> None:
    """A training worker in this process, until its queue is empty."""
    fake = learn or FakeLearn()
    run_training_worker(settings, burst=True, build_learn=lambda _: fake, niceness=0)


def test_nothing_to_roll_back(saymask: Callable[..., Any], tmp_path: Path) -> None:
    assert "nothing to take back" in saymask("models", "rollback").stderr
    registry = ModelRegistry(tmp_path / "data" / "models")
    add_model(registry, 0.3)
    assert "0.300" in saymask("models", "list").stdout


def test_damaged_models_are_listed_and_rolled_back(
    saymask: Callable[..., Any], tmp_path: Path
) -> None:
    registry = ModelRegistry(tmp_path / "data" / "models")
    for _ in range(3):
        registry.serve(add_model(registry, 0.3))
    for name in ("run-0002", "run-0003"):
        (registry.folder / name / "verdict.json").write_text("[7]", "utf-8")
    shown = saymask("models", "list")
    assert shown.returncode == 1
    for name in ("run-0001", "run-0002", "run-0003"):
        assert name in shown.stdout
    assert shown.stderr.count("damaged:") == 2
    assert saymask("models", "rollback").stdout.strip() == "run-0001 is served"
    (registry.folder / "serving.json").write_text("[]", "utf-8")
    shown = saymask("models", "list")
    assert shown.returncode == 1
    assert "run-0001" in shown.stdout
    refused = saymask("models", "rollback")
    assert refused.returncode == 2
    assert "saymask models serve NAME" in refused.stderr
    assert "Traceback" not in shown.stderr + refused.stderr
