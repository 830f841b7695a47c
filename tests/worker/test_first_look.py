"""First looks with real weights: quick, good enough to begin with, and told apart."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import Tensor

from saymask.errors import ConfigError
from saymask_worker.config.pipeline import FeaturesConfig, FirstLookConfig
from saymask_worker.config.settings import load_worker_settings
from saymask_worker.pipeline.build import build_first_look_pipeline
from tests.worker.test_pipeline import TEN, box_iou, build, segment

pytestmark = pytest.mark.slow


def test_a_first_look_answers_from_a_fraction_of_the_work(
    samples: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = build(tmp_path)
    visual = pipeline.encoder.visual
    encode, encoded = visual.encode_images, []

    def count_crops(images: Tensor) -> Tensor:
        encoded.append(len(images))
        return encode(images)

    monkeypatch.setattr(visual, "encode_images", count_crops)
    ranks = []
    for photo, expression, box in TEN[4:5] + TEN[7:]:
        encoded.clear()
        data = samples[photo].read_bytes()
        look = pipeline.look_first(data)
        assert look is not None
        result = pipeline.segment(look[0], expression, 5, preparation=look[1])
        hits = [c.rank for c in result.candidates if box_iou(c.box_xywh, box) > 0.5]
        ranks.append(hits[0] if hits else None)
        assert 0 < sum(encoded) <= FirstLookConfig.total_crops
    encoded.clear()
    assert sum(rank == 1 for rank in ranks) >= 3, ranks
    assert result.is_first_look
    assert "Quick result" in result.notices[0]
    full = segment(pipeline, data, expression)
    assert not full.is_first_look
    assert full.notices == ()
    assert result.model_version.startswith(f"{full.model_version}-first.")
    assert sum(encoded) == FeaturesConfig.crops_max
    assert build(tmp_path, first_look="off").look_first(data) is None
    with pytest.raises(ConfigError, match="no first look"):
        build_first_look_pipeline(load_worker_settings(method="faithful", encoder="starter"))
