"""SAM's upscaling of image tokens to mask pixels, as matrix products.

Upscaling a mask costs as much as deciding on it. So masks can be upscaled coarsely, one pixel of
sixteen: most coarse masks show that a neighbouring point gave the same mask before, and of the
others only the outline needs all pixels, as in PointRend (Kirillov et al., 2020).
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn

COARSE_STEP = 4
# A coarse mask has every fourth pixel of every fourth row, beginning here: near its cell's middle.
_COARSE_OFFSET = 2

_StockLayers = tuple[nn.ConvTranspose2d, LayerNorm2d, nn.Module, nn.ConvTranspose2d, nn.Module]


class Upscaling:
    """SAM's two stride-2 transposed convolutions as matrix products, channels last.

    Kernel and stride are both 2, so no two input pixels share an output pixel: each token becomes
    a 2 x 2 block, and each pixel of that another.
    """

    def __init__(self, stock: nn.Sequential, dtype: torch.dtype) -> None:
        first, norm, _, second, _ = cast(_StockLayers, tuple(stock))
        self._first = self._flatten(first, dtype)
        self._second = self._flatten(second, dtype)
        inner, outer = _COARSE_OFFSET % 2, _COARSE_OFFSET // 2
        self._coarse_layers = _one_of_four(self._first, outer), _one_of_four(self._second, inner)
        self._norm_weight = norm.weight.detach().to(dtype)
        self._norm_bias = norm.bias.detach().to(dtype)
        self._norm_eps = norm.eps
        self.width = second.out_channels

    @staticmethod
    def _flatten(layer: nn.ConvTranspose2d, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        weight = layer.weight.detach().permute(2, 3, 1, 0).to(dtype)
        bias = cast(Tensor, layer.bias).detach().to(dtype)
        return weight.reshape(-1, weight.shape[-1]).contiguous(), bias.repeat(4)

    def __call__(self, tokens: Tensor) -> Tensor:
        """Upscale (B, P, 256) to (B, P * 16, 32): per token rows and columns, then those within."""
        batch, pixels, _ = tokens.shape
        grown = F.linear(tokens, *self._first).view(batch, pixels, 2, 2, len(self._norm_weight))
        return self._finish(grown, self._second).view(batch, pixels * 16, self.width)

    def upscale_coarse(self, tokens: Tensor) -> Tensor:
        """Upscale (B, P, 256) to (B, P, 32): one pixel of each token's sixteen."""
        first, second = self._coarse_layers
        return self._finish(F.linear(tokens, *first), second)

    def _finish(self, grown: Tensor, second: tuple[Tensor, Tensor]) -> Tensor:
        grown = F.layer_norm(
            grown, grown.shape[-1:], self._norm_weight, self._norm_bias, self._norm_eps
        )
        return F.gelu(F.linear(F.gelu(grown), *second))


def _one_of_four(layer: tuple[Tensor, Tensor], pixel: int) -> tuple[Tensor, Tensor]:
    """The part of a layer that computes one pixel of each 2 x 2 block."""
    weight, bias = layer
    width = len(bias) // 4
    rows = slice(3 * pixel * width, (3 * pixel + 1) * width)
    return weight[rows], bias[rows]


def to_coarse(masks: Tensor) -> Tensor:
    """Return the pixels of masks or logits (N, h, w) that their coarse versions have."""
    return masks[:, _COARSE_OFFSET::COARSE_STEP, _COARSE_OFFSET::COARSE_STEP]


def is_near_outline(coarse: Tensor, outline_logit: float) -> Tensor:
    """Return which cells (M, h, w) of coarse logits lie near a mask's outline.

    These are the cells that, with all their neighbours, are neither above ``outline_logit`` nor
    below its negative.
    """

    def highest_around(logits: Tensor) -> Tensor:
        padded = F.pad(logits, (1, 1, 1, 1), value=-torch.inf)
        # A pooling layer takes many times as long on maps this small.
        rows = torch.maximum(torch.maximum(padded[:, :-2], padded[:, 1:-1]), padded[:, 2:])
        return torch.maximum(torch.maximum(rows[..., :-2], rows[..., 1:-1]), rows[..., 2:])

    return (highest_around(coarse) > -outline_logit) & (highest_around(-coarse) > -outline_logit)
