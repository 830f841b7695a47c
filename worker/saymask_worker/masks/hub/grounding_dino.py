"""Grounding DINO as a source: boxes for the head noun phrase, which segment-anything fills.

Liu et al., "Grounding DINO: Marrying DINO with Grounded Pre-Training for Open-Set Object
Detection" (ECCV 2024). Its boxes are those of all things that the phrase may name; the pipeline's
terms choose among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torchvision.ops import nms
from transformers import GroundingDinoForObjectDetection, GroundingDinoProcessor

from saymask_worker.images.types import DecodedImage, VisualPrompt
from saymask_worker.masks.clicks import ClickSegmenter, EmbeddedImage
from saymask_worker.masks.sources.base import SourceMask
from saymask_worker.weights.hub import GROUNDING_DINO, compute_fingerprint
from saymask_worker.weights.transformers import load_pretrained

_SCORE_MIN = 0.3
# Of two boxes that overlap more than this, the better one stays.
_DUPLICATE_IOU = 0.8
_MAX_INSTANCES = 20


class GroundingDinoSource:
    """Finds the instances of a noun phrase.

    Args:
        folder: with the files of the model and its processor; others raise WeightsError.
        clicks: turns boxes into masks.
        score_min: a box that is less probable is left out.
    """

    name = GROUNDING_DINO.name

    def __init__(
        self, folder: Path, clicks: ClickSegmenter, device: str, score_min: float = _SCORE_MIN
    ) -> None:
        self.fingerprint = compute_fingerprint(folder)
        # Its deformable attention samples at places that bfloat16 would round.
        self._model, self._processor = load_pretrained(
            GroundingDinoForObjectDetection, GroundingDinoProcessor, folder, device, torch.float32
        )
        self._max_tokens = self._model.config.max_text_len
        self._clicks, self._device, self._score_min = clicks, device, score_min

    @torch.inference_mode()
    def find_instances(self, image: DecodedImage, noun_phrase: str) -> Sequence[SourceMask]:
        """Return the instances of a noun phrase, the most probable first.

        The embedding of the image is kept with it for the next phrase.
        """
        boxes, scores = self._detect(image, noun_phrase)
        if len(boxes) == 0:
            return []
        embedded: EmbeddedImage | None = image.derived.get(self)
        if embedded is None:
            embedded = image.derived[self] = self._clicks.embed(image)
        instances = []
        for box, score in zip(boxes.tolist(), scores.tolist(), strict=True):
            prompt = VisualPrompt((), (), (box[0], box[1], box[2], box[3]), None)
            masks = self._clicks.answer(embedded, prompt)
            if masks:
                instances.append(SourceMask(masks[0].mask, score))
        return instances

    def _detect(self, image: DecodedImage, noun_phrase: str) -> tuple[Tensor, Tensor]:
        # The model was trained with lower case phrases that end in a full stop.
        phrase = noun_phrase.lower().replace(".", " ").strip() + "."
        inputs = self._processor(
            images=image.pixels, text=phrase, return_tensors="pt", truncation=True,
            max_length=self._max_tokens,
        ).to(self._device)  # fmt: skip
        outputs = self._model(**inputs)
        return read_boxes(outputs.logits, outputs.pred_boxes, image.size_hw, self._score_min)


def read_boxes(
    logits: Tensor, boxes_cxcywh: Tensor, size_hw: tuple[int, int], score_min: float = _SCORE_MIN
) -> tuple[Tensor, Tensor]:
    """Read boxes out of a model's output for one image.

    Args:
        logits: (1, Q, T) of each query for each token of the phrase; -inf for padding.
        boxes_cxcywh: (1, Q, 4) centre and size, shares of the image's width and height.
        size_hw: of the image.
        score_min: a box that is less probable is left out.

    Returns:
        Boxes (n, 4) xyxy in pixels, inside the image, and their scores (n,), 0 to 1; the best
        first, duplicates dropped, at most 20.
    """
    scores = logits[0].float().sigmoid().amax(dim=-1)
    center, size = boxes_cxcywh[0, :, :2].float(), boxes_cxcywh[0, :, 2:].float()
    height, width = size_hw
    scale = torch.tensor([width, height, width, height], device=scores.device)
    boxes = torch.cat([center - size / 2, center + size / 2], dim=-1).clamp(0, 1) * scale
    has_room = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(dim=-1)
    kept = (scores > score_min) & has_room
    boxes, scores = boxes[kept], scores[kept]
    best = nms(boxes, scores, _DUPLICATE_IOU)[:_MAX_INSTANCES]
    return boxes[best], scores[best]
