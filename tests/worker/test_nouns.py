"""The open vocabulary and files that replace it."""

from __future__ import annotations

from pathlib import Path

import pytest

from saymask.errors import ConfigError
from saymask_worker.language.nouns import find_noun, load_nouns, parse_nouns


def test_the_vocabulary_is_large_and_has_no_noun_twice() -> None:
    nouns = load_nouns()
    assert len(nouns.all) >= 1000
    assert len(set(nouns.all)) == len(nouns.all)
    assert all(noun == noun.strip().lower() and noun for noun in nouns.all)


@pytest.mark.parametrize(
    ("phrase", "noun"),
    [
        ("white dog", "dog"),
        ("old brown teddy bear", "teddy bear"),
        ("purple backpack of the person", "backpack"),
        ("qwerty of orange scissors", "scissors"),
        ("two fluffy dogs", "dogs"),
        ("zebra drinking", "zebra"),
        ("gold ring", "ring"),
        ("dog", "dog"),
    ],
)
def test_the_noun_of_a_phrase_has_no_adjectives(phrase: str, noun: str) -> None:
    assert find_noun(phrase, load_nouns().all) == noun


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "nouns.txt"
    path.write_text("# mine\n[things]\ncell, nucleus\ncell\n[stuff]\nplasma\n[parts]\nwall\n")
    nouns = load_nouns(path)
    assert nouns.all == ("cell", "nucleus", "plasma", "wall")
    assert nouns.fingerprint != load_nouns().fingerprint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dog", "Line 1 of the nouns x is under no heading"),
        ("[animals]\ndog", "Line 1 of the nouns x is under no heading"),
        ("[things]\ndog\n[stuff]\nsky\n[parts]", "have no parts"),
        ("", "have no things"),
    ],
)
def test_a_file_that_is_none_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_nouns(text, "x")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.txt"):
        load_nouns(tmp_path / "gone.txt")
