"""Asking every source for its masks; one that fails is named, and the others still answer."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from rq.timeouts import JobTimeoutException

from saymask.errors import SaymaskError
from saymask_worker.config.pipeline import SourcesConfig
from saymask_worker.images.types import DecodedImage
from saymask_worker.masks.sources.base import CandidateSource, SourceMask
from saymask_worker.masks.sources.cleaning import clean_mask

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Offer:
    """A cleaned mask (H, W) of a source."""

    source: str
    mask: SourceMask


@dataclass(frozen=True)
class Offers:
    """What the sources offered; ``notices`` tell people which are unavailable."""

    masks: tuple[Offer, ...] = ()
    notices: tuple[str, ...] = ()


def collect_offers(
    sources: Sequence[CandidateSource],
    image: DecodedImage,
    expression: str,
    config: SourcesConfig,
    *,
    strict: bool = False,
) -> Offers:
    """Ask every source that has something to offer.

    Args:
        sources: in any order.
        image: what they look at.
        expression: as typed.
        config: how masks are cleaned.
        strict: raise what a source raises, instead of going on without it.

    Raises:
        torch.OutOfMemoryError, JobTimeoutException: they concern the worker, not the source.
    """
    masks: list[Offer] = []
    notices: list[str] = []
    for source in sources:
        try:
            if not source.fingerprint:
                continue
            offered = [_check(mask, image) for mask in source.segment(image, expression)]
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
            masks += [Offer(source.name, mask) for mask in _clean(offered, config)]
    return Offers(tuple(masks), tuple(notices))


def _check(offered: SourceMask, image: DecodedImage) -> SourceMask:
    """Return what a source offered if it is a mask of the image with a probability.

    Raises:
        ValueError: it is not.
    """
    mask = np.asarray(offered.mask)
    if mask.shape != image.size_hw or mask.dtype != np.bool_:
        raise ValueError(f"expected a bool mask {image.size_hw}, got {mask.dtype} {mask.shape}")
    if not 0 <= offered.probability <= 1:
        raise ValueError(f"expected a probability from 0 to 1, got {offered.probability}")
    return offered


def _clean(offered: Sequence[SourceMask], config: SourcesConfig) -> list[SourceMask]:
    cleaned = ((clean_mask(m.mask, config), m.probability) for m in offered)
    return [SourceMask(mask, probability) for mask, probability in cleaned if mask is not None]
