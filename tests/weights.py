"""Weights that tests need and do not fetch."""

from __future__ import annotations

import pytest

from saymask_worker.weights import DEFAULT, WeightStore


def require_weights() -> None:
    """Skip the test that asks, unless the default weights were pulled."""
    missing = [name for name in DEFAULT if not WeightStore().is_present(name)]
    if missing:
        pytest.skip(f"weights not pulled: {missing} (saymask-worker models pull)")
