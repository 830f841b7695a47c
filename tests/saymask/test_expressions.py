"""One spelling of an expression, wherever it comes from."""

from __future__ import annotations

from pathlib import Path

from saymask.contract import normalise_expression
from saymask.datasets.model import Expression
from saymask_worker.batch.tables import read_expressions
from saymask_worker.language import clean_expression

APART, COMPOSED = "the cafe\u0301 sign", "the caf\u00e9 sign"


def test_datasets_tables_and_the_worker_spell_it_alike(tmp_path: Path) -> None:
    assert normalise_expression(APART) == COMPOSED
    mask = {"size": [1, 1], "counts": "0"}
    assert Expression("1", APART, mask, (mask,), None, None).text == COMPOSED
    assert clean_expression(APART) == COMPOSED
    table = tmp_path / "rows.csv"
    table.write_text(f"image,expression\na.jpg,{APART}\na.jpg,{COMPOSED}\n", "utf-8")
    assert read_expressions(str(table)) == {"a.jpg": (COMPOSED,)}
