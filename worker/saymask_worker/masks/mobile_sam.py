"""MobileSAM's image encoder, built from timm's TinyViT.

MobileSAM (Zhang et al., 2023) is SAM's prompt encoder and mask decoder behind a TinyViT
image encoder. That encoder is timm's ``tiny_vit_5m`` with three differences: the input is
1024 x 1024, the last stage does not halve the resolution, and SAM's convolutional neck
replaces the classifier.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import timm
import torch
from segment_anything.modeling.common import LayerNorm2d
from timm.models.tiny_vit import Attention, ConvNorm
from torch import Tensor, nn

IMAGE_SIZE_PX = 1024
EMBEDDING_DIM = 256
_TRUNK_DIM = 320

_KEY_RULES = (
    (r"^patch_embed\.seq\.0\.", "patch_embed.conv1."),
    (r"^patch_embed\.seq\.2\.", "patch_embed.conv2."),
    (r"^layers\.(\d+)\.downsample\.", lambda m: f"stages.{int(m[1]) + 1}.downsample."),
    (r"^layers\.(\d+)\.", r"stages.\1."),
    (r"\.c\.", ".conv."),
)


class TinyVitEncoder(nn.Module):
    """Images (B, 3, 1024, 1024), normalised as SAM does, to embeddings (B, 256, 64, 64)."""

    img_size = IMAGE_SIZE_PX

    def __init__(self) -> None:
        super().__init__()
        self.trunk = timm.create_model("tiny_vit_5m_224", pretrained=False, num_classes=0)
        self.trunk.stages[3].downsample.conv2.conv.stride = (1, 1)
        self.neck = nn.Sequential(
            nn.Conv2d(_TRUNK_DIM, EMBEDDING_DIM, kernel_size=1, bias=False),
            LayerNorm2d(EMBEDDING_DIM),
            nn.Conv2d(EMBEDDING_DIM, EMBEDDING_DIM, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(EMBEDDING_DIM),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Encode images (B, 3, 1024, 1024)."""
        features = self.trunk.patch_embed(images)
        embedding: Tensor = self.neck(self.trunk.stages(features))
        return embedding


def to_timm_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the encoder part of MobileSAM's checkpoint; the unused classifier is left out."""
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.startswith(("head.", "norm_head.")):
            continue
        if key.startswith("neck."):
            renamed[key] = value
            continue
        for pattern, replacement in _KEY_RULES:
            key = re.sub(pattern, replacement, key)
        renamed[f"trunk.{key}"] = value
    return renamed


def fuse_batch_norms(module: nn.Module) -> None:
    """Fold every timm ConvNorm into one convolution, in place (inference only, exact algebra)."""
    for name, child in module.named_children():
        if isinstance(child, ConvNorm):
            fused = nn.utils.fusion.fuse_conv_bn_eval(child.conv, child.bn)
            setattr(module, name, fused)
        else:
            fuse_batch_norms(child)


def give_biases_a_batch_axis(encoder: nn.Module) -> None:
    """Make attention biases (1, H, N, N) instead of (H, N, N).

    Only then torch takes its fused attention on a CPU, with the same result.
    """
    for module in encoder.modules():
        if isinstance(module, Attention):
            module.get_attention_biases = _with_batch_axis(module.get_attention_biases)


def _with_batch_axis(biases: Callable[[torch.device], Tensor]) -> Callable[[torch.device], Tensor]:
    return lambda device: biases(device)[None]


def build_tiny_vit_encoder(state: dict[str, Tensor]) -> TinyVitEncoder:
    """Build the encoder from the ``image_encoder.`` part of the checkpoint.

    Raises:
        ValueError: it is not a MobileSAM image encoder.
    """
    encoder = TinyVitEncoder()
    missing, unexpected = encoder.load_state_dict(to_timm_state(state), strict=False)
    missing = [key for key in missing if not key.startswith("trunk.head.")]
    if missing or unexpected:
        raise ValueError(
            f"not a MobileSAM image encoder: missing {missing[:3]}, unexpected {unexpected[:3]}"
        )
    encoder.eval()
    fuse_batch_norms(encoder.trunk)
    give_biases_a_batch_axis(encoder.trunk)
    return encoder.to(memory_format=torch.channels_last)
