"""A marked secret in every setting that holds one; then everything that speaks is searched."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import redis
from sqlalchemy import create_engine, text

from saymask.errors import SaymaskError, WeightsError
from saymask_backend.cli.main import main as run_backend
from saymask_backend.label_studio.client import LabelStudioClient
from saymask_backend.label_studio.images import ImageFetcher
from saymask_backend.queue.job_queue import JobQueue
from saymask_backend.records.stores import Stores
from saymask_backend.records.tables import Base
from saymask_worker.cli.main import main as run_worker
from saymask_worker.config.settings import load_worker_settings
from saymask_worker.weights.hub import HUB_MODELS, HubStore
from tests.backend.http import Handler, LocalServer, typed
from tests.conftest import Valkey, await_state, free_port
from tests.factories import annotation, brush, event, square
from tests.factories import typed as typed_entry

MARK = "MARKED"
ODD = "with/odd?signs#and@more"
QUEUE_PASSWORD = f"{MARK}-queue-{ODD}"
DATABASE_PASSWORD = f"{MARK}-database-{ODD}"
LOGIN = ("label-studio", f"{MARK}-password-{ODD}")
SECRETS = {
    "SAYMASK_LABEL_STUDIO_API_KEY": f"{MARK}-key-0123456789\n",
    "SAYMASK_WEBHOOK_SECRET": f"\t{MARK}-webhook-{ODD}\r\n",
    "SAYMASK_BASIC_AUTH_USER": f"{LOGIN[0]}\n",
    "SAYMASK_BASIC_AUTH_PASSWORD": f" {LOGIN[1]}\n",
    "HF_TOKEN": f"{MARK}-hub-{ODD}\n",
}
COMMANDS = (
    ["status"], ["status", "--json"], ["doctor"], ["doctor", "--json"],
    ["connect", "--project", "3"], ["prepare", "--project", "3"], ["sync", "--project", "3"],
    ["preannotate", "--project", "3"], ["stats"], ["stats", "--json"],
    ["records", "list"], ["export", "coco", "--project", "3"], ["train", "--project", "3"],
)  # fmt: skip
Run = Callable[..., str]


class Echo(Handler):
    """A Label Studio in trouble: it answers with everything that it was sent."""

    def answer(self) -> None:
        self.send(f"trouble\n{self.headers}".encode(), 500)

    do_GET = do_POST = do_PATCH = answer


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process; returns everything that it printed."""

    def call(arguments: list[str], main: Callable[[], None] = run_backend) -> str:
        monkeypatch.setattr(sys, "argv", ["saymask", *arguments])
        with pytest.raises(SystemExit):
            main()
        return "".join(capfd.readouterr())

    return call


@pytest.fixture
def odd_queue(valkey: Valkey) -> str:
    """The address of a queue with a password, written as people write it."""
    with redis.Redis.from_url(valkey.url) as client:
        client.config_set("requirepass", QUEUE_PASSWORD)
    return f"redis://:{QUEUE_PASSWORD}@127.0.0.1:{valkey.port}/0\n"


def dump_database(url: str) -> str:
    with closing(Stores(url)) as stores, stores.database.engine.connect() as connection:
        return "\n".join(
            str(tuple(row))
            for table in Base.metadata.sorted_tables
            for row in connection.execute(table.select())
        )


def create_database(postgres_url: str) -> str:
    """A new database; returns its address with a marked password, which the server ignores."""
    name = f"secrets_{os.urandom(4).hex()}"
    engine = create_engine(
        postgres_url.replace("postgresql://", "postgresql+psycopg://"),
        isolation_level="AUTOCOMMIT",
    )
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    base = postgres_url.rsplit("/", 1)[0].replace("saymask@", "saymask:{}@")
    return f"{base}/{name}"


