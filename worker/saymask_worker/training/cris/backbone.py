"""CLIP as CRIS uses it: three maps of the image, every word of the text, and its state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from cachetools import LRUCache
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor, nn

from saymask.errors import WeightsError

Maps = tuple[Tensor, Tensor, Tensor]

_CACHE_BYTES = 3_000_000_000


class Backbone(nn.Module):
    """A pair of towers for CRIS."""

    def freeze(self) -> None:
        """Let training change only what was never trained before."""
        raise NotImplementedError

    @property
    def has_fixed_maps(self) -> bool:
        """Whether training cannot change the maps of an image, so that they can be kept."""
        return False

    def tokenise(self, texts: Sequence[str], length: int) -> Tensor:
        """Token ids (B, length), 0 where there is none."""
        raise NotImplementedError

    def encode_maps(self, images: Tensor) -> Maps:
        """Three maps of images (B, 3, H, W), at H / 8, H / 16 and H / 32."""
        raise NotImplementedError

    def encode_words(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Words (B, L, C) and the state (B, D) of token ids (B, L)."""
        raise NotImplementedError


class DenseAttentionPool(nn.Module):
    """CLIP's attention pool asked at every place instead of once, plus a residual path.

    The position embeddings lose the class token's and are resized to the map.

    Args:
        grid_side: of the pretrained position embeddings.
    """

    def __init__(self, grid_side: int, width: int, heads: int, out_width: int) -> None:
        super().__init__()
        self.grid_side, self.heads = grid_side, heads
        scale = width**-0.5
        self.positional_embedding = nn.Parameter(torch.randn(grid_side**2 + 1, width) * scale)
        self.k_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.c_proj = nn.Linear(width, out_width)
        self.connect = nn.Sequential(
            nn.Conv2d(width, out_width, 1, bias=False), nn.BatchNorm2d(out_width)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Pool a map (B, width, h, w): (B, out_width, h, w)."""
        batch, width, height, columns = features.shape
        placed = features.flatten(2) + self._positions(height, columns)
        tokens = placed.permute(2, 0, 1)
        attended, _ = F.multi_head_attention_forward(
            tokens, tokens, tokens, width, self.heads,
            in_proj_weight=None,
            in_proj_bias=torch.cat([self.q_proj.bias, self.k_proj.bias, self.v_proj.bias]),
            bias_k=None, bias_v=None, add_zero_attn=False, dropout_p=0.0,
            out_proj_weight=self.c_proj.weight, out_proj_bias=self.c_proj.bias,
            use_separate_proj_weight=True, need_weights=False, training=self.training,
            q_proj_weight=self.q_proj.weight, k_proj_weight=self.k_proj.weight,
            v_proj_weight=self.v_proj.weight,
        )  # fmt: skip
        pooled = attended.permute(1, 2, 0).reshape(batch, -1, height, columns)
        return F.relu(pooled + self.connect(features))

    def _positions(self, height: int, columns: int) -> Tensor:
        """Position embeddings (1, width, h * w)."""
        side = self.grid_side
        grid = self.positional_embedding[1:].T.reshape(1, -1, side, side)
        resized = F.interpolate(grid, (height, columns), mode="bicubic", align_corners=False)
        return resized.flatten(2)


class ResnetBackbone(Backbone):
    """An open_clip pair with a ResNet; the parameters are named as OpenAI and CRIS name them.

    Args:
        embed_dim: width of the text's state.
        vision: open_clip's description of the image tower.
        text: open_clip's description of the text tower.

    Raises:
        ValueError: the image tower is no CLIP ResNet.
    """

    # Of open_clip, which is not typed.
    visual: Any
    transformer: Any
    token_embedding: Any
    ln_final: Any
    positional_embedding: Any
    text_projection: Any

    def __init__(self, embed_dim: int, vision: Mapping[str, Any], text: Mapping[str, Any]) -> None:
        super().__init__()
        clip = open_clip.CLIP(embed_dim, dict(vision), dict(text), quick_gelu=True)
        for name, part in clip.named_children():
            self.add_module(name, part)
        for name, parameter in clip.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        if not isinstance(self.visual, ModifiedResNet):
            raise ValueError("CRIS is built on CLIP's ResNets, RN50 or RN101")
        old = self.visual.attnpool
        width = old.positional_embedding.shape[1]
        side = int((old.positional_embedding.shape[0] - 1) ** 0.5)
        self.visual.attnpool = DenseAttentionPool(
            side, width, old.num_heads, old.c_proj.out_features
        )

    def freeze(self) -> None:
        """Let training change only the residual path of the attention pool, which is not CLIP's."""
        self.requires_grad_(False)
        self.visual.attnpool.connect.requires_grad_(True)

    def tokenise(self, texts: Sequence[str], length: int) -> Tensor:
        """Token ids (B, length); a longer text ends with the end token all the same."""
        tokens: Tensor = open_clip.get_tokenizer("RN50")(list(texts), context_length=length)
        return tokens

    def encode_maps(self, images: Tensor) -> Maps:
        """Return the maps of the last three stages, at an eighth, a sixteenth and a 32nd."""
        visual = self.visual
        third = visual.layer2(visual.layer1(visual.stem(images)))
        fourth = visual.layer3(third)
        return third, fourth, visual.attnpool(visual.layer4(fourth))

    def encode_words(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Encode token ids (B, L): words (B, L, C) and the state (B, D) of the end token."""
        length = tokens.shape[1]
        words = self.token_embedding(tokens) + self.positional_embedding[:length]
        mask = words.new_full((length, length), float("-inf")).triu(1)
        words = self.ln_final(self.transformer(words, attn_mask=mask))
        end = tokens.argmax(dim=-1)
        state = words[torch.arange(len(words), device=words.device), end] @ self.text_projection
        return words, state


def load_resnet_backbone(name: str, pretrained: str) -> ResnetBackbone:
    """Load RN50 or RN101 with weights that open_clip can have.

    Raises:
        WeightsError: they are unknown, missing or unreachable.
    """
    config = open_clip.get_model_config(name)
    if config is None or pretrained not in open_clip.list_pretrained_tags_by_model(name):
        known = ", ".join(open_clip.list_pretrained_tags_by_model(name))
        raise WeightsError(
            f"open_clip has no weights {pretrained!r} of {name!r}.", f"Known: {known or 'none'}."
        )
    try:
        clip = open_clip.create_model(name, pretrained=pretrained)
    except (OSError, RuntimeError, ValueError) as error:
        raise WeightsError(
            f"The weights of {name} could not be loaded: {error}",
            "Check the network, or train on the starter encoder: --backbone starter.",
        ) from error
    backbone = ResnetBackbone(config["embed_dim"], config["vision_cfg"], config["text_cfg"])
    backbone.load_state_dict(clip.state_dict(), strict=False)
    return backbone


class MapCache:
    """Keeps the maps of photos and of mirrored photos, most of a step's time on a CPU.

    They are in half precision, whether they were kept or are computed anew, so that evictions do
    not change a training run.
    """

    def __init__(self) -> None:
        self._maps: LRUCache[tuple[Path, bool], Maps] = LRUCache(
            _CACHE_BYTES, getsizeof=_count_bytes
        )

    def get(self, image: Path, is_mirrored: bool, encode: Callable[[], Maps]) -> Maps:
        """Return the maps of one photo, each (1, C, h, w) float16 on the CPU."""
        key = (image, is_mirrored)
        kept = self._maps.get(key)
        if kept is None:
            first, second, third = (level.detach().cpu().half() for level in encode())
            kept = (first, second, third)
            if _count_bytes(kept) < _CACHE_BYTES:
                self._maps[key] = kept
        return kept


def stack_maps(maps: list[Maps], device: torch.device) -> Maps:
    """Join the maps of several photos: each (B, C, h, w) float32."""
    first, second, third = (
        torch.cat([one[level] for one in maps]).to(device).float() for level in range(3)
    )
    return first, second, third


def _count_bytes(maps: Maps) -> int:
    return sum(level.numel() * level.element_size() for level in maps)
