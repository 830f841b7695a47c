"""SAM's mask decoder for many prompts on one image, with the image side computed once.

The stock decoder (Kirillov et al., "Segment Anything", 2023) repeats the image embedding for
every prompt. Before the first image update, its projections do not depend on the prompt, so they
are computed once per image; ``absorbed_attention`` and ``upscaling`` say how the rest is saved.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam
from segment_anything.modeling.transformer import TwoWayAttentionBlock
from torch import Tensor, nn

from saymask_worker.masks.absorbed_attention import AbsorbedAttention
from saymask_worker.masks.frame import ImageTokens
from saymask_worker.masks.upscaling import COARSE_STEP, Upscaling, is_near_outline

# Tokens are upscaled in multiples of this: for each new shape oneDNN compiles anew.
_TOKENS_AT_ONCE = 1024


@dataclass(frozen=True)
class SelectedMasks:
    """The promising masks of some prompts, of which one pixel in sixteen is known.

    Attributes:
        prompt: (M,) index of each mask's prompt.
        level: (M,) which of the prompt's three masks: 0 subpart, 1 part, 2 whole.
        predicted_iou: (M,) float32.
        coarse: (M, h, w) logits, see ``to_coarse``.
    """

    prompt: Tensor
    level: Tensor
    predicted_iou: Tensor
    coarse: Tensor

    def take(self, index: Tensor) -> SelectedMasks:
        """Return a selection."""
        return SelectedMasks(*(column[index] for column in vars(self).values()))

    @staticmethod
    def join(parts: Sequence[SelectedMasks]) -> SelectedMasks:
        """Concatenate masks of one image."""
        return SelectedMasks(*map(torch.cat, zip(*(vars(p).values() for p in parts), strict=True)))


@dataclass(frozen=True)
class DecodedPrompts:
    """Decoder state after attention, before any mask is upscaled.

    Attributes:
        mask_tokens: (B, 4, 256), one per output mask; mask 0 is the single-mask output.
        image_tokens: (B, h * w, 256), updated by the prompts, without padding.
        predicted_iou: (B, 4) float32.
    """

    mask_tokens: Tensor
    image_tokens: Tensor
    predicted_iou: Tensor


class PromptDecoder:
    """The mask decoder of one SAM model; project an image, then decode prompts in batches.

    Args:
        sam: a built model; its weights are read, never changed.
        dtype: arithmetic of the decoder: float32, or bfloat16 where the hardware gains.
    """

    def __init__(self, sam: Sam, dtype: torch.dtype) -> None:
        self._prompts = sam.prompt_encoder
        self._dtype = dtype
        stock = sam.mask_decoder
        self.device = stock.iou_token.weight.device
        self._output_tokens = torch.cat([stock.iou_token.weight, stock.mask_tokens.weight])
        self._output_tokens = self._output_tokens.detach().to(dtype)
        self._layers = [_Layer(layer, dtype) for layer in stock.transformer.layers]
        self._final = AbsorbedAttention(stock.transformer.final_attn_token_to_image, dtype)
        self._final_norm = cast_module(stock.transformer.norm_final_attn, dtype)
        self._upscaling = Upscaling(stock.output_upscaling, dtype)
        self._hypernetworks = [cast_module(mlp, dtype) for mlp in stock.output_hypernetworks_mlps]
        self._iou_head = cast_module(stock.iou_prediction_head, torch.float32)

    @torch.inference_mode()
    def project(
        self, embedding: Tensor, chosen: ImageTokens | None = None, dense: Tensor | None = None
    ) -> ProjectedImage:
        """Project the image side, which does not depend on points and boxes.

        Args:
            embedding: (1, 256, 64, 64).
            chosen: the tokens to see; None for all, as in stock.
            dense: (1, 256, 64, 64) of a mask to start from; None for none.
        """
        if dense is None:
            dense = self._prompts.no_mask_embed.weight.view(1, -1, 1, 1)
        keys = (embedding + dense).flatten(2).transpose(1, 2)[0].to(self._dtype)
        positions = self._prompts.get_dense_pe().flatten(2).transpose(1, 2)[0].to(self._dtype)
        grid_hw, log_counts = (embedding.shape[2], embedding.shape[3]), None
        if chosen is not None:
            grid_hw = chosen.inside_hw
            keys, positions = keys[chosen.index], positions[chosen.index]
            if chosen.log_counts is not None:
                log_counts = chosen.log_counts.to(self._dtype)
        first = self._layers[0]
        return ProjectedImage(
            keys=keys,
            positions=positions,
            log_counts=log_counts,
            grid_hw=grid_hw,
            first_keys_values=first.to_image.shared_keys_values(keys + positions, keys),
            first_queries=first.to_tokens.shared_queries(keys + positions),
        )

    @torch.inference_mode()
    def embed_points(self, points_xy: Tensor) -> Tensor:
        """Embed one positive point per prompt, (B, 2) in SAM's 1024 frame: (B, 2, 256)."""
        labels = torch.ones(points_xy.shape[0], 1, device=self.device)
        sparse: Tensor = self._prompts((points_xy[:, None], labels), None, None)[0]
        return sparse

    @torch.inference_mode()
    def embed_boxes(self, boxes_xyxy: Tensor) -> Tensor:
        """Embed one box per prompt, (B, 4) in SAM's 1024 frame: (B, 2, 256)."""
        sparse: Tensor = self._prompts(None, boxes_xyxy, None)[0]
        return sparse

    @torch.inference_mode()
    def decode(self, image: ProjectedImage, sparse: Tensor) -> DecodedPrompts:
        """Run the two-way transformer for prompt tokens (B, n, 256)."""
        batch = sparse.shape[0]
        tokens = torch.cat(
            [self._output_tokens.expand(batch, -1, -1), sparse.to(self._dtype)], dim=1
        )
        queries = tokens
        keys: Tensor | None = None
        for layer in self._layers:
            queries, keys = layer(queries, keys, tokens, image)
        if keys is None:
            raise ValueError("a SAM mask decoder has at least one layer")
        queries = queries + self._final.tokens_to_image(
            queries + tokens, keys + image.positions, keys, image.log_counts
        )
        queries = self._final_norm(queries)
        height, width = image.grid_hw
        return DecodedPrompts(
            mask_tokens=queries[:, 1:5],
            image_tokens=keys[:, : height * width],
            predicted_iou=self._iou_head(queries[:, 0].float()),
        )

    @torch.inference_mode()
    def upscale(
        self, image: ProjectedImage, decoded: DecodedPrompts, prompt: Tensor, output: Tensor
    ) -> Tensor:
        """Compute low-resolution logits (M, 4 h, 4 w) of masks of decoded prompts.

        Args:
            image: from ``project``.
            decoded: from ``decode``.
            prompt: (M,) index into the batch.
            output: (M,) which of the prompt's four masks.
        """
        height, width = image.grid_hw
        blocks = self._upscale_masks(decoded, prompt, output, self._upscaling)
        blocks = blocks.view(len(prompt), height, width, 2, 2, 2, 2).permute(0, 1, 3, 5, 2, 4, 6)
        return blocks.reshape(len(prompt), height * 4, width * 4).float()

    @torch.inference_mode()
    def select(
        self, image: ProjectedImage, decoded: DecodedPrompts, predicted_iou_min: float
    ) -> SelectedMasks:
        """Return those of the three masks of each prompt whose predicted IoU is higher."""
        multimask = decoded.predicted_iou[:, 1:]
        prompt, level = torch.nonzero(multimask > predicted_iou_min, as_tuple=True)
        height, width = image.grid_hw
        coarse = self._upscale_masks(decoded, prompt, level + 1, self._upscaling.upscale_coarse)
        coarse = coarse.view(len(prompt), height, width).float()
        return SelectedMasks(prompt, level, multimask[prompt, level], coarse)

    def _upscale_masks(
        self, decoded: DecodedPrompts, prompt: Tensor, output: Tensor,
        upscale: Callable[[Tensor], Tensor],
    ) -> Tensor:  # fmt: skip
        """Logits (M, pixels) in the order in which tokens are upscaled."""
        used, position = torch.unique(prompt, return_inverse=True)
        is_all = len(used) == len(decoded.image_tokens)
        tokens = decoded.image_tokens if is_all else decoded.image_tokens[used]
        # All four masks of a prompt in one product: cheaper than copying its tokens per mask.
        upscaled = upscale(tokens) @ self._weights(decoded, used)
        return upscaled.transpose(1, 2)[position, output]

    def _weights(self, decoded: DecodedPrompts, used: Tensor) -> Tensor:
        """(U, 32, 4): the weights by which each mask of a prompt mixes the upscaled features."""
        return torch.stack(
            [mlp(decoded.mask_tokens[used, i]) for i, mlp in enumerate(self._hypernetworks)], dim=2
        )

    @torch.inference_mode()
    def upscale_outlines(
        self, image: ProjectedImage, decoded: DecodedPrompts, selected: SelectedMasks,
        outline_logit: float,
    ) -> Tensor:  # fmt: skip
        """Compute the logits of ``upscale`` near the outlines of M selected masks only.

        Elsewhere all 4 x 4 pixels of a cell have the one logit of the coarse mask; holes and
        specks smaller than a cell are lost there. A GPU upscales everything, which costs it less
        than selecting.

        Returns:
            (M, 4 h, 4 w).
        """
        prompt, output, coarse = selected.prompt, selected.level + 1, selected.coarse
        if self.device.type == "cuda":
            return self.upscale(image, decoded, prompt, output)
        used, position = torch.unique(prompt, return_inverse=True)
        height, width = image.grid_hw
        upscaled = coarse[:, :, None, :, None].repeat(1, 1, COARSE_STEP, 1, COARSE_STEP)
        near = coarse.new_zeros(len(used), height * width)
        near.index_add_(0, position, is_near_outline(coarse, outline_logit).flatten(1).float())
        # A cell is upscaled for all masks of its prompt.
        index = torch.nonzero(near.flatten())[:, 0]
        if len(index) > 0:
            index = F.pad(index, (0, -len(index) % _TOKENS_AT_ONCE))
            owner, cell = index // (height * width), index % (height * width)
            cells = self._upscale_cells(decoded, used, owner, cell)
            mask, token = torch.nonzero(position[:, None] == owner[None], as_tuple=True)
            pixels = cells[token, :, position[mask], output[mask]].float()
            # Rows and columns of a 2 x 2 block, then those within: see ``Upscaling``.
            blocks = pixels.view(-1, 2, 2, 2, 2).transpose(2, 3)
            y, x = cell[token] // width, cell[token] % width
            upscaled[mask, y, :, x] = blocks.reshape(-1, COARSE_STEP, COARSE_STEP)
        return upscaled.view(len(prompt), height * COARSE_STEP, width * COARSE_STEP)

    def _upscale_cells(
        self, decoded: DecodedPrompts, used: Tensor, owner: Tensor, cell: Tensor
    ) -> Tensor:
        """Logits (T, 16, U, 4) of cells, for all masks of the prompts ``used``.

        One product for all is cheaper than leaving out the superfluous ones.
        """
        tokens = decoded.image_tokens[used[owner], cell]
        weights = self._weights(decoded, used).transpose(1, 2).reshape(-1, self._upscaling.width)
        upscaled = F.linear(self._upscaling(tokens[None])[0], weights)
        return upscaled.view(len(cell), COARSE_STEP**2, len(used), 4)


