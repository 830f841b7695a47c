"""Loading a model and its processor from a folder, without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from saymask.errors import ConfigError, WeightsError
from saymask.redaction import explain

_MAX_NAMED = 3


def require_transformers(name: str) -> None:
    """Raise ConfigError where transformers, an optional extra, is not installed.

    Args:
        name: of what needs it.
    """
    try:
        import transformers  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"{name} needs the package transformers: {error}.", "pip install 'saymask[hub]'"
        ) from error


def load_pretrained(
    model_class: Any, processor_class: Any, folder: Path, device: str, dtype: torch.dtype
) -> tuple[Any, Any]:
    """Load a model, in evaluation mode on its device, and its processor.

    Args:
        model_class: of transformers.
        processor_class: of transformers.
        folder: with the files of both.
        device: of the model.
        dtype: of its weights.

    Raises:
        WeightsError: the files are those of another model, or damaged.
    """
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    try:
        model, info = model_class.from_pretrained(
            folder, local_files_only=True, dtype=dtype, output_loading_info=True
        )
        processor = processor_class.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError,
            SafetensorError) as error:  # fmt: skip
        reason = explain(error)
        raise WeightsError(
            f"{folder} holds no {model_class.__name__} that can be loaded: {reason}",
            "Delete the folder and pull the model again.",
        ) from error
    # Without this a file of another model would leave the missing weights at random values.
    missing = sorted(info["missing_keys"]) + sorted(map(str, info["mismatched_keys"]))
    if missing:
        raise WeightsError(
            f"{folder} lacks {len(missing)} weights of {model_class.__name__}, such as"
            f" {', '.join(missing[:_MAX_NAMED])}.",
            "Delete the folder and pull the model again.",
        )
    return model.eval().to(device), processor
