"""Answering clicks and boxes, which are checked before a model sees them."""

from __future__ import annotations

from dataclasses import dataclass

from saymask.contract import Candidate
from saymask.errors import ConfigError, InvalidRequest
from saymask_worker.images.decode import decode_image
from saymask_worker.images.types import VisualPrompt
from saymask_worker.masks.clicks import ClickSegmenter, EmbeddedImage
from saymask_worker.masks.mobile_sam import IMAGE_SIZE_PX
from saymask_worker.pipeline.candidates import build_clicked
from saymask_worker.weights.device import RetryOnOom


@dataclass(frozen=True)
class ClickAnswers:
    """Masks for clicks and boxes.

    Attributes:
        segmenter: of a segment-anything model; None where there is none.
        batches: of the device.
        max_megapixels: larger images are refused.
    """

    segmenter: ClickSegmenter | None
    batches: RetryOnOom
    max_megapixels: float

    def embed(self, data: bytes) -> EmbeddedImage:
        """Compute what answering clicks on an image needs; seconds on a CPU, once per image.

        Raises:
            ImageUnreadable, ImageTooLarge.
            ConfigError: there is no segment-anything model here.
        """
        segmenter = self._require_segmenter()
        image = decode_image(data, self.max_megapixels, IMAGE_SIZE_PX)
        return self.batches.run(lambda: segmenter.embed(image))

    def answer(self, image: EmbeddedImage, prompt: VisualPrompt, k: int) -> tuple[Candidate, ...]:
        """Return at most ``k`` masks, scored by the decoder's own estimate of them.

        Raises:
            InvalidRequest: nothing was clicked, or outside the image.
            ConfigError: there is no segment-anything model here.
        """
        check_prompt(prompt, image.size_hw)
        segmenter = self._require_segmenter()
        return build_clicked(self.batches.run(lambda: segmenter.answer(image, prompt))[:k])

    def _require_segmenter(self) -> ClickSegmenter:
        if self.segmenter is None:
            raise ConfigError(
                "This worker has no segment-anything model, so it cannot answer clicks.",
                "Set SAYMASK_PROPOSALS to another generator than given.",
            )
        return self.segmenter


def check_prompt(prompt: VisualPrompt, size_hw: tuple[int, int]) -> None:
    """Check that a prompt has a click or a box, inside the image.

    Raises:
        InvalidRequest: it has none, one lies outside, or the mask to start from has another size.
    """
    if not prompt.points_xy and prompt.box_xyxy is None:
        raise InvalidRequest("The request has no click and no box.", "Click on what you mean.")
    height, width = size_hw
    corners = prompt.box_xyxy or ()
    xs = [x for x, _ in prompt.points_xy] + list(corners[0::2])
    ys = [y for _, y in prompt.points_xy] + list(corners[1::2])
    if not _are_within(xs, width) or not _are_within(ys, height):
        raise InvalidRequest(f"A click lies outside the photo of {width} x {height} pixels.")
    if prompt.start is not None and prompt.start.shape != size_hw:
        raise InvalidRequest(
            f"The mask to start from is {prompt.start.shape}, the photo {size_hw}."
        )


def _are_within(values: list[float], side: int) -> bool:
    return all(0 <= value <= side for value in values)
