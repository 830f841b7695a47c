"""The open vocabulary in the space of an encoder, kept on disk: encoding it takes seconds."""

from __future__ import annotations

import io
import logging
import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from saymask.private_files import replace_shared_file
from saymask_worker.encoders.base import Encoder
from saymask_worker.images.types import Floats, normalise_rows, to_float32
from saymask_worker.language.nouns import Nouns

log = logging.getLogger(__name__)

NOUN_TEMPLATE = "a photo of a {}"
"""A noun is encoded bare and in this sentence, averaged."""
_BATCH = 256

Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class EncodedNouns:
    """The open vocabulary as text features.

    Attributes:
        rows: (V, D) float32 of unit length.
        is_thing: (V,) bool; the others are stuff and parts.
        names: the V nouns.
    """

    rows: Floats
    is_thing: NDArray[np.bool_]
    names: tuple[str, ...]

    @property
    def things(self) -> tuple[str, ...]:
        """The nouns of things."""
        return tuple(n for n, is_thing in zip(self.names, self.is_thing, strict=True) if is_thing)


def load_encoded_nouns(encoder: Encoder, nouns: Nouns, directory: Path | None) -> EncodedNouns:
    """Read the encoded vocabulary of an encoder, or encode and keep it.

    Args:
        encoder: whose text tower encodes.
        nouns: the vocabulary.
        directory: where it is kept, or None.
    """

    def read(data: bytes) -> Floats:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            rows = archive["rows"]
        if rows.ndim != 2 or len(rows) != len(nouns.all):
            raise ValueError(f"an array of shape {rows.shape}")
        return normalise_rows(to_float32(rows))

    def write(rows: Floats) -> bytes:
        buffer = io.BytesIO()
        np.savez(buffer, rows=rows.astype(np.float16))
        return buffer.getvalue()

    def encode() -> Floats:
        log.info("encoding %d nouns, once for this encoder", len(nouns.all))
        return encode_nouns(encoder, nouns.all)

    name = f"nouns-{encoder.weights_hash}-{nouns.fingerprint}.npz"
    rows = load_or_compute(directory and directory / name, read, encode, write)
    return EncodedNouns(rows, np.arange(len(nouns.all)) < len(nouns.things), nouns.all)


def load_or_compute(
    path: Path | None,
    read: Callable[[bytes], Result],
    compute: Callable[[], Result],
    write: Callable[[Result], bytes],
) -> Result:
    """Read a result from a file, or compute and keep it; a damaged file is replaced.

    Args:
        path: of the file, or None to keep nothing.
        read: from the file's content.
        compute: where there is no file.
        write: to the file's content.
    """
    if path is not None and os.path.exists(path):
        try:
            return read(path.read_bytes())
        except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            log.warning("%s is damaged (%s), computing it again", path, error)
    result = compute()
    if path is not None:
        try:
            replace_shared_file(path, write(result))
        except OSError as error:
            log.warning("%s cannot be kept: %s", path, error)
    return result


def encode_nouns(encoder: Encoder, nouns: Sequence[str]) -> Floats:
    """Encode nouns bare and in a sentence, averaged: (V, D), unit length, as kept on disk."""
    bare = _encode(encoder, nouns)
    framed = _encode(encoder, [NOUN_TEMPLATE.format(noun) for noun in nouns])
    return normalise_rows(to_float32(normalise_rows(bare + framed).astype(np.float16)))


def _encode(encoder: Encoder, texts: Sequence[str]) -> Floats:
    """Texts of like length share a batch: less padding."""
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    parts = [
        encoder.text.encode([texts[index] for index in order[start : start + _BATCH]])
        for start in range(0, len(order), _BATCH)
    ]
    rows = np.empty_like(np.concatenate(parts))
    rows[order] = np.concatenate(parts)
    return normalise_rows(rows)
