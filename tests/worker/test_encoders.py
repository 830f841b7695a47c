"""Encoders."""

from __future__ import annotations

import pytest
import torch

from saymask.errors import ConfigError
from worker.encoders.clip_visual import ClipVisual
from worker.encoders.text_cache import one_thread


def test_unsupported_architecture_names_the_supported() -> None:
    with pytest.raises(ConfigError, match="RN50x4"):
        ClipVisual(torch.nn.Linear(2, 2), "odd", "cpu", torch.float32, 1)


def test_text_is_encoded_on_one_thread_and_the_rest_keeps_its_threads() -> None:
    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