def test_no_secret_is_told_by_anything_that_speaks(
    postgres_url: str,
    odd_queue: str,
    valkey: Valkey,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run: Run,
) -> None:
    database = create_database(postgres_url)
    port = free_port()
    with LocalServer(Echo) as studio:
        variables = {
            **SECRETS, "SAYMASK_REDIS_URL": odd_queue, "SAYMASK_PORT": str(port),
            "SAYMASK_DATABASE_URL": database.format(DATABASE_PASSWORD) + "\n",
            "SAYMASK_LABEL_STUDIO_URL": studio.url, "SAYMASK_DATA_DIR": str(tmp_path),
            "SAYMASK_SYNC_EVERY_S": "0.5", "SAYMASK_DEADLINE_S": "2",
        }  # fmt: skip
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        log = tmp_path / "log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [str(Path(sys.executable).parent / "saymask"), "serve"], stdout=file, stderr=file
            )
        try:
            told = [*speak(f"http://127.0.0.1:{port}", process)]
            told += [run(command) for command in COMMANDS]
            with redis.Redis.from_url(valkey.url, password=QUEUE_PASSWORD) as client:
                client.config_set("requirepass", "another")
                client.client_kill_filter(_type="normal", skipme=False)
            told += [run(["status"]), run(["doctor"])]
            told += [*speak(f"http://127.0.0.1:{port}", process)]
        finally:
            process.terminate()
            process.wait(30)
    told += [log.read_text(), dump_database(database.format(quote(DATABASE_PASSWORD, safe="")))]
    everything = "\n".join(told)
    for said in ("Authorization: Token ***", "answered 500", "invalid username-password pair"):
        assert said in everything, "otherwise nothing was tried"
    assert MARK not in everything


def speak(url: str, process: subprocess.Popen[bytes]) -> Iterator[str]:
    """What the backend answers: to a project with its records, and to what goes wrong."""

    def is_up() -> bool:
        assert process.poll() is None, "the backend ended"
        try:
            return httpx.get(f"{url}/live").status_code == 200
        except httpx.HTTPError:
            return False

    await_state(is_up, "the backend does not answer", 60)
    secret = {"X-Saymask-Secret": SECRETS["SAYMASK_WEBHOOK_SECRET"].strip()}
    mask = brush("cand1_1", square(4), "top-1", "manual", "the cat")
    webhook = event(5, annotation(1, [typed_entry("the cat"), *mask]))
    yield httpx.post(f"{url}/webhook", json=webhook, headers=secret).text
    yield httpx.post(f"{url}/webhook", json=webhook, headers={"X-Saymask-Secret": "no"}).text
    for photo in ("/data/upload/1/cat.png", "s3://bucket/x.png", "http://u:other/x@h/x.png"):
        yield httpx.post(
            f"{url}/predict", json=typed("the cat", photo), auth=LOGIN, timeout=60
        ).text
    for path in ("/ready", "/", "/metrics", "/setup", "/versions", "/health"):
        yield httpx.get(url + path, auth=LOGIN, timeout=60).text
        yield httpx.get(url + path).text


