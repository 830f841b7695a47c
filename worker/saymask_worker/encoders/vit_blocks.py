"""Blocks of a CLIP ViT, computed only where their output is read.

The feature is the class token after the last block. So that block needs one query instead of all,
which is no approximation: only the order of sums differs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor


def ends_in_class_token(tower: VisionTransformer) -> bool:
    """Return whether the feature is the class token alone, as in CLIP's own towers."""
    return tower.attn_pool is None and tower.pool_type == "tok"


def cast_products(blocks: Iterable[ResidualAttentionBlock], dtype: torch.dtype) -> None:
    """Let the blocks' matrix products run in ``dtype``; norms and the residual sum stay float32.

    That costs almost no time, while rounding the residual sum costs most of the accuracy.
    """
    for block in blocks:
        for part in (block.attn, block.mlp):
            part.to(dtype)
        for norm in (block.ln_1, block.ln_2):
            norm.register_forward_hook(lambda _norm, _inputs, output: output.to(dtype))


def run_queries(
    block: ResidualAttentionBlock, queries: Tensor, tokens: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Run one block for some of its tokens.

    Args:
        block: of the ViT.
        queries: (B, Q, C) tokens whose output is wanted.
        tokens: (B, L, C) all tokens.
        bias: (Q, L) or (B * heads, Q, L), added to the attention scores, or None.

    Returns:
        (B, Q, C).
    """
    seen = block.ln_1(tokens)
    attended = block.attention(block.ln_1(queries), seen, seen, attn_mask=bias)
    updated = queries + block.ls_1(attended)
    output: Tensor = updated + block.ls_2(block.mlp(block.ln_2(updated)))
    return output


def run_last_block(block: ResidualAttentionBlock, tokens: Tensor) -> Tensor:
    """Return the class token (B, 1, C) after a block over tokens (B, L, C)."""
    return run_queries(block, tokens[:, :1], tokens)


def run_class_tokens(
    blocks: Sequence[ResidualAttentionBlock], tokens: Tensor, attention_bias: Tensor
) -> Tensor:
    """Run the last blocks with a class token for every proposal, which sees little outside it.

    A proposal's class token attends to itself and to the patches. The patches are computed as
    without proposals, so one pass over the image serves all proposals.

    Args:
        blocks: to the last.
        tokens: (1, L, C) before these blocks, the class token first.
        attention_bias: (N, L - 1) added to the attention scores of the patches; 0 hides nothing.

    Returns:
        (1, N, C), the class tokens.
    """
    count = len(attention_bias)
    class_tokens = tokens[:, :1].expand(1, count, -1)
    not_itself = torch.full((count, count), -torch.inf, device=tokens.device).fill_diagonal_(0)
    bias = torch.cat([not_itself, attention_bias], dim=1)
    for index, block in enumerate(blocks):
        seen = torch.cat([class_tokens, tokens[:, 1:]], dim=1)
        class_tokens = run_queries(block, class_tokens, seen, bias)
        if index < len(blocks) - 1:
            tokens = block(tokens)
    return class_tokens


def run_coherent_block(block: ResidualAttentionBlock, tokens: Tensor) -> Tensor:
    """Attend from queries to queries and from keys to keys, averaged; (B, L, C) to (B, L, C)."""
    attention = block.attn
    heads, width = attention.num_heads, tokens.shape[-1]
    projected = F.linear(block.ln_1(tokens), attention.in_proj_weight, attention.in_proj_bias)
    parts = torch.split(projected, width, dim=-1)
    query, key, value = (_split(part, heads) for part in parts)
    mixed = F.scaled_dot_product_attention(query, query, value)
    mixed = (mixed + F.scaled_dot_product_attention(key, key, value)) / 2
    joined = mixed.transpose(1, 2).flatten(2)
    output: Tensor = attention.out_proj(joined).float()
    return output


def _split(part: Tensor, heads: int) -> Tensor:
    batch, length, width = part.shape
    return part.view(batch, length, heads, width // heads).transpose(1, 2)


def read_places(tower: VisionTransformer, tokens: Tensor) -> Tensor:
    """Patch tokens after the last attention to features (B, g, g, D) float32."""
    places = tower.ln_post(tokens[:, 1:])
    dense: Tensor = places @ tower.proj if tower.proj is not None else places
    side = round(dense.shape[1] ** 0.5)
    return dense.view(len(dense), side, side, -1).float()
