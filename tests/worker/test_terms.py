"""Other nouns, heat and regions in the score: against numbers worked out by hand."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from open_clip.transformer import VisionTransformer
from PIL import Image

from saymask_worker.config.scoring import ScoringConfig
from saymask_worker.encoders.clip_visual import ClipVisual
from saymask_worker.encoders.dense import encode_places, encode_regions
from saymask_worker.images.geometry import GRID_SIDE, compute_geometry
from saymask_worker.images.patch_map import (
    build_patch_map,
    quantise,
    restore_rows,
    round_rows,
)
from saymask_worker.images.types import PreparedImage, Scores, TextFeatures, VisualFeatures
from saymask_worker.pipeline.cache import PreparedCache
from saymask_worker.ranking.appearance import mix_views
from saymask_worker.ranking.comparison import find_instances
from saymask_worker.ranking.terms import compute_scores
from tests.worker.scenes import described, parsed, prepared_image

CONFIG = ScoringConfig()


def unit(*values: float) -> np.ndarray:
    vector = np.asarray(values, np.float32)
    return vector / np.linalg.norm(vector)


def score(
    image: PreparedImage,
    text: TextFeatures,
    things: list[list[float]] | None = None,
    stuff: list[list[float]] | None = None,
    **changes: float,
) -> Scores:
    config = replace(CONFIG, **changes)
    return compute_scores(described(image, config, things, stuff), text, parsed(), config)


def test_what_looks_like_something_else_loses() -> None:
    """Snow looks a little like the dog, and much like snow."""
    image = prepared_image()
    looks = np.tile(unit(1, 0, 0), (5, 1))
    looks[2] = unit(1, 0, 2)
    image = replace(image, features=VisualFeatures(looks, looks))
    dog, snow, puppy = unit(1, 0, 0), unit(0, 0, 1), unit(1, 0.1, 0)
    text = TextFeatures(dog, dog)
    nouns = {"things": [puppy.tolist()], "stuff": [snow.tolist()]}
    scores = score(image, text, **nouns, negatives_min=1)
    # "puppy" lies too close to "dog" to compete, so snow alone does.
    other = looks @ snow / CONFIG.temperature
    assert np.allclose(scores.terms["negatives"], -0.5 * (other - other.mean()), atol=1e-4)
    assert scores.order[-1] == 2
    assert not score(image, text, **nouns, negatives_weight=0.0).terms["negatives"].any()
    # At least so many nouns compete, the most distant first.
    both = score(image, text, **nouns, negatives_min=2).terms["negatives"]
    assert not np.allclose(both, scores.terms["negatives"])


def test_things_come_before_stuff_unless_stuff_is_asked_for() -> None:
    image = prepared_image()
    looks = np.tile(unit(1, 0, 1), (5, 1))
    looks[2] = unit(1, 1, 0)
    image = replace(image, features=VisualFeatures(looks, looks))
    nouns = {"things": [[0.0, 1.0, 0.0]], "stuff": [[0.0, 0.0, 1.0]]}
    dog, snow = unit(0.3, 1, 0), unit(0.3, 0, 1)
    thing = score(image, TextFeatures(dog, dog), **nouns).terms["thing"]
    assert thing.argmax() == 2
    assert thing[0] == pytest.approx(CONFIG.thing_weight * np.log(CONFIG.thing_floor))
    assert not score(image, TextFeatures(snow, snow), **nouns).terms["thing"].any()


def test_heat_inside_counts_and_heat_outside_counts_against() -> None:
    masks = np.zeros((2, 56, 56), bool)
    masks[0, :, :28] = True
    masks[1, :, 28:] = True
    geometry = compute_geometry(masks)
    places = np.zeros((GRID_SIDE, GRID_SIDE, 8), np.float32)
    places[:, :14, 0] = 1
    places[:, 14:, 1] = 1
    base = prepared_image()
    one = np.ones(2, np.float32)
    looks = np.tile(unit(1, 1, 0, 0, 0, 0, 0, 0), (2, 1))
    image = replace(
        base,
        proposals=replace(
            base.proposals, masks=masks, predicted_iou=one, stability_score=one, vote_share=one,
            granularity=one,
        ),
        geometry=geometry,
        features=VisualFeatures(looks, looks, None, build_patch_map(places)),
    )  # fmt: skip
    query = unit(1, 0, 0, 0, 0, 0, 0, 0)
    terms = score(image, TextFeatures(query, query)).terms
    # The left half has heat 1, the right 0; divided by the mean, 2 and 0.
    assert np.allclose(terms["coherence"], [0.5 * 2, -0.5 * 0.8 * 2], atol=0.05)
    assert not score(image, TextFeatures(query, query), coherence_weight=0).terms["coherence"].any()


def test_cells_hold_the_covered_share() -> None:
    masks = np.zeros((1, 56, 84), bool)
    masks[0, :3, :3] = True
    cells = compute_geometry(masks).cells
    assert cells is not None
    assert cells.shape == (1, GRID_SIDE, GRID_SIDE)
    # A cell is two rows high and three columns wide.
    assert np.allclose(cells[0, :2, :2], [[1.0, 0.0], [0.5, 0.0]])
    assert np.isclose(cells.sum() * 6, masks.sum())


@pytest.mark.parametrize("size", [(8, 8), (9, 31), (28, 28), (100, 57)])
def test_cells_of_images_of_any_size(size: tuple[int, int]) -> None:
    masks = np.ones((2, *size), bool)
    cells = compute_geometry(masks).cells
    assert cells is not None
    assert np.allclose(cells, 1)


def test_three_views_are_mixed_by_their_weights() -> None:
    rows = [np.tile(v, (1, 1)) for v in (unit(2, 0, 0), unit(0, 3, 0), unit(0, 0, 4))]
    mixed = mix_views(VisualFeatures(*rows), CONFIG)
    assert np.allclose(mixed[0], unit(0.4, 0.6, CONFIG.region_weight), atol=1e-6)
    two = mix_views(VisualFeatures(*rows[:2]), CONFIG)
    assert np.allclose(two[0], unit(0.4, 0.6, 0), atol=1e-6)


def test_what_fills_the_image_is_none_of_several() -> None:
    masks = np.ones((3, 40, 40), bool)
    masks[1:] = False
    masks[1, :10, :10] = True
    masks[2, 30:, 30:] = True
    geometry = compute_geometry(masks)
    found = find_instances(np.array([0.9, 0.88, 0.87], np.float32), geometry, CONFIG)
    assert found.tolist() == [1, 2]


def tiny_visual() -> ClipVisual:
    torch.manual_seed(0)
    tower = VisionTransformer(
        image_size=32, patch_size=8, width=32, layers=3, heads=4, mlp_ratio=2.0, output_dim=16
    )
    for parameter in tower.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return ClipVisual(tower.eval(), "tiny", "cpu", torch.float32, 2)


def test_dense_features_equal_a_plain_computation() -> None:
    """Head by head, place by place, written without the blocks' helpers."""
    visual = tiny_visual()
    tower = visual.tower
    assert isinstance(tower, VisionTransformer)
    images = torch.randn(3, 3, 32, 32)
    dense = visual.encode_dense(images)
    assert dense.shape == (3, 4, 4, 16)
    with torch.no_grad():
        tokens = tower._embeds(images)
        *blocks, last = tower.transformer.resblocks
        for block in blocks:
            tokens = block(tokens)
        seen = last.ln_1(tokens)
        weight, bias = last.attn.in_proj_weight, last.attn.in_proj_bias
        q, k, v = (
            seen @ weight[i * 32 : i * 32 + 32].T + bias[i * 32 : i * 32 + 32] for i in range(3)
        )
        heads = []
        for head in range(4):
            part = slice(head * 8, head * 8 + 8)
            same = [
                F.softmax(x[..., part] @ x[..., part].transpose(1, 2) / 8**0.5, -1) for x in (q, k)
            ]
            heads.append((same[0] + same[1]) / 2 @ v[..., part])
        mixed = torch.cat(heads, -1) @ last.attn.out_proj.weight.T + last.attn.out_proj.bias
        expected = tower.ln_post(mixed[:, 1:]) @ tower.proj
    assert torch.allclose(dense.flatten(1, 2), expected, atol=1e-4)


