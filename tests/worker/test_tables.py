"""Tables of expressions as spreadsheets and scripts write them: read whole, or refused by row."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saymask.contract import normalise_expression
from saymask.errors import DatasetError
from saymask_worker.batch.tables import read_expressions

PAIRS = [
    ("a.jpg", "the cat, left"),
    ("more/b.jpg", 'the "red" cup; here'),
    ("a.jpg", "größter Hund"),
]
READ = {"a.jpg": ("the cat, left", "größter Hund"), "more/b.jpg": ('the "red" cup; here',)}

# One line each, as a cell is; a letter makes it an expression.
CELLS = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]) | st.sampled_from(",;\t\"'"),
    max_size=20,
).map(lambda text: f"x{text}".strip())
ROWS = st.lists(st.tuples(CELLS.map(lambda name: name.replace("\\", "")), CELLS), min_size=1)


def group(rows: list[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    texts: dict[str, dict[str, None]] = {}
    for image, text in rows:
        texts.setdefault(image, {})[normalise_expression(text)] = None
    return {image: tuple(texts[image]) for image in sorted(texts)}


def write(path: Path, text: str, encoding: str = "utf-8") -> str:
    path.write_bytes(text.encode(encoding))
    return str(path)


@given(
    rows=ROWS,
    separator=st.sampled_from(",;\t"),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    headings=st.sampled_from([("image", "expression"), ("Image ", "EXPRESSION")]),
    is_swapped=st.booleans(),
)
def test_what_is_written_in_any_dialect_is_read_equal(
    rows: list[tuple[str, str]],
    separator: str,
    quoting: int,
    end: str,
    encoding: str,
    headings: tuple[str, str],
    is_swapped: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=separator, quoting=quoting, lineterminator=end)  # type: ignore[arg-type]
    step = -1 if is_swapped else 1
    writer.writerows(row[::step] for row in [headings, *rows])
    path = tmp_path_factory.getbasetemp() / "table.csv"
    assert read_expressions(write(path, file.getvalue(), encoding)) == group(rows)


@given(
    rows=st.lists(st.tuples(CELLS.map(lambda n: n.replace("\\", "")), st.text().map("x{}".format))
                  , min_size=1),
    is_ascii=st.booleans(),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
)  # fmt: skip
def test_json_lines_are_read_equal_whatever_they_hold(
    rows: list[tuple[str, str]], is_ascii: bool, end: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Also characters at which Python, but no JSON, begins a line: U+2028, U+0085, form feeds."""
    lines = [
        json.dumps({"image": image, "expression": text}, ensure_ascii=is_ascii)
        for image, text in [*rows, ("x.jpg", "the\u2028cat\x85\x0cleft")]
    ]
    path = tmp_path_factory.getbasetemp() / "lines.jsonl"
    expected = group([*rows, ("x.jpg", "the\u2028cat\x85\x0cleft")])
    text = end.join(lines) + end
    assert read_expressions(write(path, text)) == expected


