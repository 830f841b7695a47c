"""One spelling of an expression, wherever it comes from."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import typer

from saymask.contract import normalise_expression
from saymask.datasets.model import Expression
from saymask_worker.batch.tables import read_expressions
from saymask_worker.cli import photos
from saymask_worker.cli.main import app
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


def test_the_command_line_spells_it_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    from saymask_worker.pipeline import explanation

    seen: list[str] = []

    class Seen(Exception):
        pass

    def note(_first: object, second: object, *rest: object, **_: object) -> None:
        seen.extend(text for text in (second, *rest) if isinstance(text, str))
        raise Seen

    pipeline = SimpleNamespace(segment=note)
    monkeypatch.setattr(photos, "_prepare_photo", lambda *_: (pipeline, None, None, b""))
    monkeypatch.setattr(explanation, "explain", note)
    for command in ("segment", "explain"):
        with pytest.raises(Seen):
            typer.main.get_command(app).main([command, "a.jpg", APART], standalone_mode=False)
    assert seen == [COMPOSED, COMPOSED]
