"""Preparing an image: everything about it that does not depend on an expression."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np

from saymask.contract import Timings
from saymask_worker.encoders.base import Encoder
from saymask_worker.images.decode import decode_image
from saymask_worker.images.geometry import compute_geometry
from saymask_worker.images.resize import resize_to_work
from saymask_worker.images.types import DecodedImage, PreparedImage, Proposals, VisualFeatures
from saymask_worker.masks.base import Proposer
from saymask_worker.masks.mobile_sam import IMAGE_SIZE_PX
from saymask_worker.ranking import Method


@dataclass(frozen=True)
class Preparation:
    """The models that prepare images, in one of two ways.

    Attributes:
        is_first_look: whether the result serves until the image is prepared in full.
    """

    proposer: Proposer
    method: Method
    encoder: Encoder
    is_first_look: bool = False

    @property
    def longest_px(self) -> int | None:
        """The longer side to which larger images are reduced; None where all pixels are used.

        SAM, and CLIP's crops with it, see no more than SAM's frame.
        """
        return None if self.method.needs_all_pixels else IMAGE_SIZE_PX

    def prepare(self, data: bytes, name: str | None) -> tuple[PreparedImage, Timings]:
        """Prepare an image; returns it with the milliseconds that it took.

        Args:
            data: the encoded image.
            name: of its file, without suffix, for proposals given by name.

        Raises:
            ImageUnreadable, ImageTooLarge.
        """
        stopwatch = Stopwatch(Timings())
        decoded = decode_image(data, longer_px=self.longest_px)
        image = replace(decoded, name=name)
        stopwatch.lap("decode_ms")
        proposals = self.proposer.propose(image)
        stopwatch.lap("proposals_ms")
        prepared = PreparedImage(
            sha256=image.sha256,
            proposals=proposals,
            geometry=compute_geometry(proposals.masks),
            features=self._encode(image, proposals),
            notices=image.notices,
            is_first_look=self.is_first_look,
            pixels=resize_to_work(image, proposals.masks.shape[1:]) if self.is_first_look else None,
        )
        stopwatch.lap("visual_features_ms")
        return prepared, stopwatch.timings

    def _encode(self, image: DecodedImage, proposals: Proposals) -> VisualFeatures:
        """Encode as the cache keeps it, so that an image answers alike before and after."""
        if len(proposals) == 0:
            width = self.encoder.text.encode(["nothing"]).shape[1]
            none = np.zeros((0, width), dtype=np.float32)
            return VisualFeatures(none, none)
        return self.method.encode_proposals(image, proposals).rounded()


class Stopwatch:
    """Measures consecutive stages; adds their milliseconds to ``timings``."""

    def __init__(self, timings: Timings) -> None:
        self.timings = timings
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """End a stage, named as in ``Timings``."""
        now = time.perf_counter()
        elapsed_ms = round((now - self._last) * 1000, 2)
        self.timings = self.timings.model_copy(update={stage: elapsed_ms})
        self._last = now
