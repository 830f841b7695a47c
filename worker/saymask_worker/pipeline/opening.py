"""Taking an image from the cache of prepared images, or preparing it."""

from __future__ import annotations

import hashlib

from saymask_worker.images.types import PreparedImage
from saymask_worker.pipeline.pipeline import Pipeline
from saymask_worker.pipeline.timing import PreparationTimings


def open_image(
    pipeline: Pipeline, data: bytes, name: str | None = None
) -> tuple[PreparedImage, PreparationTimings | None]:
    """Return an image as prepared before, or prepare it now.

    Args:
        pipeline: with the cache.
        data: the encoded image.
        name: of its file, without suffix, for proposals given by name.

    Returns:
        The prepared image, and the milliseconds it took; None where it was prepared before.

    Raises:
        ImageUnreadable, ImageTooLarge.
        DeviceMemoryExhausted: the device has no room even for the smallest batches.
    """
    prepared = pipeline.load_prepared(hashlib.sha256(data).hexdigest())
    return (prepared, None) if prepared is not None else pipeline.prepare(data, name)
