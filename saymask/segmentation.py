"""Segmenting from Python: ``load_segmenter``, and the results it leads to."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from saymask.contract import Candidate, SegmentResult
from saymask.drawing import draw_candidates
from saymask.errors import ConfigError
from saymask.masks import Mask, compute_area, decode_coco_rle

if TYPE_CHECKING:
    from PIL import Image

    from saymask_worker.serving.segmenter import Segmenter


def load_segmenter(**settings: Any) -> Segmenter:
    """Load the models; takes seconds, once. The weights come from ``saymask-worker models pull``.

    Example::

        with saymask.load_segmenter() as segmenter:
            result = segmenter.segment("photo.jpg", "the cat on the left")

    Args:
        settings: by their names in lower case without ``SAYMASK_``: ``device="cuda"``,
            ``points_per_side=32``. Those not given come from the environment, as for a worker.

    Raises:
        ConfigError: a setting is unknown or wrong, or the extra ``worker`` is not installed.
        WeightsError: weights are missing or damaged.
    """
    try:
        # The one import of the worker here: ``import saymask`` stays light.
        from saymask_worker.serving.segmenter import build_segmenter
    except ImportError as error:
        raise ConfigError(
            f"Segmenting needs the worker's packages: {error}.", "pip install 'saymask[worker]'"
        ) from error
    return build_segmenter(**settings)


class SegmentedCandidate:
    """One candidate for what an expression means.

    Args:
        message: as a worker sends it, the mask as COCO RLE.
    """

    def __init__(self, message: Candidate) -> None:
        self.message = message

    @cached_property
    def mask(self) -> Mask:
        """(H, W) bool, at the size of the upright image."""
        return decode_coco_rle(self.message.mask.as_dict())

    @property
    def rank(self) -> int:
        """1 is best."""
        return self.message.rank

    @property
    def score(self) -> float:
        """The ranking's score, comparable within one image; of clicks, the predicted IoU."""
        return self.message.score

    @property
    def confidence(self) -> float | None:
        """Probability, 0 to 1, that this is the referent; None where it is unknown."""
        return self.message.confidence

    @property
    def box_xyxy(self) -> tuple[int, int, int, int]:
        """Tight box of the mask: left, top, right, bottom in pixels, the last two exclusive."""
        x, y, width, height = self.message.box_xywh
        return (x, y, x + width, y + height)

    @property
    def source(self) -> str:
        """Which source offered it: ``proposals``, ``clicks``, or one of ``SAYMASK_SOURCES``."""
        return self.message.source


@dataclass(frozen=True)
class Segmentation:
    """The candidates for one expression, or for clicks, in one image.

    Attributes:
        message: as a worker sends it: timings, model version, masks as COCO RLE.
        read_pixels: returns the upright image, (H, W, 3) uint8 RGB.
        name: the image's path where it has one, for ``to_coco``.
    """

    message: SegmentResult
    read_pixels: Callable[[], NDArray[np.uint8]]
    name: str = ""

    @cached_property
    def candidates(self) -> tuple[SegmentedCandidate, ...]:
        """Best first; at most k, or as many as the expression asks for. May be empty."""
        return tuple(SegmentedCandidate(candidate) for candidate in self.message.candidates)

    @property
    def expression(self) -> str:
        """The expression without superfluous blanks; empty for clicks."""
        return self.message.expression

    @property
    def notices(self) -> tuple[str, ...]:
        """What a reader of the result should know, for example that nothing may be meant."""
        return self.message.notices

    @property
    def confidence(self) -> float | None:
        """Probability, 0 to 1, that the first candidate is the referent; None where unknown."""
        return self.message.confidence

    def draw(self) -> Image.Image:
        """Return the image with every candidate's mask, rank and score drawn on it."""
        return draw_candidates(self.read_pixels(), self.message.candidates, self.expression)

    def to_coco(self, ranks: Collection[int] = (1,)) -> dict[str, Any]:
        """Return the content of a COCO instances file for this image.

        Masks are compressed run lengths. Each annotation also has ``score`` and, for an
        expression, ``expressions``, so that ``saymask.load_coco`` reads it back.

        Args:
            ranks: candidates to annotate. They are alternatives, so the best alone by default;
                several where the expression means several objects.
        """
        height, width = self.message.size_hw
        # As exports name it: by the last word of "the black cat".
        category = (self.message.head_noun_phrase or "object").split()[-1].lower()
        expressions = [{"raw": self.expression, "provenance": "given"}] if self.expression else []
        annotations = [
            {
                "id": candidate.rank,
                "image_id": 1,
                "category_id": 1,
                "segmentation": candidate.message.mask.as_dict(),
                "area": compute_area(candidate.mask),
                "bbox": list(candidate.message.box_xywh),
                "iscrowd": 0,
                "score": candidate.score,
                "expressions": expressions,
            }
            for candidate in self.candidates
            if candidate.rank in ranks
        ]
        return {
            "images": [{"id": 1, "file_name": self.name, "height": height, "width": width}],
            "annotations": annotations,
            "categories": [{"id": 1, "name": category}],
        }

    def to_supervision(self) -> Any:
        """Return ``supervision.Detections`` of n candidates.

        ``xyxy`` is (n, 4) float32, ``mask`` (n, H, W) bool, ``confidence`` (n,) float32 or None,
        ``class_id`` (n,) zeros, and ``data`` has ``class_name``, ``rank``, ``score`` and
        ``source``, each (n,).

        Raises:
            ConfigError: supervision is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise ConfigError(
                f"to_supervision needs another package: {error}.", "pip install supervision"
            ) from error
        count, found = len(self.candidates), self.candidates
        confidence = [c.confidence for c in found if c.confidence is not None]
        return supervision.Detections(
            xyxy=np.array([c.box_xyxy for c in found], np.float32).reshape(count, 4),
            mask=np.array([c.mask for c in found], bool).reshape(count, *self.message.size_hw),
            confidence=np.array(confidence, np.float32) if len(confidence) == count else None,
            class_id=np.zeros(count, int),
            data={
                "class_name": np.array([self.expression] * count, dtype=str),
                "rank": np.array([c.rank for c in found], int),
                "score": np.array([c.score for c in found], np.float32),
                "source": np.array([c.source for c in found], dtype=str),
            },
        )
