"""Building segment-anything models and loading their checkpoints."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from segment_anything import sam_model_registry
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor

from saymask.errors import WeightsError
from saymask_worker.masks.mobile_sam import EMBEDDING_DIM, IMAGE_SIZE_PX, build_tiny_vit_encoder

_REGISTRY_NAMES = {"sam-vit-b": "vit_b", "sam-vit-l": "vit_l", "sam-vit-h": "vit_h"}
GENERATORS = ("mobile-sam", *_REGISTRY_NAMES)


def load_sam(generator: str, checkpoint: Path) -> Sam:
    """Build a model and load its checkpoint, tensors only.

    Raises:
        WeightsError: unknown generator, or the file holds another model.
    """
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        if generator == "mobile-sam":
            return _build_mobile_sam(state)
        sam: Sam = sam_model_registry[_REGISTRY_NAMES[generator]](checkpoint=None)
        sam.load_state_dict(state)
    except KeyError as error:
        raise WeightsError(
            f"There is no proposal generator {generator!r}.", f"Use one of {', '.join(GENERATORS)}."
        ) from error
    except (RuntimeError, ValueError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise WeightsError(
            f"{checkpoint} is not a checkpoint of {generator}: {error}",
            "Pull it again: saymask-worker models pull " + generator,
        ) from error
    return sam.eval()


def _build_mobile_sam(state: dict[str, Tensor]) -> Sam:
    prefix = "image_encoder."
    encoder = build_tiny_vit_encoder(
        {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
    )
    grid = IMAGE_SIZE_PX // 16
    sam = Sam(
        image_encoder=encoder,
        prompt_encoder=PromptEncoder(
            embed_dim=EMBEDDING_DIM,
            image_embedding_size=(grid, grid),
            input_image_size=(IMAGE_SIZE_PX, IMAGE_SIZE_PX),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(
                depth=2, embedding_dim=EMBEDDING_DIM, mlp_dim=2048, num_heads=8
            ),
            transformer_dim=EMBEDDING_DIM,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
        ),
    )
    others = {key: value for key, value in state.items() if not key.startswith(prefix)}
    incompatible = sam.load_state_dict(others, strict=False)
    missing = [
        key
        for key in incompatible.missing_keys
        if not key.startswith((prefix, "pixel_mean", "pixel_std"))
    ]
    if missing or incompatible.unexpected_keys:
        raise ValueError(f"missing {missing[:3]}, unexpected {incompatible.unexpected_keys[:3]}")
    return sam.eval()
