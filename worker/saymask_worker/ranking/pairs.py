"""What the referent holds, wears or rides: evidence from proposals in it and at it."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from saymask_worker.images.types import Floats, Geometry, to_float32

# A proposal belongs to another when this share of it lies within a cell of the other.
_CONTACT_MIN = 0.5


def compute_pair_evidence(odds: Floats, geometry: Geometry, same_iou: float) -> Floats:
    """Return how sure each proposal (N,) has an object in or at it, relative to the surest.

    Args:
        odds: (N,) log-odds that each proposal is that object.
        geometry: of the proposals.
        same_iou: proposals that overlap more are the same object, and not a pair.
    """
    touches = _find_contacts(geometry)
    touches &= geometry.iou < same_iou
    best = np.where(touches, odds[None], -np.inf).max(axis=1, initial=-np.inf)
    # What is too small for a proposal of its own still shows in the whole.
    evidence = np.maximum(best, odds)
    return to_float32(evidence - evidence.max(initial=-np.inf))


def _find_contacts(geometry: Geometry) -> NDArray[np.bool_]:
    """(N, N) whether column j lies for the most part in row i or within a cell of it."""
    if geometry.cells is None:
        return np.asarray(geometry.containment.T > _CONTACT_MIN)
    cells = torch.from_numpy(geometry.cells)[:, None]
    grown = F.max_pool2d(cells, kernel_size=3, stride=1, padding=1).flatten(1).numpy()
    flat = geometry.cells.reshape(len(geometry.cells), -1)
    covered = grown @ flat.T / np.maximum(flat.sum(axis=1), 1e-6)[None]
    return np.asarray(covered > _CONTACT_MIN)
