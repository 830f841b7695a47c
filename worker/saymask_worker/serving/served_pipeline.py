"""What serving asks of a pipeline; it can be tested without models, and imports none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from saymask.contract import ProposedPair, SegmentResult, Timings
from saymask_worker.images.types import EncodedImage, PreparedImage, VisualPrompt

if TYPE_CHECKING:
    from saymask_worker.masks.clicks import EmbeddedImage


class CacheStatistics(Protocol):
    """What a heartbeat tells about the cache of prepared images."""

    hits: int
    misses: int

    def usage(self) -> tuple[int, float]:
        """Return the number of entries and megabytes."""
        ...


class ServedPipeline(Protocol):
    """What serving asks of a pipeline; see ``saymask_worker.pipeline.pipeline.Pipeline``."""

    device: str

    @property
    def cache(self) -> CacheStatistics | None:
        """Where prepared images are kept, or None."""
        ...

    @property
    def model_version(self) -> str:
        """Names everything a result depends on."""
        ...

    @property
    def encoder_description(self) -> str:
        """The encoder in one line, for people."""
        ...

    def warm_up(self) -> None:
        """Do what is slow the first time."""
        ...

    def load_prepared(self, sha256: str) -> PreparedImage | None:
        """Return an image that was prepared before, or None."""
        ...

    def prepare(self, data: bytes) -> tuple[PreparedImage, Timings]:
        """Compute everything about an image that does not depend on an expression."""
        ...

    def look_first(self, data: bytes) -> tuple[PreparedImage, Timings] | None:
        """Prepare an image quickly, for a first answer; None where that is off."""
        ...

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
        ...

    def propose(
        self, prepared: PreparedImage, data: bytes, count: int, confidence_min: float, seed: int
    ) -> tuple[ProposedPair, ...]:
        """Propose expressions for the objects of an image, each with its mask."""
        ...

    def embed(self, data: bytes) -> EmbeddedImage:
        """Compute what answering clicks on an image needs."""
        ...

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
        ...