@dataclass(frozen=True)
class ProjectedImage:
    """What the decoder computes once for an image.

    Attributes:
        keys: (P, 256) the tokens that are seen, the h * w of the image's own first.
        positions: (P, 256) encodings of their places.
        log_counts: (P,) see ``ImageTokens``, or None.
        grid_hw: h and w.
        first_keys_values: of the first layer's attention to them, two of (H, P, D).
        first_queries: of its attention from them, (H, P, D).
    """

    keys: Tensor
    positions: Tensor
    log_counts: Tensor | None
    grid_hw: tuple[int, int]
    first_keys_values: tuple[Tensor, Tensor]
    first_queries: Tensor


def cast_module(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return a copy of a small module in another precision."""
    return copy.deepcopy(module).to(dtype).eval()


class _Layer:
    """One two-way attention block; ``keys`` is None while the image is still shared."""

    def __init__(self, layer: TwoWayAttentionBlock, dtype: torch.dtype) -> None:
        self.skip_positions = bool(layer.skip_first_layer_pe)
        self.self_attention = cast_module(layer.self_attn, dtype)
        self.to_image = AbsorbedAttention(layer.cross_attn_token_to_image, dtype)
        self.to_tokens = AbsorbedAttention(layer.cross_attn_image_to_token, dtype)
        self.mlp = cast_module(layer.mlp, dtype)
        self.norms = [
            cast_module(norm, dtype)
            for norm in (layer.norm1, layer.norm2, layer.norm3, layer.norm4)
        ]

    def __call__(
        self, queries: Tensor, keys: Tensor | None, positions: Tensor, image: ProjectedImage
    ) -> tuple[Tensor, Tensor]:
        norm1, norm2, norm3, norm4 = self.norms
        if self.skip_positions:
            queries = self.self_attention(q=queries, k=queries, v=queries)
        else:
            placed = queries + positions
            queries = queries + self.self_attention(q=placed, k=placed, v=queries)
        queries = norm1(queries)
        if keys is None:
            attended = self.to_image.tokens_to_shared_image(
                queries + positions, image.first_keys_values, image.log_counts
            )
        else:
            placed_keys = keys + image.positions
            attended = self.to_image.tokens_to_image(
                queries + positions, placed_keys, keys, image.log_counts
            )
        queries = norm2(queries + attended)
        queries = norm3(queries + self.mlp(queries))
        if keys is None:
            updated = self.to_tokens.add_shared_image_to_tokens(
                image.keys, image.first_queries, queries + positions, queries
            )
        else:
            updated = self.to_tokens.add_image_to_tokens(
                keys, placed_keys, queries + positions, queries
            )
        return queries, norm4(updated)
