"""The starter text tower, in the space of CLIP ViT-B/16.

It is all-MiniLM-L6-v2 (frozen) with a small head trained by this project into the image space of
OpenAI's ViT-B/16. It is not CLIP's text encoder, and its vectors are never averaged with genuine
CLIP text vectors.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from worker.encoders.text_cache import CachedTexts
from worker.stages import Floats

_LAYERS = 6
_HEADS = 12
_EPSILON = 1e-12
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

    def forward(self, ids: Tensor, is_token: Tensor) -> Tensor:
        """Encode token ids (B, L) to (B, C); ``is_token`` (B, L) is False for padding."""
        x = self.encode_words(ids, is_token)
        weights = is_token[..., None]
        pooled: Tensor = (x * weights).sum(dim=1) / weights.sum(dim=1)
        return pooled

    def encode_words(self, ids: Tensor, is_token: Tensor) -> Tensor:
        """Encode every token of (B, L): (B, L, C)."""
        x = self.words(ids) + self.positions.weight[: ids.shape[1]] + self.segment
        words: Tensor = self.encoder(self.norm(x), src_key_padding_mask=~is_token)
        return words


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


class StarterText:
    """The starter text tower.

    Args:
        minilm: ``model.safetensors`` of all-MiniLM-L6-v2.
        tokenizer: its ``tokenizer.json``.
        head: ``starter_head.safetensors``; its ``.json`` lies beside it.
        device: where to run.
    """

    def __init__(self, minilm: Path, tokenizer: Path, head: Path, device: str) -> None:
        description = json.loads(head.with_suffix(".json").read_text(encoding="utf-8"))
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._max_length = int(description["max_length"])
        self._device = device
        self._minilm = MiniLm.load(minilm).to(device)
        self._head = StarterHead.load(head).to(device)
        self._cached = CachedTexts(self._encode_batch)

    def encode(self, texts: Sequence[str]) -> Floats:
        """Encode n texts: (n, D) float32, unit length."""
        return self._cached.encode(texts)

    def is_truncated(self, text: str) -> bool:
        """Return whether a text has more tokens than the head was trained with."""
        return len(self._tokenize(text)) > self._max_length

    def _tokenize(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text.strip().lower()).ids
        return ids

    @torch.inference_mode()
    def _encode_batch(self, texts: list[str]) -> Tensor:
        rows = [self._cut(self._tokenize(text)) for text in texts]
        longest = max(len(row) for row in rows)
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        lengths = torch.tensor([len(row) for row in rows])
        is_token = torch.arange(longest)[None] < lengths[:, None]
        pooled = self._minilm(ids.to(self._device), is_token.to(self._device))
        features: Tensor = self._head(pooled)
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