@pytest.mark.parametrize(
    ("separator", "encoding"),
    [(",", "utf-8-sig"), (";", "utf-8-sig"), ("\t", "utf-16"), ("\t", "utf-8"), (";", "utf-8")],
)
def test_excels_files(separator: str, encoding: str, tmp_path: Path) -> None:
    """With ghost columns and rows, which it leaves where cells were emptied."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=separator)
    writer.writerows([["Image", " Expression ", ""], *[[*p, ""] for p in PAIRS], ["", "", ""]])
    text = file.getvalue()
    for content in (text, f"sep={separator}\r\n{text}", text + "\r\n\r\n"):
        assert read_expressions(write(tmp_path / "t.txt", content, encoding)) == READ


@pytest.mark.parametrize(
    "text",
    [
        "expression,image\nthe cat,more\\a.jpg\n",
        "expression,image\nthe cat,./more/a.jpg\n",
        "image, expression\nmore/a.jpg, the cat\n",
        'image, expression\nmore/a.jpg, "the cat"\n',
        "id,image,expression,notes\n7,more/a.jpg,the cat,\n,,,\n",
        '{"Image": "more/a.jpg", "Expression": "the cat", "id": 3}\n\n',
        "\n\nimage,expression\n\nmore/a.jpg,the cat",
        ",image,expression\n0,more/a.jpg,the cat\n",
        ",expression,,image\n0,the cat,,more/a.jpg\n",
        "SEP=;\nimage;expression\nmore/a.jpg;the cat\n",
        '"sep=;"\nimage;expression\nmore/a.jpg;the cat\n',
    ],
)
def test_other_ways_to_write_a_row(text: str, tmp_path: Path) -> None:
    assert read_expressions(write(tmp_path / "t", text)) == {"more/a.jpg": ("the cat",)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        # A comma that nobody quoted: the rest must not vanish, wherever it would fall.
        ("image,expression\na.jpg,dog\nb.jpg,the cat, left\n", r"Row 2 .*line 3.* more columns"),
        ("image,expression,\na.jpg,the cat, left\n", r"Row 1 .*line 2.* more columns"),
        ("image;expression\na.jpg;the cat; left\n", r"Row 1 .* more columns"),
        ("expression,image\nthe cat, left,b.jpg\n", r"Row 1 .* more columns"),
        # A quotation mark without its partner: the next rows must not become a part of its row.
        ('image,expression\na.jpg,"the cat\nb.jpg,dog\n', r"Row 1 .* cannot be read"),
        ('image,expression\na.jpg,"the cat\nb.jpg,dog"\n', r"Row 1 .* over several lines"),
        ('image,expression\na.jpg,"the" cat\n', r"Row 1 .* cannot be read"),
        ("image,expression\na.jpg\n", "Row 1 .* lacks"),
        ("image,expression\na.jpg;the cat\n", "Row 1 .* lacks"),
        ("image,expression,expression\na.jpg,the cat,dog\n", "does not name the columns"),
        (",image,expression\n0,a.jpg,the cat, left\n", r"Row 1 .* more columns"),
        (",expression,,image\n0,the cat,left,a.jpg\n", r"Row 1 .* more columns"),
        ("image,expression\na.jpg,#NAME?\n", "Row 1 .* formula: #NAME"),
        ("image;expression\na.jpg;#BEZUG!\n", "Row 1 .* formula: #BEZUG!"),
        (f"image,expression\na.jpg,{'x' * 2001}\n", "Row 1 .* 2001 characters"),
        ("a.jpg,the cat\n", "does not name the columns image and expression: a.jpg"),
        ("i\0m\0a\0g\0e\0,\0", "zero bytes"),
        ("[" * 100_000, "Row 1 .* not valid JSON"),
    ],
)
def test_a_row_that_is_unclear_is_refused_by_its_number(
    text: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(DatasetError, match=said):
        read_expressions(write(tmp_path / "t.csv", text))


def test_an_encoding_that_is_none_of_them(tmp_path: Path) -> None:
    text = "image,expression\na.jpg,the cat\nb.jpg,größter Hund\n"
    with pytest.raises(DatasetError, match=r"line 3 is not UTF-8.*CSV UTF-8"):
        read_expressions(write(tmp_path / "t.csv", text, "cp1252"))


def test_the_command_refuses_the_table_before_anything_starts(tmp_path: Path) -> None:
    """Before models are loaded, of which there are none here."""
    table = write(tmp_path / "t.csv", "image,expression\na.jpg,dog\nb.jpg,the cat, left\n")
    program = Path(sys.executable).parent / "saymask-worker"
    done = subprocess.run(
        [program, "batch", tmp_path, "--expressions", table, "--out", tmp_path / "rows"],
        env={**os.environ, "SAYMASK_CACHE_DIR": str(tmp_path / "none")},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    told = re.sub(r"\s+", " ", done.stderr)
    assert "Row 2 of" in told
    assert "b.jpg,the cat,left" in told
    assert not (tmp_path / "rows").exists()
