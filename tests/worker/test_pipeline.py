"""The whole worker with its real weights on real photos."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from saymask.contract import SegmentResult
from saymask.errors import DeviceMemoryExhausted, InvalidExpression, InvalidRequest
from saymask.masks import compute_iou, decode_coco_rle
from saymask.segmentation import Segmentation
from saymask_worker.cli import photos
from saymask_worker.cli.main import app
from saymask_worker.config.settings import load_worker_settings
from saymask_worker.images.types import (
    DecodedImage,
    EncodedImage,
    PreparedImage,
    Proposals,
    normalise_rows,
)
from saymask_worker.masks.base import LastImageProposer
from saymask_worker.masks.given import to_proposals
from saymask_worker.masks.sources.base import SourceMask
from saymask_worker.pipeline.build import build_pipeline
from saymask_worker.pipeline.cache import PreparedCache
from saymask_worker.pipeline.explanation import explain
from saymask_worker.pipeline.pipeline import Pipeline, open_image
from saymask_worker.serving.loaded_pipeline import LoadedPipeline
from tests.fake_worker import build_result
from tests.refcoco import write_refcoco
from tests.weights import require_weights

pytestmark = pytest.mark.slow

# Boxes x, y, w, h, most of them taken from masks that looked right on the overlay, for
# expressions picked after their results were seen: this guards against getting worse and says
# nothing about quality.
TEN = [
    ("astronaut", "the american flag", (0, 0, 96, 410)),
    ("astronaut", "orange space suit", (20, 200, 340, 312)),
    ("astronaut", "the helmet", (278, 344, 228, 168)),
    ("astronaut", "the space shuttle model", (355, 0, 105, 284)),
    ("chelsea", "the cat", (0, 0, 410, 300)),
    ("coffee", "the spoon", (326, 60, 95, 266)),
    ("coffee", "the red saucer", (77, 75, 402, 315)),
    ("rocket", "the rocket", (300, 127, 42, 283)),
    ("china", "the temple", (64, 30, 307, 375)),
    ("flower", "the flower", (169, 86, 277, 258)),
]


def box_iou(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def build(directory: Path, **settings: object) -> Pipeline:
    require_weights()
    pipeline = build_pipeline(load_worker_settings(encoder="starter", **settings))
    pipeline.cache = PreparedCache(directory, "key", 10**9)
    return pipeline


@pytest.fixture(scope="module")
def default_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return build(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """The same with a coarse grid: what is not about quality need not take its time."""
    return build(tmp_path_factory.mktemp("prepared"), points_per_side=6)


def test_what_is_proposed_as_false_is_false_for_the_ranking_too(
    pipeline: Pipeline, samples: dict[str, Path]
) -> None:
    data = samples["coffee"].read_bytes()
    prepared, _ = open_image(pipeline, data)
    said = "the second cup from the left"
    (false,) = pipeline.propose_false(prepared, data, (said, "?"), 3, 0)
    assert false.accepted == said
    answer = pipeline.segment(prepared, false.expression, 1, preparation=None)
    assert any("You asked for number" in notice for notice in answer.notices)


def segment(pipeline: Pipeline, data: bytes, expression: str, k: int = 3) -> SegmentResult:
    prepared, timings = open_image(pipeline, data)
    return pipeline.segment(prepared, expression, k, preparation=timings)


def test_ten_expressions_on_the_sample_photos(
    default_pipeline: Pipeline, samples: dict[str, Path]
) -> None:
    ranks = {}
    for photo, expression, box in TEN:
        result = segment(default_pipeline, samples[photo].read_bytes(), expression, k=5)
        hits = [c.rank for c in result.candidates if box_iou(c.box_xywh, box) > 0.5]
        ranks[expression] = hits[0] if hits else None
    print("ranks:", ranks)
    assert sum(rank == 1 for rank in ranks.values()) >= 8, ranks


def test_crops_beyond_the_budget_are_predicted_from_regions(
    pipeline: Pipeline, samples: dict[str, Path]
) -> None:
    def prepare(crops_max: int) -> PreparedImage:
        features = replace(pipeline.config.features, crops_max=crops_max)
        other = replace(
            pipeline, config=replace(pipeline.config, features=features),
            proposer=LastImageProposer(pipeline.proposer),
        )  # fmt: skip
        return other.prepare(samples["coffee"].read_bytes())[0]

    every, some = prepare(1000), prepare(8)
    assert len(every.proposals) > 12
    true, predicted = (normalise_rows(p.features.local_context) for p in (every, some))
    is_cropped = np.isclose(true, predicted, atol=1e-3).all(axis=1)
    assert is_cropped.sum() == 8
    likeness = predicted[~is_cropped] @ true[~is_cropped].T
    assert np.diag(likeness).mean() > likeness.mean() + 0.02, (
        "nearer to their own crop than to others"
    )
    assert np.array_equal(every.features.region, some.features.region)


def test_masks_have_the_photo_s_size_and_come_from_the_cache_unchanged(
    pipeline: Pipeline, samples: dict[str, Path]
) -> None:
    data = samples["chelsea"].read_bytes()
    first = segment(pipeline, data, "the cat")
    again = segment(pipeline, data, "the cat")
    assert again.from_cache
    assert again.candidates == first.candidates
    for candidate in again.candidates:
        assert decode_coco_rle(candidate.mask.as_dict()).shape == first.size_hw == (300, 451)
    assert first.model_version.startswith("saymask-starter-mobile-sam-corrected-")


def test_large_turned_photo_gets_masks_at_its_own_upright_size(
    pipeline: Pipeline, samples: dict[str, Path], tmp_path: Path
) -> None:
    large = Image.open(samples["flower"]).resize((2560, 1708))
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.jpg"
    large.rotate(90, expand=True).save(path, exif=exif, quality=92)
    result = segment(pipeline, path.read_bytes(), "the flower")
    assert result.size_hw == (1708, 2560)
    mask = decode_coco_rle(result.candidates[0].mask.as_dict())
    assert mask.shape == (1708, 2560)
    assert mask[700, 1220], "the middle of the flower"


class NoProposals:
    name = fingerprint = "none"

    def propose(self, image: DecodedImage) -> Proposals:
        return to_proposals([], [], image.size_hw)


def test_an_image_without_objects(pipeline: Pipeline, samples: dict[str, Path]) -> None:
    empty = replace(pipeline, proposer=NoProposals())
    result = segment(empty, samples["chelsea"].read_bytes(), "the dog next to the car")
    assert result.candidates == ()
    assert result.confidence is None
    assert "No object was found in the photo." in result.notices


class WholeFace:
    """An instance source that finds two boxes in the photo of the cat."""

    name, fingerprint = "boxes", "1"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def find_instances(self, image: DecodedImage, noun_phrase: str) -> list[SourceMask]:
        self.asked.append(noun_phrase)
        height, width = image.size_hw
        left, right = np.zeros((2, height, width), bool)
        left[height // 4 : height // 2, : width // 4] = True
        right[height // 4 : height // 2, 3 * width // 4 :] = True
        return [SourceMask(left, 1.0), SourceMask(right, 1.0)]


def test_words_of_place_choose_among_the_instances_of_a_source(
    pipeline: Pipeline, samples: dict[str, Path]
) -> None:
    data = samples["chelsea"].read_bytes()
    prepared, _ = pipeline.prepare(data)
    encoded, source = EncodedImage(lambda: data), WholeFace()
    asking = replace(pipeline, sources=[source], strict_sources=True)
    first = {}
    for side in ("left", "right"):
        result = asking.segment(
            prepared, f"the ear on the {side}", 5, preparation=None, encoded=encoded
        )
        assert "boxes.1" in result.model_version
        offered = [c for c in result.candidates if c.source == "boxes"]
        first[side] = offered[0].box_xywh[0] < result.size_hw[1] // 2
    assert first == {"left": True, "right": False}
    assert source.asked == ["ear"], "the noun phrase alone, once"


@pytest.mark.parametrize("color", [0, 127, 255])
def test_a_blank_image_has_at_most_whole_masks(
    pipeline: Pipeline, tmp_path: Path, color: int
) -> None:
    path = tmp_path / "blank.png"
    Image.new("RGB", (320, 240), (color,) * 3).save(path)
    result = segment(pipeline, path.read_bytes(), "the dog next to the car")
    masks = [decode_coco_rle(c.mask.as_dict()) for c in result.candidates]
    assert [c.rank for c in result.candidates] == list(range(1, len(masks) + 1))
    assert all(mask.shape == (240, 320) and mask.any() for mask in masks)
    assert result.proposals_count >= len(masks)


def test_tiny_and_narrow_photos(pipeline: Pipeline, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for size in ((8, 8), (8, 900), (1300, 9)):
        path = tmp_path / "odd.png"
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(path)
        assert segment(pipeline, path.read_bytes(), "the dog").size_hw == size


def test_odd_expressions(pipeline: Pipeline, samples: dict[str, Path]) -> None:
    data = samples["chelsea"].read_bytes()
    for expression in ("🐱", "القط", "left", "THE CAT", "the cat " * 200, "café 猫"):
        assert segment(pipeline, data, expression).candidates
    assert "its end was ignored" in " ".join(segment(pipeline, data, "the cat " * 200).notices)
    assert "No noun" in " ".join(segment(pipeline, data, "left").notices)
    with pytest.raises(InvalidExpression):
        segment(pipeline, data, "...")
    for k in (0, -1, 1000):
        with pytest.raises(InvalidRequest):
            segment(pipeline, data, "the cat", k)


def test_command_line(samples: dict[str, Path], tmp_path: Path, pipeline: Pipeline) -> None:
    program = Path(sys.executable).parent / "saymask-worker"
    overlay, masks = tmp_path / "o.png", tmp_path / "m.json"
    arguments = [program, "segment", samples["chelsea"], "the cat", "-k", "2"]
    done = subprocess.run(
        [*arguments, "-o", overlay, "--json", masks], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"text_features \d+ ms  scoring \d+ ms", " ".join(done.stdout.split(" ")))
    result = json.loads(masks.read_text("utf-8"))
    assert [c["rank"] for c in result["candidates"]] == [1, 2]
    photo = np.asarray(Image.open(samples["chelsea"])).astype(int)
    drawn = np.asarray(Image.open(overlay)).astype(int)
    mask = decode_coco_rle(result["candidates"][0]["mask"])
    changed = (np.abs(drawn - photo).sum(axis=2) > 30) & mask
    assert changed.sum() > 0.7 * mask.sum()


@pytest.mark.parametrize("option", ["--json", "-o"])
def test_a_result_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    photo, place = tmp_path / "photo.png", tmp_path / "none" / "result.png"
    Image.new("RGB", (64, 48)).save(photo)
    answer = build_result("0" * 64, "the cat", 1)
    result = Segmentation(answer, lambda: np.zeros((*answer.size_hw, 3), np.uint8))
    fake = SimpleNamespace(segment=lambda *_: result)
    monkeypatch.setattr(photos, "load_segmenter", lambda: fake)
    done = CliRunner().invoke(app, ["segment", str(photo), "the cat", option, str(place)])
    assert isinstance(done.exception, InvalidRequest)
    assert f"{place} cannot be written" in done.exception.cause


def test_explain_shows_the_parse_and_terms_that_add_up(
    samples: dict[str, Path], tmp_path: Path, pipeline: Pipeline
) -> None:
    program, picture = Path(sys.executable).parent / "saymask-worker", tmp_path / "why.png"
    arguments = [program, "explain", samples["chelsea"], "the cat left of the giraff", "-k", "2"]
    done = subprocess.run(
        [*arguments, "--json", "-o", picture], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    explanation = json.loads(done.stdout)
    assert explanation["parse"]["relations"] == [
        {"kind": "left_of", "anchor": "giraffe", "second": None}
    ]
    assert explanation["parse"]["corrections"] == [{"typed": "giraff", "read": "giraffe"}]
    for proposal in explanation["proposals"]:
        assert sum(proposal["terms"].values()) == pytest.approx(proposal["score"], abs=0.02)
    with Image.open(picture) as drawn, Image.open(samples["chelsea"]) as photo:
        assert drawn.size == photo.size
    shown = subprocess.run(arguments, capture_output=True, text=True, check=False).stdout
    assert "left of giraffe" in shown
    assert "giraff as giraffe" in shown


def test_several_are_offered_and_explained(pipeline: Pipeline, samples: dict[str, Path]) -> None:
    prepared, _ = pipeline.prepare(samples["coffee"].read_bytes())
    for expression, least in (("three cups", 3), ("all the spoons", 1), ("the spoon", 1)):
        result = pipeline.segment(prepared, expression, 1, preparation=None)
        explained = explain(pipeline, prepared, EncodedImage(lambda: b""), expression, 1)
        assert len(result.candidates) >= least
        assert explained.result.message.candidates == result.candidates
        for candidate, terms in zip(explained.result.candidates, explained.terms, strict=True):
            assert sum(terms.values()) == pytest.approx(candidate.score, abs=0.02)


def test_past_the_last_object_is_said(pipeline: Pipeline, samples: dict[str, Path]) -> None:
    notices = segment(pipeline, samples["coffee"].read_bytes(), "90th spoon from the left").notices
    assert any(notice.startswith("You asked for number 90, but only") for notice in notices)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["segment", "missing.jpg", "x"], "cannot be read"),
        (["segment", "pyproject.toml", "x"], "is not an image"),
        (["segment", "pyproject.toml", "x", "-k", "0"], "from 1 to 50"),
        (["models", "pull", "nonsense"], "mobile-sam"),
        (["evaluate"], "--root is missing"),
        (["evaluate", "--root", "tests"], "refs(unc).p"),
        (
            ["evaluate", "--root", "tests", "--proposals", "best"],
            "'best' is not one of 'settings', 'truth'",
        ),
        (["evaluate", "--compare", "tests", "docs"], "holds no evaluation"),
    ],
)
def test_command_line_errors_are_words(arguments: list[str], message: str) -> None:
    program = Path(sys.executable).parent / "saymask-worker"
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [program, *arguments], capture_output=True, text=True, check=False, cwd=root
    )
    assert done.returncode == 2
    assert message in " ".join(done.stderr.replace("│", "").split())
    assert "Traceback" not in done.stderr


def test_evaluation_by_command_alone_and_in_two_processes(
    tmp_path: Path, default_pipeline: Pipeline
) -> None:
    program = Path(sys.executable).parent / "saymask-worker"
    root = write_refcoco(tmp_path / "set")
    results = []
    for jobs in ("1", "2"):
        arguments = ["--root", root, "--jobs", jobs, "--proposals", "truth", "--json"]
        arguments += ["--methods", "largest,corrected,cropping", "--out", tmp_path / jobs]
        done = subprocess.run(
            [program, "evaluate", *arguments], capture_output=True, text=True, check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1", "SAYMASK_ENCODER": "starter"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        results.append(json.loads(done.stdout))
        assert {path.name for path in (tmp_path / jobs).iterdir()} == {
            "outcomes.jsonl", "results.json", "table.md", "report.html",
        }  # fmt: skip
    assert results[0] == results[1]
    assert results[0]["provenance"]["proposals"] == "truth"
    compared = subprocess.run(
        [program, "evaluate", "--compare", tmp_path / "1", f"{tmp_path / '2'}:corrected", "--json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert json.loads(compared.stdout)["expressions"] == 4


def test_a_full_device_gets_smaller_batches_and_then_an_error(
    tmp_path: Path, samples: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device is said to be full whenever more than a few prompts or crops come at once."""
    small = build(tmp_path, points_per_side=6)
    data = samples["coffee"].read_bytes()
    expected, _ = small.prepare(data)
    sizes: list[int] = []
    limit = 3
    encode = small.encoder.visual._encode

    def encode_few(images: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        if len(images) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory (simulated)")
        return encode(images)

    monkeypatch.setattr(small.encoder.visual, "_encode", encode_few)
    prepared, _ = small.prepare(data)
    assert max(sizes) > limit
    assert sizes[-1] <= limit
    # In bfloat16 rounding depends on the size of the batch: of a mask, and so of its crop.
    rows = (normalise_rows(p.features.local_context) for p in (prepared, expected))
    assert np.multiply(*rows).sum(axis=1).min() > 0.99
    pairs = zip(prepared.proposals.masks, expected.proposals.masks, strict=True)
    assert min(compute_iou(*pair) for pair in pairs) > 0.98
    segmenter = small.clicks

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory (simulated)")

    monkeypatch.setattr(segmenter, "embed", full)
    with pytest.raises(DeviceMemoryExhausted):
        small.embed(data)
    limit = 0
    with pytest.raises(DeviceMemoryExhausted, match="SAYMASK_DEVICE=cpu"):
        small.prepare(data)


def test_a_large_photo_answers_as_the_same_photo_in_small(
    tmp_path: Path, default_pipeline: Pipeline, samples: dict[str, Path]
) -> None:
    small = Image.open(samples["coffee"])
    path = tmp_path / "large.jpg"
    small.resize((small.width * 6, small.height * 6), Image.Resampling.BICUBIC).save(path)
    masks = []
    for photo in (samples["coffee"], path):
        prepared, timings = default_pipeline.prepare(photo.read_bytes())
        result = default_pipeline.segment(prepared, "the spoon", 1, preparation=timings)
        masks.append(decode_coco_rle(result.candidates[0].mask.as_dict()))
    assert masks[1].shape == (small.height * 6, small.width * 6)
    assert compute_iou(masks[0], masks[1][3::6, 3::6]) > 0.9


def test_idle_models_leave_the_memory(tmp_path: Path, samples: dict[str, Path]) -> None:
    process = psutil.Process()
    data = samples["coffee"].read_bytes()
    forgotten: list[bool] = []
    idle = LoadedPipeline(
        lambda: build(tmp_path, points_per_side=6), 0.5, lambda: forgotten.append(True)
    )
    with idle.use() as pipeline:
        prepared, timings = pipeline.prepare(data)
    del pipeline
    loaded = process.memory_info().rss
    deadline = time.monotonic() + 30
    while not forgotten or loaded - process.memory_info().rss < 200e6:
        assert time.monotonic() < deadline, process.memory_info()
        time.sleep(0.1)
    version = idle.describe()["model_version"]
    with idle.use() as pipeline:
        result = pipeline.segment(prepared, "the spoon", 3, preparation=timings)
    assert result.model_version == version
