"""Candidates of several sources: one scale, one order, and none that stops the others."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rq.timeouts import JobTimeoutException
from sklearn.linear_model import LogisticRegression

from saymask.errors import ConfigError, WeightsError
from saymask.masks import compute_iou, decode_coco_rle
from saymask.model_registry import ModelRegistry
from saymask_worker.config.pipeline import (
    NO_DEDUPLICATION,
    PipelineConfig,
    SourcesConfig,
    to_method,
)
from saymask_worker.images.types import DecodedImage, Proposals, Scores
from saymask_worker.masks.sources import load as load_module
from saymask_worker.masks.sources.base import CandidateSource, SourceContext, SourceMask
from saymask_worker.masks.sources.load import load_sources
from saymask_worker.masks.sources.offers import Offers, clean_mask, collect_offers
from saymask_worker.pipeline.candidates import rank_proposals, rank_together, rank_with_offers
from saymask_worker.ranking.confidence import Curve, fit_curve
from saymask_worker.training.source import ServedSource
from saymask_worker.weights import WeightStore
from tests.worker.scenes import scene

CONFIG = SourcesConfig()
IMAGE = DecodedImage(np.zeros((60, 200, 3), np.uint8), "a" * 64)


def block(x: int, width: int = 20, size: tuple[int, int] = (60, 200)) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[20:40, x : x + width] = True
    return mask


class Fixed:
    """A source that offers what it is given, or raises it."""

    def __init__(self, name: str, offered: Sequence[SourceMask] | Exception) -> None:
        self.name, self.fingerprint, self._offered = name, "1", offered

    def segment(self, image: DecodedImage, expression: str) -> Sequence[SourceMask]:
        if isinstance(self._offered, Exception):
            raise self._offered
        return self._offered


def collect(*sources: CandidateSource, expression: str = "the box", strict: bool = False) -> Offers:
    return collect_offers(
        sources, lambda s: s.segment(IMAGE, expression), IMAGE.size_hw, CONFIG, strict=strict
    )


def contend(source: str, x: int, probability: float) -> SourceMask:
    return SourceMask(block(x), probability, source=source)


def build_nameless(context: SourceContext) -> CandidateSource:
    return Fixed("", [])


def test_sources_that_agree_support_each_other() -> None:
    contenders = [
        contend("proposals", 10, 0.5),
        contend("proposals", 60, 0.4),
        contend("cris", 62, 0.3),
    ]
    (first, both), (second, alone) = rank_together(contenders, 0.7)
    assert first == 1, "the more probable mask stays"
    assert both == pytest.approx(1 - 0.6 * 0.7)
    assert (second, alone) == (0, 0.5)


def test_masks_of_one_source_are_never_taken_together() -> None:
    contenders = [contend("proposals", 10 + i, 0.5 - 0.1 * i) for i in range(3)]
    expected = [(i, contender.probability) for i, contender in enumerate(contenders)]
    assert rank_together(contenders, 0.7) == expected


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(0, 170), st.floats(0, 1, width=16)),
        max_size=9,
    )
)
def test_ranking_keeps_every_object_once(drawn: list[tuple[str, int, float]]) -> None:
    contenders = [contend(*one) for one in drawn]
    ranked = rank_together(contenders, 0.7)
    probabilities = [p for _, p in ranked]
    assert probabilities == sorted(probabilities, reverse=True)
    assert all(0 <= p <= 1 for p in probabilities)
    for index, contender in enumerate(contenders):
        kept = [p for i, p in ranked if i == index]
        same = [p for i, p in ranked if compute_iou(contenders[i].mask, contender.mask) >= 0.7]
        assert kept or same, "what is left out is there in another mask"
        assert max(kept or same) >= contender.probability


def test_specks_and_pinholes_go_and_small_masks_are_dropped() -> None:
    mask = block(20, 60)
    dirty = mask.copy()
    dirty[2, 2] = dirty[50, 190] = True
    dirty[30, 40] = False
    assert (clean_mask(dirty, CONFIG) == mask).all()
    two = block(20) | block(100)
    assert (clean_mask(two, CONFIG) == two).all(), "a referent may have several large parts"
    full = np.ones((60, 200), bool)
    pierced = full.copy()
    pierced[30, 100] = False
    assert (clean_mask(pierced, CONFIG) == full).all(), "the hole is all that is outside"
    specks = np.zeros((60, 200), bool)
    specks[::4, ::4] = True
    specks[1, 1] = True
    assert np.argwhere(clean_mask(specks, CONFIG)).size, "of specks alone the largest stays"
    tiny = np.zeros((60, 200), bool)
    tiny[3, 3] = True
    for mask in (np.zeros((60, 200), bool), tiny):
        assert collect(Fixed("small", [SourceMask(mask, 0.6)])).masks == ()


def test_a_grid_of_dots_leaves_the_candidate_of_a_proposal_and_not_its_score() -> None:
    plain = block(20, 60)
    dotted = plain.copy()
    dotted[22:38:3, 22:78:3] = False
    dotted[2:18:4, 100:180:4] = True
    occluded = block(20, 30) | block(60, 10)
    quality = np.full(2, 0.9, np.float32)
    proposals = Proposals(
        np.stack([dotted, occluded]), quality, quality, quality, quality, (60, 200)
    )
    scores = Scores(np.array([3.0, 2.0], np.float32), {}, np.array([0, 1]))
    candidates = rank_proposals(proposals, scores, None, [0, 1], CONFIG)
    for candidate, mask in zip(candidates, (plain, occluded), strict=True):
        assert (decode_coco_rle(candidate.mask.as_dict()) == mask).all()
    assert [candidate.score for candidate in candidates] == [3.0, 2.0]
    published = to_method(PipelineConfig(), "faithful").sources
    first = rank_proposals(proposals, scores, None, [0], published)[0]
    assert (decode_coco_rle(first.mask.as_dict()) == dotted).all(), "as published"


def test_a_source_that_fails_is_named_and_the_others_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    good = Fixed("good", [SourceMask(block(10), 0.6)])
    sources = [
        Fixed("without-weights", WeightsError("The weights are missing.", "Pull them.")),
        Fixed("buggy", ZeroDivisionError("division by zero")),
        Fixed("of-another-size", [SourceMask(block(10, size=(60, 100)), 0.6)]),
        Fixed("too-sure", [SourceMask(block(10), 1.5)]),
        good,
    ]
    offers = collect(*sources)
    assert [offer.source for offer in offers.masks] == ["good"]
    assert (
        offers.notices[0] == "The source without-weights is unavailable: The weights are missing."
    )
    assert ["buggy" in n or "size" in n or "sure" in n for n in offers.notices[1:]] == [True] * 3
    assert "division by zero" in caplog.text
    assert "expected a bool mask (60, 200), got bool (60, 100)" in caplog.text
    assert "expected a probability from 0 to 1, got 1.5" in caplog.text


def test_what_concerns_the_worker_is_not_a_source_s_failure() -> None:
    for error in (torch.OutOfMemoryError("full"), JobTimeoutException("late")):
        with pytest.raises(type(error)):
            collect(Fixed("s", error))
    with pytest.raises(ZeroDivisionError):
        collect(Fixed("s", ZeroDivisionError()), strict=True)


def test_a_source_with_nothing_to_offer_is_not_asked() -> None:
    source = Fixed("idle", AssertionError("asked"))
    source.fingerprint = ""
    assert collect(source).masks == ()


def test_one_list_of_proposals_and_offers() -> None:
    masks, _, _ = scene()
    quality = np.full(5, 0.9, np.float32)
    proposals = Proposals(masks, quality, quality, quality, quality, (120, 400))
    total = np.array([3.0, 2.0, 1.0, 0.0, -1.0], np.float32)
    scores = Scores(total, {}, np.argsort(-total))
    probabilities = np.array([0.6, 0.2, 0.1], np.float32)
    large = np.repeat(np.repeat(masks[3], 2, axis=0), 2, axis=1)
    agreed = np.repeat(np.repeat(masks[1], 2, axis=0), 2, axis=1)
    offers = [SourceMask(large, 0.7, source="cris"), SourceMask(agreed, 0.5, source="mine")]
    ranking = rank_with_offers(
        proposals, [0, 1, 2], probabilities, offers, 3, CONFIG, NO_DEDUPLICATION
    )
    assert [c.source for c in ranking] == ["cris", "proposals", "mine"]
    assert [c.rank for c in ranking] == [1, 2, 3]
    assert ranking[0].confidence == pytest.approx(0.7)
    assert ranking[0].score == pytest.approx(np.log(0.7 / 0.3), abs=1e-5)
    assert ranking[2].score == pytest.approx(np.log(0.6 / 0.4), abs=1e-5), "1 - .8 * .5"
    for candidate, mask in zip(ranking, (large, None, agreed), strict=True):
        decoded = decode_coco_rle(candidate.mask.as_dict())
        assert decoded.shape == (120, 400)
        assert mask is None or (decoded == mask).all()
    alone = rank_proposals(proposals, scores, probabilities, [0, 1], CONFIG)
    assert [c.score for c in alone] == [3.0, 2.0]
    assert [c.confidence for c in alone] == pytest.approx([0.6, 0.2])
    nothing = rank_with_offers(
        proposals.take(np.array([], np.intp)),
        [],
        probabilities[:0],
        [],
        3,
        CONFIG,
        NO_DEDUPLICATION,
    )
    assert nothing == ()


def test_the_documented_example_is_found_through_its_entry_point(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "examples" / "own_source")
    mine = EntryPoint("left-edge", "left_edge:build", "saymask.sources")
    nameless = EntryPoint("nameless", "tests.worker.test_sources:build_nameless", "saymask.sources")
    broken = EntryPoint("broken", "left_edge:missing", "saymask.sources")
    monkeypatch.setattr(
        load_module,
        "entry_points",
        lambda group: EntryPoints([mine, nameless, broken]).select(group=group),
    )
    (source,) = load_sources("proposals,left-edge:0.25", SourceContext("", "cpu", tmp_path))
    assert source.segment(IMAGE, "the box") == []
    (offered,) = source.segment(IMAGE, "what is at the left edge")
    assert offered.mask.sum() == 60 * 50
    offers = collect(source, expression="what is at the left edge")
    assert [offer.source for offer in offers.masks] == ["left-edge"]
    assert load_sources(" proposals ", SourceContext("", "cpu", tmp_path)) == ()
    with pytest.raises(ConfigError, match="lacks proposals"):
        load_sources("left-edge:0.25", SourceContext("", "cpu", tmp_path))
    with pytest.raises(ConfigError, match="names 'other'"):
        load_sources("proposals,other", SourceContext("", "cpu", tmp_path))
    with pytest.raises(ConfigError, match="cannot be built with ''"):
        load_sources("proposals,left-edge", SourceContext("", "cpu", tmp_path))
    with pytest.raises(ConfigError, match="calls itself ''"):
        load_sources("proposals,nameless", SourceContext("", "cpu", tmp_path))
    with pytest.raises(ConfigError, match=r"broken .* cannot be imported"):
        load_sources("proposals,broken", SourceContext("", "cpu", tmp_path))


def test_saymask_s_own_sources_are_installed(tmp_path: Path) -> None:
    (trained,) = load_sources(
        "proposals,trained", SourceContext("", "cpu", tmp_path, tmp_path / "models")
    )
    assert (trained.name, trained.fingerprint) == ("trained", "")
    with pytest.raises(ConfigError, match="needs a folder"):
        load_sources("proposals,cris", SourceContext("", "cpu", tmp_path))
    with pytest.raises(ConfigError, match="no trained model"):
        load_sources(f"proposals,cris:{tmp_path}", SourceContext("", "cpu", tmp_path))


def test_the_served_source_follows_the_registry(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registry = ModelRegistry(tmp_path / "models")
    source = ServedSource(registry, WeightStore(tmp_path), "cpu")
    assert source.fingerprint == ""
    assert source.segment(IMAGE, "the box") == []
    name = registry.create_run()
    folder = registry.model_folder(name)
    folder.mkdir()
    (folder / "model.json").write_text("{}", "utf-8")
    registry.serve(name)
    assert source.fingerprint == "run-0001"
    with pytest.raises(ConfigError, match="no trained model"):
        source.segment(IMAGE, "the box")
    registry.roll_back()
    assert source.fingerprint == ""
    (registry.folder / "serving.json").write_text("{", "utf-8")
    assert [source.fingerprint, source.fingerprint] == ["", ""]
    assert caplog.text.count("no trained model is offered") == 1
    assert ServedSource(None, WeightStore(tmp_path), "cpu").fingerprint == ""


def test_the_curve_is_that_of_scikit_learn() -> None:
    chance = np.random.default_rng(3)
    values = chance.uniform(0, 1, 400)
    is_right = chance.uniform(0, 1, 400) < 1 / (1 + np.exp(3 - 7 * values))
    curve = fit_curve(values.tolist(), is_right.tolist())
    reference = LogisticRegression(C=1e6).fit(values[:, None], is_right)
    # Platt's targets stay clear of 0 and 1, hence the tolerance.
    assert curve.slope == pytest.approx(reference.coef_[0, 0], rel=0.06)
    assert curve.apply(0.4) == pytest.approx(reference.predict_proba([[0.4]])[0, 1], abs=0.02)


@pytest.mark.parametrize("is_right", [[True] * 4, [False] * 4, [True, True, False, False]])
def test_the_curve_of_a_few_outcomes_stays_modest(is_right: list[bool]) -> None:
    curve = fit_curve([0.1, 0.2, 0.8, 0.9], is_right)
    share = sum(is_right) / 4
    assert curve.slope >= 0, "it never falls"
    assert abs(curve.apply(0.5) - share) < 0.2
    assert 0 < curve.apply(0.0) < 1
    assert Curve(0.0, 1.0).apply(0.0) == 0.5
