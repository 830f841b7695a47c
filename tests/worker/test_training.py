"""Training: samples and mirrors, exact resume after kill -9, learning, refusals."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from saymask.datasets import load_dataset
from saymask.errors import ConfigError, DatasetError
from saymask.left_out import LeftOut
from saymask.masks import encode_coco_rle
from saymask_worker.training.checkpoint import (
    get_trained_state,
    load_trained_state,
)
from saymask_worker.training.cris.letterbox import Letterbox
from saymask_worker.training.history import History
from saymask_worker.training.predictor import CrisPredictor
from saymask_worker.training.samples import (
    Sample,
    draw_example,
    load_image,
    load_mask,
    mirror_words,
    order_epoch,
    read_samples,
    split_samples,
)
from saymask_worker.weights import WeightStore
from tests.refcoco import write_refcoco
from tests.worker.tiny_training import build, build_trainer


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_refcoco(tmp_path / "set", count=8)


@pytest.mark.parametrize(
    ("sentence", "mirrored"),
    [
        ("the left dog", "the right dog"),
        ("Right most cup left of the jar", "Left most cup right of the jar"),
        ("leftover pizza, lft", "leftover pizza, rt"),
        ("the middle one", "the middle one"),
    ],
)
def test_mirrors_swap_left_and_right_as_words(sentence: str, mirrored: str) -> None:
    assert mirror_words(sentence) == mirrored
    assert mirror_words(mirrored) == sentence


def test_a_mirrored_sample_is_mirrored_in_image_mask_and_words(data: Path) -> None:
    sample = read_samples(load_dataset("refcoco", data, None), LeftOut())[1]
    image, mask = (load(sample, 64, is_mirrored=False) for load in (load_image, load_mask))
    other_image, other_mask = (
        load(sample, 64, is_mirrored=True) for load in (load_image, load_mask)
    )
    assert torch.equal(image.flip(-1), other_image)
    assert torch.equal(mask.flip(-1), other_mask)
    assert other_image.is_contiguous()
    back = Letterbox((48, 64), 64).invert(mask).numpy() > 0.5
    assert back[8:28, 40:60].mean() > 0.95


def test_examples_and_orders_are_the_same_whenever_asked_for(data: Path) -> None:
    samples = read_samples(load_dataset("refcoco", data, None), LeftOut())
    assert len(samples) == 16
    assert order_epoch(samples, 3, 7) == order_epoch(samples, 3, 7) != order_epoch(samples, 3, 8)
    several = Sample("x", samples[0].image, samples[0].target, ("left a", "left b", "left c"))
    drawn = [draw_example(several, 0.5, 0, epoch) for epoch in range(40)]
    assert drawn == [draw_example(several, 0.5, 0, epoch) for epoch in range(40)]
    assert {one.sentence for one in drawn} == {
        f"{side} {x}" for side in ("left", "right") for x in "abc"
    }
    assert all(one.is_mirrored == one.sentence.startswith("right") for one in drawn)


def test_held_out_photos_are_not_trained_on(data: Path) -> None:
    samples = read_samples(load_dataset("refcoco", data, None), LeftOut())
    split = split_samples(samples, 0.25, 0.0, 1)
    train, held_out = split.train, split.held_out
    assert not {s.image for s in train} & {s.image for s in held_out}
    assert (len(train), len(held_out)) == (12, 4)
    assert split_samples(samples, 0.25, 0.0, 1) == split


def test_too_little_is_refused_before_any_training(tmp_path: Path) -> None:
    samples = read_samples(
        load_dataset("refcoco", write_refcoco(tmp_path / "few"), None), LeftOut()
    )
    with pytest.raises(DatasetError, match="6 refs on 3 photos; training needs at least 8 on 2"):
        split_samples(samples, 0.2, 0.0, 0)


def test_a_mask_of_another_size_leaves_out_its_photo_by_name(data: Path) -> None:
    path = data / "refcoco" / "instances.json"
    content = json.loads(path.read_text("utf-8"))
    rle = encode_coco_rle(np.ones((10, 10), bool))
    content["annotations"][1]["segmentation"] = rle
    path.write_text(json.dumps(content), "utf-8")
    dataset = load_dataset("refcoco", data, None)
    assert "p0.jpg" not in [image.path.name for image in dataset.images]
    assert len(dataset.left_out) == 1
    assert "annotation 1 in" in dataset.left_out[0]
    assert str(path) in dataset.left_out[0]


def run_tiny(*arguments: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "tests.worker.tiny_training", *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run that nothing interrupted, and its data."""
    folder = tmp_path_factory.mktemp("whole")
    data = write_refcoco(folder / "set", count=8)
    done = run_tiny(folder / "out", data)
    assert done.returncode == 0, done.stderr.decode()
    return folder / "out", data


