"""Supervised against zero-shot: what is trained, resumed, measured and drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from saymask.datasets import Dataset, load_dataset
from saymask.errors import DatasetError, InvalidRequest
from saymask.intervals import Interval
from saymask.left_out import LeftOut
from saymask.masks import Mask
from saymask_worker.evaluation.evaluator import Segment
from saymask_worker.evaluation.few_sample import (
    FewSampleRequest,
    Point,
    compute_zero_shot,
    find_crossing,
    run_few_sample,
    summarise_runs,
    write_few_sample,
)
from saymask_worker.evaluation.run import keep_first_sentences
from saymask_worker.training.config import TrainingConfig
from saymask_worker.training.samples import Sample
from tests.refcoco import write_refcoco

CONFIG = TrainingConfig(batch=4)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return load_dataset("refcoco", write_refcoco(tmp_path / "set", count=6), None)


class Learner:
    """Segments the right square once it was trained on four photos or more."""

    def __init__(self) -> None:
        self.trained: list[tuple[int, TrainingConfig, int]] = []

    def __call__(self, samples: Sequence[Sample], config: TrainingConfig, out: Path) -> Segment:
        photos = len({sample.image for sample in samples})
        self.trained.append((photos, config, len(samples)))
        assert len({sample.id for sample in samples}) == len(samples), "each is drawn by itself"

        def segment(pixels: np.ndarray, sentence: str) -> Mask:
            mask = np.zeros(pixels.shape[:2], bool)
            if photos >= 4 and "DOG" in sentence:
                mask[8:28, 40:60] = True
            return mask

        return segment


def test_every_size_and_seed_is_trained_once_and_resumed(dataset: Dataset, tmp_path: Path) -> None:
    request, learner, told = FewSampleRequest((1, 4), 2, 50, CONFIG), Learner(), []
    runs = run_few_sample(
        request, dataset, dataset, tmp_path, learner, lambda *done: told.append(done), LeftOut()
    )
    assert told[-1] == (4, 4)
    assert [(run.images, run.seed) for run in runs] == [(1, 0), (1, 1), (4, 0), (4, 1)]
    assert [run.right for run in runs] == [0.0, 0.0, 0.5, 0.5]
    assert [run.refs for run in runs] == [2, 2, 8, 8]
    for _, config, count in learner.trained:
        assert (config.epochs, config.patience) == (3, 3)
        assert count >= 4 * 20, "an epoch has its steps however few photos there are"
    (log,) = tmp_path.glob("few_sample.jsonl")
    with log.open("a") as file:
        file.write('{"images": 1, "se')
    again = Learner()
    assert (
        run_few_sample(request, dataset, dataset, tmp_path, again, lambda *_: None, LeftOut())
        == runs
    )
    assert again.trained == []
    other = replace(request, steps=60)
    with pytest.raises(DatasetError, match="belongs to another run: steps differ"):
        run_few_sample(other, dataset, dataset, tmp_path, again, lambda *_: None, LeftOut())


def test_larger_sets_hold_the_smaller_ones(dataset: Dataset, tmp_path: Path) -> None:
    seen: list[set[Path]] = []

    def train(samples: Sequence[Sample], config: TrainingConfig, out: Path) -> Segment:
        seen.append({sample.image for sample in samples})
        return Learner()(samples, config, out)

    run_few_sample(
        FewSampleRequest((1, 2, 4), 1, 1, CONFIG),
        dataset,
        dataset,
        tmp_path,
        train,
        lambda *_: None,
        LeftOut(),
    )
    assert seen[0] < seen[1] < seen[2]


def test_refusals(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="Photos to train on: 6, fewer than 7"):
        run_few_sample(
            FewSampleRequest((7,), 1, 1, CONFIG), dataset, dataset, tmp_path, Learner(),
            lambda *_: None, LeftOut(),
        )  # fmt: skip
    with pytest.raises(InvalidRequest):
        FewSampleRequest((0, 1), 1, 1, CONFIG)


def points(*ious: float) -> list[Point]:
    return [Point(2**i, 2.0, iou, iou - 0.1, iou + 0.1, iou) for i, iou in enumerate(ious)]


def test_where_training_wins() -> None:
    zero_shot = compute_zero_shot(np.array([0.6, 0.4, 0.5, 0.5]), np.array([0, 0, 1, 1]))
    assert zero_shot.miou.mean == pytest.approx(0.5)
    assert zero_shot.right.mean == pytest.approx(0.25)
    assert find_crossing(points(0.1, 0.6, 0.4, 0.7, 0.8), zero_shot) == 8
    assert find_crossing(points(0.1, 0.2), zero_shot) is None
    assert find_crossing(points(0.6, 0.7), zero_shot) == 1


def test_the_table_names_where_training_wins(dataset: Dataset, tmp_path: Path) -> None:
    runs = run_few_sample(
        FewSampleRequest((1, 4), 2, 1, CONFIG),
        dataset,
        dataset,
        tmp_path,
        Learner(),
        lambda *_: None,
        LeftOut(),
    )
    zero_shot = replace(
        compute_zero_shot(np.array([0.3]), np.array([0])), miou=Interval(0.3, 0.2, 0.4)
    )
    table = write_few_sample(tmp_path, summarise_runs(runs), zero_shot)
    assert "| 4 photos | 8 | 0.5" in table
    assert "From 4 photos on the mean of the seeds is above the pipeline's" in table


def test_first_sentences(dataset: Dataset) -> None:
    image = dataset.images[0]
    cat, dog = image.expressions
    none = replace(cat, id="n", parts=())
    twice = replace(image, expressions=(cat, replace(cat, id="x", text="again"), dog, none, none))
    kept = keep_first_sentences(replace(dataset, images=(twice,)))
    assert kept.images[0].expressions == (cat, dog, none, none)
