"""What a GPU does otherwise than a CPU, as far as that can be tested without one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from saymask.masks import compute_iou, compute_ious, decode_coco_rle
from saymask_worker.config.settings import load_worker_settings
from saymask_worker.images.types import VisualPrompt
from saymask_worker.masks.decoder import (
    DecodedPrompts,
    ProjectedImage,
    PromptDecoder,
    SelectedMasks,
)
from saymask_worker.pipeline import build
from saymask_worker.pipeline.pipeline import Pipeline
from tests.weights import require_weights

pytestmark = pytest.mark.slow


ROOT = Path(__file__).parents[2]


def load(**settings: object) -> Pipeline:
    require_weights()
    pipeline = build.build_pipeline(load_worker_settings(encoder="starter", **settings))
    pipeline.cache = None
    return pipeline


def test_batches_of_a_gpu_find_the_same_objects(
    samples: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = samples["astronaut"].read_bytes()
    few, _ = load().prepare(data)
    monkeypatch.setattr(build, "_PROMPTS_PER_BATCH", {"cpu": 64})
    monkeypatch.setattr(build, "_CROPS_PER_BATCH", {"cpu": 128})
    monkeypatch.setattr(PromptDecoder, "upscale_outlines", _upscale_everything)
    many, _ = load().prepare(data)
    masks = [prepared.proposals.masks for prepared in (few, many)]
    for ours, theirs in (masks, masks[::-1]):
        best_ious = [compute_ious(mask, theirs).max() for mask in ours]
        assert np.mean(np.array(best_ious) >= 0.8) >= 0.9, best_ious


def _upscale_everything(
    decoder: PromptDecoder, image: ProjectedImage, decoded: DecodedPrompts,
    selected: SelectedMasks, _outline_logit: float,
) -> torch.Tensor:  # fmt: skip
    """What a GPU does instead of selecting outlines."""
    return decoder.upscale(image, decoded, selected.prompt, selected.level + 1)


def test_every_tensor_is_on_the_device_that_uses_it(samples: dict[str, Path]) -> None:
    """A full preparation, a first look and a click, where mixing devices is an error."""
    require_weights()
    expression = "the american flag"
    command = [sys.executable, "-W", "ignore", "-m", "tests.worker.pretended_gpu"]
    run = subprocess.run(
        [*command, samples["astronaut"], expression],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout)
    assert told["operations"] > 1000
    pipeline = load(first_look="on", points_per_side=6)
    data = samples["astronaut"].read_bytes()
    click = VisualPrompt(((60.0, 60.0),), (True,), None, None)
    results = {
        "full": pipeline.segment(pipeline.prepare(data)[0], expression, 1, preparation=None),
        "first": pipeline.segment(pipeline.look_first(data)[0], expression, 1, preparation=None),
        "clicked": pipeline.refine(pipeline.embed(data), "", click, 1, from_cache=False),
    }
    for name, result in results.items():
        ours = decode_coco_rle(result.candidates[0].mask.as_dict())
        assert compute_iou(ours, decode_coco_rle(told["masks"][name])) > 0.8, name
