"""Scores: words decide among equals, objects come before their parts."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from saymask_worker.config.pipeline import PipelineConfig, ProposalsConfig
from saymask_worker.config.scoring import ScoringConfig
from saymask_worker.encoders.vocabulary import EncodedNouns
from saymask_worker.evaluation.variants import without_terms
from saymask_worker.images.geometry import compute_geometry
from saymask_worker.images.types import Proposals, Scores, TextFeatures, VisualFeatures
from saymask_worker.language import Side, Size
from saymask_worker.language.expression import Ordinal, ParsedExpression, Relation
from saymask_worker.ranking.appearance import compute_negatives, describe_image
from saymask_worker.ranking.comparison import find_instances, find_row
from saymask_worker.ranking.confidence import compute_probabilities
from saymask_worker.ranking.global_local_clip import GlobalLocalClip
from saymask_worker.ranking.terms import compute_scores
from tests.worker.scenes import described, parsed, prepared_image, scene


@pytest.mark.parametrize(
    ("expression", "best"),
    [
        (parsed(sides=("left",)), 0),
        (parsed(sides=("right",)), 3),
        (parsed(ordinal=Ordinal(2, "left")), 1),
        (parsed(ordinal=Ordinal(2, "right")), 2),
        (parsed(ordinal=Ordinal(1, "left", "large")), 3),
        (parsed(size="large"), 3),
        (parsed(size="tall"), 3),
        (parsed(relations=(Relation("left_of", "block"),)), 0),
    ],
)
def test_words_decide_among_equals(expression: ParsedExpression, best: int) -> None:
    _, _, text = scene()
    if not expression.relations:
        text = TextFeatures(text.sentence, text.phrase)
    scores = compute_scores(described(), text, expression, ScoringConfig())
    assert scores.order[0] == best
    total = np.sum(list(scores.terms.values()), axis=0)
    assert np.allclose(scores.total, total)


def test_two_anchors_and_a_row_decide() -> None:
    """Four boxes in a row: between the first and the third lies the second."""
    looks = np.tile(np.array([[1.0, 0.2, 0.0]], np.float32), (5, 1))
    looks[0], looks[2], looks[4] = [0, 1, 0], [0, 0, 1], [0.3, 0.3, 0.3]
    image = prepared_image()
    image = replace(image, features=VisualFeatures(looks, looks))
    noun = np.array([1, 0, 0], np.float32)
    text = TextFeatures(noun, noun, np.array([[0, 1, 0], [0, 0, 1]], np.float32))
    between = parsed(relations=(Relation("between", "a", "b"),))
    bonus = compute_scores(described(image), text, between, ScoringConfig()).terms["comparison"]
    assert bonus.argmax() == 1
    assert bonus[3] < bonus[1]


def test_rows_are_told_apart() -> None:
    masks = np.zeros((5, 100, 100), bool)
    for index, (y, x) in enumerate([(5, 5), (8, 45), (40, 5), (42, 45), (80, 20)]):
        masks[index, y : y + 15, x : x + 15] = True
    geometry, everything = compute_geometry(masks), np.arange(5)

    def row(side: Side) -> list[int]:
        return np.flatnonzero(find_row(side, geometry, everything)).tolist()

    assert (row("top"), row("back")) == ([0, 1], [0, 1])
    assert row("middle") == [2, 3]
    assert (row("bottom"), row("front")) == ([4], [4])


@pytest.mark.parametrize(
    ("size", "best", "second"),
    [
        ("tall", 2, 0), ("short", 1, 0), ("wide", 1, 0), ("narrow", 2, 1), ("large", 0, 1),
        ("small", 2, 1),
    ],
)  # fmt: skip
def test_words_of_size_measure_what_they_say(size: Size, best: int, second: int) -> None:
    masks = np.zeros((3, 100, 200), bool)
    masks[0, 30:70, 10:60] = True
    masks[1, 40:50, 80:160] = True
    masks[2, 5:95, 170:176] = True
    proposals = Proposals(masks, *(np.ones(3, np.float32),) * 4, (100, 200))
    look = np.ones((3, 2), np.float32)
    image = replace(
        prepared_image(), proposals=proposals, geometry=compute_geometry(masks),
        features=VisualFeatures(look, look),
    )  # fmt: skip
    _, _, text = scene()
    plain = TextFeatures(text.sentence, text.phrase)
    ranked = parsed(ordinal=Ordinal(2, "left", size))
    for expression, expected in ((parsed(size=size), best), (ranked, second)):
        terms = compute_scores(described(image), plain, expression, ScoringConfig()).terms
        assert terms["comparison"].argmax() == expected, expression


def test_what_is_worn_is_looked_for_inside_and_what_is_denied_counts_against() -> None:
    """Two people side by side; the second's hat is a proposal of its own."""
    masks = np.zeros((3, 56, 112), bool)
    masks[0, 8:52, 8:40] = masks[1, 8:52, 72:104] = masks[2, 8:16, 80:96] = True
    looks = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    one = np.ones(3, np.float32)
    image = replace(
        prepared_image(), proposals=Proposals(masks, one, one, one, one, (56, 112)),
        geometry=compute_geometry(masks), features=VisualFeatures(looks, looks),
    )  # fmt: skip
    person, hat = np.array([1, 0], np.float32), np.array([0, 1], np.float32)
    config = ScoringConfig(pair_weight=0.5, excluded_weight=0.5)

    def terms(text: TextFeatures, **changes: object) -> dict[str, np.ndarray]:
        return compute_scores(described(image), text, parsed(**changes), config).terms

    pair = terms(TextFeatures(person, person, hat[None]), relations=(Relation("with", "hat"),))
    assert pair["pair"][1] == 0
    assert pair["pair"][0] < -1
    assert not pair["comparison"].any(), "a pair is no place"
    denied = terms(TextFeatures(person, person, excluded=hat), excluded="hat")
    assert denied["excluded"][0] > 1 > denied["excluded"][1]


