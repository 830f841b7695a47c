"""The self-test of an encoder: its temperature, its warnings, what is kept on disk."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch

from saymask_worker.config.scoring import GENUINE_SCORING, STARTER_SCORING
from saymask_worker.encoders.base import Encoder
from saymask_worker.encoders.calibration import (
    REFERENCE_SPREAD,
    REFERENCE_TEMPERATURE,
    Calibration,
    adapt_scoring,
    load_calibration,
)
from saymask_worker.encoders.clip_visual import ClipVisual
from saymask_worker.encoders.open_clip_text import OpenClipText
from saymask_worker.encoders.vocabulary import load_encoded_nouns
from saymask_worker.language.nouns import Nouns
from tests.worker.test_golden import load_model

NOUNS = Nouns(("cat", "rocket", "flower"), ("sky",), ("face", "wheel"))


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    """A tiny pair with random weights: its towers do not fit together."""
    model = load_model("vit")
    visual = ClipVisual(model.visual, "vit", "cpu", torch.float32, 8)
    text = OpenClipText(model, open_clip.get_tokenizer("ViT-B-32"), "cpu")
    return Encoder("vit", visual, text, "tiny", GENUINE_SCORING, "tiny pair", False)


def test_the_temperature_of_a_pair_follows_its_spread(encoder: Encoder) -> None:
    for spread, temperature in ((REFERENCE_SPREAD, 0.02), (REFERENCE_SPREAD / 4, 0.005)):
        scoring = adapt_scoring(encoder, Calibration(spread, 6))
        assert scoring.temperature == pytest.approx(temperature)
        assert replace(scoring, temperature=GENUINE_SCORING.temperature) == GENUINE_SCORING


def test_towers_that_do_not_fit_are_warned_of(
    encoder: Encoder, caplog: pytest.LogCaptureFixture
) -> None:
    found = load_calibration(encoder, load_encoded_nouns(encoder, NOUNS, None), None)
    assert found.named < 4
    assert found.spread > 0
    with caplog.at_level(logging.WARNING):
        adapt_scoring(encoder, found)
    assert "do not seem to fit together" in caplog.text


def test_weights_for_another_spread_are_warned_of(
    encoder: Encoder, caplog: pytest.LogCaptureFixture
) -> None:
    own = replace(encoder, scoring=STARTER_SCORING, has_own_temperature=True)
    with caplog.at_level(logging.WARNING):
        assert adapt_scoring(own, Calibration(REFERENCE_SPREAD * 1.2, 5)) == STARTER_SCORING
        assert not caplog.text
        assert adapt_scoring(own, Calibration(REFERENCE_SPREAD * 2, 5)) == STARTER_SCORING
    assert "2.00 times" in caplog.text
    assert STARTER_SCORING.temperature == REFERENCE_TEMPERATURE


def test_what_was_found_is_kept_and_damage_is_mended(
    encoder: Encoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tmp_path.chmod(0o750)
    vocabulary = load_encoded_nouns(encoder, NOUNS, tmp_path)
    found = load_calibration(encoder, vocabulary, tmp_path)
    again = load_encoded_nouns(encoder, NOUNS, tmp_path)
    assert np.array_equal(again.rows, vocabulary.rows)
    assert again.is_thing.tolist() == [True] * 3 + [False] * 3
    assert load_calibration(encoder, vocabulary, tmp_path) == found
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}
    for content in (b"damaged", b""):
        for path in tmp_path.iterdir():
            path.write_bytes(content)
        caplog.clear()
        assert np.array_equal(load_encoded_nouns(encoder, NOUNS, tmp_path).rows, vocabulary.rows)
        assert load_calibration(encoder, vocabulary, tmp_path) == found
        assert caplog.text.count("is damaged") == 2
