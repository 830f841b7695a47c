"""SAM 3 as a source: every instance of the head noun phrase; the pipeline's terms choose.

Carion et al., "SAM 3: Segment Anything with Concepts" (2025). A concept is a short noun phrase
without relations, so SAM 3 alone cannot tell "the second car from the left" from any other car.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import Sam3Model, Sam3Processor

from saymask_worker.images.types import DecodedImage
from saymask_worker.masks.sources.base import SourceMask
from saymask_worker.weights.hub import SAM3, compute_fingerprint
from saymask_worker.weights.transformers import load_pretrained

_SCORE_MIN = 0.3
_MASK_PROBABILITY_MIN = 0.5
_MAX_INSTANCES = 30


class Sam3Source:
    """Finds the instances of a noun phrase.

    Args:
        folder: with the files of the model and its processor; others raise WeightsError.
        dtype: of its weights; None means float32.
        score_min: an instance that is less probable is left out.
    """

    name = SAM3.name

    def __init__(
        self, folder: Path, device: str, dtype: torch.dtype | None, score_min: float = _SCORE_MIN
    ) -> None:
        self.fingerprint = compute_fingerprint(folder)
        dtype = dtype or torch.float32
        self._model, self._processor = load_pretrained(
            Sam3Model, Sam3Processor, folder, device, dtype
        )
        self._max_tokens = self._model.config.text_config.max_position_embeddings
        self._device, self._dtype, self._score_min = device, dtype, score_min

    @torch.inference_mode()
    def find_instances(self, image: DecodedImage, noun_phrase: str) -> Sequence[SourceMask]:
        """Return the instances of a noun phrase, the most probable first.

        Args:
            image: to look at; its features, some hundred megabytes in float32, are kept with it
                for the next phrase.
            noun_phrase: for example "red car"; what exceeds the text encoder's 32 tokens is cut.
        """
        # No other padding: the text encoder was trained with phrases filled up to its length.
        tokens = self._processor.tokenizer(
            noun_phrase, return_tensors="pt", padding="max_length", truncation=True,
            max_length=self._max_tokens,
        ).to(self._device)  # fmt: skip
        outputs = self._model(
            vision_embeds=self._encode_image(image),
            input_ids=tokens["input_ids"],
            attention_mask=tokens["attention_mask"],
        )
        return read_instances(outputs, image.size_hw, self._score_min)

    def _encode_image(self, image: DecodedImage) -> Any:
        features = image.derived.get(self)
        if features is None:
            pixels = self._processor.image_processor(image.pixels, return_tensors="pt")
            features = self._model.get_vision_features(
                pixels["pixel_values"].to(self._device, self._dtype)
            )
            image.derived[self] = features
        return features


def read_instances(
    outputs: Any, size_hw: tuple[int, int], score_min: float = _SCORE_MIN
) -> list[SourceMask]:
    """Read instances out of a model's output for one image.

    Args:
        outputs: with ``pred_logits`` (1, Q), ``presence_logits`` (1, 1) or None, and
            ``pred_masks`` (1, Q, h, w) logits that cover the whole image.
        size_hw: of the image, at which masks are returned.
        score_min: an instance that is less probable is left out.

    Returns:
        At most 30 masks that are not empty, the most probable first. The probability of an
        instance is that of its query times that of the concept being present at all.
    """
    scores = outputs.pred_logits[0].float().sigmoid()
    if outputs.presence_logits is not None:
        scores = scores * outputs.presence_logits[0].float().sigmoid()
    order = torch.argsort(scores, descending=True, stable=True)[:_MAX_INSTANCES]
    instances = []
    for query in order[scores[order] > score_min].tolist():
        # One by one: all masks of a large photo at once would take gigabytes.
        small = outputs.pred_masks[0, query].float().sigmoid()[None, None]
        mask = F.interpolate(small, size_hw, mode="bilinear", align_corners=False)[0, 0]
        mask = mask > _MASK_PROBABILITY_MIN
        if mask.any():
            instances.append(SourceMask(mask.cpu().numpy(), float(scores[query])))
    return instances
