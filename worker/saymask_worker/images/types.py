"""What one stage passes to the next. Each checks its shapes, dtypes and ranges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from saymask.masks import Mask, Masks
from saymask_worker.images.patch_map import PatchMap, round_rows

Floats = NDArray[np.float32]
"""Any float32 array; the docstrings give shapes."""

Derived = WeakKeyDictionary[Any, Any]
"""What models computed from one image, by the object that computed it.

It lies on the image and ends with it, or with the model. A value never refers to the image it was
computed from: such a circle would be freed only when Python next searches for circles.
"""


_EPSILON = 1e-12
# Of masks that were not found by a grid of points.
UNKNOWN_VOTE_SHARE, UNKNOWN_GRANULARITY = 0.5, 1.0


def _require(condition: bool, what: str, got: object) -> None:
    if not condition:
        raise ValueError(f"expected {what}, got {got}")


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image, upright.

    Attributes:
        pixels: (h, w, 3) uint8 RGB, EXIF orientation applied.
        sha256: of the encoded bytes.
        notices: conversions to RGB that changed the image, for people.
        name: of its file, without suffix, where it is known.
        original_hw: size of the image where the pixels were reduced, else None.
        derived: by sources that use the pixels.
    """

    pixels: NDArray[np.uint8]
    sha256: str
    notices: tuple[str, ...] = ()
    name: str | None = None
    original_hw: tuple[int, int] | None = None
    derived: Derived = field(
        default_factory=WeakKeyDictionary, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        shape = self.pixels.shape
        _require(len(shape) == 3 and shape[2] == 3, "pixels (H, W, 3)", shape)
        _require(self.pixels.dtype == np.uint8, "uint8 pixels", self.pixels.dtype)

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the image, pixels."""
        return self.original_hw or (self.pixels.shape[0], self.pixels.shape[1])


@dataclass(eq=False)
class EncodedImage:
    """The bytes of an image, which ``read`` returns; decoded once, when pixels are first needed."""

    read: Callable[[], bytes]
    decoded: DecodedImage | None = None

    def decode(self, decode: Callable[[bytes], DecodedImage]) -> DecodedImage:
        """Return the decoded image; raises what ``read`` and ``decode`` raise."""
        if self.decoded is None:
            self.decoded = decode(self.read())
        return self.decoded


@dataclass(frozen=True)
class VisualPrompt:
    """Clicks and a box of an annotator.

    Attributes:
        points_xy: clicks, in pixels of the image.
        positive: for each click, whether it belongs to the referent.
        box_xyxy: left, top, right, bottom in pixels, or None.
        start: (H, W) bool, the mask to be changed, or None.
    """

    points_xy: tuple[tuple[float, float], ...]
    positive: tuple[bool, ...]
    box_xyxy: tuple[float, float, float, float] | None
    start: Mask | None


@dataclass(frozen=True)
class Proposals:
    """Class-agnostic masks, best first, before any text.

    Attributes:
        masks: (N, h, w) bool at working size: the image's, or smaller with the same aspect.
        predicted_iou: (N,) float32, the generator's estimate of its own mask, 0 to 1.
        stability_score: (N,) float32, IoU of the mask at two thresholds, 0 to 1.
        vote_share: (N,) float32, share of the grid's points inside the mask that yield it, 0 to 1.
        granularity: (N,) float32, from 0, a subpart, to 2, a whole.
        size_hw: original image size, pixels.
    """

    masks: Masks
    predicted_iou: Floats
    stability_score: Floats
    vote_share: Floats
    granularity: Floats
    size_hw: tuple[int, int]

    def __post_init__(self) -> None:
        _require(self.masks.ndim == 3, "masks (N, h, w)", self.masks.shape)
        _require(self.masks.dtype == np.bool_, "bool masks", self.masks.dtype)
        count = len(self.masks)
        for name, values in self.columns.items():
            _require(values.shape == (count,), f"{name} ({count},)", values.shape)
        _require(bool(self.masks.any(axis=(1, 2)).all()), "no empty mask", "an empty one")

    def __len__(self) -> int:
        """Return the number of proposals."""
        return len(self.masks)

    def take(self, index: NDArray[np.intp]) -> Proposals:
        """Return a selection, or the same in another order."""
        columns = {name: values[index] for name, values in self.columns.items()}
        return Proposals(self.masks[index], **columns, size_hw=self.size_hw)

    @staticmethod
    def join(parts: Sequence[Proposals]) -> Proposals:
        """Concatenate proposals of one image and one working size."""
        masks = np.concatenate([part.masks for part in parts])
        columns = {
            name: np.concatenate([part.columns[name] for part in parts])
            for name in parts[0].columns
        }
        return Proposals(masks, **columns, size_hw=parts[0].size_hw)

    @property
    def columns(self) -> dict[str, Floats]:
        """The numbers (N,) of each proposal, by name."""
        return {
            "predicted_iou": self.predicted_iou,
            "stability_score": self.stability_score,
            "vote_share": self.vote_share,
            "granularity": self.granularity,
        }


@dataclass(frozen=True)
class Geometry:
    """Where proposals are, from their masks alone; shares of the image's width and height.

    Attributes:
        center_x: (N,) centroid, 0 to 1.
        center_y: (N,) centroid, 0 to 1.
        top: (N,) edge of the box, 0 to 1.
        bottom: (N,) edge of the box, 0 to 1.
        area: (N,) share of the image's area.
        containment: (N, N) share of row i's mask that lies inside column j's.
        iou: (N, N).
        cells: (N, G, G) covered share of each cell of a square grid over the image; None in
            geometries that need no grid.
    """

    center_x: Floats
    center_y: Floats
    top: Floats
    bottom: Floats
    area: Floats
    containment: Floats
    iou: Floats
    cells: Floats | None = None


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """Everything about an image that does not depend on an expression; what the cache keeps.

    Compared by identity; a changed copy begins with nothing derived.

    Attributes:
        is_first_look: prepared quickly, for the time until it is prepared in full.
        pixels: (h, w, 3) at the size of the proposals' masks; of first looks only, whose best
            proposals are cropped for each expression.
        not_kept: cause and cure, for people, where the cache could not keep it.
        derived: by methods that score it.
    """

    sha256: str
    proposals: Proposals
    geometry: Geometry
    features: VisualFeatures
    notices: tuple[str, ...]
    is_first_look: bool = False
    pixels: NDArray[np.uint8] | None = None
    not_kept: tuple[str, str] | None = None
    derived: Derived = field(default_factory=WeakKeyDictionary, init=False, repr=False)


@dataclass(frozen=True)
class VisualFeatures:
    """CLIP-space features of N proposals, float32, not normalised.

    Attributes:
        global_context: (N, D) whole image, tokens masked by the proposal.
        local_context: (N, D) crop of the box, filled outside the mask; for some proposals
            predicted, see ``saymask_worker.ranking.crop_budget``.
        region: (N, D) mean over the proposal's places; None in images prepared without.
        places: of the image itself, (G, G, D); None in images prepared without.
    """

    global_context: Floats
    local_context: Floats
    region: Floats | None = None
    places: PatchMap | None = None

    def __post_init__(self) -> None:
        for name in ("global_context", "local_context"):
            array = getattr(self, name)
            _require(array.ndim == 2, f"{name} (N, D)", array.shape)
            _require(array.shape == self.local_context.shape, "equal shapes", array.shape)
            _require(bool(np.isfinite(array).all()), f"finite {name}", "NaN or infinity")

    @staticmethod
    def from_regions(region: Floats, places: PatchMap) -> VisualFeatures:
        """Return the features of a first look, in which the region (N, D) replaces both views."""
        return VisualFeatures(region, region, region, places)

    def rounded(self) -> VisualFeatures:
        """Return the features as the cache keeps them, still float32."""
        return VisualFeatures(
            _to_half(self.global_context),
            _to_half(self.local_context),
            None if self.region is None else round_rows(self.region),
            self.places,
        )


def _to_half(values: Floats) -> Floats:
    return values.astype(np.float16).astype(np.float32)


@dataclass(frozen=True)
class TextFeatures:
    """CLIP-space features of one expression, float32, not normalised: each (D,) unless said.

    Attributes:
        sentence: of the whole expression.
        phrase: of the head noun phrase, or of the sentence when there is none.
        anchors: (A, D) of the objects to which the referent is related, in order of mention; for
            "between" two of a relation.
        excluded: of what the referent has not, or None.
        noun: of the phrase's noun without its adjectives; None where that is the phrase.
    """

    sentence: Floats
    phrase: Floats
    anchors: Floats | None = None
    excluded: Floats | None = None
    noun: Floats | None = None

    def __post_init__(self) -> None:
        _require(self.sentence.ndim == 1, "sentence (D,)", self.sentence.shape)
        _require(self.phrase.shape == self.sentence.shape, "equal shapes", self.phrase.shape)
        if self.anchors is not None:
            _require(self.anchors.ndim == 2, "anchors (A, D)", self.anchors.shape)


@dataclass(frozen=True)
class Scores:
    """One number per proposal and the order they give.

    Attributes:
        total: (N,) float32.
        terms: named parts that add up to the total, each (N,).
        order: (N,) indices, best first; ties keep the proposals' order.
        presence: log-odds, nats, of the expression's noun, without adjectives, against all other
            nouns at the proposal that shows it best; None where there is no noun, or the method
            does not tell.
    """

    total: Floats
    terms: dict[str, Floats]
    order: NDArray[np.intp]
    presence: float | None = None


def to_float32(values: NDArray[np.generic]) -> Floats:
    """Convert to float32."""
    return np.asarray(values, dtype=np.float32)


def normalise_rows(features: Floats) -> Floats:
    """Scale to unit length along the last axis; zero vectors stay zero."""
    norms = np.linalg.norm(features, axis=-1, keepdims=True)
    return to_float32(features / np.maximum(norms, _EPSILON))


def mix(first: Floats, second: Floats, first_weight: float) -> Floats:
    """Return unit vectors of a weighted sum of unit vectors along the last axis.

    Args:
        first: features (..., D), of any length.
        second: of the same shape.
        first_weight: of ``first``; the rest is ``second``.
    """
    return normalise_rows(
        first_weight * normalise_rows(first) + (1 - first_weight) * normalise_rows(second)
    )
