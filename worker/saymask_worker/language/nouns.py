"""The open vocabulary: what an image can show, read from a file that can be replaced."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from saymask.errors import ConfigError

_SECTIONS = ("things", "stuff", "parts")
_HEADING = re.compile(r"\[(\w+)\]")
_CURE = (
    "A file of nouns has the headings [things], [stuff] and [parts], each followed by nouns"
    " separated by commas or ends of lines; see worker/saymask_worker/data/nouns.txt."
)


@dataclass(frozen=True)
class Nouns:
    """An open vocabulary, in the order of its file, without duplicates.

    Attributes:
        things: what can be counted and pointed at.
        stuff: what fills an area: sky, road, water.
        parts: what belongs to a thing: a face, a wheel.
    """

    things: tuple[str, ...]
    stuff: tuple[str, ...]
    parts: tuple[str, ...]

    @property
    def all(self) -> tuple[str, ...]:
        """Things, then stuff, then parts."""
        return (*self.things, *self.stuff, *self.parts)

    @property
    def fingerprint(self) -> str:
        """A short hash of the nouns and their kinds."""
        body = "\n\n".join("\n".join(part) for part in (self.things, self.stuff, self.parts))
        return hashlib.sha256(body.encode()).hexdigest()[:8]


def find_noun(phrase: str, nouns: Collection[str]) -> str:
    """Return the noun of a noun phrase, without adjectives: "teddy bear" of "old teddy bear".

    It is the longest end of the phrase, or of what precedes "of", that is among the nouns; where
    there is none, the last word, for example a plural. What the thing does is left out: "zebra
    drinking".
    """
    for part in (phrase.partition(" of ")[0], phrase):
        words = part.split()
        while len(words) > 1 and words[-1].endswith("ing") and words[-1] not in nouns:
            words.pop()
        ends = (" ".join(words[start:]) for start in range(len(words)))
        noun = next((end for end in ends if end in nouns), None)
        if noun is not None:
            return noun
    return phrase.partition(" of ")[0].split()[-1]


def load_nouns(path: Path | None = None) -> Nouns:
    """Read a file of nouns; without a path the one that comes with the worker.

    Raises:
        ConfigError: it cannot be read, or a section is missing or empty.
    """
    try:
        source = path or files("saymask_worker") / "data" / "nouns.txt"
        text = source.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The file of nouns {path} cannot be read: {error}.", _CURE) from error
    return parse_nouns(text, str(path or "of the worker"))


def parse_nouns(text: str, name: str) -> Nouns:
    """Read the text of a file of nouns.

    Raises:
        ConfigError: a heading is unknown, a noun stands before any, or a section has none.
    """
    sections: dict[str, dict[str, None]] = {section: {} for section in _SECTIONS}
    current: dict[str, None] | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        content = line.strip()
        if not content or content.startswith("#"):
            continue
        heading = _HEADING.fullmatch(content)
        if heading:
            current = sections.get(heading[1])
        if current is None:
            raise ConfigError(f"Line {number} of the nouns {name} is under no heading.", _CURE)
        if not heading:
            current.update((noun, None) for part in content.split(",") if (noun := part.strip()))
    empty = [section for section, nouns in sections.items() if not nouns]
    if empty:
        raise ConfigError(f"The nouns {name} have no {' and no '.join(empty)}.", _CURE)
    return Nouns(*(tuple(sections[section]) for section in _SECTIONS))