BROKEN: dict[str, str] = {
    "SAYMASK_LABEL_STUDIO_API_KEY": f"{MARK}-key\nwith-a-line-end",
    "SAYMASK_WEBHOOK_SECRET": f"{MARK}-webhook\nwith-a-line-end",
    "SAYMASK_BASIC_AUTH_PASSWORD": f"{MARK}-password\x07with-a-bell",
    "SAYMASK_REDIS_URL": f"redis://:{MARK}-1@{MARK}-2/{MARK}-3@127.0.0.1:1/0",
    "SAYMASK_DATABASE_URL": f"postgresql://u:{MARK}-1@{MARK}-2/{MARK}-3@127.0.0.1:1/db",
    "SAYMASK_LABEL_STUDIO_URL": f"http://user:{MARK}-password@127.0.0.1:1",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_secret_is_refused_by_its_setting_s_name(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run: Run
) -> None:
    monkeypatch.setenv("SAYMASK_DATA_DIR", str(tmp_path))
    monkeypatch.setenv(name, BROKEN[name])
    for command in (["serve"], ["stats"], ["doctor"], ["status"]):
        printed = run(command)
        assert name in printed
        assert MARK not in printed
        assert "Traceback" not in printed
    if name == "SAYMASK_REDIS_URL":
        printed = run(["run"], run_worker)
        assert "redis_url" in printed.lower()
        assert MARK not in printed


def test_what_is_unreachable_or_malformed_is_told_without_its_password(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run: Run
) -> None:
    monkeypatch.setenv("SAYMASK_DATA_DIR", str(tmp_path))
    for scheme, host in (
        ("postgresql", "127.0.0.1:1/db"),
        ("postgresql+nothing", "127.0.0.1:1/db"), ("odd", "127.0.0.1/db"),
    ):  # fmt: skip
        monkeypatch.setenv("SAYMASK_DATABASE_URL", f"{scheme}://u:{DATABASE_PASSWORD}@{host}")
        printed = run(["stats"])
        assert "error" in printed
        assert MARK not in printed
    monkeypatch.delenv("SAYMASK_DATABASE_URL")
    for address in (f"redis://:{QUEUE_PASSWORD}@127.0.0.1:1/0", f"odd://:{QUEUE_PASSWORD}@h/0"):
        monkeypatch.setenv("SAYMASK_REDIS_URL", address)
        printed = run(["run"], run_worker)
        assert "error" in printed
        assert MARK not in printed
    for options in (
        ["status", "--url", f"http://u:{MARK}@127.0.0.1:1"],
        ["doctor", "--label-studio", "http://127.0.0.1:1", "--api-key", f"{MARK}-key\nx"],
        ["doctor", "--label-studio", "http://127.0.0.1:1", "--api-key", f"{MARK}-key-012\n"],
        [
            "doctor", "--label-studio", "http://127.0.0.1:1", "--api-key", "x",
            "--backend-url", f"http://u:{MARK}@127.0.0.1:1",
        ],
    ):  # fmt: skip
        assert MARK not in run(options)


def test_classes_that_get_a_raw_secret_do_not_tell_it_either(tmp_path: Path) -> None:
    odd = f"{MARK}/a#b?c\nd"
    attempts: tuple[Callable[[], Any], ...] = (
        lambda: LabelStudioClient("http://127.0.0.1:1", odd),
        lambda: LabelStudioClient("http://127.0.0.1:1", f"{MARK}-key-0123456789\n").get_release(),
        lambda: ImageFetcher("http://127.0.0.1:1", odd, (), 1, 1.0),
        lambda: JobQueue(f"redis://:{odd}@127.0.0.1:1/0", 1.0),
        lambda: Stores(f"postgresql://u:{odd}@[127.0.0.1:port/db"),
        lambda: ImageFetcher("", "", (), 1, 1.0).fetch(f"http://u:{odd}@127.0.0.1/x.png", 1),
    )
    for attempt in attempts:
        with pytest.raises(SaymaskError) as caught:
            attempt()
        assert MARK not in f"{caught.value} {caught.value!r}"


def test_the_hub_s_token_is_not_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    token = f"{MARK}-hub\nwith-a-line-end"
    monkeypatch.setenv("HF_TOKEN", token)
    load_worker_settings()

    def fetch(_repository: str, _folder: Path) -> None:
        raise httpx.LocalProtocolError(f"Illegal header value {f'Bearer {token}'.encode()!r}")

    model = next(iter(HUB_MODELS.values()))
    with pytest.raises(WeightsError, match="Illegal header") as caught:
        HubStore(tmp_path, fetch).pull(model, model.licence)
    assert MARK not in str(caught.value)


def test_a_bug_is_told_without_secrets(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    key = SECRETS["SAYMASK_LABEL_STUDIO_API_KEY"]
    monkeypatch.setenv("SAYMASK_LABEL_STUDIO_API_KEY", key)
    monkeypatch.setenv("SAYMASK_LABEL_STUDIO_URL", "http://127.0.0.1:1")

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(f"a bug that quotes {key}")

    monkeypatch.setattr("saymask_backend.cli.project._report", fail)
    printed = run(["doctor"])
    assert "RuntimeError: a bug that quotes" in printed
    assert MARK not in printed
