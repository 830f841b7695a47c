"""A batch in this process: one image after the other, the next ones read meanwhile."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from saymask.left_out import OnProgress
from saymask_worker.batch.folders import ImageFolder, PartFolder
from saymask_worker.batch.plan import BatchPlan, Chunk, Work, answer_image, describe_run
from saymask_worker.batch.rows import Failed, ImageRows, Key, build_part
from saymask_worker.pipeline.pipeline import Pipeline

ReadImages = list[tuple[str, bytes, str]]
"""Name, bytes, and why there are none."""


@dataclass(frozen=True)
class BatchReport:
    """What was done.

    Attributes:
        images: in all.
        before: of these were done by an earlier run.
        rows: that this run wrote.
        failed: name of each image that gave nothing, and why.
    """

    images: int
    before: int
    rows: int
    failed: tuple[str, ...]


def read_chunk(source: ImageFolder, chunk: Chunk, done: frozenset[Key]) -> ReadImages:
    """Read the images of a chunk that are not done."""
    images = []
    for name, _ in chunk.images:
        data, failure = b"", ""
        try:
            data = source.read(name)
        except (OSError, ValueError) as error:
            # No file system has a name with a zero byte, which a table of JSON lines may hold.
            failure = f"it cannot be read: {error}"
        if failure or (name, hashlib.sha256(data).hexdigest()) not in done:
            images.append((name, data, failure))
    return images


def answer_chunk(
    pipeline: Pipeline, plan: BatchPlan, chunk: Chunk, images: ReadImages
) -> list[ImageRows]:
    """Answer the images of a chunk that were read."""
    expressions = dict(chunk.images)
    return [
        ImageRows(name, failure=failure)
        if failure
        else answer_image(pipeline, plan, name, data, expressions[name])
        for name, data, failure in images
    ]


def run_local(pipeline: Pipeline, plan: BatchPlan, work: Work, progress: OnProgress) -> BatchReport:
    """Run a batch, or continue one.

    Raises:
        DatasetError: the target belongs to another run, or cannot be read.
        ConfigError: the method gives no probabilities, by which expressions are proposed.
    """
    source, target = ImageFolder(plan.source), PartFolder(plan.out)
    target.begin(describe_run(plan, work, pipeline.model_version))
    done = frozenset(target.read_done())
    collected = Collected(work.refused)
    for chunk, images in _read_ahead(source, work.chunks, done):
        answered = answer_chunk(pipeline, plan, chunk, images)
        name, part = build_part(answered)
        if name:
            target.write(name, part)
        collected.add(**report_chunk(chunk, answered))
        progress(collected.finished, work.images_count)
    return collected.finish(target)


def _read_ahead(
    source: ImageFolder, chunks: tuple[Chunk, ...], done: frozenset[Key]
) -> Iterator[tuple[Chunk, ReadImages]]:
    """Each chunk with its images, which are read while the chunk before is answered."""
    with ThreadPoolExecutor(1, "read") as reader:
        following: Future[ReadImages] | None = None
        for chunk, after in zip_longest(chunks, chunks[1:]):
            images = following.result() if following else read_chunk(source, chunk, done)
            following = reader.submit(read_chunk, source, after, done) if after else None
            yield chunk, images


def report_chunk(chunk: Chunk, answered: list[ImageRows]) -> dict[str, Any]:
    """Return the plain values that ``Collected.add`` counts."""
    return {
        "size": len(chunk.images),
        "answered": len(answered),
        "rows": sum(len(image.rows) for image in answered),
        "failed": [(image.image, image.failure) for image in answered if image.failure],
    }


class Collected:
    """Counts what the chunks of a run gave.

    Args:
        refused: images in no chunk, and why.
    """

    def __init__(self, refused: Sequence[Failed]) -> None:
        self.finished = len(refused)
        self._before = self._rows = 0
        self._failed = list(refused)

    def add(self, *, size: int, answered: int, rows: int, failed: Iterable[Failed]) -> None:
        """Count a chunk of ``size`` images, of which some are ``answered`` now."""
        self.finished += size
        self._before += size - answered
        self._rows += rows
        self._failed += failed

    def finish(self, target: PartFolder) -> BatchReport:
        """Write what failed, and return the report."""
        target.write_failures(self._failed)
        lines = (f"{image}: {why}" for image, why in self._failed)
        return BatchReport(self.finished, self._before, self._rows, tuple(lines))
