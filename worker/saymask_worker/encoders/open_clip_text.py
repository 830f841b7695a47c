"""The text tower of an open_clip model."""

from __future__ import annotations

from typing import Any

import torch
from open_clip.model import CLIP
from torch import Tensor, nn

from saymask_worker.encoders.base import TextEncoder


class OpenClipText(TextEncoder):
    """The text tower of an open_clip model.

    Args:
        model: a CLIP or CustomTextCLIP model.
        tokenizer: its tokenizer; texts longer than its context are cut.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, device: str) -> None:
        super().__init__()
        self._model = model.to(device).eval()
        self._tokenizer = tokenizer
        self._device = device

    def is_truncated(self, text: str) -> bool:
        """Return whether a text is longer than the context.

        A text that fits leaves the last place empty, or holds the end mark there only because it
        is exactly full; adding a word then changes nothing before it.
        """
        tokens = self._tokenizer([text, f"{text} more"])
        return bool((tokens[0] == tokens[1]).all())

    @torch.inference_mode()
    def _encode_batch(self, texts: list[str]) -> Tensor:
        tokens = self._tokenizer(texts).to(self._device)
        model: Any = self._model
        if isinstance(model, CLIP) and model.text_pool_type == "argmax":
            return _encode_to_end_mark(model, tokens)
        features: Tensor = model.encode_text(tokens)
        return features


def _encode_to_end_mark(model: Any, tokens: Tensor) -> Tensor:
    """The same features from as many places as the longest text needs, not all 77.

    Attention is causal, so what follows the end mark changes nothing before it.
    """
    ends = tokens.argmax(dim=-1)
    length = int(ends.max()) + 1
    x = model.token_embedding(tokens[:, :length]) + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    features: Tensor = x[torch.arange(len(x)), ends]
    projection = model.text_projection
    if projection is None:
        return features
    projected: Tensor = (
        projection(features) if isinstance(projection, nn.Linear) else features @ projection
    )
    return projected
