"""SAM's mask decoder for many prompts on one image, reassociated.

The stock decoder (Kirillov et al., "Segment Anything", 2023) repeats the image embedding for
every prompt and projects all 4,096 image tokens anew each time. Three identities of linear
algebra, none of them an approximation, remove most of that:

* before the first image update, image-side projections do not depend on the prompt: once;
* ``(x Wk) . q == x . (Wk^T q)``: a projection of 4,096 tokens becomes one of 7;
* ``softmax(..) (x Wv) Wo == (softmax(..) x) Wv Wo``: likewise for values.

Upscaling a mask costs as much as deciding on it. So answers can be sketched, one pixel of sixteen:
most sketches show that the mask was drawn before, from a neighbouring point, and of the others
only the outline needs to be drawn, as in PointRend (Kirillov et al., 2020).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam
from segment_anything.modeling.transformer import Attention
from torch import Tensor, nn

SKETCH_STEP = 4
# A sketch has every fourth pixel of every fourth row, beginning here: near its cell's middle.
_SKETCH_OFFSET = 2
# Where a cell and its neighbours all exceed this, one way, is no outline. What counts as unstable
# lies within 1.
_SURE_LOGIT = 2.0
# Tokens are drawn in multiples of this: for each new shape oneDNN prepares anew.
_TOKENS_AT_ONCE = 1024


@dataclass(frozen=True)
class Answers:
    """Which masks a batch of prompts promises.

    Attributes:
        prompt: (M,) index into the batch; ``level``: (M,) which of its three answers.
        predicted_iou: (M,) float32.
    """

    prompt: Tensor
    level: Tensor
    predicted_iou: Tensor

    def take(self, index: Tensor) -> Answers:
        return Answers(self.prompt[index], self.level[index], self.predicted_iou[index])


@dataclass(frozen=True)
class DecodedPrompts:
    """Decoder state after attention, before any mask is drawn.

    Attributes:
        mask_tokens: (B, 4, 256), one per output mask; mask 0 is the single-mask output.
        image_tokens: (B, 4096, 256), updated by the prompts.
        predicted_iou: (B, 4) float32.
    """

    mask_tokens: Tensor
    image_tokens: Tensor
    predicted_iou: Tensor

    def answers(self, least_iou: float) -> Answers:
        """Those of the three answers to each prompt that promise more than ``least_iou``."""
        multimask = self.predicted_iou[:, 1:]
        prompt, level = torch.nonzero(multimask > least_iou, as_tuple=True)
        return Answers(prompt, level, multimask[prompt, level])


def _heads(x: Tensor, count: int) -> Tensor:
    batch, tokens, width = x.shape
    return x.view(batch, tokens, count, width // count).transpose(1, 2)


class _AbsorbedAttention:
    """One of SAM's cross attentions with the projections of one side absorbed into the other."""

    def __init__(self, attention: Attention, dtype: torch.dtype) -> None:
        heads = attention.num_heads
        self.heads = heads
        self.scale = (attention.internal_dim // heads) ** -0.5

        def per_head(linear: nn.Linear) -> tuple[Tensor, Tensor]:
            weight = linear.weight.detach().to(dtype)
            bias = linear.bias.detach().to(dtype)
            return weight.view(heads, -1, weight.shape[1]), bias.view(heads, -1)

        self.wq, self.bq = per_head(attention.q_proj)
        self.wk, self.bk = per_head(attention.k_proj)
        self.wv, self.bv = per_head(attention.v_proj)
        out = attention.out_proj.weight.detach().to(dtype)
        self.wo = out.view(out.shape[0], heads, -1).permute(1, 2, 0).contiguous()
        self.bo = attention.out_proj.bias.detach().to(dtype)

    def tokens_to_image(self, tokens: Tensor, image_keys: Tensor, image_values: Tensor) -> Tensor:
        """Queries (B, T, C) attend to per-prompt image tokens (B, P, C); returns (B, T, C).

        The key bias shifts all scores of one query alike, so softmax removes it.
        """
        batch, count, _ = tokens.shape
        query = torch.einsum("btc,hdc->bhtd", tokens, self.wq) + self.bq[None, :, None]
        absorbed = torch.einsum("bhtd,hdc->bhtc", query * self.scale, self.wk)
        scores = absorbed.flatten(1, 2) @ image_keys.transpose(1, 2)
        mixed = scores.softmax(dim=-1) @ image_values
        mixed = mixed.view(batch, self.heads, count, -1)
        value = torch.einsum("bhtc,hdc->bhtd", mixed, self.wv) + self.bv[None, :, None]
        return torch.einsum("bhtd,hdc->btc", value, self.wo) + self.bo

    def shared_keys_values(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Project one image's tokens (P, C) for all prompts: two (H, P, D)."""
        key = torch.einsum("pc,hdc->hpd", keys, self.wk) + self.bk[:, None]
        value = torch.einsum("pc,hdc->hpd", values, self.wv) + self.bv[:, None]
        return key, value

    def tokens_to_shared_image(self, tokens: Tensor, keys_values: tuple[Tensor, Tensor]) -> Tensor:
        """Queries (B, T, C) attend to the projected tokens of one image; returns (B, T, C)."""
        key, value = keys_values
        batch, count, _ = tokens.shape
        # One product per head for all prompts: a batch of products would copy the image's keys.
        query = torch.einsum("btc,hdc->hbtd", tokens, self.wq) + self.bq[:, None, None]
        scores = (query * self.scale).flatten(1, 2) @ key.transpose(1, 2)
        mixed = (scores.softmax(dim=-1) @ value).unflatten(1, (batch, count))
        return torch.einsum("hbtd,hdc->btc", mixed, self.wo) + self.bo

    def _token_values(self, values: Tensor) -> Tensor:
        """Output-projected values of the prompt tokens: (B, H * T, C)."""
        value = torch.einsum("btc,hdc->bhtd", values, self.wv) + self.bv[None, :, None]
        return torch.einsum("bhtd,hdc->bhtc", value, self.wo).flatten(1, 2)

    def _token_keys(self, keys: Tensor) -> Tensor:
        key = torch.einsum("btc,hdc->bhtd", keys, self.wk) + self.bk[None, :, None]
        return key * self.scale

    def shared_queries(self, queries: Tensor) -> Tensor:
        """Project one image's tokens (P, C) as queries for all prompts: (H, P, D)."""
        return torch.einsum("pc,hdc->hpd", queries, self.wq) + self.bq[:, None]

    def shared_image_to_tokens(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Image tokens, queries shared (H, P, D), attend to prompt tokens; returns (B, P, C)."""
        batch, count, _ = keys.shape
        key = self._token_keys(keys).transpose(0, 1).flatten(1, 2)
        scores = (key @ queries.transpose(1, 2)).unflatten(1, (batch, count))
        return self._mix(scores.transpose(0, 1), values)

    def image_to_tokens(self, image_queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Per-prompt image tokens (B, P, C) attend to prompt tokens (B, T, C); (B, P, C)."""
        key = self._token_keys(keys)
        absorbed = torch.einsum("bhtd,hdc->bhtc", key, self.wq).flatten(1, 2)
        offset = torch.einsum("bhtd,hd->bht", key, self.bq).flatten(1)
        scores = absorbed @ image_queries.transpose(1, 2) + offset[..., None]
        return self._mix(scores.unflatten(1, (self.heads, -1)), values)

    def _mix(self, scores: Tensor, values: Tensor) -> Tensor:
        """Scores (B, H, T, P) over prompt tokens to (B, P, C).

        The few prompt tokens stand before the many image tokens in memory: a softmax over a last
        axis of seven is twenty times slower.
        """
        weights = scores.softmax(dim=2).flatten(1, 2)
        return weights.transpose(1, 2) @ self._token_values(values) + self.bo


class PromptDecoder:
    """The mask decoder of one SAM model; attach an image, then decode prompts in batches.

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
        self._final = _AbsorbedAttention(stock.transformer.final_attn_token_to_image, dtype)
        self._final_norm = _cast(stock.transformer.norm_final_attn, dtype)
        self._upscaling = _Upscaling(stock.output_upscaling, dtype)
        self._hypernetworks = [_cast(mlp, dtype) for mlp in stock.output_hypernetworks_mlps]
        self._iou_head = _cast(stock.iou_prediction_head, torch.float32)

    @torch.inference_mode()
    def attach(self, embedding: Tensor, dense: Tensor | None = None) -> AttachedImage:
        """Project what does not depend on points and boxes.

        Args:
            embedding: (1, 256, 64, 64).
            dense: the same for a mask to start from; None for no mask.
        """
        if dense is None:
            dense = self._prompts.no_mask_embed.weight.view(1, -1, 1, 1)
        keys = (embedding + dense).flatten(2).transpose(1, 2)[0]
        positions = self._prompts.get_dense_pe().flatten(2).transpose(1, 2)[0]
        keys = keys.to(self._dtype)
        positions = positions.to(self._dtype)
        first = self._layers[0]
        return AttachedImage(
            keys=keys,
            positions=positions,
            grid_hw=(embedding.shape[2], embedding.shape[3]),
            first_keys_values=first.to_image.shared_keys_values(keys + positions, keys),
            first_queries=first.to_tokens.shared_queries(keys + positions),
        )

    @torch.inference_mode()
    def embed_points(self, points_xy: Tensor) -> Tensor:
        """One positive point per prompt, (B, 2) in SAM's 1024 frame, to (B, 2, 256)."""
        labels = torch.ones(points_xy.shape[0], 1, device=self.device)
        sparse, _ = self._prompts((points_xy[:, None], labels), None, None)
        return sparse

    @torch.inference_mode()
    def embed_boxes(self, boxes_xyxy: Tensor) -> Tensor:
        """One box per prompt, (B, 4) in SAM's 1024 frame, to (B, 2, 256)."""
        sparse, _ = self._prompts(None, boxes_xyxy, None)
        return sparse

    @torch.inference_mode()
    def decode(self, image: AttachedImage, sparse: Tensor) -> DecodedPrompts:
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
        with_positions = keys + image.positions
        queries = queries + self._final.tokens_to_image(queries + tokens, with_positions, keys)
        queries = self._final_norm(queries)
        return DecodedPrompts(
            mask_tokens=queries[:, 1:5],
            image_tokens=keys,
            predicted_iou=self._iou_head(queries[:, 0].float()),
        )

    @torch.inference_mode()
    def draw(
        self, image: AttachedImage, decoded: DecodedPrompts, prompt: Tensor, output: Tensor
    ) -> Tensor:
        """Low-resolution logits (M, 256, 256) of chosen masks.

        Args:
            prompt: (M,) index into the batch.
            output: (M,) which of the four masks.
        """
        height, width = image.grid_hw
        blocks = self._paint(decoded, prompt, output, self._upscaling)
        blocks = blocks.view(len(prompt), height, width, 2, 2, 2, 2).permute(0, 1, 3, 5, 2, 4, 6)
        return blocks.reshape(len(prompt), height * 4, width * 4).float()

    @torch.inference_mode()
    def sketch(
        self, image: AttachedImage, decoded: DecodedPrompts, prompt: Tensor, output: Tensor
    ) -> Tensor:
        """Of the same logits one pixel of sixteen, (M, 64, 64): ``to_sketch`` of what ``draw``
        gives."""
        height, width = image.grid_hw
        blocks = self._paint(decoded, prompt, output, self._upscaling.sketch)
        return blocks.view(len(prompt), height, width).float()

    def _paint(
        self,
        decoded: DecodedPrompts,
        prompt: Tensor,
        output: Tensor,
        upscale: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Logits (M, pixels) in the order in which tokens grow."""
        used, position = torch.unique(prompt, return_inverse=True)
        everyone = len(used) == len(decoded.image_tokens)
        tokens = decoded.image_tokens if everyone else decoded.image_tokens[used]
        # All four masks of a prompt in one product: cheaper than copying its canvas per mask.
        painted = upscale(tokens) @ self._weights(decoded, used)
        return painted.transpose(1, 2)[position, output]

    def _weights(self, decoded: DecodedPrompts, used: Tensor) -> Tensor:
        """(U, 32, 4) what each mask of a prompt is a mixture by."""
        return torch.stack(
            [mlp(decoded.mask_tokens[used, i]) for i, mlp in enumerate(self._hypernetworks)], dim=2
        )

    @torch.inference_mode()
    def draw_sketched(
        self,
        image: AttachedImage,
        decoded: DecodedPrompts,
        prompt: Tensor,
        output: Tensor,
        sketches: Tensor,
    ) -> Tensor:
        """What ``draw`` gives near the outlines; elsewhere cells of 4 x 4 pixels have the one logit
        of their sketch (M, 64, 64). Holes and specks smaller than a cell are not seen there.

        A GPU draws the whole: there it is cheaper than to choose.
        """
        if self.device.type == "cuda":
            return self.draw(image, decoded, prompt, output)
        used, position = torch.unique(prompt, return_inverse=True)
        height, width = image.grid_hw
        drawn = sketches[:, :, None, :, None].repeat(1, 1, SKETCH_STEP, 1, SKETCH_STEP)
        near = sketches.new_zeros(len(used), height * width)
        near.index_add_(0, position, is_near_outline(sketches).flatten(1).float())
        # A cell is drawn for all masks of its prompt.
        place = torch.nonzero(near.flatten())[:, 0]
        if len(place) > 0:
            place = F.pad(place, (0, -len(place) % _TOKENS_AT_ONCE))
            owner, cell = place // (height * width), place % (height * width)
            painted = self._paint_cells(decoded, used, owner, cell)
            for index, slot in enumerate(zip(position.tolist(), output.tolist(), strict=True)):
                mine = torch.nonzero(owner == slot[0])[:, 0]
                at = cell[mine]
                drawn[index, at // width, :, at % width] = painted[mine, slot[0], slot[1]]
        return drawn.view(len(prompt), height * SKETCH_STEP, width * SKETCH_STEP)

    def _paint_cells(
        self, decoded: DecodedPrompts, used: Tensor, owner: Tensor, cell: Tensor
    ) -> Tensor:
        """Logits (T, U, 4, 4, 4) of cells of the prompts ``used``, by all their masks: what one
        product gives is cheaper than to do without the superfluous ones."""
        tokens = decoded.image_tokens[used[owner], cell]
        weights = self._weights(decoded, used).transpose(1, 2).reshape(-1, self._upscaling.width)
        painted = F.linear(self._upscaling(tokens[None])[0], weights).float()
        blocks = painted.view(len(cell), 2, 2, 2, 2, len(used), 4).permute(0, 5, 6, 1, 3, 2, 4)
        return blocks.flatten(5, 6).flatten(3, 4)


class _Upscaling:
    """SAM's two stride-2 transposed convolutions as matrix products, channels last.

    Kernel and stride are both 2, so no output pixel is touched twice: each token simply grows
    into a 2 x 2 block, and each of those into another.
    """

    def __init__(self, stock: nn.Sequential, dtype: torch.dtype) -> None:
        first, norm, _, second, _ = stock
        self._first = self._flatten(first, dtype)
        self._second = self._flatten(second, dtype)
        inner, outer = _SKETCH_OFFSET % 2, _SKETCH_OFFSET // 2
        self._sketched = _one_of_four(self._first, outer), _one_of_four(self._second, inner)
        self._norm_weight = norm.weight.detach().to(dtype)
        self._norm_bias = norm.bias.detach().to(dtype)
        self._norm_eps = norm.eps
        self.width = int(second.out_channels)

    @staticmethod
    def _flatten(layer: nn.ConvTranspose2d, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        weight = layer.weight.detach().permute(2, 3, 1, 0).to(dtype)
        bias = layer.bias.detach().to(dtype)
        return weight.reshape(-1, weight.shape[-1]).contiguous(), bias.repeat(4)

    def __call__(self, tokens: Tensor) -> Tensor:
        """(B, P, 256) to (B, P * 16, 32): per token rows and columns, then those within."""
        batch, pixels, _ = tokens.shape
        grown = F.linear(tokens, *self._first).view(batch, pixels, 2, 2, len(self._norm_weight))
        return self._finish(grown, self._second).view(batch, pixels * 16, self.width)

    def sketch(self, tokens: Tensor) -> Tensor:
        """(B, P, 256) to (B, P, 32): one pixel of each token's sixteen."""
        first, second = self._sketched
        return self._finish(F.linear(tokens, *first), second)

    def _finish(self, grown: Tensor, second: tuple[Tensor, Tensor]) -> Tensor:
        grown = F.layer_norm(
            grown, grown.shape[-1:], self._norm_weight, self._norm_bias, self._norm_eps
        )
        return F.gelu(F.linear(F.gelu(grown), *second))


def _one_of_four(layer: tuple[Tensor, Tensor], place: int) -> tuple[Tensor, Tensor]:
    """What grows the pixel (place, place) of each 2 x 2 block."""
    weight, bias = layer
    width = len(bias) // 4
    rows = slice(3 * place * width, (3 * place + 1) * width)
    return weight[rows], bias[rows]


def to_sketch(masks: Tensor) -> Tensor:
    """Of masks or logits (N, h, w), the pixels that a sketch has."""
    return masks[:, _SKETCH_OFFSET::SKETCH_STEP, _SKETCH_OFFSET::SKETCH_STEP]


def is_near_outline(sketches: Tensor) -> Tensor:
    """Cells (M, h, w) that are not, with all their neighbours, surely inside or surely outside."""

    def highest_around(logits: Tensor) -> Tensor:
        padded = F.pad(logits, (1, 1, 1, 1), value=-torch.inf)
        # A pooling layer takes many times as long on maps this small.
        rows = torch.maximum(torch.maximum(padded[:, :-2], padded[:, 1:-1]), padded[:, 2:])
        return torch.maximum(torch.maximum(rows[..., :-2], rows[..., 1:-1]), rows[..., 2:])

    return (highest_around(sketches) > -_SURE_LOGIT) & (highest_around(-sketches) > -_SURE_LOGIT)


@dataclass(frozen=True)
class AttachedImage:
    """What the decoder computed once for an image. Tokens are (4096, 256)."""

    keys: Tensor
    positions: Tensor
    grid_hw: tuple[int, int]
    first_keys_values: tuple[Tensor, Tensor]
    first_queries: Tensor


def _cast(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy of a small module in another precision."""
    return copy.deepcopy(module).to(dtype).eval()


class _Layer:
    """One two-way attention block; ``keys`` is None while the image is still shared."""

    def __init__(self, layer: nn.Module, dtype: torch.dtype) -> None:
        self.skip_positions = bool(layer.skip_first_layer_pe)
        self.self_attention = _cast(layer.self_attn, dtype)
        self.to_image = _AbsorbedAttention(layer.cross_attn_token_to_image, dtype)
        self.to_tokens = _AbsorbedAttention(layer.cross_attn_image_to_token, dtype)
        self.mlp = _cast(layer.mlp, dtype)
        self.norms = [
            _cast(norm, dtype) for norm in (layer.norm1, layer.norm2, layer.norm3, layer.norm4)
        ]

    def __call__(
        self, queries: Tensor, keys: Tensor | None, positions: Tensor, image: AttachedImage
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
                queries + positions, image.first_keys_values
            )
        else:
            placed_keys = keys + image.positions
            attended = self.to_image.tokens_to_image(queries + positions, placed_keys, keys)
        queries = norm2(queries + attended)
        queries = norm3(queries + self.mlp(queries))
        if keys is None:
            update = self.to_tokens.shared_image_to_tokens(
                image.first_queries, queries + positions, queries
            )
            keys = norm4(image.keys + update)
        else:
            update = self.to_tokens.image_to_tokens(placed_keys, queries + positions, queries)
            keys = norm4(keys + update)
        return queries, keys
