"""Fitting weights to decisions: the optimum, honesty about gains, the file that carries them."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from saymask.datasets import Dataset, load_dataset
from saymask.errors import ConfigError, DatasetError
from saymask.masks import encode_coco_rle
from saymask_worker.config.pipeline import PipelineConfig
from saymask_worker.config.scoring import ScoringConfig, load_scoring, write_scoring
from saymask_worker.evaluation.tuning.fit import (
    TERMS,
    Observation,
    apply_factors,
    fit_factors,
    observe,
)
from saymask_worker.evaluation.tuning.tune import compute_calibration_error, tune
from saymask_worker.images.types import Scores, to_float32
from tests.refcoco import write_refcoco
from tests.worker.scenes import prepared_image


def draw_observations(count: int, seed: int, factor: float) -> list[Observation]:
    """Expressions whose right proposal is drawn with the area counting ``factor`` times."""
    chance = np.random.default_rng(seed)
    observations = []
    for _ in range(count):
        terms = {
            name: to_float32(chance.normal(0, 1, 8)) for name in ("appearance", "area", "place")
        }
        score = terms["appearance"] + factor * terms["area"] + terms["place"]
        probabilities = np.exp(score) / np.exp(score).sum()
        is_right = np.zeros(8, bool)
        is_right[chance.choice(8, p=probabilities)] = True
        observations.append(observe(terms, is_right))
    return observations


def test_the_factor_that_made_the_decisions_is_found() -> None:
    factors = fit_factors(draw_observations(2000, 1, 2.0))
    assert factors["area"] == pytest.approx(2.0, rel=0.15)
    assert factors["place"] == pytest.approx(1.0, rel=0.15)
    assert factors["pair"] == pytest.approx(1.0), "a term that never occurs stays"


def test_few_decisions_change_little() -> None:
    assert fit_factors([]) == dict.fromkeys(TERMS, 1.0)
    few = fit_factors(draw_observations(5, 2, 3.0))
    assert all(0.6 < factor < 1.7 for factor in few.values()), few


def test_the_optimum_is_that_of_a_solver_without_gradients() -> None:
    observations = draw_observations(60, 3, 1.7)

    def loss(parameters: Any) -> float:
        area, place, scale = np.exp(parameters)
        total = float((parameters[:2] ** 2).sum() / (2 * 0.4**2) + parameters[2] ** 2 / 2)
        for seen in observations:
            rows = dict(zip(TERMS, seen.terms, strict=True))
            logits = scale * (seen.fixed + area * rows["area"] + place * rows["place"])
            total -= float(np.log(np.exp(logits)[seen.is_right].sum() / np.exp(logits).sum()))
        return total

    reference = minimize(loss, np.zeros(3), method="Nelder-Mead", options={"xatol": 1e-6})
    factors = fit_factors(observations)
    assert np.log([factors["area"], factors["place"]]) == pytest.approx(reference.x[:2], abs=2e-3)


def test_factors_scale_the_weights_of_their_term() -> None:
    base = ScoringConfig()
    scaled = apply_factors(base, {"comparison": 2.0, "area": 0.5})
    assert scaled.side_weight == 2 * base.side_weight
    assert scaled.ordinal_weight == 2 * base.ordinal_weight
    assert scaled.area_weight == 0.125
    assert replace(
        scaled, area_weight=base.area_weight, side_weight=base.side_weight,
        ordinal_weight=base.ordinal_weight, size_weight=base.size_weight,
        row_weight=base.row_weight, relation_weight=base.relation_weight,
    ) == base  # fmt: skip


def test_calibration_error_by_hand() -> None:
    probabilities = np.array([0.05, 0.15, 0.15, 0.95])
    is_right = np.array([False, True, False, True])
    assert compute_calibration_error(probabilities, is_right) == pytest.approx(
        (0.05 + abs(0.3 - 1) + 0.05) / 4
    )


@dataclass
class Decided:
    """A pipeline whose proposals are right by chance, or where the area says so."""

    config: PipelineConfig
    informative: bool

    def load_prepared(self, sha256: str) -> Any:
        image = prepared_image()
        masks = np.zeros((5, 48, 64), bool)
        for index in range(5):
            masks[index, 4:20, 12 * index : 12 * index + 10] = True
        masks[1] = False
        masks[1, 8:28, 40:60] = True
        proposals = replace(image.proposals, masks=masks, size_hw=(48, 64))
        return replace(image, sha256=sha256, proposals=proposals)

    def rank(self, prepared: Any, text: str) -> tuple[None, Scores]:
        chance = np.random.default_rng(int(prepared.sha256[:8], 16) + len(text))
        area = np.full(5, -1.0, np.float32)
        area[1 if self.informative else chance.integers(5)] = 1.0
        appearance = to_float32(chance.normal(0, 1.2, 5))
        terms = {
            "appearance": appearance,
            "area": to_float32(self.config.scoring.area_weight * area),
        }
        total = appearance + terms["area"]
        presence = float(chance.normal(-5 if "unicorn" in text else -1, 1))
        return None, Scores(total, terms, np.argsort(-total, kind="stable"), presence)


@pytest.fixture(scope="module")
def decided(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Thirty photos; the right square is meant every time."""
    root = write_refcoco(tmp_path_factory.mktemp("decided") / "set", count=45)
    dataset = load_dataset("refcoco", root, None)
    images = tuple(
        replace(image, expressions=tuple(e for e in image.expressions if "DOG" in e.text))
        for image in dataset.images
    )
    return replace(dataset, images=images)


