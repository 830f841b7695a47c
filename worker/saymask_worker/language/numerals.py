"""Numbers from 1 to 100, in words and digits, and words for several and all."""

from __future__ import annotations

import re

_ONES = [
    "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
_ONES_ORDINAL = [
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth",
    "tenth", "eleventh", "twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth",
    "seventeenth", "eighteenth", "nineteenth",
]  # fmt: skip
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_HIGHEST = 100


def _spell(number: int, ones: list[str], tens: list[str], hundred: str) -> str:
    if number < len(ones) + 1:
        return ones[number - 1]
    if number == _HIGHEST:
        return hundred
    ten, one = divmod(number, 10)
    return f"{_TENS[ten - 2]}-{ones[one - 1]}" if one else tens[ten - 2]


def _add_ending(number: int) -> str:
    is_teen = number // 10 == 1
    return f"{number}{'th' if is_teen else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"


_TENS_ORDINAL = [f"{ten[:-1]}ieth" for ten in _TENS]
_COUNTED = range(1, _HIGHEST + 1)
NUMBERS = {
    **{_spell(n, _ONES, _TENS, "hundred"): n for n in _COUNTED},
    **{str(n): n for n in _COUNTED},
}
ORDINALS = {
    **{_spell(n, _ONES_ORDINAL, _TENS_ORDINAL, "hundredth"): n for n in _COUNTED},
    **{_add_ending(n): n for n in _COUNTED},
}
# "Second to last", joined by ``join_numerals``.
FROM_END = {f"{ordinal}-last": number for ordinal, number in ORDINALS.items()}
# Before a plural: "both dogs".
QUANTITIES = {"both": 2, **NUMBERS}
# "Each" and "every" stand before a singular, the others before a plural.
EACH = {"each", "every"}
SEVERAL = {"several", "many", "few", "multiple", "various", "numerous"}
EVERYONE = {"everyone", "everybody"}
QUANTIFIERS = {"all", *EACH, *SEVERAL, *QUANTITIES}

_TEN = "|".join(_TENS)
_ONE = "|".join([*_ONES[:9], *_ONES_ORDINAL[:9]])
_NUMBER = "|".join(NUMBERS)
_ORDINAL = "|".join(ORDINALS)
_DOZENS = {"a half": 6, "half a": 6, "half": 6, "a": 12, "one": 12, "two": 24, "three": 36}
_QUANTITY = "|".join([*sorted(QUANTIFIERS - {"one", "1"}), "every one"])
# spaCy's tokens as one word each, and phrases for a quantity as the word that counts.
_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(rf"(?<!\S)({_TEN}) (?:- )?({_ONE})(?!\S)"), r"\1-\2"),
    (re.compile(r"(?<!\S)(\d{1,3}) (st|nd|rd|th)(?!\S)"), r"\1\2"),
    (re.compile(r"(?<!\S)(?:(?:no|nr)(?: ?\.)?|#|№|n °) ?(\d{1,3})(?!\S)"), r"number \1"),
    (re.compile(rf"(?<!\S)number ((?:{_NUMBER}) from)(?!\S)"), r"\1"),
    *(
        (re.compile(rf"(?<!\S){before} dozen(?: of)?(?: the| these| those)?(?!\S)"), str(number))
        for before, number in _DOZENS.items()
    ),
    (re.compile(r"(?<!\S)a couple of(?: the| these| those)?(?!\S)"), "2"),
    (re.compile(r"(?<!\S)a few(?!\S)"), "few"),
    (re.compile(rf"(?<!\S)({_QUANTITY}) of (?:the|these|those|my|his|her|their)(?!\S)"), r"\1"),
    (re.compile(r"(?<!\S)every one(?= \S)"), "every"),
    (
        re.compile(
            rf"(?<!\S)({_ORDINAL})"
            r"(?: (?:- )?last| (?:- )?to (?:- |the )?last| from (?:the )?(?:last|end))(?!\S)"
        ),
        r"\1-last",
    ),
    (
        re.compile(r"(?<!\S)(?:last but one|next (?:- )?to (?:- )?last|penultimate)(?!\S)"),
        "second-last",
    ),
    (re.compile(r"(?<!\S)last but two(?!\S)"), "third-last"),
    (re.compile(rf"(?<!\S)({_ORDINAL}) - (?=\w+est(?!\S))"), r"\1 "),
)  # fmt: skip


def join_numerals(text: str) -> str:
    """Return words with one word for each number: ``twenty - first`` becomes ``twenty-first``.

    So does an order from the end: ``third from last`` becomes ``third-last``.

    Args:
        text: words, joined by single blanks.
    """
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return text
