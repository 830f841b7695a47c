"""What a wheel installs: import names of our own, next to a project that has a ``backend`` too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.conftest import SAMPLES
from tests.weights import require_weights

ROOT = Path(__file__).parent.parent
OURS = {"saymask", "saymask_backend", "saymask_worker"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, ROOT],
        check=True,
    )
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel; its dependencies are those of this one."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", wheel], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    # A path in a .pth file is not searched for .pth files: this checkout is not on it.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"), "utf-8")
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's project with packages of the plainest names."""
    for name in ("backend", "worker"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text('OWNER = "the user"\n', "utf-8")
    return tmp_path


def run(program: Path, *arguments: str | Path, cwd: Path) -> str:
    # A PYTHONPATH with this checkout would hide what the wheel installed.
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [program, *arguments], cwd=cwd, env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_wheel_installs_names_of_our_own_only(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == OURS


def test_a_users_own_packages_are_found(environment: Path, project: Path) -> None:
    code = (
        "import backend, worker, saymask, saymask_backend, saymask_worker;"
        "print(backend.OWNER, worker.OWNER, saymask.__file__)"
    )
    said = run(environment / "bin" / "python", "-c", code, cwd=project)
    assert said.startswith("the user the user")
    assert str(environment) in said
    assert "preannotate" in run(environment / "bin" / "saymask", "--help", cwd=project)


@pytest.mark.slow
def test_the_worker_of_a_wheel_segments(environment: Path, project: Path) -> None:
    require_weights()
    masks = project / "masks.json"
    run(
        environment / "bin" / "saymask-worker", "segment", SAMPLES / "chelsea.jpg", "the cat",
        "--json", masks, cwd=project,
    )  # fmt: skip
    assert json.loads(masks.read_text("utf-8"))["candidates"]
