"""One spelling of every referring expression."""

from __future__ import annotations

import unicodedata


def normalise_expression(text: str) -> str:
    """Return the text in Unicode's composed form (NFC).

    Keyboards, browsers and files spell the same letter in one code point or in two, which look the
    same and compare as different. Everything that brings expressions in calls this once: Label
    Studio's fields and task data, datasets, tables and command lines.
    """
    return unicodedata.normalize("NFC", text)
