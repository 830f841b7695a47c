"""Where in an image CLIP sees a text: dense features and gradients, for published baselines.

Two of the baselines of Yu et al. (CVPR 2023) give every proposal the mean of a map over its
pixels: a score map from dense features (Zhou et al., "Extract Free Dense Labels from CLIP", ECCV
2022), and Grad-CAM (Selvaraju et al., ICCV 2017).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from saymask_worker.encoders.clip_visual import ClipVisual
from saymask_worker.encoders.vit_blocks import read_places


@torch.inference_mode()
def encode_own_values(visual: ClipVisual, image: Tensor) -> Tensor:
    """Compute a feature for every place of a normalised image (1, 3, S, S): (g, g, D) float32.

    The last attention lets each place keep its own value instead of mixing them.
    """
    tower = visual.tower
    if not isinstance(tower, VisionTransformer):
        return visual.encode_dense(image)[0]
    *blocks, last = tower.transformer.resblocks
    tokens = tower._embeds(image.to(visual.device, visual.input_dtype))
    for block in blocks:
        tokens = block(tokens)
    own = tokens + _own_values(last, last.ln_1(tokens))
    return read_places(tower, own + last.mlp(last.ln_2(own)))[0]


def _own_values(block: ResidualAttentionBlock, tokens: Tensor) -> Tensor:
    attention, width = block.attn, tokens.shape[-1]
    value = F.linear(
        tokens, attention.in_proj_weight[2 * width :], attention.in_proj_bias[2 * width :]
    )
    output: Tensor = attention.out_proj(value)
    return output


def _find_last_features(tower: VisionTransformer | ModifiedResNet) -> nn.Module:
    """The module whose output Grad-CAM looks at."""
    layer: nn.Module = (
        tower.transformer.resblocks[-1].ln_1
        if isinstance(tower, VisionTransformer)
        else tower.layer4
    )
    return layer


def compute_grad_cam(visual: ClipVisual, image: Tensor, sentence: Tensor) -> Tensor:
    """Compute how much each place of an image supports a sentence: (g, g) float32, not negative.

    Args:
        visual: the image tower.
        image: (1, 3, S, S), normalised.
        sentence: (D,) text feature.
    """
    tower = visual.tower
    seen: list[Tensor] = []

    def keep(_module: object, _inputs: object, output: Tensor) -> Tensor:
        # From here on gradients are wanted; the trunk before costs no memory for them.
        seen.append(output.detach().requires_grad_())
        return seen[-1]

    is_vit = visual.is_vit
    layer = _find_last_features(tower)
    handle = layer.register_forward_hook(keep)
    frozen = [(p, p.requires_grad) for p in tower.parameters()]
    try:
        for parameter, _ in frozen:
            parameter.requires_grad_(False)
        feature = tower(image.to(visual.device, visual.input_dtype))[0].float()
        wanted = sentence.to(visual.device)
        (gradient,) = torch.autograd.grad(F.cosine_similarity(feature, wanted, dim=0), seen[0])
    finally:
        handle.remove()
        for parameter, required in frozen:
            parameter.requires_grad_(required)
    values, slopes = seen[0][0].detach().float(), gradient[0].float()
    if is_vit:
        values, slopes = values[1:].T, slopes[1:].T
    values, slopes = values.flatten(1), slopes.flatten(1)
    cam = (slopes.mean(dim=1, keepdim=True) * values).sum(dim=0).clamp(min=0)
    side = round(len(cam) ** 0.5)
    return cam.view(side, side)
