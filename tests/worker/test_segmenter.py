"""Segmenting from Python, with real models and a coarse grid."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import saymask
from saymask.errors import ConfigError, ImageUnreachable, InvalidRequest
from saymask_worker.images.read import read_image
from saymask_worker.serving.segmenter import Segmenter
from tests.weights import require_weights


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Segmenter]:
    require_weights()
    folder = tmp_path_factory.mktemp("prepared")
    with saymask.load_segmenter(points_per_side=6, prepared_dir=folder) as segmenter:
        yield segmenter


@pytest.fixture(scope="module")
def result(segmenter: Segmenter, samples: dict[str, Path]) -> saymask.Segmentation:
    return segmenter.segment(samples["chelsea"], "the cat", k=2)


def test_every_kind_of_image_gives_one_answer(
    segmenter: Segmenter, samples: dict[str, Path], result: saymask.Segmentation, tmp_path: Path
) -> None:
    path = samples["chelsea"]
    picture = Image.open(path)
    turned = tmp_path / "turned.png"
    exif = picture.getexif()
    exif[0x0112] = 3
    picture.rotate(180).save(turned, exif=exif)
    for image in (str(path), path.read_bytes(), picture, np.asarray(picture), turned):
        other = segmenter.segment(image, "the cat", k=2)
        assert saymask.compute_iou(other.candidates[0].mask, result.candidates[0].mask) > 0.95
        assert np.asarray(other.draw()).shape == np.asarray(picture).shape


def test_a_candidate_says_what_it_is(result: saymask.Segmentation) -> None:
    first = result.candidates[0]
    assert (first.mask.shape, first.mask.dtype) == (result.message.size_hw, np.bool_)
    left, top, right, bottom = first.box_xyxy
    assert first.mask[top:bottom, left:right].sum() == first.mask.sum()
    assert first.mask[top].any()
    assert first.mask[:, right - 1].any()
    assert (first.rank, first.source) == (1, "proposals")
    assert first.confidence == result.confidence
    probabilities = [candidate.confidence or 0 for candidate in result.candidates]
    assert 1 >= probabilities[0] >= probabilities[1] > 0
    assert result.expression == "the cat"


def test_notices_are_passed_on(segmenter: Segmenter, samples: dict[str, Path]) -> None:
    notices = segmenter.segment(samples["chelsea"], "the giraff").notices
    assert any("giraffe" in notice for notice in notices)


def test_clicks_and_a_box_find_the_object(
    segmenter: Segmenter, samples: dict[str, Path], result: saymask.Segmentation
) -> None:
    cat = result.candidates[0]
    rows, columns = np.nonzero(cat.mask)
    inside = [(float(columns[i]), float(rows[i])) for i in (len(rows) // 3, len(rows) // 2)]
    for clicked in (
        segmenter.click(samples["chelsea"], inside, box_xyxy=cat.box_xyxy, k=1),
        segmenter.click(samples["chelsea"], inside, start=cat.mask, k=1),
    ):
        (candidate,) = clicked.candidates
        assert candidate.source == "clicks"
        assert all(candidate.mask[int(y), int(x)] for x, y in inside)
        assert saymask.compute_iou(candidate.mask, cat.mask) > 0.5
    with pytest.raises(InvalidRequest, match="no click and no box"):
        segmenter.click(samples["chelsea"])


def test_preparing_names_what_cannot_be_used_and_does_the_rest(
    segmenter: Segmenter, samples: dict[str, Path], tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.jpg"
    damaged.write_bytes(b"no image")
    grey = np.full((48, 64, 3), 127, np.uint8)
    told: list[tuple[int, int]] = []
    images = [tmp_path / "missing.jpg", damaged, np.zeros((4, 4)), grey]
    lines = segmenter.prepare(images, lambda done, total: told.append((done, total)))
    assert [line.partition(":")[0] for line in lines] == ["missing.jpg", "damaged.jpg", "image 3"]
    assert told == [(done, 4) for done in (1, 2, 3, 4)]
    assert segmenter.segment(grey, "the cat").message.from_cache


def test_threads_share_one_segmenter(segmenter: Segmenter, samples: dict[str, Path]) -> None:
    found: dict[str, Any] = {}

    def ask(expression: str) -> None:
        found[expression] = segmenter.segment(samples["chelsea"], expression, k=1)

    words = ["the cat", "the left ear", "the nose", "the cat on the right"]
    threads = [threading.Thread(target=ask, args=(word,)) for word in words]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for word in words:
        alone = segmenter.segment(samples["chelsea"], word, k=1)
        assert found[word].message.candidates == alone.message.candidates


def test_closing_frees_the_models_until_the_next_call(
    segmenter: Segmenter, samples: dict[str, Path], result: saymask.Segmentation
) -> None:
    segmenter.close()
    assert segmenter._pipeline._pipeline is None
    assert len(segmenter._sessions._kept) == 0
    again = segmenter.segment(samples["chelsea"], "the cat", k=2)
    assert again.message.candidates == result.message.candidates


def test_coco_is_read_back(
    samples: dict[str, Path], result: saymask.Segmentation, tmp_path: Path
) -> None:
    (tmp_path / "chelsea.jpg").write_bytes(samples["chelsea"].read_bytes())
    (tmp_path / "instances.json").write_text(json.dumps(result.to_coco()), "utf-8")
    (image,) = saymask.load_coco(tmp_path).images
    (expression,) = image.expressions
    assert (expression.text, expression.category) == ("the cat", "cat")
    assert (saymask.decode_coco_rle(expression.target) == result.candidates[0].mask).all()
    both = result.to_coco(ranks=(1, 2))["annotations"]
    assert [annotation["id"] for annotation in both] == [1, 2]


def test_supervision_gets_arrays_of_its_shapes(
    result: saymask.Segmentation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package itself needs PyAV and Matplotlib, so it is no dependency of the tests."""
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ConfigError, match="pip install supervision"):
        result.to_supervision()
    module: Any = ModuleType("supervision")
    module.Detections = SimpleNamespace
    monkeypatch.setitem(sys.modules, "supervision", module)
    detections = result.to_supervision()
    assert detections.xyxy.shape == (2, 4)
    assert detections.mask.shape == (2, *result.message.size_hw)
    assert detections.confidence.shape == detections.class_id.shape == (2,)
    assert {len(column) for column in detections.data.values()} == {2}
    empty = result.message.model_copy(update={"candidates": ()})
    nothing = saymask.Segmentation(empty, result.read_pixels).to_supervision()
    assert (nothing.xyxy.shape, nothing.mask.shape[0]) == ((0, 4), 0)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8, 3)), r"uint8.*astype"),
        (np.zeros((3, 80, 80), np.uint8), r"\(3, 80, 80\).*transpose"),
        (np.zeros((80, 80), np.uint8), r"\(80, 80\).*grey"),
        (np.zeros((80, 80, 4), np.uint8), "alpha"),
        (Image.new("F", (80, 80)), "mode F.*0 to 255"),
        (3, "type int.*Give a path"),
    ],
)
def test_what_is_no_image_is_refused_with_a_cure(image: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        read_image(image)


def test_a_pillow_image_keeps_its_pixels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 4), np.uint8)
    for mode in ("RGB", "L", "RGBA", "P", "1", "CMYK"):
        picture = Image.fromarray(pixels).convert(mode)
        path = tmp_path / "read.png"
        path.write_bytes(read_image(picture))
        with Image.open(path) as read:
            assert (np.asarray(read.convert("RGB")) == np.asarray(picture.convert("RGB"))).all()


def test_errors_of_loading_and_asking_are_words(segmenter: Segmenter, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no setting points_per_sid\. .*points_per_side"):
        saymask.load_segmenter(points_per_sid=8)
    with pytest.raises(ConfigError, match="SAYMASK_POINTS_PER_SIDE"):
        saymask.load_segmenter(points_per_side=1)
    with pytest.raises(ImageUnreachable, match="cannot be read"):
        segmenter.segment(tmp_path / "none.jpg", "the cat")
    with pytest.raises(InvalidRequest, match="from 1 to 50"):
        segmenter.segment(b"", "the cat", k=0)


def test_without_the_worker_s_packages_it_says_what_to_install() -> None:
    script = (
        "import sys; sys.modules['torch'] = None; import saymask\n"
        "try: saymask.load_segmenter()\n"
        "except saymask.SaymaskError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert "torch" in done.stdout
    assert "pip install 'saymask[worker]'" in done.stdout
