"""Images, compose file and chart: real specifications, and only commands that are tested here.

Nothing of it is started: there is no container engine where these tests run.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import compose_spec
import kubernetes_validate
import pytest
import yaml

from saymask.contract import QUEUE_BACKGROUND, QUEUE_INTERACTIVE, QUEUE_PREPARED
from saymask_backend.config import Settings
from saymask_worker.config.settings import WorkerSettings

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"
BIN = Path(sys.executable).parent
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text("utf-8"))
SERVICES: dict[str, Any] = COMPOSE["services"]


def known_settings() -> set[str]:
    fields = [*Settings.model_fields, *WorkerSettings.model_fields]
    return {f"SAYMASK_{name.upper()}" for name in fields} | {"SAYMASK_REDIS_URL"}


def render(*options: str) -> list[dict[str, Any]]:
    """What helm itself makes of the chart."""
    command = [BIN / "helm", "template", "release", DOCKER / "helm" / "saymask", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def test_the_compose_file_is_one() -> None:
    plain = {key: value for key, value in COMPOSE.items() if not key.startswith("x-")}
    model = compose_spec.ComposeSpecification.model_validate(plain)
    assert set(model.services or {}) == set(SERVICES)


def test_nothing_is_open_to_other_machines() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published == ["127.0.0.1:8080:8080", "127.0.0.1:9090:9090"]
    assert "--requirepass" in SERVICES["queue"]["command"]
    assert COMPOSE["networks"]["queue"] == COMPOSE["networks"]["inner"] == {"internal": True}
    for name in ("queue", "worker", "worker-background", "worker-training", "worker-gpu"):
        assert SERVICES[name]["networks"] == ["queue"], name
    assert SERVICES["database"]["networks"] == ["inner"]
    assert "queue" not in SERVICES["label-studio"]["networks"]


@pytest.mark.parametrize("name", ["queue", "backend", "weights", "worker", "worker-gpu"])
def test_services_are_hardened(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


def test_every_variable_is_a_setting_and_every_secret_is_demanded() -> None:
    text = (DOCKER / "compose.yaml").read_text("utf-8")
    demanded = set(re.findall(r"\$\{([A-Z_]+):\?\}", text))
    assert set(re.findall(r"\$\{([A-Z_]+)", text)) == demanded
    example = (DOCKER / "example.env").read_text("utf-8")
    assert set(re.findall(r"^([A-Z_]+)=", example, re.MULTILINE)) == demanded
    for service in SERVICES.values():
        names = {name for name in service.get("environment", {}) if name.startswith("SAYMASK_")}
        assert names <= known_settings()


def test_images_run_commands_that_exist() -> None:
    found = set()
    for path in DOCKER.glob("*.Dockerfile"):
        text = path.read_text("utf-8")
        assert "USER 10001" in text
        assert text.count("FROM ") == 2
        assert "--require-hashes" in text
        assert "HEALTHCHECK" in text
        for command in re.findall(r'CMD \["(saymask[^\]]*)"\]', text):
            found.add(tuple(command.split('", "')))
    for service in SERVICES.values():
        if str(service.get("command", [""])[0]).startswith("saymask"):
            found.add(tuple(service["command"]))
    for document in render():
        pod = document.get("spec", {}).get("template", {}).get("spec", {})
        for container in [*pod.get("containers", []), *pod.get("initContainers", [])]:
            found.add(tuple(container["args"]))
    assert found == {
        ("saymask", "serve"), ("saymask-worker", "run"), ("saymask-worker", "health"),
        ("saymask-worker", "models", "pull"),
    }  # fmt: skip
    for program, *arguments in found:
        command = [BIN / program, *arguments, "--help"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--set", "worker.gpu=true,cache.accessMode=ReadWriteMany,cache.storageClass=nfs"),
        ("--set", "keda=false,serviceMonitor=false"),
        ("--set", "worker.settings.SAYMASK_ENCODER=starter,backend.settings.SAYMASK_K=5"),
        ("--set", "worker.nodeSelector.gpu=yes"),
        ("--set", "training.claim=models"),
    ],
)
def test_the_chart_gives_valid_objects(options: tuple[str, ...]) -> None:
    documents = render(*options)
    kinds = [document["kind"] for document in documents]
    assert kinds.count("Deployment") == (4 if "training.claim=models" in options else 3)
    for document in documents:
        if "." not in document["apiVersion"].partition("/")[0]:
            kubernetes_validate.validate(document, "1.31", strict=True)
    custom = {"ScaledObject", "TriggerAuthentication", "ServiceMonitor"}
    assert (custom & set(kinds) == set()) == ("keda=false" in str(options))


def test_workers_follow_the_queues() -> None:
    scaled = {d["metadata"]["name"]: d["spec"] for d in render() if d["kind"] == "ScaledObject"}
    interactive = scaled["release-worker-interactive"]
    background = scaled["release-worker-background"]
    assert interactive["minReplicaCount"] >= 1
    assert background["minReplicaCount"] == 0
    lists = [t["metadata"]["listName"] for s in (interactive, background) for t in s["triggers"]]
    queues = (QUEUE_PREPARED, QUEUE_INTERACTIVE, QUEUE_BACKGROUND)
    assert lists == [f"rq:queue:{name}" for name in queues]
    for document in render():
        if document["kind"] == "Deployment" and "worker" in document["metadata"]["name"]:
            pod = document["spec"]["template"]["spec"]
            assert pod["terminationGracePeriodSeconds"] >= 120
            assert pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True
            assert "replicas" not in document["spec"]


def test_training_shares_a_volume_with_backend_and_workers() -> None:
    documents = {
        d["metadata"]["name"]: d["spec"] for d in render("--set", "training.claim=models")
        if d["kind"] == "Deployment"
    }  # fmt: skip
    assert documents["release-worker-training"]["replicas"] == 1
    for spec in documents.values():
        pod = spec["template"]["spec"]
        env = {e["name"]: e.get("value") for e in pod["containers"][0]["env"]}
        assert env["SAYMASK_MODELS_DIR"] == "/models"
        assert {"name": "models", "mountPath": "/models"} in pod["containers"][0]["volumeMounts"]
    scaled = [d for d in render("--set", "training.claim=models") if d["kind"] == "ScaledObject"]
    assert len(scaled) == 2, "a run that is worked on must not be scaled away"
    for name in ("backend", "worker", "worker-background", "worker-gpu", "worker-training"):
        assert "models:/models" in SERVICES[name]["volumes"], name
        assert SERVICES[name]["environment"]["SAYMASK_MODELS_DIR"] == "/models", name
    assert SERVICES["worker-training"]["environment"]["SAYMASK_QUEUES"] == "training"


def test_a_gpu_is_asked_for() -> None:
    for document in render("--set", "worker.gpu=true"):
        if document["kind"] == "Deployment" and "worker" in document["metadata"]["name"]:
            limits = document["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
            assert limits["nvidia.com/gpu"] == 1
            assert limits["memory"] == "6Gi"


@pytest.mark.parametrize("part", ["backend", "worker"])
def test_locks_hold_every_dependency(part: str) -> None:
    text = (DOCKER / f"{part}.lock").read_text("utf-8")
    pinned = {name.lower() for name in re.findall(r"^([A-Za-z0-9_.-]+)==", text, re.MULTILINE)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = {"backend": ("postgresql", "export"), "worker": ("worker", "train")}[part]
    wanted = [*project["dependencies"]]
    for extra in extras:
        wanted += project["optional-dependencies"][extra]
    for requirement in wanted:
        name = re.split(r"[\[<>=! ]", requirement, maxsplit=1)[0].lower().replace("_", "-")
        assert name in pinned, f"{name}: make lock"
    assert text.count("--hash=sha256:") >= len(pinned)
    licences = (ROOT / "docker" / "licences.md").read_text("utf-8")
    for name in pinned:
        assert f"| {name} |" in licences, f"{name}: make lock"


def test_no_licence_forbids_use() -> None:
    rows = (ROOT / "docker" / "licences.md").read_text("utf-8").splitlines()
    for row in rows:
        licence = row.rsplit("|", 2)[-2] if row.startswith("|") else ""
        assert not re.search(r"\bA?GPL|non-?commercial|see its files", licence, re.IGNORECASE), row


def test_the_default_worker_stays_without_optional_engines() -> None:
    locked = (DOCKER / "worker.lock").read_text("utf-8")
    for package in ("transformers", "ray"):
        assert not re.search(rf"^{package}==", locked, re.MULTILINE)
