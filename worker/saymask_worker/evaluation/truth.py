"""The annotated objects as proposals: what remains are errors of ranking."""

from __future__ import annotations

from saymask.datasets.model import DatasetImage
from saymask.masks import Mask, decode_coco_rle
from saymask_worker.images.types import DecodedImage, Proposals
from saymask_worker.masks.given import to_proposals


class TruthProposer:
    """Returns the annotated objects of the image it was last given."""

    name = "truth"
    fingerprint = "truth"

    def __init__(self) -> None:
        self._masks: list[Mask] = []

    def set_image(self, image: DatasetImage) -> None:
        """Take the masks of the image that comes next."""
        self._masks = [decode_coco_rle(instance.mask) for instance in image.instances]

    def propose(self, image: DecodedImage) -> Proposals:
        """Return the annotated objects."""
        return to_proposals(self._masks, [1.0] * len(self._masks), image.size_hw)

    def halve_batch(self) -> bool:
        """Return False: nothing is computed in batches."""
        return False
