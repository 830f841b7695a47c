"""CRIS's neck, decoder and projector; the names of modules are those of published weights."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _convolve(before: int, after: int, size: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, size, padding=size // 2, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    )


class CoordConv(nn.Module):
    """A convolution that sees where it is: two channels with x and y, from -1 to 1."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv1 = _convolve(before + 2, after, 3)

    def forward(self, features: Tensor) -> Tensor:
        """Convolve (B, C, h, w): (B, after, h, w)."""
        batch, _, height, width = features.shape
        y = torch.linspace(-1, 1, height, device=features.device, dtype=features.dtype)
        x = torch.linspace(-1, 1, width, device=features.device, dtype=features.dtype)
        rows = y.view(1, 1, -1, 1).expand(batch, 1, height, width)
        columns = x.view(1, 1, 1, -1).expand(batch, 1, height, width)
        convolved: Tensor = self.conv1(torch.cat([features, columns, rows], dim=1))
        return convolved


class Neck(nn.Module):
    """Fuses three maps of the image with the state of the text, at a sixteenth of the image.

    Args:
        maps: channels of the three maps, finest first.
        out: channels within the neck, finest first; the result has the second.
        state: width of the text's state.
    """

    def __init__(self, maps: tuple[int, int, int], out: tuple[int, int, int], state: int) -> None:
        super().__init__()
        third, fourth, fifth = maps
        fine, middle, coarse = out
        self.txt_proj = nn.Sequential(
            nn.Linear(state, coarse, bias=False), nn.BatchNorm1d(coarse), nn.ReLU(inplace=True)
        )
        self.f1_v_proj = _convolve(fifth, coarse)
        self.norm_layer = nn.Sequential(nn.BatchNorm2d(coarse), nn.ReLU(inplace=True))
        self.f2_v_proj = _convolve(fourth, middle, 3)
        self.f2_cat = _convolve(coarse + middle, middle)
        self.f3_v_proj = _convolve(third, fine, 3)
        self.f3_cat = _convolve(fine + middle, middle)
        self.f4_proj5 = _convolve(coarse, middle, 3)
        self.f4_proj4 = _convolve(middle, middle, 3)
        self.f4_proj3 = _convolve(middle, middle, 3)
        self.aggr = _convolve(3 * middle, middle)
        self.coordconv = nn.Sequential(CoordConv(middle, middle), _convolve(middle, middle, 3))

    def forward(self, maps: tuple[Tensor, Tensor, Tensor], state: Tensor) -> Tensor:
        """Fuse maps and state (B, D): (B, middle, h, w), h and w of the second map."""
        third, fourth, fifth = maps
        said = self.txt_proj(state)[..., None, None]
        coarse = self.norm_layer(self.f1_v_proj(fifth) * said)
        middle = self.f2_cat(torch.cat([self.f2_v_proj(fourth), _double(coarse)], dim=1))
        fine = F.avg_pool2d(self.f3_v_proj(third), 2)
        fine = self.f3_cat(torch.cat([fine, middle], dim=1))
        levels = [self.f4_proj3(fine), self.f4_proj4(middle), _double(self.f4_proj5(coarse))]
        fused: Tensor = self.coordconv(self.aggr(torch.cat(levels, dim=1)))
        return fused


def _double(features: Tensor) -> Tensor:
    return F.interpolate(features, scale_factor=2, mode="bilinear")


class DecoderLayer(nn.Module):
    """Places attend to each other, then to the words; a norm follows each attention too."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, heads, dropout)
        self.self_attn_norm = nn.LayerNorm(width)
        self.multihead_attn = nn.MultiheadAttention(width, heads, dropout)
        self.cross_attn_norm = nn.LayerNorm(width)
        self.ffn = nn.Sequential(
            nn.Linear(width, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.LayerNorm(hidden),
            nn.Linear(hidden, width),
        )
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, places: Tensor, words: Tensor, at: Tensor, order: Tensor, padding: Tensor
    ) -> Tensor:
        """Update places (P, B, C), given words (L, B, C), positions of both and (B, L) padding."""
        normed = self.norm1(places)
        seen = self.self_attn(normed + at, normed + at, normed, need_weights=False)[0]
        places = places + self.dropout(self.self_attn_norm(seen))
        normed = self.norm2(places)
        heard = self.multihead_attn(
            normed + at, words + order, words, key_padding_mask=padding, need_weights=False
        )[0]
        places = places + self.dropout(self.cross_attn_norm(heard))
        changed: Tensor = places + self.dropout(self.ffn(self.norm3(places)))
        return changed


class Decoder(nn.Module):
    """Layers that bring the words to every place."""

    def __init__(self, layers: int, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            DecoderLayer(width, heads, hidden, dropout) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, fused: Tensor, words: Tensor, padding: Tensor) -> Tensor:
        """Decode a map (B, C, h, w) with words (B, L, C) and their padding (B, L): same shape."""
        batch, width, height, columns = fused.shape
        at = encode_places(width, height, columns).to(fused)
        order = encode_order(words.shape[2], words.shape[1]).to(fused)
        places, spoken = fused.flatten(2).permute(2, 0, 1), words.transpose(0, 1)
        for layer in self.layers:
            places = layer(places, spoken, at, order, padding)
        decoded: Tensor = self.norm(places).permute(1, 2, 0)
        return decoded.reshape(batch, width, height, columns)


def encode_order(width: int, length: int) -> Tensor:
    """Sine encoding (length, 1, width) of a word's place in its sentence."""
    angles = torch.arange(length).float()[:, None] * _frequencies(width)
    return torch.stack([angles.sin(), angles.cos()], dim=2).reshape(length, 1, width)


def encode_places(width: int, height: int, columns: int) -> Tensor:
    """Sine encoding (height * columns, 1, width): half of it for x, half for y."""
    half = width // 2
    x, y = encode_order(half, columns), encode_order(half, height)
    along = x.view(1, columns, half).expand(height, columns, half)
    down = y.view(height, 1, half).expand(height, columns, half)
    return torch.cat([along, down], dim=2).reshape(height * columns, 1, width)


def _frequencies(width: int) -> Tensor:
    return torch.exp(torch.arange(0, width, 2).float() * -(math.log(10000.0) / width))


class Projector(nn.Module):
    """A convolution whose kernel the text decides, on four times as many places.

    Args:
        state: width of the text's state.
        width: half the channels of the decoder.
        size: side of the kernel.
    """

    def __init__(self, state: int, width: int, size: int = 3) -> None:
        super().__init__()
        self.size = size
        self.vis = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="bilinear"),
            _convolve(2 * width, 2 * width, 3),
            nn.Upsample(scale_factor=2, mode="bilinear"),
            _convolve(2 * width, width, 3),
            nn.Conv2d(width, width, 1),
        )
        self.txt = nn.Linear(state, width * size * size + 1)

    def forward(self, decoded: Tensor, state: Tensor) -> Tensor:
        """Project a map (B, 2 * width, h, w): logits (B, 1, 4h, 4w)."""
        seen = self.vis(decoded)
        batch, width, height, columns = seen.shape
        said = self.txt(state)
        kernels = said[:, :-1].reshape(batch, width, self.size, self.size)
        # One group per image: each is convolved with its own kernel.
        logits = F.conv2d(
            seen.reshape(1, batch * width, height, columns), kernels, said[:, -1],
            padding=self.size // 2, groups=batch,
        )  # fmt: skip
        return logits.transpose(0, 1)
