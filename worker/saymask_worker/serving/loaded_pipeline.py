"""The pipeline of a worker process: what serving calls of it, and when it is in memory."""

from __future__ import annotations

import ctypes
import gc
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from saymask.contract import Describer, FalseExpression, ProposedPair, SegmentResult, Timings
from saymask_worker.images.types import EncodedImage, PreparedImage, VisualPrompt

if TYPE_CHECKING:
    from saymask_worker.masks.clicks import EmbeddedImage

log = logging.getLogger(__name__)

_POLL_S = 0.5


class CacheStatistics(Protocol):
    """What a heartbeat reports of the cache of prepared images."""

    hits: int
    misses: int

    def usage(self) -> tuple[int, float]:
        """Return the number of entries and megabytes."""


class ServedPipeline(Protocol):
    """What serving calls of ``saymask_worker.pipeline.pipeline.Pipeline``; see there.

    So serving imports no models, and is tested without.
    """

    device: str

    @property
    def cache(self) -> CacheStatistics | None:
        """Where prepared images are kept, or None."""

    @property
    def model_version(self) -> str:
        """Names everything a result depends on."""

    @property
    def encoder_description(self) -> str:
        """The encoder in one line, for people."""

    def warm_up(self) -> None:
        """Do what is slow the first time."""

    def load_prepared(self, sha256: str) -> PreparedImage | None:
        """Return an image that was prepared before, or None."""

    def prepare(self, data: bytes) -> tuple[PreparedImage, Timings]:
        """Compute everything about an image that does not depend on an expression."""

    def look_first(self, data: bytes) -> tuple[PreparedImage, Timings] | None:
        """Prepare an image quickly, for a first answer; None where that is off."""

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

    def propose(
        self,
        prepared: PreparedImage,
        data: bytes,
        count: int,
        confidence_min: float,
        seed: int,
        describer: Describer = "rules",
    ) -> tuple[ProposedPair, ...]:
        """Propose expressions for the objects of an image, each with its mask."""

    def propose_false(
        self, prepared: PreparedImage, data: bytes, accepted: Sequence[str], count: int, seed: int
    ) -> tuple[FalseExpression, ...]:
        """Propose expressions that are false of an image."""

    def embed(self, data: bytes) -> EmbeddedImage:
        """Compute what answering clicks on an image needs."""

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


PipelineT = TypeVar("PipelineT", bound=ServedPipeline)


class LoadedPipeline(Generic[PipelineT]):
    """A pipeline whose models may be unloaded when idle, and loaded again for the next job.

    Args:
        idle_s: seconds without a job after which they are unloaded; 0 for never.
        forget: called when they are unloaded; frees what else is in the device's memory.
    """

    def __init__(
        self, build: Callable[[], PipelineT], idle_s: float, forget: Callable[[], None]
    ) -> None:
        self._build = build
        self._idle_s = idle_s
        self._forget = forget
        self._lock = threading.Lock()
        pipeline = build()
        self._pipeline: PipelineT | None = pipeline
        self._cache, self._device = pipeline.cache, pipeline.device
        self._encoder, self._version = pipeline.encoder_description, pipeline.model_version
        self._used_at = time.monotonic()
        if idle_s:
            threading.Thread(target=self._watch, name="idle", daemon=True).start()

    def describe(self) -> dict[str, object]:
        """Return what a heartbeat reports; of unloaded models, their last version."""
        pipeline = self._pipeline
        if pipeline is not None:
            self._version = pipeline.model_version
        described: dict[str, object] = {
            "model_version": self._version,
            "encoder": self._encoder,
            "device": self._device,
        }
        if self._cache is None:
            return described
        entries, megabytes = self._cache.usage()
        return described | {
            "cache_entries": entries,
            "cache_mb": megabytes,
            "cache_hits": self._cache.hits,
            "cache_misses": self._cache.misses,
        }

    @contextmanager
    def use(self) -> Iterator[PipelineT]:
        """Give the pipeline to one job, with its models loaded."""
        with self._lock:
            if self._pipeline is None:
                started = time.perf_counter()
                self._pipeline = self._build()
                log.info("models loaded again after %.1f s", time.perf_counter() - started)
            try:
                yield self._pipeline
            finally:
                self._used_at = time.monotonic()

    def unload(self) -> None:
        """Free the models and what they computed, once the job at work is done."""
        with self._lock:
            self._unload()

    def _unload(self) -> None:
        self._pipeline = None
        self._forget()
        free_memory()

    def _watch(self) -> None:
        while True:
            time.sleep(_POLL_S)
            with self._lock:
                if self._pipeline is not None and time.monotonic() - self._used_at > self._idle_s:
                    self._unload()
                    log.info("no job for %g s: the models are unloaded", self._idle_s)


def free_memory() -> None:
    """Return unused memory to the GPU and the system, which glibc alone does not do at once."""
    gc.collect()
    # Serving itself does not import PyTorch.
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