def test_the_score_is_free_of_the_encoders_scale() -> None:
    """Cosines that spread half as far, at half the temperature, rank alike by equal totals."""
    rng = np.random.default_rng(5)
    looks = rng.normal(size=(5, 16)).astype(np.float32)
    features = VisualFeatures(looks, looks)
    image = replace(prepared_image(), features=features)
    noun, nouns = rng.normal(size=16), rng.normal(size=(40, 16))

    def totals(shrink: float) -> np.ndarray:
        """Text that shares a large part, as in genuine CLIP, leaves less for the differences."""
        config = ScoringConfig(temperature=0.02 * shrink)
        view = describe_image(
            image,
            EncodedNouns(nouns * shrink, np.arange(40) < 20, tuple(map(str, range(40)))),
            config,
        )
        query = (noun * shrink).astype(np.float32)
        logits = view.visual @ query / config.temperature
        negatives = compute_negatives(view, query, replace(config, negatives_cosine_max=1e9))
        return np.asarray(logits + negatives)

    assert np.allclose(totals(1.0), totals(0.25), rtol=1e-4)


def test_terms_can_be_switched_off() -> None:
    _, _, text = scene()
    expression = parsed(sides=("right",))
    plain = TextFeatures(text.sentence, text.phrase)
    scores = compute_scores(described(), plain, expression, without_terms(ScoringConfig()))
    assert np.allclose(scores.total, scores.terms["appearance"])


def test_objects_come_before_their_parts_and_groups() -> None:
    _, _, text = scene()
    plain = TextFeatures(text.sentence, text.phrase)
    image = prepared_image()

    def first(**known: list[float]) -> int:
        arrays = {name: np.array(values, np.float32) for name, values in known.items()}
        changed = replace(image, proposals=replace(image.proposals, **arrays))
        return int(compute_scores(described(changed), plain, parsed(), ScoringConfig()).order[0])

    assert first(vote_share=[0.2, 0.2, 0.9, 0.2, 0.2]) == 2
    assert first(granularity=[0, 2, 0, 0, 0]) == 1


def test_a_face_steps_back_behind_its_person_and_a_window_not() -> None:
    image = prepared_image()
    look = image.features.local_context.copy()
    look[1], look[4] = [1.0, 0.0], [1.0, 0.05]  # the small one scores a little better
    image = replace(image, features=VisualFeatures(look, look))
    _, _, text = scene()
    plain = TextFeatures(text.sentence, text.phrase)
    config = ScoringConfig(area_weight=0, person_part_margin=1)

    def first(noun: str, config: ScoringConfig = config) -> int:
        expression = parsed(text=f"the {noun}", appearance=noun)
        return int(compute_scores(described(image, config), plain, expression, config).order[0])

    assert first("young woman") == 4
    assert first("window") == 1
    assert first("woman", replace(config, person_part_margin=0)) == 1


def test_without_a_noun_things_win_over_stuff() -> None:
    _, _, text = scene()
    image = described(things=[[0, 1], [0.1, 1]], stuff=[[1, 0]])
    nameless = parsed(head_noun_phrase=None, appearance=None, sides=("left",))
    assert compute_scores(image, text, nameless, ScoringConfig()).order[0] == 4


def test_a_doubtful_instance_does_not_become_the_leftmost() -> None:
    image = prepared_image()
    look = image.features.local_context.copy()
    look[0] = [1.0, 0.62]  # further left, and much less like it
    features = VisualFeatures(look, look)
    _, _, text = scene()
    plain = TextFeatures(text.sentence, text.phrase)
    scores = compute_scores(
        described(replace(image, features=features)),
        plain,
        parsed(sides=("left",)),
        ScoringConfig(),
    )
    assert scores.order[0] == 1


