"""The device and precision of the models, and batches that fit into a device's memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch

from saymask.errors import ConfigError, DeviceMemoryExhausted

log = logging.getLogger(__name__)

Result = TypeVar("Result")


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


def choose_precision(device: str) -> torch.dtype:
    """Return the dtype of the networks' products.

    It is bfloat16 where the hardware multiplies it natively; elsewhere that is slower than float32.
    """
    if find_device_type(device) == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    is_native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if is_native else torch.float32


def find_device_type(device: str) -> str:
    """Return ``cuda`` for any CUDA device such as ``cuda:1``, otherwise ``cpu``."""
    return "cuda" if device.startswith("cuda") else "cpu"


class BatchModel(Protocol):
    """A model that works in batches."""

    def halve_batch(self) -> bool:
        """Halve the batch size from now on; return False when it cannot be halved."""
        ...


@dataclass(frozen=True)
class RetryOnOom:
    """Repeats work with smaller batches while a device's memory is full.

    Attributes:
        models: all that are on it.
    """

    device: str
    models: Sequence[BatchModel]

    def run(self, work: Callable[[], Result]) -> Result:
        """Do some work on the device.

        Raises:
            DeviceMemoryExhausted: the batches are as small as can be.
        """
        while True:
            try:
                return work()
            except torch.OutOfMemoryError as error:
                self._halve_batches(error)

    def _halve_batches(self, error: torch.OutOfMemoryError) -> None:
        torch.cuda.empty_cache()
        # All of them: which one needed the memory is not known.
        are_smaller = [model.halve_batch() for model in self.models]
        if not any(are_smaller):
            raise DeviceMemoryExhausted(
                f"Out of memory on {self.device} even at batch size 1: {error}.",
                "Stop other programs on it, take smaller models, or set SAYMASK_DEVICE=cpu.",
            ) from error
        log.warning("the memory of %s is full: trying again with smaller batches", self.device)


class Batched:
    """A model that works in batches.

    Args:
        batch: items computed at once, at first.
    """

    def __init__(self, batch: int) -> None:
        self._batch = batch

    def halve_batch(self) -> bool:
        """See ``BatchModel``."""
        smaller = max(1, self._batch // 2)
        is_smaller, self._batch = smaller < self._batch, smaller
        return is_smaller
