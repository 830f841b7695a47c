"""Tables of expressions by image, as spreadsheets and scripts write them.

Everything is checked before the first image is opened: a row that was read wrongly would cost hours
of wrong masks.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from saymask.contract import MAX_EXPRESSION_CHARS, normalise_expression
from saymask.errors import DatasetError, InvalidExpression
from saymask_worker.batch.folders import open_place
from saymask_worker.language import clean_expression

_COLUMNS = ("image", "expression")
# What spreadsheets write between columns, by language and format.
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
# What a spreadsheet shows instead of text that begins with = or -; the word is its language's.
_SHEET_ERROR = re.compile(r"#(?:[^\W\d_]+[?!]|DIV/0!|N/A|NV)")
_EXAMPLE = 'Expected rows like {"image": "a.jpg", "expression": "the cat"}.'


@dataclass(frozen=True)
class _Row:
    """A row as it was read.

    Attributes:
        where: its number and file, for messages.
        values: by heading, in small letters.
    """

    where: str
    values: dict[str, object]


def read_expressions(place: str) -> dict[str, tuple[str, ...]]:
    """Read expressions by image from a table of ``image`` and ``expression``.

    Args:
        place: of JSON lines, or of a table with these two headings and perhaps others, its columns
            separated by commas, semicolons or tabs; in UTF-8, or in UTF-16 with a mark.

    Raises:
        DatasetError: it cannot be read, or a row is unclear; names the row.
    """
    text = _read_text(place)
    rows = _read_lines(text, place) if text.lstrip()[:1] in ("{", "[") else _read_table(text, place)
    texts_by_image: dict[str, dict[str, None]] = {}
    for row in rows:
        image, expression = (row.values.get(column) for column in _COLUMNS)
        if not isinstance(image, str) or not isinstance(expression, str) or not image:
            raise DatasetError(f"{row.where} lacks image or expression.", _EXAMPLE)
        expression = normalise_expression(expression)
        try:
            clean_expression(expression)
            _check_text(expression)
        except InvalidExpression as error:
            raise DatasetError(
                f"{row.where}, about {image}: {error.cause}", "Correct the row, or delete it."
            ) from error
        # Windows separates folders by backslashes.
        name = image.replace("\\", "/").removeprefix("./")
        texts_by_image.setdefault(name, {})[expression] = None
    if not texts_by_image:
        raise DatasetError(f"{place} holds no expression.")
    return {image: tuple(texts) for image, texts in sorted(texts_by_image.items())}


def _check_text(expression: str) -> None:
    """Check what only tables hold.

    Raises:
        InvalidExpression: a spreadsheet could not compute it, or it is too long for the rows.
    """
    if _SHEET_ERROR.fullmatch(expression):
        raise InvalidExpression(f"The spreadsheet took its text for a formula: {expression}")
    if len(expression) > MAX_EXPRESSION_CHARS:
        raise InvalidExpression(
            f"The expression has {len(expression)} characters; the longest allowed is"
            f" {MAX_EXPRESSION_CHARS}."
        )


def _read_text(place: str) -> str:
    """The content, without a byte order mark."""
    system, path = open_place(place)
    try:
        data: bytes = system.cat_file(path)
    except OSError as error:
        raise DatasetError(f"{place} cannot be read: {error}") from error
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DatasetError(
            f"{place} cannot be read: line {line} is not UTF-8.",
            "In a spreadsheet, save it as 'CSV UTF-8'.",
        ) from error
    if "\0" in text:
        raise DatasetError(
            f"{place} cannot be read: it holds zero bytes.",
            "In a spreadsheet, save it as 'CSV UTF-8'.",
        )
    return text


def _read_lines(text: str, place: str) -> Iterator[_Row]:
    """Rows of JSON lines, which end at line feeds and carriage returns and nowhere else."""
    for number, line in enumerate(io.StringIO(text, newline=None), start=1):
        if not line.strip():
            continue
        where = f"Row {number} of {place}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DatasetError(f"{where} is not valid JSON: {error}.", _EXAMPLE) from error
        values = row.items() if isinstance(row, dict) else ()
        yield _Row(where, {_to_heading(key): value for key, value in values})


def _read_table(text: str, place: str) -> Iterator[_Row]:
    """Rows of a table; those without any value are left out."""
    # Only here do carriage returns end lines while quoted line breaks stay as they are.
    lines = io.StringIO(text, newline="").readlines()
    start = next((n for n, line in enumerate(lines) if not _is_preamble(line)), len(lines))
    if start == len(lines):
        return
    separator = _find_separator(lines[start], place)
    reader = csv.reader(lines[start:], delimiter=separator, skipinitialspace=True, strict=True)
    headings: list[str] | None = None
    number = 1
    try:
        for fields in reader:
            values = [field.strip() for field in fields]
            if headings is None:
                headings = [_to_heading(value) for value in values]
            elif any(values):
                where = f"Row {number} of {place} (line {start + reader.line_num})"
                yield _Row(where, _to_values(values, headings, separator, where))
                number += 1
    except csv.Error as error:
        raise DatasetError(
            f"Row {number} of {place} (line {start + reader.line_num}) cannot be read: {error}.",
            "Look for a quotation mark too many, or without its partner.",
        ) from error


def _is_preamble(line: str) -> bool:
    """An empty line, or Excel's own line that names the separator."""
    return not line.strip() or _to_heading(line).startswith("sep=")


def _find_separator(line: str, place: str) -> str:
    """The separator with which a line names both columns, once each."""
    for separator in _SEPARATORS:
        headings = [_to_heading(field) for field in line.split(separator)]
        if all(headings.count(column) == 1 for column in _COLUMNS):
            return separator
    raise DatasetError(
        f"Row 1 of {place} does not name the columns image and expression: {line.strip()[:100]}",
        "Begin with the headings image and expression, separated like the columns below by"
        " commas, semicolons or tabs.",
    )


def _to_heading(text: str) -> str:
    return text.strip().strip('"').strip().casefold()


def _to_values(
    values: list[str], headings: list[str], separator: str, where: str
) -> dict[str, object]:
    """Values by heading; none may be left over, for it would be the rest of an expression.

    Columns without a heading in front of both, such as the index of a data frame, are none.
    """
    named = {h: v for h, v in zip(headings, values, strict=False) if h}
    start = min(map(headings.index, _COLUMNS))
    unnamed = [v for h, v in zip(headings[start:], values[start:], strict=False) if not h]
    if any([*unnamed, *values[len(headings) :]]):
        raise DatasetError(
            f"{where} has more columns than headings: {separator.join(values)[:200]}",
            f"Put an expression with {_SEPARATORS[separator]} between quotation marks.",
        )
    if any(len(named.get(column, "").splitlines()) > 1 for column in _COLUMNS):
        raise DatasetError(
            f"{where} goes over several lines: {separator.join(values)[:200]!r}",
            "Look for a quotation mark without its partner.",
        )
    return dict(named)