# In the first epoch, and when it is over.
@pytest.mark.parametrize("saves", [2, 4])
def test_a_run_killed_in_mid_write_goes_on_bit_for_bit(
    whole: tuple[Path, Path], tmp_path: Path, saves: int
) -> None:
    (finished, data), broken = whole, tmp_path / "broken"
    killed = run_tiny(broken, data, saves)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not (broken / "report.html").exists()
    again = run_tiny(broken, data)
    assert again.returncode == 0, again.stderr.decode()
    for name in ("checkpoint/model.safetensors", "model/model.safetensors"):
        first, second = load_file(finished / name), load_file(broken / name)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first), name
    histories = [
        [(e.epoch, e.loss, e.held_out_iou, e.rate) for e in History(folder).read()]
        for folder in (finished, broken)
    ]
    assert histories[0] == histories[1]
    assert len(histories[0]) == 3
    # The rate fell to a tenth after 0.7 of three epochs.
    assert [round(rate, 8) for *_, rate in histories[0]] == [1e-3, 1e-3, 1e-3]


def test_killed_between_two_renames_a_run_continues_from_the_older_checkpoint(
    data: Path, tmp_path: Path
) -> None:
    build_trainer(tmp_path, data, epochs=1)[0].run()
    (tmp_path / "checkpoint").rename(tmp_path / ".checkpoint.previous")
    assert build_trainer(tmp_path, data, epochs=1)[0]._resume().epoch == 1
    assert (tmp_path / "checkpoint").is_dir()


def test_the_statistics_of_norms_are_those_of_the_weights(data: Path, tmp_path: Path) -> None:
    trainer, model = build_trainer(tmp_path / "out", data, freeze_below=1000, epochs=2)
    trainer.run()
    norm = model.neck.aggr[1]
    seen: list[torch.Tensor] = []
    hook = norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    trainer._settle_norms(1)
    hook.remove()
    means = torch.stack([values.mean(dim=(0, 2, 3)) for values in seen])
    assert torch.allclose(norm.running_mean, means.mean(dim=0), atol=1e-5)
    assert norm.momentum == 0.1
    frozen = model.backbone.visual.bn1
    assert int(frozen.num_batches_tracked) == 0


def test_it_learns(data: Path, tmp_path: Path) -> None:
    trainer, _ = build_trainer(tmp_path / "out", data, freeze_below=1000, epochs=6, flip_share=0.0)
    trainer.run()
    losses = [epoch.loss for epoch in History(tmp_path / "out").read()]
    assert losses[-1] < 0.8 * losses[0]


def test_a_run_with_other_settings_is_not_mixed_in(data: Path, tmp_path: Path) -> None:
    trainer, _ = build_trainer(tmp_path / "out", data)
    trainer.run()
    other, _ = build_trainer(tmp_path / "out", data, freeze_below=5)
    with pytest.raises(ConfigError, match="other values of freeze_below"):
        other.run()


def test_a_frozen_backbone_is_not_kept_with_the_model(data: Path, tmp_path: Path) -> None:
    trainer, model = build_trainer(tmp_path / "out", data, freeze_below=1000)
    before = model.backbone.visual.conv1.weight.detach().clone()
    trainer.run()
    assert torch.equal(before, model.backbone.visual.conv1.weight)
    kept = get_trained_state(model)
    assert not any(name.startswith("backbone.transformer") for name in kept)
    # What CLIP does not have is kept, with its statistics.
    assert "backbone.visual.attnpool.connect.1.running_mean" in kept
    other, _ = build(1000)
    other.backbone.freeze()
    load_trained_state(other, kept, tmp_path)
    del kept["proj.txt.bias"]
    with pytest.raises(ConfigError, match="another model"):
        load_trained_state(other, kept, tmp_path)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no trained model in"):
        CrisPredictor.load(tmp_path, WeightStore(tmp_path), "cpu")


def test_the_command_names_what_is_wrong(tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        command = [Path(sys.executable).parent / "saymask-worker", "train", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        return " ".join(done.stderr.split())

    out = str(tmp_path / "out")
    assert "There is no folder" in run("--data", str(tmp_path / "none"), "--out", out)
    assert "'vgg' is not one of 'starter'" in run("--data", out, "--out", out, "--backbone", "vgg")
    few = write_refcoco(tmp_path / "few")
    message = run("--data", str(few), "--dataset", "refcoco", "--out", out)
    assert "training needs at least 8 on 2" in message
    assert not Path(out).exists()
