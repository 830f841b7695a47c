"""Which tokens the mask decoder sees: a sample of the padding counts for all of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from segment_anything import SamPredictor
from segment_anything.modeling.transformer import Attention

from saymask_worker.masks.absorbed_attention import AbsorbedAttention
from saymask_worker.masks.decoder import PromptDecoder
from saymask_worker.masks.frame import choose_image_tokens, crop_padding
from saymask_worker.masks.load import load_sam
from saymask_worker.masks.point_prompts import build_grid
from saymask_worker.weights.store import WeightStore
from tests.weights import require_weights

GRID_HW = (64, 64)
sides = st.integers(1, 1024)


@given(height=sides, width=sides, step=st.integers(1, 9))
def test_tokens_stand_for_the_whole_grid(height: int, width: int, step: int) -> None:
    chosen = choose_image_tokens(GRID_HW, (height, width), step, "cpu")
    inside_h, inside_w = -(-height // 16), -(-width // 16)
    inside = torch.arange(64 * 64).view(GRID_HW)[:inside_h, :inside_w].flatten()
    assert chosen.inside_hw == (inside_h, inside_w)
    assert torch.equal(chosen.index[: len(inside)], inside)
    assert len(chosen.index.unique()) == len(chosen.index)
    if chosen.log_counts is None:
        assert len(chosen.index) == 64 * 64
        return
    counts = chosen.log_counts.exp()
    assert torch.equal(counts[: len(inside)], torch.ones(len(inside)))
    assert float(counts.sum()) == pytest.approx(64 * 64, rel=1e-4)


@pytest.mark.parametrize("is_shared", [False, True])
def test_a_token_with_a_count_weighs_as_much_as_its_copies(is_shared: bool) -> None:
    torch.manual_seed(0)
    attention = Attention(32, 4, downsample_rate=2).eval()
    absorbed = AbsorbedAttention(attention, torch.float32)
    tokens, image = torch.randn(2, 7, 32), torch.randn(2, 5, 32)
    if is_shared:
        image = image[:1].expand(2, -1, -1)
    copies = torch.cat([image, image[:, 4:].expand(-1, 8, -1)], dim=1)
    log_counts = torch.tensor([0.0, 0.0, 0.0, 0.0, 9.0]).clamp(min=1).log()
    with torch.inference_mode():
        expected = attention(tokens, copies, copies)
        if is_shared:
            projected = absorbed.shared_keys_values(image[0], image[0])
            ours = absorbed.tokens_to_shared_image(tokens, projected, log_counts)
        else:
            ours = absorbed.tokens_to_image(tokens, image, image, log_counts)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_masks_of_a_photo_hardly_change_with_a_sample_of_its_padding(
    samples: dict[str, Path],
) -> None:
    """MobileSAM on a photo of 3 : 2."""
    require_weights()
    sam = load_sam("mobile-sam", WeightStore().require("mobile-sam"))
    predictor = SamPredictor(sam)
    predictor.set_image(np.asarray(Image.open(samples["coffee"])))
    frame_hw = predictor.input_size
    decoder = PromptDecoder(sam, torch.float32)
    prompts = decoder.embed_points(build_grid(6, frame_hw, "cpu"))
    output = torch.tensor([1, 2, 3]).repeat(len(prompts))
    prompt = torch.arange(len(prompts)).repeat_interleave(3)

    def decode(padding_step: int | None) -> tuple[torch.Tensor, torch.Tensor, int]:
        chosen = None
        if padding_step is not None:
            chosen = choose_image_tokens(GRID_HW, frame_hw, padding_step, "cpu")
        image = decoder.project(predictor.features, chosen)
        decoded = decoder.decode(image, prompts)
        masks = crop_padding(decoder.upscale(image, decoded, prompt, output), frame_hw) > 0
        return masks.flatten(1), decoded.predicted_iou[:, 1:].flatten(), len(image.keys)

    stock, predicted_iou, stock_count = decode(None)
    good = predicted_iou > 0.75
    assert good.sum() > 30

    def agree(masks: torch.Tensor) -> torch.Tensor:
        union = (masks | stock).sum(dim=1).clamp(min=1)
        return ((masks & stock).sum(dim=1) / union)[good]

    same, _, count = decode(1)
    assert count == stock_count
    assert agree(same).min() > 0.999
    sampled, _, count = decode(4)
    assert count < 0.72 * stock_count
    assert (agree(sampled) > 0.95).float().mean() > 0.95
