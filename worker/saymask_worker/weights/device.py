"""Which device and precision the models use."""

from __future__ import annotations

import torch

from saymask.errors import ConfigError


def choose_device(setting: str) -> str:
    """Return the device: for ``auto`` the first GPU, else the CPU.

    Raises:
        ConfigError: the device cannot be used.
    """
    if setting != "auto":
        try:
            torch.empty(1, device=setting)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(
                f"The device {setting!r} cannot be used: {reason}", "Set SAYMASK_DEVICE=auto."
            ) from error
        return setting
    return "cuda" if torch.cuda.is_available() else "cpu"


def choose_precision(setting: str, device: str) -> torch.dtype:
    """Return the dtype of the networks' products.

    ``auto`` is bfloat16 where the hardware multiplies it natively; elsewhere it is slower than
    float32.
    """
    if setting != "auto":
        return torch.bfloat16 if setting == "bfloat16" else torch.float32
    if find_device_type(device) == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    is_native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if is_native else torch.float32


def find_device_type(device: str) -> str:
    """Return ``cuda`` for any CUDA device such as ``cuda:1``, otherwise ``cpu``."""
    return "cuda" if device.startswith("cuda") else "cpu"
