"""Noun phrases against the recorded rows, and words of place, order, size and relation."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saymask.contract import MAX_EXPRESSION_CHARS
from saymask.errors import ConfigError, InvalidExpression
from saymask_worker.language.expression import Correction, Ordinal, Relation, clean_expression
from saymask_worker.language.nouns import load_nouns
from saymask_worker.language.parser import LanguageParser
from saymask_worker.pipeline.explanation import list_parse
from tests.conftest import DATA

ROWS = json.loads((DATA / "noun_phrases.json").read_text("utf-8"))["rows"]


@pytest.fixture(scope="module")
def parser() -> LanguageParser:
    return LanguageParser(nouns=load_nouns().all)


def test_published_rule_gives_the_recorded_rows(parser: LanguageParser) -> None:
    for row in ROWS:
        if row["error"] is None:
            assert parser.find_published_noun_phrase(row["joined"]) == row["noun_phrase"]


def test_our_rule_agrees_with_people_more_often(parser: LanguageParser) -> None:
    ours = published = 0
    for row in ROWS:
        right = {row["human_target"], *row["human_also_ok"]}
        found = parser.find_head_noun_phrase(row["joined"])
        ours += (row["joined"] if found is None else found) in right
        published += row["agree_exact"]
    print(f"agreement with people: published rule {published}/134, ours {ours}/134")
    assert published == 103
    assert ours >= 125


# Written after the rule was, by another hand than the recorded rows.
FRESH = [
    ("the second mug from the left", "the second mug"),
    ("woman wearing a striped scarf", "woman"),
    ("could you show me the green bus", "the green bus"),
    ("a basket of apples under the bench", "a basket of apples"),
    ("there is a kettle beside the stove", "a kettle"),
    ("to the left of the lamp", None),
    ("riding the bike", None),
    ("skateboard that is upside down", "skateboard"),
    ("the dog's red collar", "the dog 's red collar"),
    ("the cat's left eye", "the cat 's left eye"),
    ("small bird on the wire", "small bird"),
    ("not the tall one", None),
    ("old man with a cane", "old man"),
    ("where is the remote", "the remote"),
    ("TALL TREE ON THE RIGHT", "tall tree"),
    ("two people sitting at the table", "two people"),
    ("plate nearest the window", "plate"),
    ("cup left of the phone", "cup"),
    ("bowl closest to the bottom", "bowl"),
]


@pytest.mark.parametrize(("expression", "phrase"), FRESH)
def test_fresh_expressions(parser: LanguageParser, expression: str, phrase: str | None) -> None:
    assert parser.parse(clean_expression(expression)).head_noun_phrase == phrase


@pytest.mark.parametrize(
    ("expression", "person"),
    [
        ("the woman on the left", True),
        ("baseball player", True),
        ("the woman's bag", False),
        ("a man eating pizza", True),
        ("the pizza", False),
        ("second from left", False),
    ],
)
def test_nouns_that_name_people(parser: LanguageParser, expression: str, person: bool) -> None:
    assert parser.parse(expression).names_person == person


@pytest.mark.parametrize(
    ("expression", "sides"),
    [
        ("left cat", ("left",)),
        ("cat lft", ("left",)),
        ("the bottom right bowl", ("bottom", "right")),
        ("leftover pizza", ()),
        ("the bright lamp", ()),
        ("person on the left side of the picture", ("left",)),
        ("bowl closest to the bottom", ("bottom",)),
        ("closest car", ("front",)),
        ("middle one", ("middle",)),
        ("dog left of the skateboard", ()),
        ("2nd from left", ()),
    ],
)
def test_words_of_place(parser: LanguageParser, expression: str, sides: tuple) -> None:
    assert parser.parse(expression).sides == sides


@pytest.mark.parametrize(
    ("expression", "ordinal"),
    [
        ("second cow from left", Ordinal(2, "left")),
        ("3rd from right", Ordinal(3, "right")),
        ("person second from the left", Ordinal(2, "left")),
        ("second hand on the clock", None),
        ("first aid kit", None),
        ("1st class carriage", None),
        ("man on third base", None),
        ("5th avenue sign", None),
        ("the cow", None),
        ("10th car from the right", Ordinal(10, "right")),
        ("the eleventh person", Ordinal(11, "left")),
        ("twelfth from the left", Ordinal(12, "left")),
        ("second one from left", Ordinal(2, "left")),
        ("eighth one from left", Ordinal(8, "left")),
        ("12 th cow from the left", Ordinal(12, "left")),
        ("twenty-first chair from the right", Ordinal(21, "right")),
        ("twenty first chair from the right", Ordinal(21, "right")),
        ("100th person from the left", Ordinal(100, "left")),
        ("no. 3 from the left", Ordinal(3, "left")),
        ("No.3 from the left", Ordinal(3, "left")),
        ("no 3 from the left", Ordinal(3, "left")),
        ("#3 from the left", Ordinal(3, "left")),
        ("№ 3 from the left", Ordinal(3, "left")),
        ("number eleven from the left", Ordinal(11, "left")),
        ("car number 3 from the left", Ordinal(3, "left")),
        ("car 12 from the left", Ordinal(12, "left")),
        ("the second biggest dog", Ordinal(2, "left", "large")),
        ("third-smallest cup from the left", Ordinal(3, "left", "small")),
        ("2nd tallest", Ordinal(2, "left", "tall")),
        ("the second big dog", Ordinal(2, "left")),
        ("second to last car", Ordinal(2, "right")),
        ("second-to-last car", Ordinal(2, "right")),
        ("car second to last from the right", Ordinal(2, "left")),
        ("third last person", Ordinal(3, "right")),
        ("the 3rd from the end", Ordinal(3, "right")),
        ("last but one", Ordinal(2, "right")),
        ("the next to last chair", Ordinal(2, "right")),
        ("penultimate boat", Ordinal(2, "right")),
        ("second closest car", Ordinal(2, "front")),
        ("second furthest right", Ordinal(2, "right")),
    ],
)
def test_ordinals(parser: LanguageParser, expression: str, ordinal: Ordinal | None) -> None:
    assert parser.parse(expression).ordinal == ordinal


@pytest.mark.parametrize("order", ["second biggest", "second to last", "third-last", "2nd closest"])
def test_an_order_is_no_part_of_the_noun(parser: LanguageParser, order: str) -> None:
    parsed = parser.parse(f"the {order} car")
    assert (parsed.appearance, parsed.size, parsed.relations) == ("car", None, ())


@pytest.mark.parametrize(
    ("expression", "relation"),
    [
        ("dog left of the skateboard", Relation("left_of", "skateboard")),
        ("the fridge to the right of the oven", Relation("right_of", "oven")),
        ("bowl closest to the sandwich", Relation("near", "sandwich")),
        ("plant on right side of chair", Relation("right_of", "chair")),
        ("the cup on top of the books", Relation("on", "books")),
        ("the cow on the right", None),
        ("the bird in the picture", None),
        ("the dog next to all the cars", Relation("near", "cars")),
        ("the dog next to several cars", Relation("near", "cars")),
    ],
)
def test_relations(parser: LanguageParser, expression: str, relation: Relation | None) -> None:
    assert parser.parse(expression).relations == (() if relation is None else (relation,))


@pytest.mark.parametrize(
    ("expression", "size"),
    [("the biggest dog", "large"), ("smaller zebra", "small"), ("the dog", None)],
)
def test_sizes(parser: LanguageParser, expression: str, size: str | None) -> None:
    assert parser.parse(expression).size == size


def test_appearance_leaves_place_order_and_size_out(parser: LanguageParser) -> None:
    for expression, appearance in [
        ("bottom left bowl", "bowl"),
        ("the second red cow from the left", "red cow"),
        ("left", None),
        ("the biggest one", None),
        ("10th red car from the right", "red car"),
        ("car number 3 from the left", "car"),
        ("all the red cars", "red cars"),
        ("every red car", "red car"),
        ("several red cars", "red cars"),
        ("a dozen eggs", "eggs"),
        ("player number 12", "player number 12"),
        ("player #12", "player number 12"),
    ]:
        assert parser.parse(expression).appearance == appearance


@pytest.mark.parametrize("blank", ["", "   ", "\n\t", "\0\0", "...", "?!", "\u200b"])
def test_expressions_without_a_word_are_refused(blank: str) -> None:
    with pytest.raises(InvalidExpression):
        clean_expression(blank)


@pytest.mark.parametrize(
    "odd", ["🐶 left", "الكلب الأحمر", "el perro", "a\0b", "la\nmp", "猫", "1", "👩‍🚀"]
)
def test_odd_expressions_parse(parser: LanguageParser, odd: str) -> None:
    parsed = parser.parse(clean_expression(odd))
    assert parsed.text
    assert "\0" not in parsed.text


def test_a_model_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saymask_worker.language.parser._MODEL", "en_missing")
    with pytest.raises(ConfigError, match="en_missing is not installed"):
        LanguageParser()


@pytest.mark.parametrize(
    ("expression", "appearance", "anchor", "sides"),
    [
        ("skateboard right of dog", "skateboard", "dog", ()),
        ("dog left of skateboard", "dog", "skateboard", ()),
        ("oven left of fridge", "oven", "refrigerator", ()),
        ("plate under sandwich", "plate", "sandwich", ()),
        ("person behind counter", "person", "counter", ()),
        ("the person left of the red car that is parked", "person", "red car", ()),
        ("boy in the white shirt eating cake", "boy", "white shirt", ()),
        ("girl next to the building", "girl", "building", ()),
        ("the cup next to a painting", "cup", "painting", ()),
        ("chair behind the table with a laptop", "chair", "table", ()),
        ("cup near the man not wearing a hat", "cup", "man", ()),
        ("man not wearing a hat", "man", None, ()),
        ("the dog without a collar", "dog", None, ()),
        ("left dog not the right", "dog", None, ("left",)),
        ("woman in black top", "woman", "black top", ()),
        ("black top", "black top", None, ()),
        ("top black bag", "black bag", None, ("top",)),
        ("top shelf", "shelf", None, ("top",)),
    ],
)
def test_the_head_comes_before_its_relation(
    parser: LanguageParser, expression: str, appearance: str, anchor: str | None, sides: tuple
) -> None:
    result = parser.parse(clean_expression(expression))
    assert result.appearance == appearance
    assert (result.relations[0].anchor if result.relations else None) == anchor
    assert result.sides == sides


@pytest.mark.parametrize(
    ("expression", "sentence", "excluded"),
    [
        ("man not wearing a hat", "man", "hat"),
        ("the one without a hat", "the one", "hat"),
        ("not the left dog but the right one", "the right one", "left dog"),
        ("not the left one", "not the left one", None),
        ("the red car", "the red car", None),
    ],
)
def test_what_is_not_there_is_not_looked_for(
    parser: LanguageParser, expression: str, sentence: str, excluded: str | None
) -> None:
    result = parser.parse(expression)
    assert (result.sentence, result.excluded) == (sentence, excluded)


def test_a_misspelled_noun_is_read_and_reported(parser: LanguageParser) -> None:
    result = parser.parse("the giraff near the umbrela")
    assert result.appearance == "giraffe"
    assert result.relations == (Relation("near", "umbrella"),)
    assert result.corrections == (
        Correction("giraff", "giraffe"),
        Correction("umbrela", "umbrella"),
    )


@pytest.mark.parametrize(
    "word",
    [
        "goat", "boat", "quokka", "xyzzyx", "gnu", "el", "nft", "tuktuk", "gopro", "nike", "skoda",
        "crocs", "longboards", "crockpot", "firewire", "railcars",
        "swiffer", "flautas", "zebraon", "piñata", "giraffé", "gir4ff",
    ],
)  # fmt: skip
def test_words_that_are_right_or_unlike_any_noun_stay(parser: LanguageParser, word: str) -> None:
    assert parser.parse(f"the {word} left").corrections == ()


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("umbrela", "umbrella"), ("womna", "woman"), ("windo", "window"), ("glases", "glasses"),
        ("giraffs", "giraffes"), ("skatebordd", "skateboard"), ("yelow", "yellow"),
        ("refridgerator", "refrigerator"),
    ],
)  # fmt: skip
def test_a_word_with_a_slip_is_read_as_the_nearest(
    parser: LanguageParser, typed: str, read: str
) -> None:
    assert parser.parse(f"the {typed} left").corrections == (Correction(typed, read),)


def test_british_spelling_is_english_and_no_misspelling(parser: LanguageParser) -> None:
    for expression in ("colour tv", "the grey aeroplane", "kid in pyjamas", "ice cream flavours"):
        parsed = parser.parse(expression)
        assert parsed.is_english
        assert parsed.corrections == ()
    assert parser.parse("the grey aeroplane").appearance == "grey airplane"


def test_a_capital_within_an_expression_makes_a_name(parser: LanguageParser) -> None:
    def read(expression: str) -> tuple[Correction, ...]:
        return parser.parse(clean_expression(expression)).corrections

    assert read("sign of Umbrela") == read("UmBrela sign") == ()
    for expression in ("Umbrela on the left", "UMBRELA ON THE LEFT", "sign of umbrela"):
        assert read(expression) == (Correction("umbrela", "umbrella"),)


@pytest.mark.parametrize(
    "expression",
    [
        "der rote Hund links", "Mann mit Hut", "die Frau mit dem roten Kleid", "schwarze Katze",
        "zweites Auto von links", "das Kind", "le chien noir à gauche", "l'homme au chapeau",
        "toutes les voitures", "el perro rojo", "la mujer de la derecha", "todos los coches",
        "il cane rosso", "l'uomo a sinistra", "o cachorro vermelho", "a menina na bicicleta",
        "vrouw met rode jurk", "de man met de hoed", "собака слева", "красная машина", "红色的车",
        "左边的猫", "赤い車", "빨간 차", "كلب أحمر",
    ],
)  # fmt: skip
def test_other_languages_are_told_and_nothing_in_them_is_corrected(
    parser: LanguageParser, expression: str
) -> None:
    parsed = parser.parse(clean_expression(expression))
    assert not parsed.is_english
    assert parsed.corrections == ()
    assert parsed.text
    assert ("language", "not English") in list_parse(parsed)


@pytest.mark.parametrize(
    "expression",
    [
        "the sombrero", "sombrero", "red piñata", "crème brûlée", "the crème brûlée on the left",
        "el toro sign", "cafe au lait on the table", "man with the sombrero", "hello kitty 猫",
        "dachshund left", "grl w/ hat", "Bin On Left", "cirque du soleil sign", "🐶 left",
        "mona lisa", "Mercedes Benz", "pirate mug", "die", "1", "hut",
    ],
)  # fmt: skip
def test_foreign_names_in_english_are_english(parser: LanguageParser, expression: str) -> None:
    assert parser.parse(clean_expression(expression)).is_english


def test_recorded_expressions_are_all_english(parser: LanguageParser) -> None:
    natural = json.loads((DATA / "natural_expressions.json").read_text("utf-8"))["expressions"]
    cases = (DATA / "parse_cases.txt").read_text("utf-8").splitlines()
    expressions = [
        *(item["sent"] for item in natural),
        *(row["joined"] for row in ROWS),
        *(line.partition("|")[0].strip() for line in cases if line and line[0] != "#"),
        *load_nouns().all,
    ]
    told = {text for text in expressions if text and not parser._foreign.is_english(text)}
    assert told == {"el perro rojo"}


TEXTS = st.one_of(
    st.text(min_size=1, max_size=500),
    st.lists(
        st.sampled_from([
            "not", "no", "but", "with", "all", "of", "the", "a", "in", "on", "left", "right",
            "from", "first", "2", "#", ".", "-", "between", "and", "everything", "every", "dog",
            "dogs", "twenty", "dozen", "row", "number", "looking", "to", "its", "hand", "le",
        ]),
        min_size=1,
        max_size=100,
    ).map(" ".join),
)  # fmt: skip


@given(raw=TEXTS)
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_text_is_read_or_refused(parser: LanguageParser, raw: str) -> None:
    try:
        expression = clean_expression(raw)
    except InvalidExpression:
        return
    parsed = parser.parse(expression)
    assert parsed.text
    assert parsed.sentence
    assert parsed.head_noun_phrase is None or parsed.head_noun_phrase.strip()
    assert parser.find_published_noun_phrase(parsed.text).strip()


@pytest.mark.parametrize(
    "part",
    ["left of ", "not ", "a", "giraff", "twenty - ", "please ", "a (", "no . ", "in a ", "的"],
)
def test_the_longest_expression_is_read_in_bounded_time(parser: LanguageParser, part: str) -> None:
    """A pattern that backtracks would never end here."""
    assert parser.parse(clean_expression((part * 2000)[:MAX_EXPRESSION_CHARS])).text
