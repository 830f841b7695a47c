"""What is offered together: answers and accept marks that a person can tell apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from saymask.contract import MAX_K, NOTHING_MEANT
from saymask.masks import Mask, compute_iou
from saymask_worker.config.pipeline import (
    NO_DEDUPLICATION,
    PipelineConfig,
    SourcesConfig,
    SuggestionsConfig,
)
from saymask_worker.images.geometry import compute_geometry
from saymask_worker.images.types import PreparedImage, Proposals, Scores, VisualFeatures
from saymask_worker.language import Count, Ordinal, ParsedExpression
from saymask_worker.language.expression import Correction
from saymask_worker.masks.sources.base import SourceMask
from saymask_worker.pipeline.candidates import rank_with_offers
from saymask_worker.pipeline.notices import build_notices
from saymask_worker.pipeline.suggestions import (
    choose_distinct,
    choose_how_many,
    compare_masks,
    count_separate,
    find_mark,
    select_distinct,
)

CONFIG = SuggestionsConfig()


def box(left: int, top: int, right: int, bottom: int) -> Mask:
    mask = np.zeros((100, 200), bool)
    mask[top:bottom, left:right] = True
    return mask


def compare(*masks: Mask, config: SuggestionsConfig = CONFIG) -> Callable[[int, int], bool]:
    return compare_masks(masks, lambda a, b: compute_iou(masks[a], masks[b]), config)


def propose(*masks: Mask) -> Proposals:
    quality = np.full(len(masks), 0.9, np.float32)
    return Proposals(np.stack(masks), quality, quality, quality, quality, (100, 200))


DOG = box(20, 10, 80, 70)
DOG_WITH_TAIL = box(20, 10, 86, 70)
DOG_AND_BOWL = box(20, 10, 80, 98)
COLLAR_AT_THE_BOTTOM = box(40, 60, 62, 70)
OTHER_DOG = box(120, 10, 180, 70)


@pytest.mark.parametrize(
    ("mask", "is_same"),
    [
        (DOG_WITH_TAIL, True),  # nearly the same outline
        (COLLAR_AT_THE_BOTTOM, True),  # another extent, but the marks would cover each other
        (DOG_AND_BOWL, False),
        (OTHER_DOG, False),
    ],
)
def test_what_is_the_same_to_a_person(mask: Mask, is_same: bool) -> None:
    assert compare(DOG, mask)(0, 1) == compare(mask, DOG)(0, 1) == is_same
    assert not compare(DOG, mask, config=NO_DEDUPLICATION)(0, 1)


def test_marks_are_below_the_middle_of_the_box() -> None:
    assert find_mark(DOG) == (0.25, 0.7)
    bottom = box(96, 0, 104, 50)
    nested = [bottom, box(98, 45, 106, 51), box(102, 48, 110, 50), box(96, 49, 104, 53)]
    assert [find_mark(mask) for mask in nested] == [
        (0.5, 0.5), (0.51, 0.51), (0.53, 0.5), (0.5, 0.53),
    ]  # fmt: skip
    is_same = compare(*nested)
    assert [is_same(0, other) for other in (1, 2, 3)] == [True, False, False]


@given(st.lists(st.integers(0, 30), max_size=12), st.integers(1, 5))
def test_the_best_of_each_kind_is_offered_in_order(kinds: list[int], k: int) -> None:
    offered = select_distinct(range(len(kinds)), lambda a, b: kinds[a] == kinds[b], k)
    firsts = [i for i, kind in enumerate(kinds) if kind not in kinds[:i]]
    assert offered == firsts[:k]


def test_the_next_different_answer_moves_up() -> None:
    masks = (DOG, DOG_WITH_TAIL, OTHER_DOG)
    assert select_distinct([0, 1, 2], compare(*masks), 2) == [0, 2]
    assert select_distinct([1, 0, 2], compare(*masks), 2) == [1, 2], "the better of the two"


def test_sources_offer_different_answers_too() -> None:
    masks = (DOG, OTHER_DOG)
    offers = [SourceMask(COLLAR_AT_THE_BOTTOM, 0.5, source="cris")]
    probabilities = np.array([0.6, 0.2], np.float32)
    ranking = rank_with_offers(
        propose(*masks), [0, 1], probabilities, offers, 3, SourcesConfig(), CONFIG
    )
    assert [c.source for c in ranking] == ["proposals", "proposals"]
    every = rank_with_offers(
        propose(*masks), [0, 1], probabilities, offers, 3, SourcesConfig(), NO_DEDUPLICATION
    )
    assert [c.source for c in every] == ["proposals", "cris", "proposals"]


def rank_dogs() -> tuple[PreparedImage, Scores]:
    """A dog, it with its bowl, it with its tail, and another dog, in this order."""
    masks = DOG, DOG_AND_BOWL, DOG_WITH_TAIL, OTHER_DOG
    proposals = propose(*masks)
    one = np.zeros((4, 2), np.float32)
    prepared = PreparedImage(
        "a" * 64, proposals, compute_geometry(np.stack(masks)), VisualFeatures(one, one), ()
    )
    total = np.array([5.0, 4.9, 4.8, 4.0], np.float32)
    return prepared, Scores(total, {}, np.argsort(-total))


@pytest.mark.parametrize(
    ("count", "offered"),
    [(None, [0, 1, 3]), (2, [0, 3, 1]), (3, [0, 3, 1]), ("all", [0, 3, 1]), ("several", [0, 3, 1])],
)
def test_where_several_are_meant_separate_objects_come_first(
    count: Count | None, offered: list[int]
) -> None:
    """A dog with its bowl, and the same dog without, are one dog."""
    prepared, scores = rank_dogs()
    assert choose_distinct(prepared, scores, PipelineConfig(), 3, count) == offered


@pytest.mark.parametrize(
    ("k", "count", "separate", "offered"),
    [
        (5, None, 9, 5), (5, 2, 9, 5), (5, 12, 9, 12), (5, "all", 9, 9), (5, "several", 3, 5),
        (5, "all", 40, 10), (20, "all", 40, 20), (5, 100, 9, MAX_K),
    ],
)  # fmt: skip
def test_as_many_are_offered_as_are_meant(
    k: int, count: Count | None, separate: int, offered: int
) -> None:
    assert choose_how_many(k, count, separate) == offered


def test_separate_objects_are_counted_without_what_compares_them() -> None:
    """That one dog is the second from the left does not make the other one something else."""
    prepared, scores = rank_dogs()
    second = np.array([0.0, 0.0, 0.0, 9.0], np.float32)
    compared = Scores(scores.total + second, {"comparison": second}, scores.order)
    config = PipelineConfig()
    assert count_separate(prepared, scores, config) == 2
    assert count_separate(prepared, compared, config) == 2


def build(parsed: ParsedExpression, separate: int = 2, *, is_absent: bool = False) -> list[str]:
    prepared, _ = rank_dogs()
    return build_notices(parsed, prepared, separate, is_cut=False, is_absent=is_absent)


DOGS = ParsedExpression("dogs", "dogs", "dogs", "dogs")


@pytest.mark.parametrize(
    ("parsed", "notice"),
    [
        (replace(DOGS, count="all"), "You asked for all: accept each one that fits."),
        (replace(DOGS, count="several"), "You asked for several: accept each one that fits."),
        (replace(DOGS, count=2), "You asked for 2 objects: accept each one."),
        (
            replace(DOGS, count=10),
            "You asked for 10 objects, but only 2 could be told apart.",
        ),
        (
            replace(DOGS, ordinal=Ordinal(10, "left")),
            "You asked for number 10, but only 2 were found.",
        ),
        (
            replace(DOGS, corrections=(Correction("giraff", "giraffe"),)),
            "Interpreted 'giraff' as 'giraffe'. If that is wrong, rephrase.",
        ),
        (
            replace(DOGS, head_noun_phrase=None),
            "No noun names the object. Say what it is for better suggestions.",
        ),
        (
            replace(DOGS, head_noun_phrase=None, is_english=False),
            "Only English is read. Rephrase in English for better suggestions.",
        ),
    ],
)
def test_notices_say_what_was_understood(parsed: ParsedExpression, notice: str) -> None:
    assert build(parsed) == [notice]


def test_an_expression_that_was_understood_has_no_notice() -> None:
    assert build(DOGS) == []
    assert build(replace(DOGS, ordinal=Ordinal(2, "left"))) == []
    assert build(replace(DOGS, count="all"), is_absent=True) == [NOTHING_MEANT]
