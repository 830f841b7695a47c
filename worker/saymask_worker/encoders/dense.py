"""A feature for every place of an image, coherent within objects, from tiles at several scales.

The last attention compares queries with queries and keys with keys instead of queries with keys, so
that places of one object share their values (Lan et al., "ClearCLIP", ECCV 2024, and HybridGL, CVPR
2025, go this way); residual and MLP are left out. A region's token is the mean over its places,
summed over scales (TextRegion, 2025).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saymask.masks import Masks
from saymask_worker.encoders.clip_visual import ClipVisual
from saymask_worker.encoders.crops import resize_whole
from saymask_worker.images.geometry import cover_square_grid

# Of the heat maps: the finest whose places still see whole objects.
HEAT_TILES = 2


@torch.inference_mode()
def encode_places(visual: ClipVisual, pixels: NDArray[np.uint8], tiles: int) -> Tensor:
    """Encode every place of an image (h, w, 3) uint8, cut into ``tiles`` x ``tiles``.

    Returns:
        (tiles * g, tiles * g, D) float32, not normalised; g is the tower's grid.
    """
    size = visual.image_size_px
    image = resize_whole(pixels, size_px=size * tiles, device=visual.device)
    cut = image.unfold(2, size, size).unfold(3, size, size)[0]
    stacked = cut.permute(1, 2, 0, 3, 4).reshape(tiles * tiles, 3, size, size)
    grids = visual.encode_dense(stacked)
    g, width = grids.shape[1], grids.shape[-1]
    rows = grids.view(tiles, tiles, g, g, width).permute(0, 2, 1, 3, 4)
    return rows.reshape(tiles * g, tiles * g, width)


def encode_regions(
    visual: ClipVisual, pixels: NDArray[np.uint8], masks: Masks, region_tiles: Sequence[int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Encode the places of an image, and the region of every mask.

    Args:
        visual: the image tower.
        pixels: (h, w, 3) uint8 at the masks' size.
        masks: (N, h, w) bool.
        region_tiles: scales of the regions, as numbers of tiles per side of the image.

    Returns:
        Places (G, G, D) at ``HEAT_TILES``, and regions (N, D), both float32.
    """
    scales = {*region_tiles, HEAT_TILES}
    places = {tiles: encode_places(visual, pixels, tiles).cpu() for tiles in sorted(scales)}
    regions = [_average_places(places[tiles], masks) for tiles in region_tiles]
    return places[HEAT_TILES].numpy(), torch.stack(regions).sum(dim=0).numpy()


def _average_places(places: Tensor, masks: Masks) -> Tensor:
    """Mean of places (g, g, D) under masks (N, h, w), by the share of each covered: (N, D)."""
    covered = torch.from_numpy(cover_square_grid(masks, len(places))).flatten(1)
    return (covered / covered.sum(dim=1, keepdim=True)) @ places.flatten(0, 1)
