"""What sources of candidates implement, and what they are built with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from saymask.masks import Mask
from saymask_worker.images.types import DecodedImage

if TYPE_CHECKING:
    import torch

    from saymask_worker.config.settings import EndpointConfig
    from saymask_worker.masks.clicks import ClickSegmenter


@dataclass(frozen=True)
class SourceMask:
    """A mask that a source offers.

    Attributes:
        mask: (H, W) bool, at the image's size.
        probability: that it is the referent, 0 to 1; calibrated by the source, because masks of
            different sources are ranked by it. For masks from clicks: the predicted IoU.
        stability: IoU of the mask at two thresholds, 0 to 1; None where it is not measured.
        source: name of the source; saymask fills it in.
    """

    mask: Mask
    probability: float
    stability: float | None = None
    source: str = ""


class _AnySource(Protocol):
    """Called by one thread at a time."""

    @property
    def name(self) -> str:
        """A short name, shown to people and kept with every candidate."""
        ...

    @property
    def fingerprint(self) -> str:
        """Names what its masks depend on; empty while it has nothing to offer."""
        ...


class CandidateSource(_AnySource, Protocol):
    """Offers masks for an image and an expression."""

    def segment(self, image: DecodedImage, expression: str) -> Sequence[SourceMask]:
        """Return masks for an expression, in any order; none where it finds nothing."""
        ...


@runtime_checkable
class InstanceSource(_AnySource, Protocol):
    """Finds everything that a noun phrase may name; the pipeline's terms choose the referent."""

    def find_instances(self, image: DecodedImage, noun_phrase: str) -> Sequence[SourceMask]:
        """Return masks of the instances, each with the probability that it is one."""
        ...


Source: TypeAlias = CandidateSource | InstanceSource


@dataclass(frozen=True)
class SourceContext:
    """What a source is built with.

    Attributes:
        argument: what follows the colon in ``SAYMASK_SOURCES``; empty without one.
        device: where its models should be, for example ``cpu`` or ``cuda:0``.
        models_dir: of models trained from records, or None.
        dtype: of the products of networks on that device; None means float32.
        clicks: the worker's own segment-anything model, or None where it has none.
        endpoint: the chat server of the settings, or None.
    """

    argument: str
    device: str
    cache_dir: Path
    models_dir: Path | None = None
    dtype: torch.dtype | None = None
    clicks: ClickSegmenter | None = None
    endpoint: EndpointConfig | None = None


BuildSource = Callable[[SourceContext], Source]
"""What an entry point of the group ``saymask.sources`` names."""
