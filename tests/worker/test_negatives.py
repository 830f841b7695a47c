"""False expressions: which word may change, and when nothing in an image fits any more."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saymask_worker.config.pipeline import PipelineConfig
from saymask_worker.images.geometry import compute_geometry
from saymask_worker.images.types import Scores
from saymask_worker.language import LanguageParser
from saymask_worker.language.nouns import load_nouns
from saymask_worker.pipeline.generation.colors import COLORS
from saymask_worker.pipeline.generation.negatives import (
    Judge,
    alter,
    is_decided,
    propose_false,
)

# The field of the parse that each kind of word decides.
FIELDS = {
    "noun": "appearance", "color": "appearance", "side": "sides", "ordinal": "ordinal",
    "number": "count",
}  # fmt: skip
PHRASES = st.builds(
    "{} {}{}{}{}".format,
    st.sampled_from(["the", "The", "two", "3"]),
    st.sampled_from(["", "second ", "left ", "1st "]),
    st.sampled_from(["", "red ", "grey ", "orange "]),
    st.sampled_from(["man", "wine glass", "dogs", "cup", "puppy", "traffic light"]),
    st.sampled_from(["", " on the left", " at the top", " from the right", " next to the man"]),
)


@pytest.fixture(scope="module")
def parser() -> LanguageParser:
    return LanguageParser(load_nouns().all)


def kinds_of(parser: LanguageParser, expression: str) -> dict[str, set[str]]:
    """What decides, by kind."""
    found: dict[str, set[str]] = {}
    for option in alter(expression):
        if is_decided(option, parser.parse(expression), parser.parse(option.text)):
            found.setdefault(option.kind, set()).add(option.text)
    return found


@given(st.one_of(PHRASES, st.text(st.sampled_from("left red two 2nd man,.'-\n é"), max_size=30)))
def test_exactly_one_word_differs(expression: str) -> None:
    before = re.split(r"(\W+)", expression)
    for option in alter(expression):
        after = re.split(r"(\W+)", option.text)
        assert len(after) == len(before)
        assert sum(a != b for a, b in zip(before, after, strict=True)) == 1
        assert option.text.lower() != expression.lower()


@settings(max_examples=25)
@given(PHRASES)
def test_what_decides_changes_one_field_of_the_parse(
    parser: LanguageParser, expression: str
) -> None:
    before = parser.parse(expression)
    for option in list(alter(expression))[::7]:
        after = parser.parse(option.text)
        if is_decided(option, before, after):
            fields = set(FIELDS.values())
            changed = {name for name in fields if getattr(before, name) != getattr(after, name)}
            assert changed == {FIELDS[option.kind]}


@pytest.mark.parametrize(
    ("expression", "kinds"),
    [
        ("the red cup on the left", {"color", "side"}),
        ("second cow from the left", {"ordinal"}),
        ("two dogs", {"number"}),
        # "An" fits no other colour.
        ("an orange cup", set()),
        ("the wine glass", {"noun"}),
        # A dog may be a puppy, and there may be another dog on the plate's other side.
        ("the dog left of the plate", set()),
        # A boy elephant is no boy.
        ("baby elephant", set()),
        ("the cup next to the red plate", set()),
        ("not the left cup", set()),
    ],
)
def test_words_that_do_not_decide_are_left_alone(
    parser: LanguageParser, expression: str, kinds: set[str]
) -> None:
    assert set(kinds_of(parser, expression)) == kinds


def test_wordings_stay_english(parser: LanguageParser) -> None:
    assert kinds_of(parser, "a red cup")["color"].isdisjoint({"a orange cup"})
    assert "The Right cup" in kinds_of(parser, "The Left cup")["side"]
    assert kinds_of(parser, "2nd cow from the left")["ordinal"] >= {"3rd cow from the left"}


def build_judge(
    parser: LanguageParser,
    places: Sequence[float],
    *,
    color: str = "red",
    absent: Sequence[str] = (),
) -> Judge:
    """An image with objects of one noun and colour at these places; some nouns are absent."""
    masks = np.zeros((len(places), 40, 100), bool)
    for mask, place in zip(masks, places, strict=True):
        mask[15:25, int(100 * place) - 4 : int(100 * place) + 4] = True
    total = np.zeros(len(places), np.float32)

    def score(text: str) -> Scores:
        presence = -30.0 if any(noun in text for noun in absent) else 30.0
        return Scores(total, {"appearance": total}, np.arange(len(places)), presence)

    def measure(chosen: Sequence[int]) -> np.ndarray:
        shares = np.zeros((len(chosen), len(COLORS)), np.float32)
        shares[:, COLORS.index(color)] = 1
        return shares

    return Judge(compute_geometry(masks), parser.parse, score, measure, PipelineConfig())


def find(judge: Judge, *accepted: str, count: int = 9, seed: int = 0) -> list[str]:
    return [false.text for _, false in propose_false(judge, accepted, count, seed)]


def test_the_other_side_is_false_where_one_object_is_clearly_on_this_one(
    parser: LanguageParser,
) -> None:
    assert find(build_judge(parser, [0.2]), "the cup on the left") == ["the cup on the right"]
    assert find(build_judge(parser, [0.2, 0.8]), "the cup on the left") == []
    assert find(build_judge(parser, [0.48]), "the cup on the left") == []


def test_numbers_are_false_beyond_what_is_found(parser: LanguageParser) -> None:
    three = build_judge(parser, [0.2, 0.5, 0.8])
    assert find(three, "second cup from the left") == ["fourth cup from the left"]
    assert find(three, "two cups") == ["four cups"]


def test_a_color_is_false_where_no_object_of_the_noun_has_it(parser: LanguageParser) -> None:
    colors = {find(build_judge(parser, [0.3]), "the red cup", seed=s)[0] for s in range(9)}
    assert len(colors) > 3, "the seed chooses"
    blue = build_judge(parser, [0.3], color="blue")
    assert all("blue" not in text for s in range(9) for text in find(blue, "the red cup", seed=s))


def test_a_noun_is_false_where_it_is_absent(parser: LanguageParser) -> None:
    assert find(build_judge(parser, [0.3], absent=["beer glass"]), "the wine glass") == [
        "the beer glass"
    ]
    assert find(build_judge(parser, [0.3]), "the wine glass") == []


def test_nothing_is_said_of_a_noun_that_the_pipeline_does_not_see(parser: LanguageParser) -> None:
    assert find(build_judge(parser, [0.2], absent=["cup"]), "the cup on the left") == []


def test_what_people_accepted_is_not_false_and_each_gives_one(parser: LanguageParser) -> None:
    judge = build_judge(parser, [0.2])
    assert find(judge, "the cup on the left", "The cup on the right", "?") == []
    said = ("the cup on the left", "left cup", "leftmost cup")
    assert find(judge, *said, count=2) == ["the cup on the right", "right cup"]


def test_an_expression_without_a_word_stops_nothing(parser: LanguageParser) -> None:
    judge = build_judge(parser, [0.2])
    assert find(judge, "", "?!", "left cup") == ["right cup"]
