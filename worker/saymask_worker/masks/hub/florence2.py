"""Florence-2 as a source: one mask for the whole expression, as polygons that it writes.

Xiao et al., "Florence-2: Advancing a Unified Representation for a Variety of Vision Tasks" (CVPR
2024), task referring expression segmentation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from transformers import Florence2ForConditionalGeneration, Florence2Processor

from saymask.masks import Mask
from saymask_worker.images.types import DecodedImage
from saymask_worker.masks.sources.base import SourceMask
from saymask_worker.weights.hub import FLORENCE2, compute_fingerprint
from saymask_worker.weights.transformers import load_pretrained

_TASK = "<REFERRING_EXPRESSION_SEGMENTATION>"
_MAX_NEW_TOKENS = 1024
_MIN_CORNERS = 3


class Florence2Source:
    """Offers one mask for an expression.

    Args:
        folder: with the files of the model and its processor; others raise WeightsError.
        dtype: of its weights; None means float32.
        max_new_tokens: the longest text that it writes; a corner of a polygon takes two tokens.
    """

    name = FLORENCE2.name

    def __init__(
        self,
        folder: Path,
        device: str,
        dtype: torch.dtype | None,
        max_new_tokens: int = _MAX_NEW_TOKENS,
    ) -> None:
        self.fingerprint = compute_fingerprint(folder)
        dtype = dtype or torch.float32
        self._model, self._processor = load_pretrained(
            Florence2ForConditionalGeneration, Florence2Processor, folder, device, dtype
        )
        self._device, self._dtype, self._max_new_tokens = device, dtype, max_new_tokens

    @torch.inference_mode()
    def segment(self, image: DecodedImage, expression: str) -> Sequence[SourceMask]:
        """Return the model's mask; none where it writes no polygon.

        Its probability is the geometric mean of those of the tokens written: how sure the model
        is of its own words, which nobody has calibrated.
        """
        # Angle brackets would be read as the name of another task.
        text = _TASK + expression.replace("<", " ").replace(">", " ")
        inputs = self._processor(text=text, images=image.pixels, return_tensors="pt")
        inputs = inputs.to(self._device, self._dtype)
        generated = self._model.generate(
            **inputs, max_new_tokens=self._max_new_tokens, do_sample=False, num_beams=1,
            return_dict_in_generate=True, output_scores=True,
        )  # fmt: skip
        written = self._processor.batch_decode(generated.sequences, skip_special_tokens=False)[0]
        height, width = image.size_hw
        answer = self._processor.post_process_generation(
            text=written, task=_TASK, image_size=(width, height)
        )
        polygons = [polygon for item in answer[_TASK]["polygons"] for polygon in item]
        mask = draw_polygons(polygons, image.size_hw)
        if not mask.any():
            return []
        logs = self._model.compute_transition_scores(
            generated.sequences, generated.scores, normalize_logits=True
        )[0]
        logs = logs[torch.isfinite(logs)]
        return [SourceMask(mask, math.exp(float(logs.float().mean())))]


def draw_polygons(polygons: Sequence[Sequence[float]], size_hw: tuple[int, int]) -> Mask:
    """Return the union (H, W) bool of polygons, each x, y, x, y, ... in pixels of the image."""
    canvas = Image.new("1", (size_hw[1], size_hw[0]))
    draw = ImageDraw.Draw(canvas)
    for polygon in polygons:
        corners = list(zip(polygon[0::2], polygon[1::2], strict=True))
        if len(corners) >= _MIN_CORNERS:
            draw.polygon(corners, fill=1)
    return np.array(canvas, dtype=bool)
