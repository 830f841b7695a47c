"""MobileSAM's real weights: equal to segment-anything's own predictor and generator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from segment_anything import SamAutomaticMaskGenerator, SamPredictor

from saymask.errors import WeightsError
from saymask.masks import Masks, compute_iou
from saymask_worker.config.pipeline import ProposalsConfig
from saymask_worker.images.types import DecodedImage
from saymask_worker.masks.decoder import PromptDecoder
from saymask_worker.masks.load import load_sam
from saymask_worker.masks.sam import SamProposer
from saymask_worker.weights.store import WeightStore
from tests.weights import require_weights

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkpoint() -> Path:
    require_weights()
    return WeightStore().require("mobile-sam")


def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path) -> None:
    wrong = tmp_path / "x.pt"
    torch.save({"a": torch.zeros(1)}, wrong)
    for generator in ("mobile-sam", "sam-vit-b"):
        with pytest.raises(WeightsError, match="not a checkpoint"):
            load_sam(generator, wrong)
    wrong.write_bytes(b"garbage")
    with pytest.raises(WeightsError):
        load_sam("mobile-sam", wrong)


def test_stock_segment_anything_agrees_with_our_encoder_and_decoder(
    checkpoint: Path, samples: dict[str, Path]
) -> None:
    """The same prompts through segment-anything's own predictor, float32, MobileSAM weights."""
    sam = load_sam("mobile-sam", checkpoint)
    predictor = SamPredictor(sam)
    predictor.set_image(np.asarray(Image.open(samples["coffee"])))
    points = torch.tensor([[300.0, 200.0], [500.0, 400.0], [620.0, 450.0]])
    decoder = PromptDecoder(sam, torch.float32)
    image = decoder.project(predictor.features)
    decoded = decoder.decode(image, decoder.embed_points(points))
    for index, point in enumerate(points):
        masks, quality, _ = predictor.predict_torch(
            point[None, None], torch.ones(1, 1), multimask_output=True, return_logits=True
        )
        torch.testing.assert_close(decoded.predicted_iou[index, 1:], quality[0], atol=1e-4, rtol=0)
        drawn = decoder.upscale(image, decoded, torch.full((3,), index), torch.tensor([1, 2, 3]))
        ours = sam.postprocess_masks(drawn[:, None], predictor.input_size, predictor.original_size)[
            :, 0
        ]
        differing = ((ours > 0) != (masks[0] > 0)).float().mean()
        assert differing < 1e-5


@pytest.mark.parametrize(("photo", "turned"), [("coffee", False), ("rocket", True)])
def test_most_masks_of_the_stock_generator_are_among_the_proposals(
    photo: str, turned: bool, checkpoint: Path, samples: dict[str, Path]
) -> None:
    pixels = np.asarray(Image.open(samples[photo]))
    pixels = np.ascontiguousarray(np.rot90(pixels) if turned else pixels)
    sam = load_sam("mobile-sam", checkpoint)
    stock = SamAutomaticMaskGenerator(
        sam, points_per_side=5, pred_iou_thresh=0.75, stability_score_thresh=0.85
    ).generate(pixels)
    config = ProposalsConfig(points_per_side=5, points_share=1.0)
    ours = SamProposer(sam, config, "cpu", torch.float32, 4, "x").propose(
        DecodedImage(pixels, "0" * 64)
    )
    found = [
        max(compute_iou(mask["segmentation"], other) for other in enlarge(ours.masks, pixels))
        for mask in stock
    ]
    assert len(stock) > 5
    assert np.mean(np.array(found) > 0.75) >= 0.8, found


def enlarge(masks: Masks, pixels: np.ndarray) -> list[np.ndarray]:
    height, width = pixels.shape[:2]
    return [
        np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
        for mask in masks
    ]
