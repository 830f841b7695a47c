"""CRIS on the starter encoder's towers, for machines that no model hub answers.

CLIP ViT-B/16 has one resolution, so the three maps are its 4th, 8th and 12th block at twice, once
and half that resolution; words are MiniLM's, the state is the starter head's. Both towers are
frozen, which lets a few records train what is behind them; only two small adapters learn.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from open_clip.transformer import VisionTransformer
from tokenizers import Tokenizer
from torch import Tensor, nn

from saymask_worker.encoders.starter_text import MiniLm, StarterHead
from saymask_worker.training.cris.backbone import Backbone, Maps
from saymask_worker.training.cris.model import CrisConfig

_BLOCKS = (3, 7, 11)
STARTER_CRIS = CrisConfig(
    maps=(768, 768, 768), neck=(128, 256, 512), width=256, state=512, hidden=1024
)


class StarterBackbone(Backbone):
    """The starter's towers as CRIS's backbone."""

    def __init__(
        self,
        visual: VisionTransformer,
        minilm: MiniLm,
        head: StarterHead,
        tokenizer: Tokenizer,
        width: int,
    ) -> None:
        super().__init__()
        self.visual, self.minilm, self.head = visual, minilm, head
        for tower in (visual, minilm, head):
            tower.requires_grad_(False)
        self.adapter = nn.ModuleDict(
            {
                "words": nn.Linear(minilm.norm.normalized_shape[0], width),
                "state": nn.Linear(STARTER_CRIS.state, STARTER_CRIS.state),
            }
        )
        self._tokenizer = tokenizer

    def freeze(self) -> None:
        """The towers are frozen anyway; the adapters learn."""

    @property
    def has_fixed_maps(self) -> bool:
        """Whether training cannot change the maps of an image: it cannot."""
        return True

    def train(self, mode: bool = True) -> StarterBackbone:
        """Change the mode of the adapters only."""
        super().train(mode)
        for tower in (self.visual, self.minilm, self.head):
            tower.eval()
        return self

    def tokenise(self, texts: Sequence[str], length: int) -> Tensor:
        """Token ids (B, length), 0 where there is none; the end mark stays."""
        rows = []
        for text in texts:
            ids = self._tokenizer.encode(text.strip().lower()).ids
            cut = ids if len(ids) <= length else [*ids[: length - 1], ids[-1]]
            rows.append(cut + [0] * (length - len(cut)))
        return torch.tensor(rows)

    @torch.no_grad()
    def encode_maps(self, images: Tensor) -> Maps:
        """Three maps of images (B, 3, H, W), at H / 8, H / 16 and H / 32."""
        visual = self.visual
        grid = visual.conv1(images)
        height, width = grid.shape[2:]
        tokens = grid.flatten(2).transpose(1, 2)
        first = visual.class_embedding.expand(len(tokens), 1, -1)
        tokens = torch.cat([first, tokens], dim=1) + self._positions(height, width)
        tokens = visual.ln_pre(tokens)
        maps = []
        for index, block in enumerate(visual.transformer.resblocks):
            tokens = block(tokens)
            if index in _BLOCKS:
                maps.append(tokens[:, 1:].transpose(1, 2).reshape(len(tokens), -1, height, width))
        fine = F.interpolate(maps[0], scale_factor=2, mode="bilinear")
        return fine, maps[1], F.avg_pool2d(maps[2], 2)

    def encode_words(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Words (B, L, C) and the state (B, D) of token ids (B, L)."""
        is_token = tokens != 0
        with torch.no_grad():
            words = self.minilm.encode_words(tokens, is_token)
            weights = is_token[..., None]
            state = self.head((words * weights).sum(dim=1) / weights.sum(dim=1))
        return self.adapter["words"](words), self.adapter["state"](state)

    def _positions(self, height: int, width: int) -> Tensor:
        """Position embeddings (1, 1 + height * width, C), resized."""
        embedding = self.visual.positional_embedding
        side = int((len(embedding) - 1) ** 0.5)
        grid = embedding[1:].T.reshape(1, -1, side, side)
        resized = F.interpolate(grid, (height, width), mode="bicubic", antialias=True)
        return torch.cat([embedding[None, :1], resized.flatten(2).transpose(1, 2)], dim=1)
