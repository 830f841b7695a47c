"""Metrics against recorded numbers and the authors' own."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from saymask.intervals import bootstrap_difference, bootstrap_mean
from saymask.masks import decode_coco_rle
from saymask_worker.evaluation.answers import ImageAnswers
from saymask_worker.evaluation.metrics import (
    Pixels,
    classify_answer,
    compute_expression_ious,
    compute_no_target_accuracy,
    compute_oiou,
    compute_summary,
    count_pixels,
    find_category,
)
from saymask_worker.evaluation.results import build_results
from tests.conftest import DATA
from tests.refcoco import square

GOLDEN = json.loads((DATA / "metrics.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def pairs() -> tuple[Pixels, NDArray[np.bool_]]:
    """All recorded pairs, and whether each was answered at all."""
    counts, answered = [], []
    for pair in GOLDEN["pairs"]:
        answer, target = (decode_coco_rle(pair[name]) for name in ("prediction", "target"))
        counts.append((*count_pixels(answer, target), int(target.sum())))
        answered.append(answer.any())
    columns = np.asarray(counts, dtype=np.int64).T
    return Pixels(*columns), np.asarray(answered)


def test_pixels_equal_the_recorded_ones(pairs: tuple[Pixels, Any]) -> None:
    assert pairs[0].intersection.tolist() == [p["intersection"] for p in GOLDEN["pairs"]]
    assert pairs[0].union.tolist() == [p["union"] for p in GOLDEN["pairs"]]


@pytest.mark.parametrize("convention", GOLDEN["conventions"])
def test_metrics_equal_the_recorded_ones(convention: str, pairs: tuple[Pixels, Any]) -> None:
    want = GOLDEN["conventions"][convention]
    empty, sign = convention.split("|")
    got = compute_summary(
        pairs[0], strict=sign == ">", empty="skip" if empty.startswith("skip") else "zero"
    )
    assert got.count == want["n"]
    assert got.oiou == pytest.approx(want["oIoU"], abs=1e-12)
    assert got.miou == pytest.approx(want["mIoU"], abs=1e-12)
    assert got.precision == {x: pytest.approx(want[f"Pr@{x}"]) for x in got.precision}


def test_metrics_equal_the_authors_own(pairs: tuple[Pixels, Any]) -> None:
    reference = GOLDEN["reference"]["gl_clip_Compute_IoU"]
    got = compute_summary(pairs[0], empty="zero")
    # Theirs accumulate in float32.
    assert 100 * got.oiou == pytest.approx(reference["oIoU_percent"], abs=1e-4)
    assert 100 * got.miou == pytest.approx(reference["mIoU_percent"], abs=1e-4)
    assert got.miou == pytest.approx(GOLDEN["reference"]["cris_inference"]["iou"], abs=1e-6)


def test_no_target_metrics(pairs: tuple[Pixels, NDArray[np.bool_]]) -> None:
    pixels, answered = pairs
    want = GOLDEN["gres"]
    np.testing.assert_allclose(compute_expression_ious(pixels, "one"), want["per_pair"], atol=1e-6)
    assert compute_expression_ious(pixels, "one").mean() == pytest.approx(want["gIoU"])
    assert compute_oiou(pixels, "one") == pytest.approx(want["cIoU"])
    assert compute_no_target_accuracy(pixels.target > 0, answered) == (
        pytest.approx(want["N_acc"]),
        pytest.approx(want["T_acc"]),
    )


def test_bootstrap_draws_photos_and_pairs_results() -> None:
    images = np.repeat(np.arange(40), 5)
    rng = np.random.default_rng(1)
    per_image = np.repeat(rng.random(40), 5)
    together = bootstrap_mean(per_image, images)
    apart = bootstrap_mean(per_image, np.arange(200))
    assert together.mean == pytest.approx(per_image.mean())
    # Five equal values of one photo are one observation, not five.
    assert together.high - together.low > 1.8 * (apart.high - apart.low)
    noisy = per_image + rng.normal(0, 0.01, 200)
    difference = bootstrap_difference(noisy + 0.05, noisy, images)
    assert difference.low == pytest.approx(0.05) == difference.high
    assert bootstrap_mean(np.array([1.0, np.nan]), np.array([0, 1])).mean == 1.0


def test_every_kind_of_error() -> None:
    target, other, far = square(4, 4, 20), square(40, 4, 20), square(40, 30, 10)
    instances = [("cat", target), ("cat", other), ("dog", far)]

    def kind(answer: NDArray[np.bool_] | None, oracle: float = 1.0) -> str:
        return classify_answer(answer, target, "cat", instances, oracle)

    assert kind(square(4, 4, 19)) == "right"
    assert kind(square(6, 6, 8)) == "part"
    assert kind(square(0, 0, 40)) == "too much"
    assert kind(other) == "wrong one of the same noun"
    assert kind(far) == "wrong noun"
    assert kind(far, oracle=0.4) == "no proposal"
    assert kind(None) == "no proposal"
    assert classify_answer(far, target & False, None, instances, 0.0) == "no target"
    assert find_category(square(62, 46, 2), instances) is None


def test_photos_without_proposals_count_as_zero() -> None:
    empty = ImageAnswers.model_validate(
        {
            "photo": "a.jpg", "proposals": 0,
            "expressions": [{"id": "1", "text": "cat", "kind": None, "target_px": 10,
                "oracle_iou": 0.0, "answers": {"m": {"top": [], "kind": "no proposal",
                "same_category": None, "score": 0.0, "gap": 1.0}}}],
        }
    )  # fmt: skip
    good = empty.model_copy(
        update={"image": "b.jpg", "proposals": 1, "expressions": (
            empty.expressions[0].model_copy(update={"oracle_iou": 1.0, "answers": {
                "m": empty.expressions[0].answers["m"].model_copy(
                    update={"top": ((10, 10),), "kind": "right"})}}),)}
    )  # fmt: skip
    (method,) = build_results([empty, good], {}).methods
    assert (method.miou.mean, method.miou_skipping) == (0.5, 1.0)
    assert method.oiou.mean == 0.5
