"""From answers to the rows that a batch writes, and to parts, its Parquet files."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from saymask.batch_rows import SCHEMA
from saymask.contract import Candidate, ProposedPair, SegmentResult

Key = tuple[str, str]
"""Name of an image below the source, and the hash of its bytes."""

Failed = tuple[str, str]
"""Name of an image, and why it gave nothing."""

_DONE_METADATA = b"saymask.images"
_NAME_DIGITS = 20
# Readers hold a group in memory.
_ROWS_A_GROUP = 1024


@dataclass(frozen=True)
class ImageRows:
    """The result of one image.

    Attributes:
        image: its name below the source.
        sha256: of its bytes; empty where they could not be read.
        rows: as ``saymask.batch_rows.SCHEMA`` has them.
        failure: why there are none; empty where all went well.
    """

    image: str
    sha256: str = ""
    rows: tuple[dict[str, Any], ...] = ()
    failure: str = ""

    @property
    def key(self) -> Key:
        """By which the image is known to be done."""
        return self.image, self.sha256


def build_given_row(image: str, result: SegmentResult) -> dict[str, Any]:
    """Build the row of an expression that was given."""
    return {
        "image": image,
        "sha256": result.image_sha256,
        "height": result.size_hw[0],
        "width": result.size_hw[1],
        "expression": result.expression,
        "provenance": "given",
        "noun_phrase": result.head_noun_phrase,
        "confidence": result.confidence,
        "notices": list(result.notices),
        "model_version": result.model_version,
        "candidates": [_to_dict(candidate) for candidate in result.candidates],
    }


def build_proposed_rows(
    image: str,
    sha256: str,
    size_hw: tuple[int, int],
    pairs: Sequence[ProposedPair],
    model_version: str,
) -> list[dict[str, Any]]:
    """Build a row for every wording that was proposed."""
    return [
        {
            "image": image,
            "sha256": sha256,
            "height": size_hw[0],
            "width": size_hw[1],
            "expression": expression,
            "provenance": "proposed",
            "noun_phrase": pair.noun,
            "confidence": pair.confidence,
            "notices": [f"described by {pair.described_by}"] if pair.described_by else [],
            "model_version": model_version,
            "candidates": [_to_dict(pair.candidate)],
        }
        for pair in pairs
        for expression in pair.expressions
    ]


def _to_dict(candidate: Candidate) -> dict[str, Any]:
    return {
        "rank": candidate.rank,
        "score": candidate.score,
        "size": list(candidate.mask.size),
        "counts": candidate.mask.counts,
        "box_xywh": list(candidate.box_xywh),
        "predicted_iou": candidate.predicted_iou,
        "stability_score": candidate.stability_score,
        "source": candidate.source,
    }


def encode_part(images: Sequence[ImageRows]) -> bytes:
    """Encode the rows of some images as a Parquet file that says which images are done.

    An image of which nothing was proposed has no row, and is done all the same.
    """
    rows = [row for image in images for row in image.rows]
    done = json.dumps([image.key for image in images]).encode()
    schema = SCHEMA.with_metadata({_DONE_METADATA: done})
    buffer = io.BytesIO()
    table = pa.Table.from_pylist(rows, schema=schema)
    # Masks hardly repeat. Without dictionaries a part says how much memory it takes to read.
    pq.write_table(
        table, buffer, row_group_size=_ROWS_A_GROUP, use_dictionary=False, compression="zstd"
    )
    return buffer.getvalue()


def build_part(images: Sequence[ImageRows]) -> tuple[str, bytes]:
    """Return name and content of the part of those images that went well; empty for none."""
    good = [image for image in images if not image.failure]
    return (name_part(good), encode_part(good)) if good else ("", b"")


def decode_done(file: Any) -> list[Key]:
    """Read from a part's footer which images are done."""
    metadata = pq.read_metadata(file).metadata or {}
    return [(str(image), str(sha256)) for image, sha256 in json.loads(metadata[_DONE_METADATA])]


def name_part(images: Sequence[ImageRows]) -> str:
    """Return a part's file name: the same images give the same name, on every machine."""
    digest = hashlib.sha256(json.dumps([image.key for image in images]).encode())
    return f"part-{digest.hexdigest()[:_NAME_DIGITS]}.parquet"
