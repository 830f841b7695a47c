"""From an image's hash to the prepared image: from memory, from the cache, or prepared now."""

from __future__ import annotations

import hashlib
from contextlib import nullcontext

import redis

from saymask.contract import IMAGE_KEY, Timings
from saymask.errors import ImageEvicted, ImageNotPrepared, ImageUnreachable
from saymask_worker.images.types import PreparedImage
from saymask_worker.serving.loaded_pipeline import ServedPipeline
from saymask_worker.serving.other_workers import interactive_section, is_awaited
from saymask_worker.serving.sessions import ImageSession


class PreparedImages:
    """The prepared images of one process."""

    def __init__(self, connection: redis.Redis, worker_name: str) -> None:
        self._redis = connection
        self._worker_name = worker_name

    def open(
        self,
        pipeline: ServedPipeline,
        session: ImageSession,
        sha256: str,
        *,
        accepts_first_look: bool,
        prepares: bool,
    ) -> tuple[PreparedImage, Timings | None]:
        """Return the image of an open task, and what preparing it took if it was prepared now.

        Args:
            pipeline: prepares it.
            session: of the image, where it is kept.
            sha256: of its bytes.
            accepts_first_look: whether a first look at an image that is not prepared is enough.
            prepares: whether an image that is not prepared is prepared now.

        Raises:
            ImageNotPrepared, ImageEvicted, ImageUnreachable, ImageError, DeviceMemoryExhausted.
        """
        if session.prepared is not None and not session.prepared.is_first_look:
            return session.prepared, None
        prepared, timings = pipeline.load_prepared(sha256), None
        if prepared is None and accepts_first_look:
            look = self._look_first(pipeline, session, sha256)
            if look is not None:
                return look
        if prepared is None:
            prepared, timings = self._prepare_now(pipeline, sha256, prepares=prepares)
        session.prepared = prepared
        return prepared, timings

    def prepare(
        self, pipeline: ServedPipeline, sha256: str, *, prepares: bool = True
    ) -> tuple[PreparedImage, Timings | None]:
        """Prepare an image of no open task, unless it is prepared; it gets no session.

        Raises:
            ImageNotPrepared, ImageEvicted, ImageUnreachable, ImageError, DeviceMemoryExhausted.
        """
        prepared = pipeline.load_prepared(sha256)
        if prepared is not None:
            return prepared, None
        return self._prepare_now(pipeline, sha256, prepares=prepares)

    def read(self, sha256: str) -> bytes:
        """Return the bytes that the backend stored.

        Raises:
            ImageEvicted: they are gone.
            ImageUnreachable: they are damaged.
        """
        data: bytes | None = self._redis.get(IMAGE_KEY.format(sha256=sha256))
        if data is None:
            raise ImageEvicted(
                f"The photo {sha256[:12]} is no longer in the queue's memory.",
                "Type the expression again; the photo is then fetched anew.",
            )
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ImageUnreachable(f"The photo {sha256[:12]} was damaged on its way.", "Try again.")
        return data

    def _look_first(
        self, pipeline: ServedPipeline, session: ImageSession, sha256: str
    ) -> tuple[PreparedImage, Timings | None] | None:
        """Return a first look at an image; None where the pipeline gives none.

        Background workers pause meanwhile, even one that prepares this image.
        """
        if session.prepared is not None:
            return session.prepared, None
        with interactive_section(self._redis, self._worker_name):
            look = pipeline.look_first(self.read(sha256))
        if look is not None:
            session.prepared = look[0]
        return look

    def _prepare_now(
        self, pipeline: ServedPipeline, sha256: str, *, prepares: bool
    ) -> tuple[PreparedImage, Timings]:
        """Prepare an image; background workers pause meanwhile if an annotator waits for it."""
        if not prepares:
            raise ImageNotPrepared(
                f"This worker does not have the prepared photo {sha256[:12]}.",
                "Workers on several machines share what they prepare: SAYMASK_PREPARED_DIR.",
            )
        section = interactive_section(self._redis, self._worker_name)
        with section if is_awaited() else nullcontext():
            return pipeline.prepare(self.read(sha256))
