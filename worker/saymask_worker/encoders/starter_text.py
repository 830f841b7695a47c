"""The starter text tower, in the space of CLIP ViT-B/16.

It is all-MiniLM-L6-v2 (frozen) with a small head trained by this project into the image space of
OpenAI's ViT-B/16. It is not CLIP's text encoder, and its vectors are never averaged with genuine
CLIP text vectors.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from saymask_worker.encoders.base import TextEncoder

_LAYERS = 6
_HEADS = 12
_EPSILON = 1e-12
# The cost of attention grows with the square of the tokens encoded at once.
_TEXTS_AT_ONCE = 16
# BERT's names of one layer's parameters, and those of torch's encoder layer.
_LAYER_NAMES = {
    "self_attn.out_proj": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "linear1": "intermediate.dense",
    "linear2": "output.dense",
    "norm2": "output.LayerNorm",
}


class MiniLm(nn.Module):
    """all-MiniLM-L6-v2: a BERT encoder with mean pooling.

    Args:
        vocabulary: number of token ids.
        positions: longest text, tokens.
        width: of the features, C.
        hidden: of the feed-forward layers.
    """

    def __init__(self, vocabulary: int, positions: int, width: int, hidden: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(positions, width)
        self.segment = nn.Parameter(torch.zeros(width))
        self.norm = nn.LayerNorm(width, eps=_EPSILON)
        layer = nn.TransformerEncoderLayer(
            width, _HEADS, hidden, dropout=0.0, activation="gelu", layer_norm_eps=_EPSILON,
            batch_first=True,
        )  # fmt: skip
        self.encoder = nn.TransformerEncoder(layer, _LAYERS, enable_nested_tensor=False)

    @classmethod
    def load(cls, path: Path) -> MiniLm:
        """Load ``model.safetensors`` with BERT's names."""
        state = {name.removeprefix("bert."): v.float() for name, v in load_file(path).items()}
        words = state["embeddings.word_embeddings.weight"]
        positions = state["embeddings.position_embeddings.weight"]
        hidden = state["encoder.layer.0.intermediate.dense.weight"]
        model = cls(len(words), len(positions), words.shape[1], len(hidden))
        model.load_state_dict(_to_torch_names(state))
        return model.eval()

    def cast_products(self, dtype: torch.dtype) -> None:
        """Let matrix products run in ``dtype``; norms and the residual sum stay float32."""
        for layer in self.encoder.layers:
            for part in (layer.self_attn, layer.linear1, layer.linear2):
                part.to(dtype)

    def encode_texts(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """Encode n texts of token ids to (n, C), the mean over each one's tokens.

        They run as one sequence without padding, in which a token sees its own text alone.
        """
        device = self.segment.device
        lengths = torch.tensor([len(text) for text in texts])
        owners = torch.repeat_interleave(torch.arange(len(texts)), lengths).to(device)
        ids = torch.tensor([token for text in texts for token in text], device=device)
        places = torch.cat([torch.arange(len(text)) for text in texts]).to(device)
        words = self._encode(ids[None], places, owners[:, None] == owners)[0]
        sums = words.new_zeros(len(texts), words.shape[1]).index_add_(0, owners, words)
        return sums / lengths.to(device)[:, None]

    def encode_words(self, ids: Tensor, is_token: Tensor) -> Tensor:
        """Encode every token of (B, L): (B, L, C); ``is_token`` (B, L) is False for padding."""
        places = torch.arange(ids.shape[1], device=ids.device)
        return self._encode(ids, places, is_token[:, None, None])

    def _encode(self, ids: Tensor, places: Tensor, sees: Tensor) -> Tensor:
        """Encode (B, L) at ``places`` (L,); ``sees`` is bool, (L, L) or (B, 1, 1, L)."""
        x = self.words(ids) + self.positions(places) + self.segment
        words: Tensor = self.norm(x)
        for layer in self.encoder.layers:
            words = _run_layer(layer, words, sees)
        return words


def _run_layer(layer: Any, x: Tensor, sees: Tensor) -> Tensor:
    """Run a ``TransformerEncoderLayer``, whose own ``forward`` needs a single precision."""
    attention = layer.self_attn
    dtype = attention.in_proj_weight.dtype
    projected = F.linear(x.to(dtype), attention.in_proj_weight, attention.in_proj_bias)
    query, key, value = projected.view(*x.shape[:2], 3, _HEADS, -1).permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=sees)
    x = layer.norm1(x + attention.out_proj(mixed.transpose(1, 2).flatten(2)))
    hidden = F.gelu(layer.linear1(x.to(dtype)))
    output: Tensor = layer.norm2(x + layer.linear2(hidden))
    return output


