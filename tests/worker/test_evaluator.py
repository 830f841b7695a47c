"""Whole evaluations with a tiny CLIP: every method, continuing, comparing."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from rich.console import Console

from saymask.datasets import load_dataset
from saymask.errors import ConfigError, DatasetError
from saymask_worker.config.pipeline import FeaturesConfig, PipelineConfig
from saymask_worker.config.scoring import FAITHFUL_SCORING, ScoringConfig
from saymask_worker.config.settings import load_worker_settings
from saymask_worker.encoders.base import Encoder
from saymask_worker.encoders.clip_visual import ClipVisual
from saymask_worker.encoders.open_clip_text import OpenClipText
from saymask_worker.encoders.vocabulary import EncodedNouns, load_encoded_nouns
from saymask_worker.evaluation.answers import ANSWERS_FILE, load_answers, open_answers
from saymask_worker.evaluation.evaluator import Evaluator, TruthProposer
from saymask_worker.evaluation.processes import EvaluationRequest
from saymask_worker.evaluation.processes import load_model as load_trained_model
from saymask_worker.evaluation.report import to_html, to_markdown
from saymask_worker.evaluation.results import build_results, compare_runs
from saymask_worker.evaluation.run import run_evaluation
from saymask_worker.evaluation.variants import build_variants, choose_variants
from saymask_worker.language.nouns import Nouns
from saymask_worker.language.parser import LanguageParser
from saymask_worker.pipeline.cache import PreparedCache
from saymask_worker.pipeline.pipeline import Pipeline
from tests.refcoco import write_refcoco
from tests.worker.test_golden import load_model


def tiny_vocabulary(encoder: Encoder) -> EncodedNouns:
    nouns = Nouns(("dog", "cat", "box", "person"), ("snow", "sky", "grass"), ("wheel", "face"))
    return load_encoded_nouns(encoder, nouns, None)


def tiny_evaluator(kind: str, methods: str, crops_max: int = 36) -> Evaluator:
    model = load_model(kind)
    visual = ClipVisual(model.visual, kind, "cpu", torch.float32, 8)
    text = OpenClipText(model, open_clip.get_tokenizer("ViT-B-32"), "cpu")
    encoder = Encoder(kind, visual, text, "tiny", ScoringConfig(), f"tiny {kind}")
    truth = TruthProposer()
    config = PipelineConfig(features=FeaturesConfig(crops_max=crops_max))
    pipeline = Pipeline(truth, encoder, LanguageParser(), tiny_vocabulary(encoder), config)
    variants = choose_variants(pipeline.config, encoder.scoring, methods)
    return Evaluator(pipeline, variants, None, truth)


def test_a_replaced_pipeline_keeps_what_is_not_named_but_the_cache(tmp_path: Path) -> None:
    plain = tiny_evaluator("vit", "main").pipeline
    given: dict[str, Any] = {
        "device": "elsewhere", "clicks": object(), "sources": (object(),),
        "strict_sources": True, "first_look_proposer": TruthProposer(), "is_first_look": True,
    }  # fmt: skip
    full = replace(plain, **given)
    full.cache = PreparedCache(tmp_path, "of this configuration", 10**9)
    again = replace(full, config=replace(plain.config, scoring=ScoringConfig(area_weight=9)))
    assert again.cache is None
    for name in (argument.name for argument in fields(Pipeline) if argument.init):
        assert getattr(full, name) is given.get(name, getattr(plain, name)), name
        assert (getattr(again, name) is getattr(full, name)) == (name != "config"), name


def request_for(root: Path, **changes: Any) -> EvaluationRequest:
    request = EvaluationRequest("refcoco", root, "val", None, None, "all", True, None)
    return replace(request, **changes)


@pytest.mark.parametrize("kind", ["vit", "rn"])
def test_all_methods_run_on_both_architectures(kind: str, tmp_path: Path) -> None:
    root = write_refcoco(tmp_path / "set")
    results, dataset, images = run_evaluation(
        request_for(root), load_worker_settings(), tmp_path / "out", 1, Console(quiet=True),
        lambda *_: tiny_evaluator(kind, "all"),
    )  # fmt: skip
    assert results.expressions == 4
    assert results.oracle["mean"].mean == 1.0
    rows = {method.name: method for method in results.methods}
    assert set(rows) == set(build_variants(PipelineConfig(), ScoringConfig()))
    # Two proposals, both annotated: random and largest are right for one of two sentences each.
    assert rows["largest"].recall["1@0.5"].mean == 0.5
    assert rows["largest"].recall["3@0.5"].mean == 1.0
    assert rows["largest"].mc_accuracy is not None
    assert rows["largest"].mc_accuracy.mean == 0.5
    assert rows["largest"].cc_oiou == 1.0
    assert rows["largest"].errors == {"right": 0.5, "wrong noun": 0.5}
    # What changes the score changes scores.
    scores = {name: [e.answers[name].score for i in images for e in i.expressions] for name in rows}
    assert scores["without all terms"] != scores["corrected"]
    assert "| corrected |" in to_markdown(results)
    page = to_html(results, dataset, images)
    assert page.count("data:image/jpeg;base64,") == 4 + 4 + 4
    assert "THE CAT" in page


@pytest.mark.parametrize("kind", ["vit", "rn"])
def test_only_the_default_predicts_crops(kind: str, tmp_path: Path) -> None:
    """Baselines and the parts of features are measured on crops that were all encoded."""
    root = write_refcoco(tmp_path / "set")
    names = ("corrected", "every proposal cropped", "cropping")
    scores: list[dict[str, list[float]]] = []
    for crops_max in (36, 1):
        _, _, images = run_evaluation(
            request_for(root, methods=",".join(names)), load_worker_settings(),
            tmp_path / str(crops_max), 1, Console(quiet=True),
            lambda *_, n=crops_max: tiny_evaluator(kind, ",".join(names), n),
        )  # fmt: skip
        answers = [e.answers for image in images for e in image.expressions]
        scores.append({name: [answer[name].score for answer in answers] for name in names})
    budget, one = scores
    assert one["corrected"] != budget["corrected"]
    assert budget["corrected"] == budget["every proposal cropped"]
    for name in names[1:]:
        assert one[name] == budget[name], name


def test_faithful_uses_the_published_weights() -> None:
    in_use = PipelineConfig(method="faithful", scoring=FAITHFUL_SCORING)
    rows = build_variants(in_use, ScoringConfig(area_weight=0.7))
    faithful, corrected = rows["faithful"].config, rows["corrected"].config
    assert faithful is not None
    assert corrected is not None
    assert (faithful.method, faithful.scoring) == ("faithful", FAITHFUL_SCORING)
    assert (corrected.method, corrected.scoring.area_weight) == ("corrected", 0.7)
    with pytest.raises(DatasetError, match=r"no method 'best'.*cropping"):
        choose_variants(PipelineConfig(), ScoringConfig(), "best")


def test_a_killed_run_continues_and_gives_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, out = write_refcoco(tmp_path / "set"), tmp_path / "out"

    def go() -> Any:
        console = Console(quiet=True)
        return run_evaluation(
            request_for(root), load_worker_settings(), out, 1, console,
            lambda *_: tiny_evaluator("vit", "main"),
        )  # fmt: skip

    whole = go()[0]
    log_path = out / ANSWERS_FILE
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
        open_answers(out, {**load_answers(out)[0], "content": "else"})
    log_path.write_text("\n".join(lines[:2]) + "\n", encoding="utf-8")
    with pytest.raises(DatasetError, match="not finished: 1 of 2"):
        compare_runs(str(out), str(out))
    lines[1] = lines[1][:50]
    log_path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(DatasetError, match="damaged in line 2"):
        go()


def test_compare_pairs_two_runs(tmp_path: Path) -> None:
    root = write_refcoco(tmp_path / "set")
    for name, methods in (("a", "largest,cropping"), ("b", "random")):
        run_evaluation(
            request_for(root, methods=methods), load_worker_settings(), tmp_path / name, 1,
            Console(quiet=True), lambda request, _: tiny_evaluator("vit", request.methods),
        )  # fmt: skip
    same = compare_runs(f"{tmp_path / 'a'}", f"{tmp_path / 'a'}:largest")
    assert same.expressions == 4
    assert {d.mean for d in same.differences.values()} == {0.0}
    other = compare_runs(f"{tmp_path / 'a'}:cropping", f"{tmp_path / 'b'}")
    assert other.differences["best 3 @0.5"].mean == 0.0
    with pytest.raises(DatasetError, match="no method 'best'"):
        compare_runs(f"{tmp_path / 'a'}:best", f"{tmp_path / 'b'}")
    with pytest.raises(DatasetError, match="holds no evaluation"):
        compare_runs(str(tmp_path / "c"), str(tmp_path / "a"))


@pytest.mark.parametrize("kind", ["vit", "rn"])
def test_all_methods_on_a_photo_without_proposals(kind: str, tmp_path: Path) -> None:
    image = load_dataset("refcoco", write_refcoco(tmp_path), "val").images[0]
    answered = tiny_evaluator(kind, "all").evaluate(replace(image, instances=()))
    assert answered.proposals == 0
    answers = [answer for e in answered.expressions for answer in e.answers.values()]
    assert {answer.kind for answer in answers} == {"no proposal"}
    (first, *_) = build_results([answered], {}).methods
    assert first.miou.mean == 0.0


def test_expressions_that_cannot_be_scored_count_as_unanswered(tmp_path: Path) -> None:
    image = load_dataset("refcoco", write_refcoco(tmp_path), "val").images[0]
    blank = replace(image.expressions[0], text="...")
    answered = tiny_evaluator("vit", "main").evaluate(replace(image, expressions=(blank,)))
    assert answered.expressions[0].answers["corrected"].top == ()


class LeftSquare:
    """A fake trained model that knows one location, and no dogs."""

    def segment(self, pixels: np.ndarray, sentence: str) -> np.ndarray:
        mask = np.zeros(pixels.shape[:2], bool)
        if "cat" in sentence.lower():
            mask[4:26, 2:26] = True
        return mask


def test_a_trained_model_is_measured_beside_the_methods(tmp_path: Path) -> None:
    root = write_refcoco(tmp_path / "set")
    results, _, images = run_evaluation(
        request_for(root, methods="main"), load_worker_settings(), tmp_path / "out", 1,
        Console(quiet=True),
        lambda *_: replace(
            tiny_evaluator("vit", "main"), models={"cris:runs/a": LeftSquare().segment}
        ),
    )  # fmt: skip
    rows = {method.name: method for method in results.methods}
    assert list(rows)[-1] == "cris:runs/a"
    assert rows["cris:runs/a"].recall["1@0.5"].mean == 0.5
    answers = [e.answers["cris:runs/a"] for i in images for e in i.expressions]
    assert [len(answer.top) for answer in answers] == [1, 0, 1, 0], "an empty mask is no answer"
    assert "| cris:runs/a |" in to_markdown(results)


@pytest.mark.parametrize("name", ["cris", "cris:", "mask2former:x", "cris:/nowhere"])
def test_a_model_that_is_not_there_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no (trained )?model"):
        load_trained_model(name, load_worker_settings(cache_dir=tmp_path), "cpu")
