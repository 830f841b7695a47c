"""The yardstick itself: metrics against recorded numbers, layouts, resuming, hostile files."""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco
from rich.console import Console

from backend.datasets.load import load_dataset
from backend.errors import DatasetError
from backend.masks import decode_coco_rle, encode_coco_rle
from tests.conftest import DATA
from tests.test_golden import load_model
from worker.config import FAITHFUL_SCORING, PipelineConfig, ScoringConfig, load_worker_settings
from worker.encoders.base import Encoder
from worker.encoders.clip_text import OpenClipText
from worker.encoders.clip_visual import ClipVisual
from worker.evaluation import run
from worker.evaluation.compare import compare_runs
from worker.evaluation.errors import classify_answer, find_category
from worker.evaluation.methods import build_methods, choose_methods
from worker.evaluation.metrics import (
    Pixels,
    bootstrap_difference,
    bootstrap_mean,
    compute_ious,
    compute_no_target_accuracy,
    compute_oiou,
    compute_summary,
    count_pixels,
)
from worker.evaluation.outcomes import Evaluator, PhotoOutcome, TruthProposer
from worker.evaluation.report import to_html, to_markdown
from worker.evaluation.results import build_results
from worker.evaluation.run import EvaluationRequest, OutcomeLog
from worker.language import LanguageParser
from worker.pipeline import Pipeline

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
    np.testing.assert_allclose(compute_ious(pixels, "one"), want["per_pair"], atol=1e-6)
    assert compute_ious(pixels, "one").mean() == pytest.approx(want["gIoU"])
    assert compute_oiou(pixels, "one") == pytest.approx(want["cIoU"])
    assert compute_no_target_accuracy(pixels.target > 0, answered) == (
        pytest.approx(want["N_acc"]),
        pytest.approx(want["T_acc"]),
    )


def test_bootstrap_draws_photos_and_pairs_results() -> None:
    photos = np.repeat(np.arange(40), 5)
    rng = np.random.default_rng(1)
    per_photo = np.repeat(rng.random(40), 5)
    together = bootstrap_mean(per_photo, photos)
    apart = bootstrap_mean(per_photo, np.arange(200))
    assert together.mean == pytest.approx(per_photo.mean())
    # Five equal values of one photo are one observation, not five.
    assert together.high - together.low > 1.8 * (apart.high - apart.low)
    noisy = per_photo + rng.normal(0, 0.01, 200)
    difference = bootstrap_difference(noisy + 0.05, noisy, photos)
    assert difference.low == pytest.approx(0.05) == difference.high
    assert bootstrap_mean(np.array([1.0, np.nan]), np.array([0, 1])).mean == 1.0


# ---- layouts -----------------------------------------------------------------------------------

SIZE_HW = (48, 64)


def square(x: int, y: int, side: int) -> NDArray[np.bool_]:
    mask = np.zeros(SIZE_HW, bool)
    mask[y : y + side, x : x + side] = True
    return mask


def write_photos(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True)
    for seed, name in enumerate(names):
        pixels = np.random.default_rng(seed).integers(0, 255, (*SIZE_HW, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)


def write_refcoco(root: Path, name: str = "refcoco", photos: int = 3) -> Path:
    """A set of our own making in REFER's layout: two squares a photo, one sentence each."""
    write_photos(root / "images/mscoco/images/train2014", [f"p{i}.jpg" for i in range(photos)])
    folder = root / name
    folder.mkdir()
    images, annotations, refs = [], [], []
    for i in range(photos):
        images.append({"id": i, "file_name": f"p{i}.jpg", "height": 48, "width": 64})
        left = [[2, 4, 18, 4, 18, 20, 2, 20], [10, 10, 26, 10, 26, 26, 10, 26]]
        right = encode_coco_rle(square(40, 8, 20))
        for side, segmentation in enumerate((left, right)):
            number = 10 * i + side
            annotations.append(
                {"id": number, "image_id": i, "category_id": 1 + side, "iscrowd": 0,
                 "segmentation": segmentation}
            )  # fmt: skip
            text = ("the cat", "the dog")[side]
            sentence = {
                "raw": text.upper(),
                "sent": text,
                "tokens": text.split(),
                "sent_id": number,
            }
            refs.append(
                {"ref_id": number, "ann_id": number, "image_id": i, "category_id": 1 + side,
                 "file_name": f"p{i}_{number}.jpg", "sent_ids": [number], "sentences": [sentence],
                 "split": "val" if i < 2 else "train"}
            )  # fmt: skip
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(content), encoding="utf-8")
    return root


