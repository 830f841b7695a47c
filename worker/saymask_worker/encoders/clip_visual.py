"""Global-context and crop features from any open_clip ViT or ResNet image tower.

Global-Local CLIP (Yu, Seo, Son: "Zero-shot Referring Image Segmentation with Global-Local
Context Features", CVPR 2023), section 3.2. A ViT sees the whole image up to its last
``MASKED_BLOCKS`` blocks; before each of those the patch tokens are weighted by the proposal. A
ResNet weights its last feature map before attention pooling.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from open_clip.modified_resnet import AttentionPool2d, ModifiedResNet
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from saymask.errors import ConfigError
from saymask_worker.encoders.vit_blocks import (
    cast_products,
    ends_in_class_token,
    read_places,
    run_class_tokens,
    run_coherent_block,
    run_last_block,
)
from saymask_worker.weights.device import Batched

MASKED_BLOCKS = 3
TokenMasking = Literal["multiply", "attention"]


class ClipVisual(Batched):
    """An image tower with access to its inside.

    Args:
        tower: ``open_clip`` visual module (``model.visual``).
        name: for messages.
        dtype: precision of its products; weights are cast once.
        batch: images per forward pass.
        between_batches: called before each batch; it may wait.

    Raises:
        ConfigError: the architecture is neither a plain ViT nor a ModifiedResNet.
    """

    def __init__(
        self,
        tower: nn.Module,
        name: str,
        device: str,
        dtype: torch.dtype,
        batch: int,
        between_batches: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(batch)
        plain_vit = isinstance(tower, VisionTransformer) and ends_in_class_token(tower)
        if not plain_vit and not isinstance(tower, ModifiedResNet):
            raise ConfigError(
                f"{name} has an image tower of kind {type(tower).__name__}, which has no place"
                " for proposals.",
                "Supported: open_clip ViT (ViT-B-32, ViT-B-16, ViT-L-14, each with or without"
                " -quickgelu) and ResNet (RN50, RN101, RN50x4, RN50x16, RN50x64).",
            )
        self.content_sha256 = _hash_weights(tower)
        self.weights_hash = self.content_sha256[:8]
        self.tower: VisionTransformer | ModifiedResNet = tower.to(device).eval()
        self.dtype = dtype
        # A ViT takes its image in float32, for rounding it first costs as much as all the rest.
        self.input_dtype = torch.float32 if plain_vit else dtype
        if plain_vit:
            cast_products(self.blocks, dtype)
        else:
            self.tower.to(dtype)
        self.device = device
        self._between_batches = between_batches
        self.name = name
        size: Any = self.tower.image_size
        self.image_size_px = int(size[0] if isinstance(size, tuple) else size)

    @property
    def is_vit(self) -> bool:
        """Whether the tower is a ViT and not a ResNet."""
        return isinstance(self.tower, VisionTransformer)

    @property
    def blocks(self) -> nn.ModuleList:
        """Transformer blocks; none in a ResNet."""
        if isinstance(self.tower, VisionTransformer):
            blocks: nn.ModuleList = self.tower.transformer.resblocks
            return blocks
        return nn.ModuleList()

    @property
    def grid_side(self) -> int:
        """Side of the token grid that masks are resized to: 7, 14 or 16."""
        if isinstance(self.tower, VisionTransformer):
            return int(self.tower.grid_size[0])
        return self.image_size_px // 32

    @torch.inference_mode()
    def encode_images(self, images: Tensor) -> Tensor:
        """Encode normalised images (B, 3, S, S) as plain CLIP does: (B, D) float32."""
        return self._run_in_batches(self._encode, images)

    def _run_in_batches(self, run: Callable[[Tensor], Tensor], items: Tensor) -> Tensor:
        """Run items (N, ...) to features (N, ...) float32."""
        parts = []
        for chunk in torch.split(items, self._batch):
            self._between_batches()
            parts.append(run(chunk.to(self.device)).float())
        return torch.cat(parts)

    def _encode(self, images: Tensor) -> Tensor:
        tower, images = self.tower, images.to(self.input_dtype)
        if not isinstance(tower, VisionTransformer):
            features: Tensor = tower(images)
            return features
        *blocks, last = tower.transformer.resblocks
        return _read(tower, run_last_block(last, _run_blocks(tower, blocks, images)))

    @torch.inference_mode()
    def encode_dense(self, images: Tensor) -> Tensor:
        """Encode every place of normalised images (B, 3, S, S): (B, g, g, D) float32.

        Places of one object come out alike; see ``saymask_worker.encoders.dense``.
        """
        return self._run_in_batches(self._encode_dense, images)

    def _encode_dense(self, images: Tensor) -> Tensor:
        tower, images = self.tower, images.to(self.input_dtype)
        if isinstance(tower, VisionTransformer):
            *blocks, last = tower.transformer.resblocks
            return read_places(tower, run_coherent_block(last, _run_blocks(tower, blocks, images)))
        pool: AttentionPool2d = tower.attnpool
        features = run_resnet_trunk(tower, images).permute(0, 2, 3, 1)
        places: Tensor = pool.c_proj(pool.v_proj(features))
        return places

    @torch.inference_mode()
    def encode_global(
        self,
        image: Tensor,
        token_masks: Tensor,
        masking: TokenMasking,
        masked_blocks: int = MASKED_BLOCKS,
    ) -> Tensor:
        """Encode one whole image as seen through N proposals.

        Args:
            image: (1, 3, S, S), normalised.
            token_masks: (N, g, g) float32 in 0..1, the proposals on the token grid.
            masking: ``multiply`` weights the patch tokens, as published; ``attention`` hides
                tokens outside the proposal from a class token of its own instead (ViT only; a
                ResNet weights its feature map).
            masked_blocks: how many blocks, counted from the last, see the proposal (ViT only).

        Returns:
            (N, D) float32.
        """
        tower, image = self.tower, image.to(self.device, self.input_dtype)
        if not isinstance(tower, VisionTransformer):
            features = F.normalize(run_resnet_trunk(tower, image), dim=1)
            return self._run_in_batches(
                lambda masks: tower.attnpool(features * masks[:, None].to(self.dtype)), token_masks
            )
        blocks = list(tower.transformer.resblocks)
        shared = len(blocks) - masked_blocks
        tokens = _run_blocks(tower, blocks[:shared], image)
        run = _mask_attention if masking == "attention" else _mask_tokens
        return self._run_in_batches(
            lambda masks: _read(tower, run(blocks[shared:], tokens, masks)), token_masks.flatten(1)
        )


def _mask_attention(
    blocks: Sequence[ResidualAttentionBlock], tokens: Tensor, masks: Tensor
) -> Tensor:
    """Class tokens (N, 1, C) that see tokens (1, L, C) by masks (N, L - 1)."""
    # A soft weight w as a bias log(w): w = 1 leaves the score alone, w = 0 removes the token. The
    # class token always sees itself.
    return run_class_tokens(blocks, tokens, masks.clamp(min=1e-6).log()).transpose(0, 1)


def _mask_tokens(blocks: Sequence[ResidualAttentionBlock], tokens: Tensor, masks: Tensor) -> Tensor:
    """Class tokens (N, 1, C) after blocks over tokens (1, L, C) times masks (N, L - 1)."""
    tokens = tokens.expand(len(masks), -1, -1)
    weights = F.pad(masks, (1, 0), value=1.0)[..., None]
    *others, last = blocks
    for block in others:
        tokens = block(tokens * weights)
    return run_last_block(last, tokens * weights)


def _run_blocks(
    tower: VisionTransformer, blocks: Sequence[ResidualAttentionBlock], images: Tensor
) -> Tensor:
    """Tokens (B, L, C) of images after the first blocks."""
    tokens: Tensor = tower._embeds(images)
    for block in blocks:
        tokens = block(tokens)
    return tokens


def run_resnet_trunk(tower: ModifiedResNet, images: Tensor) -> Tensor:
    """Return a ResNet's last map (B, C, g, g), before its attention pool."""
    features: Tensor = tower.stem(images)
    for layer in (tower.layer1, tower.layer2, tower.layer3, tower.layer4):
        features = layer(features)
    return features


def _read(tower: VisionTransformer, class_tokens: Tensor) -> Tensor:
    """Class tokens (B, 1, C) after the last block to features (B, D) float32."""
    pooled, _ = tower._pool(class_tokens)
    features: Tensor = pooled @ tower.proj if tower.proj is not None else pooled
    return features.float()


def _hash_weights(module: nn.Module) -> str:
    """Content hash of all weights, independent of file format."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
