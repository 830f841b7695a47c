"""Asking every source for its masks; one that fails is named, and the others still answer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from rq.timeouts import JobTimeoutException
from scipy import ndimage

from saymask.errors import SaymaskError
from saymask.masks import Mask
from saymask_worker.config.pipeline import SourcesConfig
from saymask_worker.masks.sources.base import Source, SourceMask

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Offers:
    """Cleaned masks of the sources; ``notices`` tell people which sources are unavailable."""

    masks: tuple[SourceMask, ...] = ()
    notices: tuple[str, ...] = ()


def collect_offers(
    sources: Sequence[Source],
    ask: Callable[[Source], Sequence[SourceMask]],
    size_hw: tuple[int, int],
    config: SourcesConfig,
    *,
    strict: bool = False,
) -> Offers:
    """Ask every source that has a model; with ``strict``, a source that fails is an error.

    Raises:
        torch.OutOfMemoryError, JobTimeoutException: they concern the worker, not the source.
    """
    masks: list[SourceMask] = []
    notices: list[str] = []
    for source in sources:
        try:
            if not source.fingerprint:
                continue
            offered = [_check(mask, size_hw) for mask in ask(source)]
        except (torch.OutOfMemoryError, JobTimeoutException):
            raise
        except SaymaskError as error:
            if strict:
                raise
            log.warning("source %s: %s", source.name, error)
            notices.append(f"The source {source.name} is unavailable: {error.cause}")
        except Exception:
            if strict:
                raise
            # A source may be anybody's code; the others must still answer.
            log.exception("source %s", source.name)
            notices.append(f"The source {source.name} failed; see the worker's log.")
        else:
            cleaned = ((item, clean_mask(item.mask, config)) for item in offered)
            masks += [
                replace(item, mask=mask, source=source.name)
                for item, mask in cleaned
                if np.count_nonzero(mask) >= max(1, config.min_area_share * mask.size)
            ]
    return Offers(tuple(masks), tuple(notices))


def _check(offered: SourceMask, size_hw: tuple[int, int]) -> SourceMask:
    """Raise ValueError unless a source offered a mask of the image with a probability."""
    mask = np.asarray(offered.mask)
    if mask.shape != size_hw or mask.dtype != np.bool_:
        raise ValueError(f"expected a bool mask {size_hw}, got {mask.dtype} {mask.shape}")
    if not 0 <= offered.probability <= 1:
        raise ValueError(f"expected a probability from 0 to 1, got {offered.probability}")
    return offered


def clean_mask(mask: Mask, config: SourcesConfig) -> Mask:
    """Return a mask (H, W) without small pieces and holes; its largest piece always stays.

    What is small is a share of the mask's own area.
    """
    smallest = config.piece_share * np.count_nonzero(mask)
    if smallest <= 1:
        return mask
    pieces, sizes = _label(mask)
    whole = (sizes >= min(smallest, sizes.max()))[pieces]
    gaps, sizes = _label(~whole)
    return np.asarray((sizes < smallest)[gaps], dtype=bool)


def _label(mask: Mask) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Return the connected piece of each pixel, 0 outside, and the pieces' sizes.

    The size of what is outside is 0.
    """
    pieces, _ = ndimage.label(mask)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return pieces, sizes
