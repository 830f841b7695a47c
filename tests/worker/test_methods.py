"""Scores: words decide among equals, objects come before their parts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.worker.scenes import parsed, prepared_image, scene
from worker.config import PipelineConfig, ProposalsConfig, ScoringConfig
from worker.evaluation.variants import without_terms
from worker.language.expression import Ordinal, ParsedExpression, Relation
from worker.methods.comparison import find_instances
from worker.methods.confidence import compute_confidence
from worker.methods.geometry import compute_geometry
from worker.methods.terms import compute_scores
from worker.stages import Scores, TextFeatures, VisualFeatures


@pytest.mark.parametrize(
    ("expression", "best"),
    [
        (parsed(sides=("left",)), 0),
        (parsed(sides=("right",)), 3),
        (parsed(ordinal=Ordinal(2, "left")), 1),
        (parsed(ordinal=Ordinal(2, "right")), 2),
        (parsed(size="large"), 3),
        (parsed(size="tall"), 3),
        (parsed(relations=(Relation("left_of", "block"),)), 0),
    ],
)
def test_words_decide_among_equals(expression: ParsedExpression, best: int) -> None:
    _, _, text = scene()
    if not expression.relations:
        text = TextFeatures(text.sentence, text.phrase)
    scores = compute_scores(prepared_image(), text, expression, ScoringConfig())
    assert scores.order[0] == best
    total = np.sum(list(scores.terms.values()), axis=0)
    assert np.allclose(scores.total, total)


def test_terms_can_be_switched_off() -> None:
    _, _, text = scene()
    expression = parsed(sides=("right",))
    plain = TextFeatures(text.sentence, text.phrase)
    scores = compute_scores(prepared_image(), plain, expression, without_terms(ScoringConfig()))
    assert np.allclose(scores.total, scores.terms["appearance"])


def test_objects_come_before_their_parts_and_groups() -> None:
    _, _, text = scene()
    plain = TextFeatures(text.sentence, text.phrase)
    image = prepared_image()

    def first(**known: list[float]) -> int:
        arrays = {name: np.array(values, np.float32) for name, values in known.items()}
        changed = replace(image, proposals=replace(image.proposals, **arrays))
        return int(compute_scores(changed, plain, parsed(), ScoringConfig()).order[0])

    assert first(consensus=[0.2, 0.2, 0.9, 0.2, 0.2]) == 2
    assert first(level=[0, 2, 0, 0, 0]) == 1


def test_a_face_steps_back_behind_its_person_and_a_window_not() -> None:
    image = prepared_image()
    look = image.features.local_context.copy()
    look[1], look[4] = [1.0, 0.0], [1.0, 0.05]  # the small one scores a little better
    image = replace(image, features=VisualFeatures(look, look))
    _, _, text = scene()
    plain = TextFeatures(text.sentence, text.phrase)
    config = ScoringConfig(area_weight=0, person_part_margin=0.02)

    def first(noun: str, config: ScoringConfig = config) -> int:
        expression = parsed(text=f"the {noun}", appearance=noun)
        return int(compute_scores(image, plain, expression, config).order[0])

    assert first("young woman") == 4
    assert first("window") == 1
    assert first("woman", replace(config, person_part_margin=0)) == 1


def test_without_a_noun_things_win_over_stuff() -> None:
    _, _, text = scene()
    things, stuff = np.array([[0, 1], [0.1, 1]], np.float32), np.array([[1, 0]], np.float32)
    unnamed = TextFeatures(text.sentence, text.phrase, things=things, stuff=stuff)
    nameless = parsed(head_noun_phrase=None, appearance=None, sides=("left",))
    assert compute_scores(prepared_image(), unnamed, nameless, ScoringConfig()).order[0] == 4


def test_a_doubtful_instance_does_not_become_the_leftmost() -> None:
    image = prepared_image()
    look = image.features.local_context.copy()
    look[0] = [1.0, 0.62]  # further left, and much less like it
    features = VisualFeatures(look, look)
    _, _, text = scene()
    plain = TextFeatures(text.sentence, text.phrase)
    scores = compute_scores(
        replace(image, features=features), plain, parsed(sides=("left",)), ScoringConfig()
    )
    assert scores.order[0] == 1


def test_confidence_is_the_lead_over_another_object() -> None:
    masks = np.zeros((3, 20, 40), bool)
    masks[0, 2:18, 2:18] = True
    masks[1, 2:17, 2:18] = True  # the same object
    masks[2, 2:18, 22:38] = True

    def confidence(*total: float) -> float | None:
        count = len(total)
        scores = Scores(np.array(total, np.float32), {}, np.argsort(-np.array(total)))
        return compute_confidence(scores, compute_geometry(masks[:count]), ScoringConfig())

    near, far = confidence(0.5, 0.4, 0.498), confidence(0.5, 0.4, 0.45)
    assert near is not None
    assert far is not None
    assert near < 0.5 < far < 1
    assert confidence(0.5, 0.499, 0.45) == pytest.approx(far), "the same object does not compete"
    assert confidence(0.5, 0.4) == confidence(0.5) > far, "nothing else competes"
    assert confidence() is None


def test_instances_are_separate_objects() -> None:
    masks, _, _ = scene()
    instances = find_instances(
        np.array([0.9, 0.89, 0.88, 0.2, 0.895], np.float32),
        compute_geometry(masks),
        ScoringConfig(instance_margin=0.05),
    )
    assert instances.tolist() == [0, 4, 2], "the second square lies in the block"


def test_fingerprints_name_what_matters() -> None:
    config = PipelineConfig()
    same = PipelineConfig()
    assert config.fingerprint() == same.fingerprint()
    scored = PipelineConfig(scoring=ScoringConfig(area_weight=0.5))
    assert scored.fingerprint() != config.fingerprint()
    assert scored.preparation_fingerprint() == config.preparation_fingerprint()
    denser = PipelineConfig(proposals=ProposalsConfig(points_per_side=32))
    assert denser.preparation_fingerprint() != config.preparation_fingerprint()
