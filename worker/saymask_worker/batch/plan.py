"""What a batch is asked for, and how one image is answered."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from saymask.errors import DatasetError, SaymaskError
from saymask.image_files import NAME_NOT_UTF8, is_utf8, to_printable
from saymask_worker.batch.coco_folder import ProposeOptions
from saymask_worker.batch.folders import ImageFolder
from saymask_worker.batch.rows import Failed, ImageRows, build_given_row, build_proposed_rows
from saymask_worker.batch.tables import read_expressions
from saymask_worker.images.types import EncodedImage
from saymask_worker.pipeline.pipeline import Pipeline, open_image


@dataclass(frozen=True)
class BatchPlan:
    """What is wanted.

    Attributes:
        source: folder of images, as fsspec reads it.
        out: folder of the rows.
        expressions: file of expressions; empty to propose some.
        k: candidates for each.
        propose: how expressions are proposed.
        images_per_part: this many images are finished together; what an interruption costs at most,
            for each process.
    """

    source: str
    out: str
    expressions: str = ""
    k: int = 3
    propose: ProposeOptions = field(default_factory=ProposeOptions)
    images_per_part: int = 16


@dataclass(frozen=True)
class Chunk:
    """Images that become one part; ``expressions`` of each, none where some are proposed."""

    images: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Work:
    """All chunks of a plan, and what names its expressions.

    Attributes:
        chunks: of all images, done before or not.
        expressions_sha256: of the expressions, or empty.
        refused: images in no chunk, because no row can hold their names.
    """

    chunks: tuple[Chunk, ...]
    expressions_sha256: str
    refused: tuple[Failed, ...] = ()

    @property
    def images_count(self) -> int:
        """Number of images, those in no chunk too."""
        return sum(len(chunk.images) for chunk in self.chunks) + len(self.refused)


def list_work(plan: BatchPlan) -> Work:
    """List the images of a plan, in the order of their names.

    Raises:
        DatasetError: source or expressions cannot be read, there are none, or no name is UTF-8.
    """
    if plan.expressions:
        wanted = read_expressions(plan.expressions)
        text = repr(sorted(wanted.items()))
        sha256 = hashlib.sha256(text.encode()).hexdigest()
    else:
        wanted = dict.fromkeys(ImageFolder(plan.source).list_images(), ())
        sha256 = ""
    refused = tuple((to_printable(name), NAME_NOT_UTF8) for name in wanted if not is_utf8(name))
    named = {name: texts for name, texts in wanted.items() if is_utf8(name)}
    if not named:
        raise DatasetError(f"No photo can be used. {refused[0][0]}: {refused[0][1]}")
    return Work(tuple(_divide(named, plan.images_per_part)), sha256, refused)


def _divide(wanted: dict[str, tuple[str, ...]], size: int) -> Iterator[Chunk]:
    items = list(wanted.items())
    for start in range(0, len(items), size):
        yield Chunk(tuple(items[start : start + size]))


def describe_run(plan: BatchPlan, work: Work, model_version: str) -> dict[str, Any]:
    """Return what a run's rows depend on."""
    return {
        "model_version": model_version,
        "source": plan.source,
        "expressions_sha256": work.expressions_sha256,
        "k": plan.k,
        "propose": None if plan.expressions else asdict(plan.propose),
    }


def answer_image(
    pipeline: Pipeline, plan: BatchPlan, name: str, data: bytes, expressions: tuple[str, ...]
) -> ImageRows:
    """Segment the expressions about an image, or propose some: what an annotator would be offered.

    What concerns this image alone is a failure of this image: it cannot be decoded, for example,
    or no masks are given for it.
    """
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        stem = name.rpartition("/")[2].rpartition(".")[0]
        prepared, _ = open_image(pipeline, data, stem)
        if plan.expressions:
            encoded = EncodedImage(lambda: data)
            rows = [
                build_given_row(
                    name,
                    pipeline.segment(prepared, text, plan.k, preparation=None, encoded=encoded),
                )
                for text in expressions
            ]
        else:
            wanted = plan.propose
            pairs = pipeline.propose(
                prepared,
                data,
                wanted.per_image,
                wanted.confidence_min,
                wanted.seed,
                wanted.describer,
            )
            rows = build_proposed_rows(
                name, sha256, prepared.proposals.size_hw, pairs, pipeline.model_version
            )
    except SaymaskError as error:
        if error.concerns_all:
            raise
        return ImageRows(name, sha256, failure=str(error))
    return ImageRows(name, sha256, tuple(rows))