def test_tiles_lie_where_they_were_cut() -> None:
    """A bright quarter of the image changes its own places alone."""
    visual = tiny_visual()
    dark = np.zeros((64, 64, 3), np.uint8)
    bright = dark.copy()
    bright[:32, 32:] = 255
    change = (encode_places(visual, bright, 2) - encode_places(visual, dark, 2)).abs().sum(-1)
    assert change.shape == (8, 8)
    # The tile's edge is smoothed by resizing, by a pixel.
    assert change[:4, 4:].min() > 10 * change[4:, :4].max()


def test_regions_are_means_of_their_places() -> None:
    visual = tiny_visual()
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    masks = np.zeros((3, 64, 64), bool)
    masks[0] = True
    masks[1, :32] = True
    masks[2, 40, 40] = True
    places, regions = encode_regions(visual, pixels, masks, (1, 2, 3))
    assert places.shape == (8, 8, 16)
    whole = sum(encode_places(visual, pixels, n).mean((0, 1)) for n in (1, 2, 3))
    assert np.allclose(regions[0], whole, atol=1e-4)
    # A mask smaller than any place is the place it lies in.
    small = sum(
        encode_places(visual, pixels, n)[int(40 / 64 * 4 * n), int(40 / 64 * 4 * n)]
        for n in (1, 2, 3)
    )
    assert np.allclose(regions[2], small, atol=1e-3)


