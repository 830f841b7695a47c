"""Real weights on larger photos than the samples, and in the batches of a GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from saymask.masks import compute_iou, compute_ious, decode_coco_rle
from tests.weights import require_weights
from worker.pipeline import build
from worker.pipeline.pipeline import Pipeline
from worker.proposals.decoder import AttachedImage, DecodedPrompts, PromptDecoder
from worker.settings import load_worker_settings

pytestmark = pytest.mark.slow


def load() -> Pipeline:
    require_weights()
    pipeline = build.build_pipeline(load_worker_settings(encoder="starter"))
    pipeline.cache = None
    return pipeline


def test_batches_of_a_gpu_find_the_same_objects(
    samples: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = load()
    monkeypatch.setattr(build, "_PROMPTS_PER_BATCH", {"cpu": 64})
    monkeypatch.setattr(build, "_CROPS_PER_BATCH", {"cpu": 128})
    many = load()
    monkeypatch.setattr(PromptDecoder, "upscale_outlines", _upscale_everything)
    data = samples["astronaut"].read_bytes()
    masks = [pipeline.prepare(data)[0].proposals.masks for pipeline in (few, many)]
    for ours, theirs in (masks, masks[::-1]):
        found = [compute_ious(mask, theirs).max() >= 0.8 for mask in ours]
        assert np.mean(found) >= 0.9, found


def _upscale_everything(
    decoder: PromptDecoder, image: AttachedImage, decoded: DecodedPrompts,
    prompt: torch.Tensor, output: torch.Tensor, _coarse: torch.Tensor, _outline_logit: float,
) -> torch.Tensor:  # fmt: skip
    """What a GPU does instead of selecting outlines."""
    return decoder.upscale(image, decoded, prompt, output)


def test_a_large_photo_answers_as_the_same_photo_in_small(
    tmp_path: Path, samples: dict[str, Path]
) -> None:
    pipeline = load()
    small = Image.open(samples["coffee"])
    path = tmp_path / "large.jpg"
    small.resize((small.width * 6, small.height * 6), Image.Resampling.BICUBIC).save(path)
    masks = []
    for photo in (samples["coffee"], path):
        prepared, timings = pipeline.prepare(photo.read_bytes())
        result = pipeline.segment(prepared, "the spoon", 1, preparation=timings)
        masks.append(decode_coco_rle(result.candidates[0].mask.as_dict()))
    assert masks[1].shape == (small.height * 6, small.width * 6)
    assert compute_iou(masks[0], masks[1][3::6, 3::6]) > 0.9
