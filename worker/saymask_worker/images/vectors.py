"""Arithmetic on features that several methods share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from saymask_worker.images.types import Floats

_EPSILON = 1e-12


def to_float32(values: NDArray[np.generic]) -> Floats:
    """Convert to float32."""
    return np.asarray(values, dtype=np.float32)


def normalise_rows(features: Floats) -> Floats:
    """Scale to unit length along the last axis; zero vectors stay zero."""
    norms = np.linalg.norm(features, axis=-1, keepdims=True)
    return to_float32(features / np.maximum(norms, _EPSILON))


def mix(first: Floats, second: Floats, first_weight: float) -> Floats:
    """Return unit vectors of a weighted sum of unit vectors along the last axis.

    Args:
        first: features (..., D), of any length.
        second: of the same shape.
        first_weight: of ``first``; the rest is ``second``.
    """
    return normalise_rows(
        first_weight * normalise_rows(first) + (1 - first_weight) * normalise_rows(second)
    )