def test_a_map_in_little_room_keeps_its_directions() -> None:
    rng = np.random.default_rng(1)
    places = (rng.normal(size=(28 * 28, 20)) @ rng.normal(size=(20, 512))).astype(np.float32)
    packed = build_patch_map(places.reshape(28, 28, 512))
    exact = places / np.linalg.norm(places, axis=1, keepdims=True)
    assert (packed.unit_rows * exact).sum(axis=1).min() > 0.999
    assert sum(array.nbytes for array in packed.to_arrays().values()) < 70_000


def test_rounding_rows_again_changes_nothing() -> None:
    rows = np.random.default_rng(2).normal(size=(50, 512)).astype(np.float32)
    rows[3] = 0
    once = round_rows(rows)
    assert np.array_equal(round_rows(once), once)
    assert np.array_equal(restore_rows(*quantise(once)), once)
    assert np.abs(once - rows).max() < 0.02


def test_an_image_answers_alike_from_the_cache(tmp_path: Path) -> None:
    image = prepared_image()
    rng = np.random.default_rng(3)
    looks = rng.normal(size=(5, 24)).astype(np.float32)
    places = rng.normal(size=(GRID_SIDE, GRID_SIDE, 24)).astype(np.float32)
    features = VisualFeatures(looks, looks, looks + 1, build_patch_map(places)).rounded()
    image = replace(image, features=features)
    cache = PreparedCache(tmp_path, "key", 10**9)
    cache.store(image)
    loaded = cache.load(image.sha256)
    assert loaded is not None
    query = unit(*rng.normal(size=24))
    text = TextFeatures(query, query, query[None])
    nouns = rng.normal(size=(40, 24)).tolist()
    before, after = (score(one, text, nouns[:20], nouns[20:]) for one in (image, loaded))
    assert np.array_equal(before.total, after.total)
    assert set(before.terms) >= {"negatives", "coherence"}


def test_images_prepared_by_an_earlier_version_have_neither(tmp_path: Path) -> None:
    image = prepared_image()
    query = unit(1, 0)
    text = TextFeatures(query, query, query[None])
    scores = score(image, text)
    assert image.features.places is None
    assert not scores.terms["coherence"].any()
    assert np.isfinite(scores.total).all()


def test_a_png_of_one_colour_has_finite_places() -> None:
    visual = tiny_visual()
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), (9, 9, 9)).save(buffer, "PNG")
    pixels = np.asarray(Image.open(buffer))
    assert np.isfinite(build_patch_map(encode_places(visual, pixels, 2).numpy()).unit_rows).all()
