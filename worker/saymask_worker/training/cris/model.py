"""The whole model: an image and a sentence to the logits of a mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from saymask_worker.training.cris.backbone import Backbone, Maps
from saymask_worker.training.cris.layers import Decoder, Neck, Projector


@dataclass(frozen=True)
class CrisConfig:
    """Widths of everything behind the backbone; the defaults are those of CRIS on CLIP RN50.

    Attributes:
        maps: channels of the backbone's three maps, finest first.
        neck: channels in the neck, finest first.
        width: of the decoder; equal to the second of ``neck`` and to the width of a word.
        state: width of the text's state.
        hidden: of the decoder's feed-forward part.
    """

    maps: tuple[int, int, int] = (512, 1024, 1024)
    neck: tuple[int, int, int] = (256, 512, 1024)
    width: int = 512
    state: int = 1024
    layers: int = 3
    heads: int = 8
    hidden: int = 2048
    dropout: float = 0.1


class Cris(nn.Module):
    """CRIS: backbone, neck, decoder, projector."""

    def __init__(self, backbone: Backbone, config: CrisConfig) -> None:
        super().__init__()
        self.backbone = backbone
        self.config = config
        self.neck = Neck(config.maps, config.neck, config.state)
        self.decoder = Decoder(
            config.layers, config.width, config.heads, config.hidden, config.dropout
        )
        self.proj = Projector(config.state, config.width // 2)

    def forward(self, images: Tensor | None, tokens: Tensor, maps: Maps | None = None) -> Tensor:
        """Segment images by sentences.

        Args:
            images: (B, 3, H, W), contiguous: in channels-last order batch norm is less exact.
            tokens: ids (B, L), 0 where there is none.
            maps: the images' own, where they were kept; the images are not needed then.

        Returns:
            Logits (B, 1, H / 4, W / 4).
        """
        if maps is None:
            if images is None:
                raise ValueError("CRIS needs images or their maps")
            maps = self.backbone.encode_maps(images)
        words, state = self.backbone.encode_words(tokens)
        padding = tokens == 0
        decoded = self.decoder(self.neck(maps, state), words, padding)
        logits: Tensor = self.proj(decoded, state)
        return logits


def compute_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Text-to-pixel contrastive loss: cross entropy of every place (section 3.4 of the paper).

    Args:
        logits: (B, 1, h, w).
        masks: (B, H, W) of 0 and 1; resized by nearest neighbour.
    """
    targets = F.interpolate(masks[:, None].float(), logits.shape[-2:], mode="nearest")
    return F.binary_cross_entropy_with_logits(logits, targets)


def group_parameters(model: nn.Module, rate: float, backbone_share: float) -> list[dict[str, Any]]:
    """Return Adam's two groups: the backbone learns slower, except its position embeddings.

    The authors' groups set only ``initial_lr``, which their scheduler does not read: the
    backbone's rate is applied here as the paper means it. Frozen parameters are in no group.
    """
    backbone: list[nn.Parameter] = []
    head: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_new = "positional_embedding" in name or ".adapter." in name
        is_slow = name.startswith("backbone.") and not is_new
        (backbone if is_slow else head).append(parameter)
    groups = [
        {"params": backbone, "lr": rate * backbone_share},
        {"params": head, "lr": rate},
    ]
    return [group for group in groups if group["params"]]


def freeze_batch_norms(module: nn.Module) -> None:
    """Keep the statistics of frozen batch norms: a few images would replace good ones by bad."""
    for part in module.modules():
        is_frozen = not any(parameter.requires_grad for parameter in part.parameters())
        if is_frozen and isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d)):
            part.eval()
