"""Nothing is open by accident: the backend, its webhook, and the workers behind Redis."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from fastapi.testclient import TestClient
from rq import Queue
from rq.job import Callback
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer

from saymask.contract import QUEUE_INTERACTIVE
from saymask.errors import ConfigError
from saymask_backend.api.app import create_app
from saymask_backend.config import load_settings
from tests.backend.http import JSON_TYPE, typed
from tests.conftest import Valkey, load_capture

Build = Callable[..., TestClient]
LOGIN = {"basic_auth_user": "u", "basic_auth_password": "p", "webhook_secret": "s"}
EVENT = load_capture("TASKS_DELETED")


@pytest.mark.parametrize("path", ["/webhook", "/predict", "/setup"])
def test_a_page_in_the_annotators_browser_reaches_nothing(build_client: Build, path: str) -> None:
    client = build_client()
    text = json.dumps(EVENT)
    foreign = {"Origin": "http://evil.example"}
    assert client.post(path, content=text, headers={**JSON_TYPE, **foreign}).status_code == 403
    rebound = {**JSON_TYPE, "Host": "evil.example:9090", "Origin": "http://evil.example:9090"}
    assert client.post(path, content=text, headers=rebound).status_code == 403
    if path != "/setup":
        # A browser sends these types to any address without asking first.
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
            answer = client.post(path, content=text, headers={"Content-Type": kind})
            assert answer.status_code == 415, kind
    assert client.get("/ready").json()["events"] == {}


def test_known_names_are_let_in(build_client: Build) -> None:
    client = build_client(allowed_hosts="saymask.lan")
    for host in ("localhost:9090", "127.0.0.1:9090", "[::1]:9090", "192.168.0.7", "saymask.lan"):
        assert client.get("/health", headers={"Host": host}).status_code == 200, host
    for host in ("evil.example", "", "[bad", "saymask.lan.evil.example"):
        assert client.get("/health", headers={"Host": host}).status_code == 403, host


def test_with_a_login_everything_but_two_paths_demands_it(build_client: Build) -> None:
    client = build_client(**LOGIN)
    schema = client.get("/openapi.json", auth=("u", "p")).json()
    paths = {(path, method) for path, methods in schema["paths"].items() for method in methods}
    assert len(paths) > 8
    for path, method in [*paths, ("/openapi.json", "get")]:
        answer = client.request(method, path)
        assert (answer.status_code == 401) != (path == "/live"), (path, answer.status_code)
    assert client.get("/live").json() == {"status": "UP"}
    # The secret of the webhook opens the webhook alone, the login everything else.
    assert client.post("/webhook", json=EVENT, auth=("u", "p")).status_code == 401
    secret = {"X-Saymask-Secret": "s"}
    assert client.post("/webhook", json=EVENT, headers=secret).status_code == 200
    assert client.get("/ready", headers=secret).status_code == 401


@pytest.mark.parametrize(
    "settings",
    [
        {"basic_auth_user": "u"},
        {"basic_auth_password": "p"},
        {"basic_auth_user": "u", "basic_auth_password": "p"},
        {"basic_auth_user": "u", "webhook_secret": "s"},
        {"host": "0.0.0.0"},
        {"host": "::"},
        {"host": "192.168.0.7"},
        {"host": "saymask.example", "webhook_secret": "s"},
    ],
)
def test_half_a_lock_is_refused_at_start(settings: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"SAYMASK_|credentials"):
        create_app(load_settings(data_dir=tmp_path, **settings))
    create_app(load_settings(data_dir=tmp_path, **{**settings, **LOGIN}))


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_a_secret_with_an_accent(build_client: Build, encoding: str) -> None:
    client = build_client(webhook_secret="clé")
    header = {"X-Saymask-Secret": "clé".encode(encoding)}
    assert client.post("/webhook", json=EVENT, headers=header).status_code == 200
    assert client.post("/webhook", json=EVENT, headers={"X-Saymask-Secret": "cle"}).is_error


def test_letters_that_a_header_has_not_are_no_wildcards(build_client: Build) -> None:
    client = build_client(webhook_secret="пароль")
    for guess in ("??????", ""):
        answer = client.post("/webhook", json=EVENT, headers={"X-Saymask-Secret": guess})
        assert answer.status_code == 401
    right = {"X-Saymask-Secret": "пароль".encode()}
    assert client.post("/webhook", json=EVENT, headers=right).status_code == 200


@pytest.mark.parametrize("origin", ["http://[", "null", "http://", "x"])
def test_odd_origins_are_foreign(build_client: Build, origin: str) -> None:
    answer = build_client().post("/webhook", json=EVENT, headers={"Origin": origin})
    assert answer.status_code == 403


@pytest.mark.parametrize("depth", [500, 980, 995, 5000])
def test_nesting_is_no_server_error(build_client: Build, depth: int) -> None:
    client = build_client()
    for path, head in (("/webhook", '{"action": "X", "x": '), ("/predict", '{"tasks": ')):
        body = head + "[" * depth + "]" * depth + "}"
        assert client.post(path, content=body, headers=JSON_TYPE).status_code in (200, 400)


def test_a_body_without_end_is_not_kept(build_client: Build) -> None:
    client = build_client()

    def endless() -> Any:
        yield b'{"action": "'
        for _ in range(700):
            yield b"x" * 100_000

    for path, cure in (("/webhook", "saymask sync"), ("/predict", "fewer tasks")):
        answer = client.post(path, content=endless(), headers=JSON_TYPE)
        assert answer.status_code == 413
        assert cure in answer.json()["cure"]
    assert client.get("/ready").json()["events"] == {"WEBHOOK_TOO_LARGE": 1}


def test_jobs_of_strangers_are_not_run(
    valkey: Valkey, start_worker: Callable[..., Any], build_client: Build, tmp_path: Path
) -> None:
    """Whoever can write to Redis still cannot run code in a worker."""
    start_worker()
    proof = tmp_path / "proof"
    command = f"touch {proof}"
    with redis.Redis.from_url(valkey.url) as connection:
        queue = Queue(QUEUE_INTERACTIVE, connection=connection, serializer=JSONSerializer)
        call_system = Callback("tests.reliability.intruder.touch_proof")
        jobs = [
            queue.enqueue("os.system", command),
            queue.enqueue("subprocess.getoutput", command, on_success=call_system),
            queue.enqueue("worker.jobs.segment", {}, on_success=call_system),
            queue.enqueue("worker.jobs.segment", 1, 2, 3, on_failure=call_system),
        ]
        deadline = time.monotonic() + 20
        while not all(job.get_status(refresh=True) in ("finished", "failed") for job in jobs):
            assert time.monotonic() < deadline, [job.get_status() for job in jobs]
            time.sleep(0.1)
        assert "own jobs only" in str(jobs[0].latest_result().return_value)
        # One that looks as if its worker had died: RQ ends it with its callback.
        forged = queue.enqueue("x", on_failure=call_system, job_id="forged")
        queue.remove(forged)
        forged.set_status("started")
        connection.zadd(StartedJobRegistry(queue=queue).key, {"forged:1": 1})
        start_worker()
        deadline = time.monotonic() + 20
        while connection.zcard(StartedJobRegistry(queue=queue).key):
            assert time.monotonic() < deadline, "the registry was not cleaned"
            time.sleep(0.1)
    assert not proof.exists()
    assert not (Path(__file__).parent / "proof").exists()
    assert build_client().post("/predict", json=typed("the cat")).status_code == 200
