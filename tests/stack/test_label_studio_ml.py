"""saymask hosted with label-studio-ml: its release over HTTP, and its second interface."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from saymask_backend.records.stores import Stores
from tests.backend.conftest import app_stores, build_client, photos
from tests.backend.http import typed
from tests.conftest import free_port, load_capture
from tests.factories import annotation, event
from tests.factories import typed as typed_entry
from tests.reliability.test_load import served

__all__ = ["app_stores", "build_client", "photos"]
pytestmark = pytest.mark.stack
FOLDER = Path(__file__).parents[2] / "docker" / "label-studio-ml"
LOGIN = {"basic_auth_user": "u", "basic_auth_password": "p", "webhook_secret": "s"}


@pytest.fixture
def backend(
    build_client: Callable[..., TestClient], start_worker: Callable[..., Any]
) -> Iterator[str]:
    start_worker()
    with served(build_client(**LOGIN)) as url:
        yield url


def environment(backend: str) -> dict[str, str]:
    return {
        **os.environ, "SAYMASK_URL": backend, "SAYMASK_BASIC_AUTH_USER": "u",
        "SAYMASK_BASIC_AUTH_PASSWORD": "p", "SAYMASK_WEBHOOK_SECRET": "s",
    }  # fmt: skip


@pytest.fixture
def hosted(backend: str, tmp_path: Path) -> Iterator[str]:
    python = os.environ.get("LABEL_STUDIO_ML_PYTHON")
    if not python:
        pytest.skip("LABEL_STUDIO_ML_PYTHON is not set (make test sets it)")
    port = free_port()
    command = [str(Path(python).absolute()), "-m", "gunicorn", "--bind", f"127.0.0.1:{port}"]
    process = subprocess.Popen(
        [*command, "_wsgi:app"], cwd=FOLDER,
        env={**environment(backend), "HOME": str(tmp_path)},
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 60
    while True:
        try:
            httpx.get(f"{url}/health")
            break
        except httpx.HTTPError:
            assert time.monotonic() < deadline, "label-studio-ml did not start"
            assert process.poll() is None
            time.sleep(0.1)
    yield url
    process.terminate()
    process.wait(20)


def await_event(stores: Stores, count: int) -> None:
    deadline = time.monotonic() + 20
    while sum(stores.events.count_events_by_action().values()) < count:
        assert time.monotonic() < deadline, "the webhook did not arrive"
        time.sleep(0.05)


def test_the_release_over_http(hosted: str, backend: str, app_stores: Stores) -> None:
    assert httpx.get(f"{hosted}/health").status_code == 401
    assert httpx.post(f"{hosted}/webhook", json={"action": "X"}).status_code == 401
    auth = ("u", "p")
    assert httpx.get(f"{hosted}/health", auth=auth).json()["status"] == "UP"
    setup = load_capture("setup")
    # The release says INITIAL whatever the model is; each prediction has its own version.
    assert httpx.post(f"{hosted}/setup", json=setup, auth=auth, timeout=20).json()["model_version"]
    body = typed("the cat")
    body["label_config"] = setup["schema"]
    direct = httpx.post(f"{backend}/predict", json=body, auth=("u", "p")).json()["results"]
    through = httpx.post(f"{hosted}/predict", json=body, auth=auth, timeout=30).json()["results"]
    assert [strip(entry) for entry in through] == [strip(entry) for entry in direct]
    assert through[0]["model_version"] == "saymask-fake-1"
    assert any(entry["type"] == "brushlabels" for entry in through[0]["result"])
    body = event(5, annotation(1, [typed_entry("the cat")]))
    hook = httpx.post(f"{hosted}/webhook", json=body, headers={"X-Saymask-Secret": "s"})
    assert hook.status_code == 201
    await_event(app_stores, 1)


def strip(prediction: dict[str, Any]) -> list[tuple[Any, ...]]:
    """What does not name the request."""
    return [(e["type"], e.get("score"), e["value"].get("rle")) for e in prediction["result"]]


def test_the_interface_of_the_second_generation(
    backend: str, app_stores: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not published as a package; its base class is written here as its source has it."""

    class LabelStudioMLBase:
        def __init__(self, project_id: str | None = None, label_config: str | None = None) -> None:
            self.project_id = project_id
            self.label_config = label_config
            self.kept: dict[str, str] = {}
            self.setup()

        def setup(self) -> None:
            """Models fill this in."""

        def set(self, key: str, value: str) -> None:
            self.kept[key] = value

    package, module = types.ModuleType("label_studio_ml"), types.ModuleType("model")
    module.LabelStudioMLBase = LabelStudioMLBase  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "label_studio_ml", package)
    monkeypatch.setitem(sys.modules, "label_studio_ml.model", module)
    for name, value in environment(backend).items():
        monkeypatch.setenv(name, value)
    spec = importlib.util.spec_from_file_location("saymask_model", FOLDER / "model.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    body = typed("the cat")
    model = loaded.SaymaskModel(project_id="2", label_config=body["label_config"])
    assert model.kept == {"model_version": "saymask-fake-1"}
    (prediction,) = model.predict(body["tasks"], context=body["params"]["context"])
    assert any(entry["type"] == "brushlabels" for entry in prediction["result"])
    hook = event(5, annotation(1, [typed_entry("the cat")]))
    model.fit(hook.pop("action"), hook)
    await_event(app_stores, 1)
    model.label_config = "<View/>"
    with pytest.raises(RuntimeError, match="cause"):
        model.predict(body["tasks"], context=None)