def test_refcoco_layout(tmp_path: Path) -> None:
    dataset = load_dataset("refcoco", write_refcoco(tmp_path), "val")
    assert [photo.path.name for photo in dataset.photos] == ["p0.jpg", "p1.jpg"]
    cat, dog = dataset.photos[0].expressions
    assert (cat.text, cat.category, dog.text, dog.category) == ("THE CAT", "cat", "THE DOG", "dog")
    # Two polygons of one object overlap: the overlap belongs to it.
    polygons = [[2, 4, 18, 4, 18, 20, 2, 20], [10, 10, 26, 10, 26, 26, 10, 26]]
    parts = [coco.decode(coco.frPyObjects([p], *SIZE_HW))[..., 0].astype(bool) for p in polygons]
    np.testing.assert_array_equal(decode_coco_rle(cat.target), parts[0] | parts[1])
    np.testing.assert_array_equal(decode_coco_rle(dog.target), square(40, 8, 20))
    assert load_dataset("refcoco", tmp_path, "val", limit=1).count == 2


def test_grefcoco_layout(tmp_path: Path) -> None:
    root = write_refcoco(tmp_path, "grefcoco")
    path = root / "grefcoco" / "refs(unc).p"
    refs = pickle.loads(path.read_bytes())
    path.unlink()
    refs[0]["ann_id"] = [0, 1]
    refs[1]["ann_id"] = [-1]
    (root / "grefcoco" / "grefs(unc).json").write_text(json.dumps(refs), encoding="utf-8")
    both, none = load_dataset("grefcoco", root, "val").photos[0].expressions
    instances = load_dataset("grefcoco", root, "val").photos[0].instances
    union = decode_coco_rle(instances[0].mask) | decode_coco_rle(instances[1].mask)
    np.testing.assert_array_equal(decode_coco_rle(both.target), union)
    assert not decode_coco_rle(none.target).any()
    assert none.category is None


def test_phrasecut_layout(tmp_path: Path) -> None:
    write_photos(tmp_path / "images", ["7.jpg"])
    task = {
        "task_id": "7__1", "image_id": 7, "ann_ids": [1, 2], "phrase": "white cups",
        "instance_boxes": [], "phrase_structure": {"name": "cups"},
        "Polygons": [[[[2, 2], [10, 2], [10, 10], [2, 10]]], [[[30, 30], [40, 30], [40, 40]]]],
    }  # fmt: skip
    (tmp_path / "refer_miniv.json").write_text(json.dumps([task]), encoding="utf-8")
    sizes = [{"image_id": 7, "height": 48, "width": 64}]
    (tmp_path / "image_data_split.json").write_text(json.dumps(sizes), encoding="utf-8")
    (expression,) = load_dataset("phrasecut", tmp_path, "miniv").photos[0].expressions
    target = decode_coco_rle(expression.target)
    assert (expression.text, expression.category) == ("white cups", "cups")
    assert target[5, 5]
    assert target[31, 38]
    assert not target[20, 20]
    with pytest.raises(DatasetError, match="miniv"):
        load_dataset("phrasecut", tmp_path, "val")


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.path),))


def test_a_hostile_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    root = write_refcoco(tmp_path / "set")
    path = root / "refcoco" / "refs(unc).p"
    path.write_bytes(pickle.dumps([Hostile(tmp_path / "owned")], protocol=2))
    with pytest.raises(DatasetError, match=r"refs\(unc\)\.p was refused.*mkdir"):
        load_dataset("refcoco", root, "val")
    assert not (tmp_path / "owned").exists()


