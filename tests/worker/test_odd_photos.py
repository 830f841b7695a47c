"""One photo that cannot be used stops neither a batch nor an evaluation nor a training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from saymask.datasets import load_dataset
from saymask.errors import ConfigError, DatasetError, DeviceMemoryExhausted
from saymask.left_out import LeftOut
from saymask_worker.batch.coco_folder import ProposeOptions, propose_folder
from saymask_worker.batch.local import run_local
from saymask_worker.batch.plan import BatchPlan, list_work
from saymask_worker.config.pipeline import PipelineConfig
from saymask_worker.config.settings import load_worker_settings
from saymask_worker.evaluation.report import to_html
from saymask_worker.evaluation.run import run_evaluation
from saymask_worker.evaluation.tuning.tune import tune
from saymask_worker.training.samples import read_samples
from tests.refcoco import write_refcoco
from tests.worker.batch_files import read_rows, write_texts
from tests.worker.test_batch import FakePipeline
from tests.worker.test_evaluator import request_for, tiny_evaluator
from tests.worker.test_proposing import FolderPipeline
from tests.worker.test_tuning import Decided

ERRORS = {
    "heavy": DeviceMemoryExhausted("Out of memory on cuda.", "Use a smaller photo."),
    "unset": ConfigError("The method gives no probabilities.", "Set another."),
}


class OddBatch(FakePipeline):
    """The bytes of a photo name the error that it causes."""

    def prepare(self, data: bytes, name: str) -> tuple[Any, None]:
        if data.decode() in ERRORS:
            raise ERRORS[data.decode()]
        return super().prepare(data, name)


class OddFolder(FolderPipeline):
    def prepare(self, data: bytes, name: str) -> tuple[Any, None]:
        if name in ERRORS:
            raise ERRORS[name]
        return super().prepare(data, name)


def truncate(path: Path) -> None:
    """Keep the header, which is all that readers of datasets look at."""
    path.write_bytes(path.read_bytes()[:700])


def test_an_odd_photo_of_a_batch(tmp_path: Path) -> None:
    names = ("a.jpg", "heavy.jpg", "z.jpg")
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in names:
        (photos / name).write_text(name.partition(".")[0])
    texts = write_texts(tmp_path / "texts.jsonl", [(name, "the cat") for name in names])
    plan = BatchPlan(str(photos), str(tmp_path / "rows"), texts, images_per_part=4)
    pipeline: Any = OddBatch()
    report = run_local(pipeline, plan, list_work(plan), lambda *_: None)
    assert report.failed == ("heavy.jpg: Out of memory on cuda. Use a smaller photo.",)
    assert sorted(row["image"] for row in read_rows(plan.out)) == ["a.jpg", "z.jpg"]
    (photos / "heavy.jpg").write_text("unset")
    with pytest.raises(ConfigError):
        run_local(pipeline, plan, list_work(plan), lambda *_: None)


def test_an_odd_photo_of_a_folder(tmp_path: Path) -> None:
    from PIL import Image

    for name in ("a.png", "heavy.png", "z.png"):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.new("RGB", (64, 48), (len(name), 0, 0)).save(tmp_path / "photos" / name)
    pipeline: Any = OddFolder()
    arguments = (tmp_path / "photos", tmp_path / "out", ProposeOptions(2, 0.5, 0))
    report = propose_folder(pipeline, *arguments, lambda *_: None)
    assert report.failed == ("heavy.png: Out of memory on cuda. Use a smaller photo.",)
    assert (report.photos, report.expressions) == (3, 2)


def test_an_odd_photo_of_an_evaluation(tmp_path: Path) -> None:
    root = write_refcoco(tmp_path / "set")
    photo = next(root.rglob("p1.jpg"))
    whole = photo.read_bytes()
    truncate(photo)

    def run() -> Any:
        return run_evaluation(
            request_for(root, methods="main"), load_worker_settings(), tmp_path / "out", 1,
            Console(quiet=True), lambda *_: tiny_evaluator("vit", "main"),
        )  # fmt: skip

    results, dataset, images = run()
    assert (results.images, results.expressions) == (1, 2)
    assert [line.partition(":")[0] for line in results.failed] == ["p1.jpg"]
    assert "THE CAT" in to_html(results, dataset, images)
    photo.write_bytes(whole)
    results, _, _ = run()
    assert (results.images, results.expressions, results.failed) == (2, 4, ())


def test_an_evaluation_without_any_good_photo(tmp_path: Path) -> None:
    root = write_refcoco(tmp_path / "set")
    for photo in root.rglob("p*.jpg"):
        truncate(photo)
    with pytest.raises(DatasetError, match=r"None of 2 photos can be used. p0.jpg: "):
        run_evaluation(
            request_for(root, methods="main"), load_worker_settings(), tmp_path / "out", 1,
            Console(quiet=True), lambda *_: tiny_evaluator("vit", "main"),
        )  # fmt: skip


def test_an_odd_photo_of_a_training(tmp_path: Path) -> None:
    root = write_refcoco(tmp_path / "set", count=8)
    truncate(next(root.rglob("p3.jpg")))
    left_out = LeftOut()
    samples = read_samples(load_dataset("refcoco", root, None), left_out)
    assert {sample.image.name for sample in samples} == {f"p{i}.jpg" for i in range(8) if i != 3}
    (line,) = left_out.lines
    assert line.startswith("p3.jpg: ")


def test_an_odd_photo_of_a_tuning(tmp_path: Path) -> None:
    dataset = load_dataset("refcoco", write_refcoco(tmp_path / "set", count=45), None)
    first, *others = dataset.images
    gone = replace(first, path=tmp_path / "gone.jpg")
    pipeline: Any = Decided(PipelineConfig(), informative=True)
    tuning = tune(pipeline, replace(dataset, images=(gone, *others)), lambda *_: None)
    assert [line.partition(":")[0] for line in tuning.failed] == ["gone.jpg"]
    assert (tuning.images, tuning.decisions) == (44, (88, 0))