def test_confidence_is_the_lead_over_another_object() -> None:
    masks = np.zeros((3, 20, 40), bool)
    masks[0, 2:18, 2:18] = True
    masks[1, 2:17, 2:18] = True  # the same object
    masks[2, 2:18, 22:38] = True

    def probabilities(*total: float) -> list[float]:
        count = len(total)
        scores = Scores(np.array(total, np.float32), {}, np.argsort(-np.array(total)))
        geometry = compute_geometry(masks[:count])
        return compute_probabilities(
            scores, geometry, ScoringConfig(), scores.order.tolist()
        ).tolist()

    near, far = probabilities(5.0, 4.0, 4.9)[0], probabilities(5.0, 4.0, 2.5)[0]
    assert near < 0.5 < far < 1
    assert probabilities(5.0, 4.99, 2.5)[0] == pytest.approx(far), "the same object: no rival"
    assert probabilities(5.0, 4.0)[0] == probabilities(5.0)[0] > far, "nothing else competes"
    assert probabilities() == []
    first, second, third = probabilities(5.0, 4.0, 4.5)
    assert first > second >= third > 0, "never above that of a proposal before it"
    assert second == pytest.approx(1 / (1 + np.exp(0.51 + 1.32 * 0.5)), abs=1e-6), "4.5 trails"


def test_confidence_falls_where_the_image_shows_no_such_thing() -> None:
    masks = np.zeros((1, 20, 40), bool)
    masks[0, 2:18, 2:18] = True
    one, config = np.array([5.0], np.float32), ScoringConfig()

    def confidence(presence: float | None) -> float:
        scores = Scores(one, {}, np.array([0]), presence)
        return float(compute_probabilities(scores, compute_geometry(masks), config, [0])[0])

    unknown, present, absent = confidence(None), confidence(5.0), confidence(-9.0)
    assert present == pytest.approx(unknown, abs=1e-2)
    assert absent < 0.01 < 0.9 < present
    half = confidence(-config.presence_offset / config.presence_slope)
    assert half == pytest.approx(unknown / 2)


def test_presence_is_of_the_noun_and_not_of_its_place() -> None:
    """Two nouns, the proposals show the first; four of them do so alike."""
    view = described(things=[[1.0, 0.2], [0.0, -1.0]])
    shown, other = np.array([1.0, 0.2], np.float32), np.array([0.0, -1.0], np.float32)
    config = ScoringConfig(negatives_min=1)

    def presence(noun: np.ndarray, **words: object) -> float | None:
        return compute_scores(view, TextFeatures(noun, noun), parsed(**words), config).presence

    here, absent = presence(shown), presence(other)
    assert here is not None
    assert absent is not None
    assert here > 0 > absent
    assert presence(shown, sides=("left",)) == here
    assert presence(shown, appearance=None, sides=("left",)) is None, "no noun names anything"
    assert presence(shown, appearance=None) is None, "what the dog has in its mouth"


def test_presence_is_of_the_noun_without_its_adjectives() -> None:
    """An adjective that no proposal shows makes nothing absent, one that some show nothing there.

    The text tower has a direction for each of two nouns, and adds up those of the words.
    """
    words = {"cat": (1.0, 0.2), "dog": (0.0, -1.0), "striped": (0.0, -3.0), "red": (3.0, 0.6)}

    class Words:
        def encode(self, texts: list[str]) -> np.ndarray:
            known = [[words[word] for word in text.split() if word in words] for text in texts]
            return np.array([np.sum(rows, axis=0) for rows in known], np.float32)

    view = described(things=[[1.0, 0.2], [0.0, -1.0]])
    vocabulary = replace(view.vocabulary, names=("cat", "dog", "sky"))
    config = PipelineConfig(scoring=ScoringConfig(negatives_min=1))
    encoder: Any = SimpleNamespace(text=Words())
    method = GlobalLocalClip(config, encoder, vocabulary)

    def presence(phrase: str) -> float | None:
        expression = parsed(sentence=phrase, head_noun_phrase=phrase, appearance=phrase)
        return method.score(view.prepared, method.encode_text(expression), expression).presence

    assert presence("striped cat") == presence("cat")
    assert presence("red dog") == presence("dog")
    assert presence("cat") != presence("dog")


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
    # What decides which proposals are cropped.
    for scoring in ({"temperature": 0.03}, {"thing_temperature": 0.4}, {"thing_floor": 0.1}):
        other = PipelineConfig(scoring=ScoringConfig(**scoring))
        assert other.preparation_fingerprint() != config.preparation_fingerprint(), scoring
    named = PipelineConfig(nouns="mine")
    assert named.preparation_fingerprint() != config.preparation_fingerprint()
    denser = PipelineConfig(proposals=ProposalsConfig(points_per_side=32))
    assert denser.preparation_fingerprint() != config.preparation_fingerprint()