def test_what_is_wrong_is_named_with_its_file(tmp_path: Path) -> None:
    root = write_refcoco(tmp_path)
    with pytest.raises(DatasetError, match=r"no split 'testC'.*train, val"):
        load_dataset("refcoco", root, "testC")
    with pytest.raises(DatasetError, match="Unknown data set"):
        load_dataset("coco", root, "val")
    with pytest.raises(DatasetError, match="no folder"):
        load_dataset("refcoco", root / "nowhere", "val")
    with pytest.raises(DatasetError, match=r"refs\(umd\)\.p"):
        load_dataset("refcocog", root, "val")
    path = root / "refcoco" / "refs(unc).p"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match=r"refs\(unc\)\.p was refused"):
        load_dataset("refcoco", root, "val")
    path.write_bytes(whole)
    (root / "images/mscoco/images/train2014/p1.jpg").unlink()
    with pytest.raises(DatasetError, match=r"1 of 2 photos are missing, first p1\.jpg"):
        load_dataset("refcoco", root, "val")


@pytest.mark.parametrize(
    "broken",
    [
        {"size": [48, 64], "counts": "###"},
        {"size": [20, 20], "counts": [0, 400]},
        {"size": [48, 64], "counts": [0, 5]},
        [],
        [[1, 2]],
        None,
        {"size": [48, 64], "counts": [2**63 - 1, 2**63 - 1, 3074]},
        {"size": [10**6, 10**6], "counts": [10**12]},
        [[0, 0, 4e8, 0, 0, 4e8]],
    ],
)
def test_a_broken_mask_is_named(broken: Any, tmp_path: Path) -> None:
    root = write_refcoco(tmp_path)
    path = root / "refcoco" / "instances.json"
    content = json.loads(path.read_text("utf-8"))
    content["annotations"][1]["segmentation"] = broken
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DatasetError, match=r"annotation 1 in .*instances\.json"):
        load_dataset("refcoco", root, "val")


# ---- errors ------------------------------------------------------------------------------------