def test_a_term_that_helps_gains_weight_and_is_measured_elsewhere(decided: Dataset) -> None:
    pipeline: Any = Decided(PipelineConfig(), informative=True)
    seen: list[tuple[int, int]] = []
    tuning = tune(pipeline, decided, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (45, 45)
    assert tuning.is_sure
    assert tuning.gain.low > 0
    assert tuning.scoring.area_weight > 1.5 * ScoringConfig().area_weight
    assert tuning.decisions == (45, 0)
    assert tuning.no_referent is None
    assert tuning.scoring.no_referent_below == ScoringConfig().no_referent_below
    assert tuning.gain.mean > 0


def test_a_gain_that_is_not_sure_changes_no_weight(decided: Dataset) -> None:
    pipeline: Any = Decided(PipelineConfig(), informative=False)
    tuning = tune(pipeline, decided, lambda *_: None)
    assert not tuning.is_sure
    assert replace(tuning.scoring, lead_offset=-0.51, lead_slope=1.32) == ScoringConfig()
    before, after = tuning.calibration_error
    assert after < before, "the confidence is fitted all the same"


def test_the_threshold_keeps_nine_of_ten_answers(decided: Dataset) -> None:
    nothing = encode_coco_rle(np.zeros((48, 64), bool))
    images = tuple(
        replace(image, expressions=(
            *image.expressions,
            replace(image.expressions[0], id="none", text="a unicorn", target=nothing, parts=()),
        ))
        for image in decided.images
    )  # fmt: skip
    pipeline: Any = Decided(PipelineConfig(), informative=True)
    tuning = tune(pipeline, replace(decided, images=images), lambda *_: None)
    assert tuning.decisions == (45, 45)
    assert tuning.no_referent is not None
    n_accuracy, t_accuracy = tuning.no_referent
    assert t_accuracy >= 0.88
    assert n_accuracy >= 0.9, "their log-odds lie four deviations apart"
    assert 0 < tuning.scoring.no_referent_below < 1


def test_too_few_decisions_are_refused(tmp_path: Path) -> None:
    dataset = load_dataset("refcoco", write_refcoco(tmp_path / "set", count=4), None)
    pipeline: Any = Decided(PipelineConfig(), informative=True)
    with pytest.raises(DatasetError, match="8 decisions with a mask, on 4 photos"):
        tune(pipeline, dataset, lambda *_: None)


@given(
    st.builds(
        ScoringConfig,
        area_weight=st.floats(0, 9), lead_slope=st.floats(0, 9), negatives_min=st.integers(1, 99),
    )
)  # fmt: skip
def test_a_file_carries_every_weight(tmp_path_factory: Any, scoring: ScoringConfig) -> None:
    path = tmp_path_factory.mktemp("scoring") / "scoring.json"
    write_scoring(path, scoring, "abc", {"why": "test"})
    assert load_scoring(path, "abc") == scoring
    assert json.loads(path.read_text("utf-8"))["fitted"] == {"why": "test"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ('{"encoder": "abc"}', "cannot be read"),
        ('{"encoder": "other", "scoring": {}}', "fitted to another encoder"),
        ('{"encoder": "abc", "scoring": {"charm": 1.0}}', "charm"),
        ('{"encoder": "abc", "scoring": {"area_weight": "1"}}', "area_weight"),
        ('{"encoder": "abc", "scoring": {"area_weight": true}}', "area_weight"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "scoring.json"
    path.write_text(content, "utf-8")
    with pytest.raises(ConfigError, match=message):
        load_scoring(path, "abc")


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", "utf-8")
    with pytest.raises(ConfigError, match="cannot be written"):
        write_scoring(tmp_path / "file" / "scoring.json", ScoringConfig(), "abc", {})
