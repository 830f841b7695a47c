"""The mask decoder: equal to segment-anything's own."""

from __future__ import annotations

import pytest
import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer

from saymask_worker.config.pipeline import ProposalsConfig
from saymask_worker.masks.decoder import PromptDecoder
from saymask_worker.masks.upscaling import is_near_outline, to_coarse

OUTLINE_LOGIT = ProposalsConfig().outline_logit


class TinySam(torch.nn.Module):
    """A SAM without image encoder, random weights, real classes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.prompt_encoder = PromptEncoder(64, (8, 8), (1024, 1024), 4)
        transformer = TwoWayTransformer(depth=3, embedding_dim=64, num_heads=4, mlp_dim=96)
        self.mask_decoder = MaskDecoder(
            transformer_dim=64, transformer=transformer, iou_head_hidden_dim=32
        )
        for parameter in self.parameters():
            torch.nn.init.normal_(parameter, std=0.2)


@pytest.mark.parametrize("prompt", ["points", "boxes"])
def test_decoder_equals_the_stock_decoder(prompt: str) -> None:
    sam = TinySam().eval()
    embedding = torch.randn(1, 64, 8, 8)
    points = torch.rand(5, 2) * 1024
    boxes = torch.cat([points * 0.5, points * 0.5 + 300], dim=1)
    decoder = PromptDecoder(sam, torch.float32)  # type: ignore[arg-type]
    with torch.inference_mode():
        if prompt == "points":
            sparse, dense = sam.prompt_encoder((points[:, None], torch.ones(5, 1)), None, None)
            embedded = decoder.embed_points(points)
        else:
            sparse, dense = sam.prompt_encoder(None, boxes, None)
            embedded = decoder.embed_boxes(boxes)
        stock_masks, stock_iou = sam.mask_decoder(
            image_embeddings=embedding,
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
        )
    image = decoder.project(embedding)
    decoded = decoder.decode(image, embedded)
    torch.testing.assert_close(decoded.predicted_iou[:, 1:], stock_iou, atol=1e-3, rtol=1e-4)
    prompts = torch.tensor([0, 0, 2, 4, 4])
    outputs = torch.tensor([1, 3, 2, 1, 2])
    upscaled = decoder.upscale(image, decoded, prompts, outputs)
    expected = stock_masks[prompts, outputs - 1]
    torch.testing.assert_close(upscaled, expected, atol=1e-2, rtol=1e-3)
    every = decoder.select(image, decoded, -torch.inf)
    assert len(every.prompt) == 3 * len(points), "all three masks of each prompt"
    selected = every.take(prompts * 3 + outputs - 1)
    assert (selected.prompt == prompts).all()
    assert (selected.level == outputs - 1).all()
    torch.testing.assert_close(selected.predicted_iou, stock_iou[prompts, outputs - 1])
    torch.testing.assert_close(selected.coarse, to_coarse(upscaled), atol=1e-5, rtol=1e-5)
    # Random weights are sure of nothing: everything counts as outline.
    outlined = decoder.upscale_outlines(image, decoded, selected, OUTLINE_LOGIT)
    near = to_whole(is_near_outline(selected.coarse, OUTLINE_LOGIT))
    assert near.float().mean() > 0.5
    torch.testing.assert_close(outlined[near], upscaled[near], atol=1e-5, rtol=1e-5)
    none = torch.zeros(0, dtype=torch.long)
    assert decoder.upscale(image, decoded, none, none).shape == (0, 32, 32)
    nothing = decoder.select(image, decoded, torch.inf)
    assert decoder.upscale_outlines(image, decoded, nothing, OUTLINE_LOGIT).shape == (0, 32, 32)


def to_whole(cells: torch.Tensor) -> torch.Tensor:
    return cells.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)


def test_only_the_outline_of_a_coarse_mask_is_upscaled() -> None:
    """A disc in a field: near are the cells on its rim, and no cell deep inside or far outside."""
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    distance = ((y - 30) ** 2 + (x - 30) ** 2).sqrt()
    near = is_near_outline(((20 - distance) * 5)[None], OUTLINE_LOGIT)[0]
    assert near[(distance - 20).abs() < 1].all()
    assert not near[(distance - 20).abs() > 3].any()