def test_a_broken_mask_nobody_speaks_of_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_refcoco(tmp_path)
    path = root / "refcoco" / "instances.json"
    content = json.loads(path.read_text("utf-8"))
    content["annotations"].append({**content["annotations"][0], "id": 99, "segmentation": [[1]]})
    content["annotations"][0]["segmentation"].append([5, 5, 6, 6])
    path.write_text(json.dumps(content), encoding="utf-8")
    photo = load_dataset("refcoco", root, "val").photos[0]
    assert len(photo.instances) == 2
    assert "annotation 99" in caplog.text
    assert "1 polygons without area left out" in caplog.text


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda c: c["images"][1].update(file_name="x/p0.jpg"), "2 photos are named p0.jpg"),
        (lambda c: c["images"][0].update(height=10**6), "size of 1000000"),
        (lambda c: c["images"][0].update(height="x"), "do not fit together"),
        (lambda c: c["annotations"].pop(0), "do not fit together"),
    ],
)
def test_tables_that_do_not_fit_are_refused(change: Any, match: str, tmp_path: Path) -> None:
    root = write_refcoco(tmp_path)
    path = root / "refcoco" / "instances.json"
    content = json.loads(path.read_text("utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DatasetError, match=match):
        load_dataset("refcoco", root, "val")


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


# ---- the whole run, with a tiny CLIP -----------------------------------------------------------


def tiny_evaluator(kind: str, methods: str) -> Evaluator:
    model = load_model(kind)
    visual = ClipVisual(model.visual, kind, "cpu", torch.float32, 8)
    text = OpenClipText(model, open_clip.get_tokenizer("ViT-B-32"), "cpu")
    encoder = Encoder(kind, visual, text, "tiny", ScoringConfig(), f"tiny {kind}")
    truth = TruthProposer()
    pipeline = Pipeline(truth, encoder, LanguageParser(), PipelineConfig(), None, 1.0)
    chosen = choose_methods(pipeline.config, encoder.scoring, methods)
    return Evaluator(pipeline, chosen, None, 1.0, truth)


def request_for(root: Path, **changes: Any) -> EvaluationRequest:
    request = EvaluationRequest("refcoco", root, "val", None, None, "all", True, None)
    return replace(request, **changes)


@pytest.mark.parametrize("kind", ["vit", "rn"])
def test_all_methods_run_on_both_architectures(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_refcoco(tmp_path / "set")
    monkeypatch.setattr(run, "build_evaluator", lambda request, _s: tiny_evaluator(kind, "all"))
    results, dataset, outcomes = run.run_evaluation(
        request_for(root), load_worker_settings(), tmp_path / "out", 1, Console(quiet=True)
    )
    assert results.expressions == 4
    assert results.oracle["mean"].mean == 1.0
    rows = {method.name: method for method in results.methods}
    assert set(rows) == set(build_methods(PipelineConfig(), ScoringConfig()))
    # Two proposals, both annotated: random and largest are right for one of two sentences each.
    assert rows["largest"].recall["1@0.5"].mean == 0.5
    assert rows["largest"].recall["3@0.5"].mean == 1.0
    assert rows["largest"].mc_accuracy is not None
    assert rows["largest"].mc_accuracy.mean == 0.5
    assert rows["largest"].cc_oiou == 1.0
    assert rows["largest"].errors == {"right": 0.5, "wrong noun": 0.5}
    # What changes features or mixing changes scores.
    scores = {
        name: [e.answers[name].score for o in outcomes for e in o.expressions] for name in rows
    }
    for name in ("published boxes", "published statistics", "published mixing", "global only"):
        assert scores[name] != scores["corrected"], name
    assert "| corrected |" in to_markdown(results)
    page = to_html(results, dataset, outcomes)
    assert page.count("data:image/jpeg;base64,") == 4 + 4 + 4
    assert "THE CAT" in page


def test_faithful_uses_the_published_weights() -> None:
    in_use = PipelineConfig(method="faithful", scoring=FAITHFUL_SCORING)
    rows = build_methods(in_use, ScoringConfig(area_weight=0.7))
    faithful, corrected = rows["faithful"].config, rows["corrected"].config
    assert faithful is not None
    assert corrected is not None
    assert (faithful.method, faithful.scoring) == ("faithful", FAITHFUL_SCORING)
    assert (corrected.method, corrected.scoring.area_weight) == ("corrected", 0.7)
    with pytest.raises(DatasetError, match=r"no method 'best'.*grad-cam"):
        choose_methods(PipelineConfig(), ScoringConfig(), "best")


def test_a_killed_run_goes_on_and_gives_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, out = write_refcoco(tmp_path / "set"), tmp_path / "out"
    monkeypatch.setattr(run, "build_evaluator", lambda request, _s: tiny_evaluator("vit", "main"))

    def go() -> Any:
        console = Console(quiet=True)
        return run.run_evaluation(request_for(root), load_worker_settings(), out, 1, console)

    whole = go()[0]
    log_path = out / run.OUTCOMES_FILE
    lines = log_path.read_text("utf-8").splitlines()
    log_path.write_text("\n".join([*lines[:-1], lines[-1][:40]]), encoding="utf-8")
    evaluated = []
    original = Evaluator.evaluate
    monkeypatch.setattr(
        Evaluator, "evaluate", lambda self, p: evaluated.append(p.path.name) or original(self, p)
    )
    assert go()[0] == whole
    assert evaluated == ["p1.jpg"]
    assert log_path.read_text("utf-8").splitlines() == lines
    with pytest.raises(DatasetError, match="belongs to another run: content"):
        OutcomeLog(out, {**run.load_outcomes(out)[0], "content": "else"})
    log_path.write_text("\n".join(lines[:2]) + "\n", encoding="utf-8")
    with pytest.raises(DatasetError, match="not finished: 1 of 2"):
        compare_runs(str(out), str(out))
    lines[1] = lines[1][:50]
    log_path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(DatasetError, match="damaged in line 2"):
        go()


def test_compare_pairs_two_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_refcoco(tmp_path / "set")
    monkeypatch.setattr(
        run, "build_evaluator", lambda request, _s: tiny_evaluator("vit", request.methods)
    )
    for name, methods in (("a", "largest,first"), ("b", "random")):
        run.run_evaluation(
            request_for(root, methods=methods), load_worker_settings(), tmp_path / name, 1,
            Console(quiet=True),
        )  # fmt: skip
    same = compare_runs(f"{tmp_path / 'a'}", f"{tmp_path / 'a'}:largest")
    assert same.expressions == 4
    assert {d.mean for d in same.differences.values()} == {0.0}
    other = compare_runs(f"{tmp_path / 'a'}:first", f"{tmp_path / 'b'}")
    assert other.differences["best 3 @0.5"].mean == 0.0
    with pytest.raises(DatasetError, match="no method 'grad-cam'"):
        compare_runs(f"{tmp_path / 'a'}:grad-cam", f"{tmp_path / 'b'}")
    with pytest.raises(DatasetError, match="holds no evaluation"):
        compare_runs(str(tmp_path / "c"), str(tmp_path / "a"))


def test_photos_without_proposals_count_as_zero() -> None:
    empty = PhotoOutcome.model_validate(
        {
            "photo": "a.jpg", "proposals": 0,
            "expressions": [{"id": "1", "text": "cat", "kind": None, "target_px": 10,
                "oracle_iou": 0.0, "answers": {"m": {"top": [], "kind": "no proposal",
                "same_category": None, "score": 0.0, "gap": 1.0}}}],
        }
    )  # fmt: skip
    good = empty.model_copy(
        update={"photo": "b.jpg", "proposals": 1, "expressions": (
            empty.expressions[0].model_copy(update={"oracle_iou": 1.0, "answers": {
                "m": empty.expressions[0].answers["m"].model_copy(
                    update={"top": ((10, 10),), "kind": "right"})}}),)}
    )  # fmt: skip
    (method,) = build_results([empty, good], {}).methods
    assert (method.miou.mean, method.miou_skipping) == (0.5, 1.0)
    assert method.oiou.mean == 0.5


def test_a_photo_of_another_size_is_named_before_anything_is_computed(tmp_path: Path) -> None:
    root = write_refcoco(tmp_path)
    path = root / "images/mscoco/images/train2014/p0.jpg"
    Image.new("RGB", (32, 32)).save(path)
    with pytest.raises(DatasetError, match=r"p0\.jpg is \(32, 32\), annotated as \(48, 64\)"):
        load_dataset("refcoco", root, "val")
    path.write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"p0\.jpg is no image"):
        load_dataset("refcoco", root, "val")


@pytest.mark.parametrize("kind", ["vit", "rn"])
def test_all_methods_on_a_photo_without_proposals(kind: str, tmp_path: Path) -> None:
    photo = load_dataset("refcoco", write_refcoco(tmp_path), "val").photos[0]
    outcome = tiny_evaluator(kind, "all").evaluate(replace(photo, instances=()))
    assert outcome.proposals == 0
    answers = [answer for e in outcome.expressions for answer in e.answers.values()]
    assert {answer.kind for answer in answers} == {"no proposal"}
    (first, *_) = build_results([outcome], {}).methods
    assert first.miou.mean == 0.0


def test_expressions_that_cannot_be_scored_count_as_unanswered(tmp_path: Path) -> None:
    photo = load_dataset("refcoco", write_refcoco(tmp_path), "val").photos[0]
    blank = replace(photo.expressions[0], text="...")
    outcome = tiny_evaluator("vit", "main").evaluate(replace(photo, expressions=(blank,)))
    assert outcome.expressions[0].answers["corrected"].top == ()