class StarterHead(nn.Module):
    """From MiniLM's space to CLIP's: a linear map plus a small network.

    Args:
        state: of ``starter_head.safetensors``, names without their prefix.
    """

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        hidden, width = state["a.weight"].shape
        self.ln = nn.LayerNorm(width)
        self.s = nn.Linear(width, len(state["s.weight"]))
        self.a = nn.Linear(width, hidden)
        self.b = nn.Linear(hidden, len(state["b.weight"]))
        self.load_state_dict(state)

    @classmethod
    def load(cls, path: Path) -> StarterHead:
        """Load ``starter_head.safetensors``."""
        state = {name.removeprefix("head."): v.float() for name, v in load_file(path).items()}
        return cls(state).eval()

    def forward(self, pooled: Tensor) -> Tensor:
        """Project (B, C) to unit vectors (B, D)."""
        x = self.ln(pooled)
        return F.normalize(self.s(x) + self.b(F.gelu(self.a(x))), dim=-1)


class StarterText(TextEncoder):
    """The starter text tower.

    Args:
        minilm: ``model.safetensors`` of all-MiniLM-L6-v2.
        tokenizer: its ``tokenizer.json``.
        head: ``starter_head.safetensors``; its ``.json`` is next to it.
        dtype: of the text encoder's products; the head stays float32.
    """

    def __init__(
        self, minilm: Path, tokenizer: Path, head: Path, device: str, dtype: torch.dtype
    ) -> None:
        super().__init__()
        description = json.loads(head.with_suffix(".json").read_text(encoding="utf-8"))
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._max_length = int(description["max_length"])
        self._minilm = MiniLm.load(minilm).to(device)
        self._minilm.cast_products(dtype)
        self._head = StarterHead.load(head).to(device)

    def is_truncated(self, text: str) -> bool:
        """Return whether a text has more tokens than the head was trained with."""
        return len(self._tokenize(text)) > self._max_length

    def _tokenize(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text.strip().lower()).ids
        return ids

    @torch.inference_mode()
    def _encode_batch(self, texts: list[str]) -> Tensor:
        rows = [self._cut(self._tokenize(text)) for text in texts]
        parts = [
            self._minilm.encode_texts(rows[start : start + _TEXTS_AT_ONCE])
            for start in range(0, len(rows), _TEXTS_AT_ONCE)
        ]
        features: Tensor = self._head(torch.cat(parts))
        return features

    def _cut(self, ids: list[int]) -> list[int]:
        """Keep the beginning and the end mark."""
        return ids if len(ids) <= self._max_length else [*ids[: self._max_length - 1], ids[-1]]


def _to_torch_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename BERT's parameters; query, key and value are stacked."""
    renamed = {
        "words.weight": state["embeddings.word_embeddings.weight"],
        "positions.weight": state["embeddings.position_embeddings.weight"],
        "segment": state["embeddings.token_type_embeddings.weight"][0],
        "norm.weight": state["embeddings.LayerNorm.weight"],
        "norm.bias": state["embeddings.LayerNorm.bias"],
    }
    for index in range(_LAYERS):
        source, target = f"encoder.layer.{index}", f"encoder.layers.{index}"
        for part in ("weight", "bias"):
            renamed[f"{target}.self_attn.in_proj_{part}"] = torch.cat(
                [state[f"{source}.attention.self.{n}.{part}"] for n in ("query", "key", "value")]
            )
            for ours, theirs in _LAYER_NAMES.items():
                renamed[f"{target}.{ours}.{part}"] = state[f"{source}.{theirs}.{part}"]
    return renamed
