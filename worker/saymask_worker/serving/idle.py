"""Models that leave the memory while nobody needs them."""

from __future__ import annotations

import ctypes
import gc
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from saymask.contract import ProposedPair, SegmentResult, Timings
from saymask_worker.images.types import EncodedImage, PreparedImage, VisualPrompt
from saymask_worker.serving.served_pipeline import CacheStatistics, ServedPipeline

if TYPE_CHECKING:
    from saymask_worker.masks.clicks import EmbeddedImage

log = logging.getLogger(__name__)

_POLL_S = 0.5


class UnloadingPipeline:
    """A pipeline whose models are unloaded when idle, and loaded again by the next job.

    Args:
        build: loads the models.
        idle_s: how long no job may come before they are unloaded.
        forget: called with every unloading, to let go of what else holds the device's memory.
    """

    def __init__(
        self, build: Callable[[], ServedPipeline], idle_s: float, forget: Callable[[], None]
    ) -> None:
        self._build = build
        self._idle_s = idle_s
        self._forget = forget
        self._lock = threading.Lock()
        self._pipeline: ServedPipeline | None = build()
        self._cache = self._pipeline.cache
        self._version = self._pipeline.model_version
        self._encoder = self._pipeline.encoder_description
        self.device = self._pipeline.device
        self._used_at = time.monotonic()
        threading.Thread(target=self._watch, name="idle", daemon=True).start()

    @property
    def cache(self) -> CacheStatistics | None:
        """Where prepared images are kept, or None."""
        return self._cache

    @property
    def model_version(self) -> str:
        """Names everything a result depends on; of the models that were loaded last."""
        pipeline = self._pipeline
        if pipeline is not None:
            self._version = pipeline.model_version
        return self._version

    @property
    def encoder_description(self) -> str:
        """The encoder in one line, for people."""
        return self._encoder

    def warm_up(self) -> None:
        """Do what is slow the first time."""
        with self._in_use() as pipeline:
            pipeline.warm_up()

    def load_prepared(self, sha256: str) -> PreparedImage | None:
        """Return an image that was prepared before, or None."""
        with self._in_use() as pipeline:
            return pipeline.load_prepared(sha256)

    def prepare(self, data: bytes) -> tuple[PreparedImage, Timings]:
        """Compute everything about an image that does not depend on an expression."""
        with self._in_use() as pipeline:
            return pipeline.prepare(data)

    def look_first(self, data: bytes) -> tuple[PreparedImage, Timings] | None:
        """Prepare an image quickly, for a first answer; None where that is off."""
        with self._in_use() as pipeline:
            return pipeline.look_first(data)

    def segment(
        self,
        prepared: PreparedImage,
        expression: str,
        k: int,
        *,
        preparation: Timings | None,
        encoded: EncodedImage | None = None,
    ) -> SegmentResult:
        """Rank a prepared image's proposals against an expression."""
        with self._in_use() as pipeline:
            return pipeline.segment(
                prepared, expression, k, preparation=preparation, encoded=encoded
            )

    def propose(
        self, prepared: PreparedImage, data: bytes, count: int, confidence_min: float, seed: int
    ) -> tuple[ProposedPair, ...]:
        """Propose expressions for the objects of an image, each with its mask."""
        with self._in_use() as pipeline:
            return pipeline.propose(prepared, data, count, confidence_min, seed)

    def embed(self, data: bytes) -> EmbeddedImage:
        """Compute what answering clicks on an image needs."""
        with self._in_use() as pipeline:
            return pipeline.embed(data)

    def refine(
        self,
        image: EmbeddedImage,
        expression: str,
        prompt: VisualPrompt,
        k: int,
        *,
        from_cache: bool,
    ) -> SegmentResult:
        """Return masks for clicks or a box."""
        with self._in_use() as pipeline:
            return pipeline.refine(image, expression, prompt, k, from_cache=from_cache)

    @contextmanager
    def _in_use(self) -> Iterator[ServedPipeline]:
        with self._lock:
            if self._pipeline is None:
                started = time.perf_counter()
                self._pipeline = self._build()
                log.info("models loaded again after %.1f s", time.perf_counter() - started)
            try:
                yield self._pipeline
            finally:
                self._used_at = time.monotonic()

    def _watch(self) -> None:
        while True:
            time.sleep(_POLL_S)
            with self._lock:
                if self._pipeline is not None and time.monotonic() - self._used_at > self._idle_s:
                    self._unload()

    def _unload(self) -> None:
        self._pipeline = None
        self._forget()
        free_memory()
        log.info("no job for %g s: the models are unloaded", self._idle_s)


def free_memory() -> None:
    """Give memory that is no longer used back to the GPU and the system.

    glibc alone does not do so at once.
    """
    gc.collect()
    # Serving itself does without PyTorch; what it holds back of the GPU is given back here.
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
