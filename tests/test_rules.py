"""What the packages may import, and that the documents agree with the code."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from saymask.errors import ConfigError
from saymask.settings import NAMES
from saymask_backend.config import Settings, load_settings
from saymask_worker.config.settings import WorkerSettings, load_worker_settings

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_LIGHT = """
import sys, importlib, pkgutil
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "spacy", "saymask_worker", "PIL", "open_clip"):
            raise ImportError("the backend must not import " + name)
sys.meta_path.insert(0, Refuse())
import saymask_backend
for module in pkgutil.walk_packages(saymask_backend.__path__, "saymask_backend."):
    if ".migrations" not in module.name:
        importlib.import_module(module.name)
        print(module.name)
"""


def test_backend_imports_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LIGHT], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert "saymask_backend.api.app" in done.stdout


def variables() -> set[str]:
    names = set()
    for settings in (Settings, WorkerSettings):
        for name, field in settings.model_fields.items():
            alias = field.validation_alias
            names.add(alias if isinstance(alias, str) else f"SAYMASK_{name.upper()}")
    return names


def test_docs_list_every_setting_and_no_other() -> None:
    text = (ROOT / "docs" / "settings.md").read_text("utf-8")
    assert set(re.findall(r"^\| `(SAYMASK_\w+)`", text, re.MULTILINE)) == variables()


def test_every_setting_is_known_by_name() -> None:
    elsewhere = {
        f"SAYMASK_{name}"
        for name in (
            "BACKGROUND_WORKERS", "LABEL_STUDIO_PORT", "LABEL_STUDIO_PROGRAM", "QUEUE_PORT",
            "UP_DIR", "URL",
        )
    }  # fmt: skip
    assert variables() | elsewhere == NAMES


@pytest.mark.parametrize(
    "command", [("saymask", "label-config"), ("saymask-worker", "models", "list", "--json")]
)
def test_a_setting_that_nothing_reads_is_named(command: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "settings.env").write_text("SAYMASK_ENCODR='starter'\nOTHER='1'\n", "utf-8")
    settings = {"SAYMASK_THREADS": "2", "SAYMASK_K": "3", "SAYMASK_UP_DIR": str(tmp_path)}
    done = subprocess.run(
        [Path(sys.executable).parent / command[0], *command[1:]],
        capture_output=True, text=True, check=False,
        env={name: v for name, v in os.environ.items() if not name.startswith("SAYMASK_")}
        | settings,
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stderr == (
        "ignored: SAYMASK_ENCODR, SAYMASK_THREADS: no such setting; docs/settings.md lists all.\n"
    )
    assert "ignored" not in done.stdout


def test_the_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.split()) <= 800


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_pages_and_headings_that_exist(document: Path) -> None:
    for page, heading in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", document.read_text("utf-8")):
        target = document.parent / page if page else document
        assert target.is_file(), page
        titles = re.findall(r"^#+ (.+)$", target.read_text("utf-8"), re.M) if heading else []
        anchors = [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles]
        assert not heading or heading in anchors, f"{page}#{heading}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_variables_and_files_that_a_document_names_exist(document: Path) -> None:
    text = document.read_text("utf-8")
    folders = ("backend", "benchmarks", "docker", "saymask", "tests", "worker")
    code = "".join(
        path.read_text("utf-8")
        for folder in folders
        for suffix in ("py", "yaml")
        for path in (ROOT / folder).rglob(f"*.{suffix}")
    )
    for variable in set(re.findall(r"SAYMASK_[A-Z_]*[A-Z]", text)) - variables():
        assert variable in code, variable
    for path in re.findall(rf"`((?:{'|'.join(folders)})/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path


def test_commands_of_the_readme_have_these_options() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    commands = re.findall(
        r"^(?:\.venv/bin/)?(saymask(?:-worker)?) (\w+) (.* -.+)$", text, re.MULTILINE
    )
    assert [name for name, *_ in commands] == 3 * ["saymask-worker"] + ["saymask"]
    for name, command, rest in commands:
        done = subprocess.run(
            [Path(sys.executable).parent / name, command, "--help"],
            capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "200"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        for option in re.findall(r"(?<= )--?[a-z][\w-]*", rest):
            assert option in done.stdout, option


def test_every_stop_on_the_path_of_an_expression_exists() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    stops = re.findall(r"^\d+\. `([\w.]+)`", text, re.MULTILINE)
    assert 5 <= len(stops) <= 8
    for stop in stops:
        parts = stop.split(".")
        depth = next(n for n, part in enumerate(parts) if part[0].isupper() or n == len(parts) - 1)
        target = importlib.import_module(".".join(parts[:depth]))
        for part in parts[depth:]:
            target = getattr(target, part)
        assert callable(target), stop


def test_importing_saymask_is_light() -> None:
    script = "import sys, saymask; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    heavy = {"torch", "spacy", "fastapi", "sqlalchemy", "httpx", "rq"}
    heavy |= {"saymask_backend", "saymask_worker"}
    assert not heavy & set(done.stdout.split())


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SAYMASK_K", "0"),
        ("SAYMASK_K", "1000"),
        ("SAYMASK_DEADLINE_S", "100"),
        ("SAYMASK_PORT", "x"),
        ("SAYMASK_LABEL_STUDIO_URL", "localhost"),
    ],
)
def test_bad_settings_fail_at_start(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=variable):
        load_settings()


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("SAYMASK_POINTS_PER_SIDE", "1", "SAYMASK_POINTS_PER_SIDE"),
        ("SAYMASK_PROPOSALS", "given", "given:FOLDER"),
        ("SAYMASK_PROPOSALS", "sam3:masks", "given:FOLDER"),
        ("SAYMASK_PROPOSALS", "fastsam", "mobile-sam, .*given:FOLDER"),
    ],
)
def test_bad_worker_settings_fail_at_start(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=message):
        load_worker_settings()


def test_redis_url_has_two_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://elsewhere:1/0")
    assert load_settings().redis_url == "redis://elsewhere:1/0"
    monkeypatch.setenv("SAYMASK_REDIS_URL", "redis://here:2/0")
    assert load_settings().redis_url == load_worker_settings().redis_url == "redis://here:2/0"


def test_every_fault_names_a_test_that_exists() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text("utf-8")
    named = set(re.findall(r"`(test_[a-z0-9_]+)`", text))
    sources = [path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    existing = {name for source in sources for name in re.findall(r"^def (test_\w+)", source, re.M)}
    assert named - existing == set()
    assert len(named) > 40
