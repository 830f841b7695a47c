"""SAM's cross attention with the projections of one side absorbed into the other.

The stock decoder (Kirillov et al., "Segment Anything", 2023) projects all 4,096 image tokens anew
for every prompt. Two identities of linear algebra, neither of them an approximation, avoid that:

* ``(x Wk) . q == x . (Wk^T q)``: a projection of 4,096 tokens becomes one of 7;
* ``softmax(..) (x Wv) Wo == (softmax(..) x) Wv Wo``: likewise for values.
"""

from __future__ import annotations

import torch
from segment_anything.modeling.transformer import Attention
from torch import Tensor, nn


class AbsorbedAttention:
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

    def tokens_to_image(
        self, tokens: Tensor, image_keys: Tensor, image_values: Tensor,
        log_counts: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Let queries (B, T, C) attend to per-prompt image tokens (B, P, C): (B, T, C).

        The key bias shifts all scores of one query alike, so softmax removes it. ``log_counts``
        (P,) is added to the scores.
        """
        batch, count, _ = tokens.shape
        query = torch.einsum("btc,hdc->bhtd", tokens, self.wq) + self.bq[None, :, None]
        absorbed = torch.einsum("bhtd,hdc->bhtc", query * self.scale, self.wk)
        scores = absorbed.flatten(1, 2) @ image_keys.transpose(1, 2)
        mixed = _weigh(scores, log_counts) @ image_values
        mixed = mixed.view(batch, self.heads, count, -1)
        value = torch.einsum("bhtc,hdc->bhtd", mixed, self.wv) + self.bv[None, :, None]
        output: Tensor = torch.einsum("bhtd,hdc->btc", value, self.wo) + self.bo
        return output

    def shared_keys_values(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Project one image's tokens (P, C) for all prompts: two (H, P, D)."""
        key = torch.einsum("pc,hdc->hpd", keys, self.wk) + self.bk[:, None]
        value = torch.einsum("pc,hdc->hpd", values, self.wv) + self.bv[:, None]
        return key, value

    def tokens_to_shared_image(
        self, tokens: Tensor, keys_values: tuple[Tensor, Tensor], log_counts: Tensor | None = None
    ) -> Tensor:
        """Let queries (B, T, C) attend to the projected tokens of one image: (B, T, C)."""
        key, value = keys_values
        batch, count, _ = tokens.shape
        # One product per head for all prompts: a batch of products would copy the image's keys.
        query = torch.einsum("btc,hdc->hbtd", tokens, self.wq) + self.bq[:, None, None]
        scores = (query * self.scale).flatten(1, 2) @ key.transpose(1, 2)
        mixed = _weigh(scores, log_counts) @ value
        mixed = mixed.view(self.heads, batch, count, -1)
        output: Tensor = torch.einsum("hbtd,hdc->btc", mixed, self.wo) + self.bo
        return output

    def _token_values(self, values: Tensor) -> Tensor:
        """Output-projected values of the prompt tokens: (B, H * T, C).

        Weights sum to one in each head, so each head's values carry their share of the bias.
        """
        value = torch.einsum("btc,hdc->bhtd", values, self.wv) + self.bv[None, :, None]
        projected = torch.einsum("bhtd,hdc->bhtc", value, self.wo) + self.bo / self.heads
        output: Tensor = projected.flatten(1, 2)
        return output

    def _token_keys(self, keys: Tensor) -> Tensor:
        key = torch.einsum("btc,hdc->bhtd", keys, self.wk) + self.bk[None, :, None]
        scaled: Tensor = key * self.scale
        return scaled

    def shared_queries(self, queries: Tensor) -> Tensor:
        """Project one image's tokens (P, C) as queries for all prompts: (H, P, D)."""
        projected: Tensor = torch.einsum("pc,hdc->hpd", queries, self.wq) + self.bq[:, None]
        return projected

    def add_shared_image_to_tokens(
        self, image: Tensor, queries: Tensor, keys: Tensor, values: Tensor
    ) -> Tensor:
        """Return image (P, C) plus its attention, queries (H, P, D), to prompts: (B, P, C)."""
        batch, count, _ = keys.shape
        key = self._token_keys(keys).transpose(0, 1).flatten(1, 2)
        scores = (key @ queries.transpose(1, 2)).view(self.heads, batch, count, -1)
        return self._add_mixed(image[None], scores.transpose(0, 1), values)

    def add_image_to_tokens(
        self, image: Tensor, image_queries: Tensor, keys: Tensor, values: Tensor
    ) -> Tensor:
        """Return image (B, P, C) plus its attention to prompt tokens (B, T, C)."""
        key = self._token_keys(keys)
        absorbed = torch.einsum("bhtd,hdc->bhtc", key, self.wq).flatten(1, 2)
        offset = torch.einsum("bhtd,hd->bht", key, self.bq).flatten(1)
        scores = absorbed @ image_queries.transpose(1, 2) + offset[..., None]
        return self._add_mixed(image, scores.view(len(keys), self.heads, keys.shape[1], -1), values)

    def _add_mixed(self, image: Tensor, scores: Tensor, values: Tensor) -> Tensor:
        """Image tokens (B or 1, P, C) plus values (B, T, C) mixed by scores (B, H, T, P).

        The few prompt tokens stand before the many image tokens in memory: a softmax over a last
        axis of seven is twenty times slower.
        """
        weights = scores.softmax(dim=2).flatten(1, 2)
        # Added within the product: another pass over all image tokens takes as long.
        output: Tensor = torch.baddbmm(image, weights.transpose(1, 2), self._token_values(values))
        return output


def _weigh(scores: Tensor, log_counts: Tensor | None) -> Tensor:
    """Attention weights (..., P), each token weighted by the number of tokens it represents."""
    return (scores if log_counts is None else scores + log_counts).softmax(dim=-1)
