"""Your own source: candidates that compete with saymask's proposals.

Run: pip install . && python left_edge.py

Workers use it with ``SAYMASK_SOURCES=proposals,left-edge:0.25``.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

import saymask
from saymask_worker.images.types import DecodedImage
from saymask_worker.masks.sources.base import CandidateSource, SourceContext, SourceMask


class LeftEdge:
    """Offers a column at the left edge to expressions that ask for it."""

    name = "left-edge"
    fingerprint = "1"  # what the masks depend on; it becomes part of the model version

    def __init__(self, share: float) -> None:
        self._share = share

    def segment(self, image: DecodedImage, expression: str) -> Sequence[SourceMask]:
        """Return masks at the image's size, each with its probability to be the referent."""
        if "left edge" not in expression:
            return []
        height, width = image.size_hw  # image.pixels is (H, W, 3) uint8 RGB, upright
        mask = np.zeros((height, width), dtype=bool)
        mask[:, : int(width * self._share)] = True
        return [SourceMask(mask, probability=0.9)]


def build(context: SourceContext) -> CandidateSource:
    """Build the source; ``context`` has the argument, the device and the cache directory."""
    return LeftEdge(float(context.argument))


if __name__ == "__main__":
    photo = Path(saymask.__file__).parent / "samples" / "coffee.jpg"
    with saymask.load_segmenter(sources="proposals,left-edge:0.25") as segmenter:
        for text in ("what is at the left edge", "the spoon"):
            best = segmenter.segment(photo, text).candidates[0]
            print(f"{text}: from {best.source}, probability {best.confidence:.2f}")
