"""Clicks and boxes on real MobileSAM: equal to segment-anything's own predictor, and useful."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor
from segment_anything.modeling import Sam

from saymask.contract import MAX_K
from saymask.errors import ConfigError, InvalidRequest
from saymask.masks import Mask, compute_iou, decode_coco_rle
from saymask_worker.config.pipeline import ClicksConfig
from saymask_worker.images.decode import decode_image
from saymask_worker.images.types import DecodedImage, VisualPrompt
from saymask_worker.masks.clicks import ClickSegmenter, EmbeddedImage
from saymask_worker.masks.load import load_sam
from saymask_worker.pipeline.pipeline import Pipeline
from saymask_worker.weights.store import WeightStore
from tests.weights import require_weights
from tests.worker.test_pipeline import build

pytestmark = pytest.mark.slow

CAT = (130.0, 150.0)
BACKGROUND = (448.0, 10.0)


@pytest.fixture(scope="module")
def sam() -> Sam:
    require_weights()
    return load_sam("mobile-sam", WeightStore().require("mobile-sam"))


@pytest.fixture(scope="module")
def photo(samples: dict[str, Path]) -> DecodedImage:
    return decode_image(samples["chelsea"].read_bytes())


@pytest.fixture(scope="module")
def predictor(sam: Sam, photo: DecodedImage) -> SamPredictor:
    predictor = SamPredictor(sam)
    predictor.set_image(np.array(photo.pixels))
    return predictor


@pytest.fixture(scope="module")
def embedded(predictor: SamPredictor, photo: DecodedImage) -> EmbeddedImage:
    """The predictor's own embedding: it resizes the photo with another filter than we do."""
    return EmbeddedImage(
        photo.sha256, predictor.get_image_embedding(), predictor.input_size, photo.size_hw
    )


def prompt(
    *points: tuple[float, float, bool], box: tuple[float, float, float, float] | None = None,
    start: Mask | None = None,
) -> VisualPrompt:  # fmt: skip
    return VisualPrompt(
        tuple((x, y) for x, y, _ in points), tuple(p for *_, p in points), box, start
    )


@pytest.mark.parametrize(
    "asked",
    [
        prompt((*CAT, True)),
        prompt((*CAT, True), (*BACKGROUND, False)),
        prompt((*CAT, True), (300.0, 60.0, True), (20.0, 20.0, False)),
        prompt(box=(10.0, 20.0, 400.0, 290.0)),
        prompt((*CAT, True), box=(10.0, 20.0, 400.0, 290.0)),
    ],
)
def test_equal_to_segment_anything_s_predictor(
    sam: Sam, predictor: SamPredictor, embedded: EmbeddedImage, asked: VisualPrompt
) -> None:
    ours = ClickSegmenter(sam, torch.float32, ClicksConfig()).answer(embedded, asked)
    single = len(asked.points_xy) != 1 or asked.box_xyxy is not None
    masks, qualities, _ = predictor.predict(
        point_coords=np.array(asked.points_xy) if asked.points_xy else None,
        point_labels=np.array(asked.positive).astype(int) if asked.points_xy else None,
        box=np.array(asked.box_xyxy) if asked.box_xyxy else None,
        multimask_output=not single,
    )
    best = int(np.argmax(qualities))
    assert compute_iou(ours[0].mask, masks[best]) > 0.9999
    assert ours[0].probability == pytest.approx(min(float(qualities[best]), 1), abs=1e-4)


def test_a_mask_to_start_from_is_changed_where_one_clicks(
    sam: Sam, embedded: EmbeddedImage
) -> None:
    segmenter = ClickSegmenter(sam, torch.float32, ClicksConfig())
    cat = segmenter.answer(embedded, prompt((*CAT, True), (300.0, 60.0, True)))[0].mask
    hurt = cat.copy()
    hurt[:, :120] = False
    mended = segmenter.answer(embedded, prompt((60.0, 200.0, True), start=hurt))
    assert max(compute_iou(answer.mask, cat) for answer in mended) > compute_iou(hurt, cat) + 0.05
    assert len(mended) <= 4
    for number, answer in enumerate(mended):
        assert answer.mask.shape == cat.shape
        assert all(compute_iou(answer.mask, other.mask) < 0.9 for other in mended[:number])
    inside = segmenter.answer(embedded, prompt((300.0, 150.0, True), start=cat))
    assert compute_iou(inside[0].mask, cat) > 0.8, "what is inside changes the mask it is in"


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return build(tmp_path_factory.mktemp("prepared"), points_per_side=6)


def test_the_pipeline_answers_clicks(pipeline: Pipeline, samples: dict[str, Path]) -> None:
    photo = pipeline.embed(samples["chelsea"].read_bytes())
    result = pipeline.refine(photo, "the cat", prompt((*CAT, True)), 3, from_cache=False)
    assert 1 <= len(result.candidates) <= 3
    assert [c.rank for c in result.candidates] == list(range(1, len(result.candidates) + 1))
    assert result.head_noun_phrase == "the cat"
    for candidate in result.candidates:
        mask = decode_coco_rle(candidate.mask.as_dict())
        assert mask.shape == (300, 451)
        assert mask[int(CAT[1]), int(CAT[0])]
    nameless = pipeline.refine(photo, "", prompt(box=(0, 0, 300, 290)), MAX_K, from_cache=True)
    assert nameless.head_noun_phrase is None


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (prompt(), "no click and no box"),
        (prompt((500.0, 10.0, True)), "outside the photo of 451 x 300"),
        (prompt((5.0, 10.0, True), start=np.ones((2, 2), bool)), "mask to start from"),
    ],
)
def test_prompts_that_fit_no_photo(
    pipeline: Pipeline, embedded: EmbeddedImage, asked: VisualPrompt, message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        pipeline.refine(embedded, "the cat", asked, 3, from_cache=True)


def test_without_a_model_it_says_so(pipeline: Pipeline, samples: dict[str, Path]) -> None:
    bare = replace(pipeline, clicks=None)
    with pytest.raises(ConfigError, match="no segment-anything model"):
        bare.embed(samples["chelsea"].read_bytes())
