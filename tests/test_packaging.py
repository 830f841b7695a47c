"""What a wheel installs: import names of our own, next to a project that has a ``backend`` too."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.conftest import SAMPLES
from tests.refcoco import write_export
from tests.weights import require_weights

ROOT = Path(__file__).parent.parent
OURS = {"saymask", "saymask_backend", "saymask_worker"}
EXAMPLES = sorted((ROOT / "examples").rglob("*.py"))
# What a run of each example prints, and what it writes.
PRINTS = {
    "one_photo": r"1 \(.*probability 0\.\d\d\n(.*\n)*the click changed \d+ of \d+ pixels",
    "folder_to_parquet": r"chelsea.jpg: the cat: \d",
    "left_edge": r"left edge: from left-edge, probability 0.9\d?.*\nthe spoon: from proposals",
    "train_and_compare": r"mean IoU 0\.\d+ without .*\nof 4 expressions \d became better",
    "explain": r"noun phrase: the spoon(.*\n)*relation: right_of(.*\n)*score +[+-]",
    "photos_to_dataset": r"[1-9]\d* expressions verified",
}
WRITES = {
    "one_photo": ("overlay.png", "instances.json"),
    "explain": ("explained.png",),
    "train_and_compare": ("runs/first/model",),
    "photos_to_dataset": ("dataset/annotations/verified.json",),
}


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


@pytest.fixture(scope="module")
def coarse(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Settings with which photos are prepared quickly, and once for all examples."""
    require_weights()
    folder = tmp_path_factory.mktemp("prepared")
    return {"SAYMASK_POINTS_PER_SIDE": "6", "SAYMASK_PREPARED_DIR": str(folder)}


def run(program: Path, *arguments: str | Path, cwd: Path, **settings: str) -> str:
    # A PYTHONPATH with this checkout would hide what the wheel installed.
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    variables |= settings
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


@pytest.mark.slow
def test_the_readme_s_python_runs_and_draws(
    environment: Path, coarse: dict[str, str], tmp_path: Path
) -> None:
    (block, *_) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)
    samples = tmp_path / SAMPLES.relative_to(ROOT)
    shutil.copytree(SAMPLES, samples)
    program = f"{block}\nprint(len(result.candidates), saymask.__file__)"
    said = run(environment / "bin" / "python", "-c", program, cwd=tmp_path, **coarse)
    assert re.match(rf"[1-3] {environment}", said)
    assert len(list(tmp_path.glob("*.png"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_runs(
    example: Path, environment: Path, coarse: dict[str, str], tmp_path: Path
) -> None:
    python, arguments = environment / "bin" / "python", []
    if example.parent.name == "own_source":
        package = shutil.copytree(example.parent, tmp_path / "package")
        run(python, "-m", "pip", "install", "-q", "--no-deps", package, cwd=tmp_path)
    if example.stem in ("folder_to_parquet", "photos_to_dataset"):
        photos = tmp_path / "photos"
        photos.mkdir()
        for name in ("chelsea.jpg", "coffee.jpg"):
            shutil.copy(SAMPLES / name, photos)
        arguments = [photos]
    if example.stem == "train_and_compare":
        arguments = [write_export(tmp_path / "export", count=8), "1"]
    said = run(python, example, *arguments, cwd=tmp_path, **coarse)
    assert re.search(PRINTS[example.stem], said), said
    for name in WRITES.get(example.stem, ()):
        assert (tmp_path / name).exists()


def test_examples_are_short_and_listed() -> None:
    listed = (ROOT / "examples" / "README.md").read_text("utf-8")
    for example in EXAMPLES:
        assert len(example.read_text("utf-8").splitlines()) <= 60
        assert f"({example.relative_to(ROOT / 'examples')})" in listed
