"""Text towers: open_clip's own, and the starter tower in the space of CLIP ViT-B/16.

The starter tower is all-MiniLM-L6-v2 (frozen) with a small head trained by this project into
the image space of OpenAI's ViT-B/16. It is not CLIP's text encoder, and its vectors are never
averaged with genuine CLIP text vectors.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from worker.stages import Floats

_CACHED_TEXTS = 4096


@contextmanager
def one_thread() -> Iterator[None]:
    """A sentence is too little work to share: where another process wants the same cores, every
    one of its small steps would wait for the slower thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _CachedText:
    """Encodes each distinct string once."""

    def __init__(self, encode_batch: Callable[[list[str]], Tensor]) -> None:
        self._encode_batch = encode_batch
        self._known: dict[str, Floats] = {}

    def __call__(self, texts: Sequence[str]) -> Floats:
        missing = [text for text in dict.fromkeys(texts) if text not in self._known]
        if missing:
            if len(self._known) + len(missing) > _CACHED_TEXTS:
                self._known = {text: self._known[text] for text in texts if text in self._known}
            with one_thread():
                rows = self._encode_batch(missing).float().cpu().numpy().astype(np.float32)
            self._known.update(zip(missing, rows, strict=True))
        return np.stack([self._known[text] for text in texts])


class OpenClipText:
    """The text tower of an open_clip model.

    Args:
        model: a CLIP or CustomTextCLIP model.
        tokenizer: its tokenizer; texts longer than its context are cut.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, device: str) -> None:
        self._model = model.to(device).eval()
        self._tokenizer = tokenizer
        self._device = device
        self._cached = _CachedText(self._encode_batch)

    def encode(self, texts: Sequence[str]) -> Floats:
        return self._cached(texts)

    def truncated(self, text: str) -> bool:
        # A text that fits leaves the last place empty, or holds the end mark there only because
        # it is exactly full; adding a word then changes nothing before it.
        tokens = self._tokenizer([text, f"{text} more"])
        return bool((tokens[0] == tokens[1]).all())

    @torch.inference_mode()
    def _encode_batch(self, texts: list[str]) -> Tensor:
        tokens = self._tokenizer(texts).to(self._device)
        model = self._model
        if isinstance(model, CLIP) and model.text_pool_type == "argmax":
            return self._encode_to_end_mark(model, tokens)
        features: Tensor = model.encode_text(tokens)
        return features

    @staticmethod
    def _encode_to_end_mark(model: CLIP, tokens: Tensor) -> Tensor:
        """The same features from as many places as the longest text needs, not all 77: attention
        is causal, so what follows the end mark changes nothing before it."""
        ends = tokens.argmax(dim=-1)
        length = int(ends.max()) + 1
        x = model.token_embedding(tokens[:, :length]) + model.positional_embedding[:length]
        x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
        x = x[torch.arange(len(x)), ends]
        if isinstance(model.text_projection, nn.Linear):
            projected: Tensor = model.text_projection(x)
            return projected
        return x if model.text_projection is None else x @ model.text_projection


class StarterText:
    """The starter text tower.

    Args:
        minilm: ``model.safetensors`` of all-MiniLM-L6-v2 (BERT names).
        tokenizer: its ``tokenizer.json``.
        head: our ``starter_head.safetensors``; its ``.json`` lies beside it.
    """

    _HEADS = 12
    _LAYERS = 6

    def __init__(self, minilm: Path, tokenizer: Path, head: Path, device: str) -> None:
        description = json.loads(head.with_suffix(".json").read_text(encoding="utf-8"))
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._max_length = int(description["max_length"])
        self._device = device
        self._bert = {
            name.removeprefix("bert."): value.float().to(device)
            for name, value in load_file(minilm).items()
        }
        self._head = {
            name.removeprefix("head."): value.float().to(device)
            for name, value in load_file(head).items()
        }
        self._cached = _CachedText(self._encode_batch)

    def encode(self, texts: Sequence[str]) -> Floats:
        return self._cached(texts)

    def truncated(self, text: str) -> bool:
        return len(self._tokenizer.encode(_normalise(text)).ids) > self._max_length

    @torch.inference_mode()
    def _encode_batch(self, texts: list[str]) -> Tensor:
        encoded = [self._cut(self._tokenizer.encode(_normalise(text)).ids) for text in texts]
        longest = max(len(ids) for ids in encoded)
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in encoded])
        lengths = torch.tensor([len(row) for row in encoded])
        mask = (torch.arange(longest)[None] < lengths[:, None]).to(self._device)
        pooled = self._pool(self._transform(ids.to(self._device), mask), mask)
        return self._project(pooled)

    def _cut(self, ids: list[int]) -> list[int]:
        """Keep the beginning and the end mark."""
        return ids if len(ids) <= self._max_length else [*ids[: self._max_length - 1], ids[-1]]

    def _transform(self, ids: Tensor, mask: Tensor) -> Tensor:
        weights, (batch, length) = self._bert, ids.shape
        x = (
            weights["embeddings.word_embeddings.weight"][ids]
            + weights["embeddings.position_embeddings.weight"][:length]
            + weights["embeddings.token_type_embeddings.weight"][0]
        )
        x = self._norm(x, "embeddings.LayerNorm")
        for index in range(self._LAYERS):
            layer = f"encoder.layer.{index}"
            query, key, value = (
                self._linear(x, f"{layer}.attention.self.{name}")
                .view(batch, length, self._HEADS, -1)
                .transpose(1, 2)
                for name in ("query", "key", "value")
            )
            mixed = F.scaled_dot_product_attention(
                query, key, value, attn_mask=mask[:, None, None, :]
            )
            mixed = mixed.transpose(1, 2).reshape(batch, length, -1)
            attended = self._linear(mixed, f"{layer}.attention.output.dense")
            x = self._norm(x + attended, f"{layer}.attention.output.LayerNorm")
            inner = F.gelu(self._linear(x, f"{layer}.intermediate.dense"))
            x = self._norm(
                x + self._linear(inner, f"{layer}.output.dense"), f"{layer}.output.LayerNorm"
            )
        return x

    @staticmethod
    def _pool(x: Tensor, mask: Tensor) -> Tensor:
        return (x * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)

    def _project(self, pooled: Tensor) -> Tensor:
        head = self._head
        x = F.layer_norm(pooled, pooled.shape[-1:], head["ln.weight"], head["ln.bias"])
        straight = F.linear(x, head["s.weight"], head["s.bias"])
        hidden = F.gelu(F.linear(x, head["a.weight"], head["a.bias"]))
        return F.normalize(straight + F.linear(hidden, head["b.weight"], head["b.bias"]), dim=-1)

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self._bert[f"{name}.weight"], self._bert[f"{name}.bias"])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self._bert[f"{name}.weight"], self._bert[f"{name}.bias"]
        return F.layer_norm(x, x.shape[-1:], weight, bias, eps=1e-12)


def _normalise(text: str) -> str:
    return text.strip().lower()
