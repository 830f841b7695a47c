"""Which proposals are cropped, and what the crops of the others would look like.

Encoding a crop of every proposal takes most of the time of a preparation, and most proposals are
small parts that nobody names. So the most plausible ones are cropped, and for the others the
feature of the crop is predicted from the region's token, by ridge regression (Hoerl and Kennard,
1970) over the proposals of the same image that were cropped. Nothing of it is learned beforehand:
it works for any encoder.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from saymask.masks import compute_areas
from saymask_worker.config.pipeline import FeaturesConfig
from saymask_worker.images.types import Floats, Proposals, normalise_rows, to_float32

_SMALLEST_AREA = 1e-6
_SMALLEST_SPREAD = 1e-9


def choose_cropped(
    proposals: Proposals, log_thing: Floats, config: FeaturesConfig
) -> NDArray[np.intp]:
    """Return the indices of the proposals that are cropped, ascending.

    Large masks that many points agree on and that show things come first: whole objects rather
    than parts and stuff.

    Args:
        proposals: N of one image.
        log_thing: (N,) log-probability of showing a thing, by what is known before any crop.
        config: how many, and the weights.
    """
    area = compute_areas(proposals.masks) / np.prod(proposals.masks.shape[1:])
    plausible = (
        config.crop_area_weight * np.log10(np.maximum(area, _SMALLEST_AREA))
        + config.crop_consensus_weight * proposals.vote_share
        + config.crop_level_weight * proposals.granularity
        + config.crop_thing_weight * log_thing
    )
    return np.sort(np.argsort(-plausible, kind="stable")[: config.crops_max])


def predict_crops(
    regions: Floats, crops: Floats, cropped: NDArray[np.intp], ridge: float
) -> Floats:
    """Return the features of all crops, those that were not computed predicted.

    Args:
        regions: (N, D) the regions' tokens.
        crops: (M, D) the features of the crops of some of them, none zero.
        cropped: (M,) their indices.
        ridge: strength of the regression's penalty, in mean squared distances of the regions'
            tokens to their mean.

    Returns:
        (N, D): ``crops``, and predictions of their mean length.
    """
    if len(cropped) == len(regions):
        return crops
    unit_crops, unit_regions = normalise_rows(crops), normalise_rows(regions)
    length = np.linalg.norm(crops, axis=1).mean()
    mean_crop, mean_region = unit_crops.mean(axis=0), unit_regions[cropped].mean(axis=0)
    centred = unit_regions[cropped] - mean_region
    kernel = centred @ centred.T
    # All alike: nothing to learn from, and the mean is what is predicted.
    penalty = ridge * np.maximum(np.trace(kernel) / len(cropped), _SMALLEST_SPREAD)
    weights = np.linalg.solve(kernel + penalty * np.eye(len(cropped)), unit_crops - mean_crop)
    predicted = mean_crop + (unit_regions - mean_region) @ centred.T @ weights
    features = to_float32(length * normalise_rows(to_float32(predicted)))
    features[cropped] = crops
    return features
