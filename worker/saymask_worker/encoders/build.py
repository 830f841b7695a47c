"""Loading an encoder: the starter, or a genuine open_clip pair."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import open_clip
import torch
from open_clip.model import _build_vision_tower
from open_clip.transformer import VisionTransformer
from safetensors import SafetensorError
from safetensors.torch import load_file

from saymask.errors import ConfigError, WeightsError
from saymask.redaction import explain
from saymask_worker.config.scoring import GENUINE_SCORING, STARTER_SCORING
from saymask_worker.encoders.base import Encoder
from saymask_worker.encoders.clip_visual import ClipVisual
from saymask_worker.encoders.open_clip_text import OpenClipText
from saymask_worker.encoders.starter_text import StarterText
from saymask_worker.weights import WeightStore, hash_file
from saymask_worker.weights.starter_image import OPEN_CLIP_NAME

# Of all weights of the starter encoder's image tower, whatever file they come in.
STARTER_IMAGE_SHA256 = "70b7c4c9789cf1a2deb0a32a7e64ded2584500e4c93382f6643b7cd21cff4d6e"


def starter_head_path() -> Path:
    """Return the path of the trained head, shipped with the package."""
    return Path(str(resources.files("saymask_worker") / "data" / "starter_head.safetensors"))


def _split_pair(pair: str) -> tuple[str, str]:
    model, _, pretrained = pair.partition("/")
    known = open_clip.list_pretrained_tags_by_model(model)
    is_own_file = open_clip.get_model_config(model) is not None and Path(pretrained).is_file()
    if pretrained not in known and not is_own_file:
        raise ConfigError(
            f"There is no open_clip pair {pair!r}.",
            f"Weights of {model}: {', '.join(known)}."
            if known
            else "Use auto, starter, MODEL/WEIGHTS like ViT-B-16/openai, or MODEL//path/to/file.",
        )
    return model, pretrained


def load_encoder(
    name: str,
    store: WeightStore,
    device: str,
    dtype: torch.dtype,
    batch: int,
    between_batches: Callable[[], None] = lambda: None,
) -> Encoder:
    """Load an encoder by its name.

    Args:
        name: ``starter``, or a pair of open_clip.
        store: of the starter's weights.
        device: where to run.
        dtype: of the products of the image tower and of the starter text tower.
        batch: images per forward pass.
        between_batches: called before each batch of images; it may wait.

    Raises:
        WeightsError: weights are missing, damaged or unreachable.
        ConfigError: unknown name or unsupported architecture.
    """
    if name == "starter":
        return _load_starter(store, device, dtype, batch, between_batches)
    model_name, pretrained = _split_pair(name)
    try:
        model, _, _ = open_clip.create_model_and_transforms(model_name, pretrained=pretrained)
    except (OSError, RuntimeError, ValueError) as error:
        raise WeightsError(
            f"The weights of {name} could not be loaded: {explain(error)}",
            "Check the network, or set SAYMASK_ENCODER=starter.",
        ) from error
    # The visual tower moves to its own precision; text stays in float32.
    visual = ClipVisual(model.visual, name, device, dtype, batch, between_batches)
    text = OpenClipText(model, open_clip.get_tokenizer(model_name), device)
    return Encoder(
        name=f"{model_name}-{Path(pretrained).name}",
        visual=visual,
        text=text,
        weights_hash=visual.weights_hash,
        scoring=GENUINE_SCORING,
        description=f"CLIP {name} through open_clip",
        has_own_temperature=False,
    )


def _load_starter(
    store: WeightStore,
    device: str,
    dtype: torch.dtype,
    batch: int,
    between_batches: Callable[[], None],
) -> Encoder:
    visual = ClipVisual(load_starter_tower(store), "starter", device, dtype, batch, between_batches)
    if visual.content_sha256 != STARTER_IMAGE_SHA256:
        # Its file was converted here, so the published hash says nothing about it.
        raise WeightsError(
            f"{store.path('starter-image')} does not hold the starter encoder's image tower.",
            "Delete it and run: saymask-worker models pull starter-image",
        )
    head = starter_head_path()
    text = StarterText(
        store.require_verified("starter-text"),
        store.require_verified("starter-tokenizer"),
        head,
        device,
        dtype,
    )
    combined = f"{visual.weights_hash}{hash_file(head)}"
    return Encoder(
        name="starter",
        visual=visual,
        text=text,
        weights_hash=hashlib.sha256(combined.encode()).hexdigest()[:8],
        scoring=STARTER_SCORING,
        description="starter encoder: CLIP ViT-B/16 images, our MiniLM text tower",
    )


def load_starter_tower(store: WeightStore) -> VisionTransformer:
    """Load the starter encoder's image tower.

    Raises:
        WeightsError: its file is missing or damaged.
    """
    # Only the image tower: open_clip's public builder would also build an unused text tower.
    model = open_clip.get_model_config(OPEN_CLIP_NAME)
    tower = _build_vision_tower(model["embed_dim"], model["vision_cfg"], quick_gelu=True)
    path = store.require_verified("starter-image")
    try:
        tower.load_state_dict(load_file(path), strict=True)
    except (SafetensorError, RuntimeError, OSError) as error:
        raise WeightsError(
            f"{path} is damaged: {error}",
            "Delete it and run: saymask-worker models pull starter-image",
        ) from error
    return tower
