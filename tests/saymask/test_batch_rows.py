"""Parquet files that are not what ``saymask-worker batch`` writes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from saymask.batch_rows import SCHEMA
from saymask.datasets import RowChoice
from saymask.datasets import parquet as module
from saymask.datasets.parquet import BatchRows, load_parquet
from saymask.errors import DatasetError
from saymask.masks import encode_coco_rle
from tests.peak_memory import measure

LOAD = """
from pathlib import Path
from saymask.datasets import RowChoice
from saymask.datasets.parquet import load_parquet
folder = Path(sys.argv[1])
return load_parquet(str(folder / "rows"), RowChoice(sample=int(sys.argv[2])), folder).count
"""
MASK = encode_coco_rle(np.eye(10, dtype=bool))
_NAMES = [field.name for field in SCHEMA.field("candidates").type.value_type]


def repeat(value: Any, count: int, kind: Any = None) -> pa.Array:
    """A column that takes a few bytes in a file, however long value and column are."""
    return pa.DictionaryArray.from_arrays(
        pa.array(np.zeros(count, np.int32)), pa.array([value], kind)
    )


def nest(values: pa.Array, per_row: int) -> pa.Array:
    return pa.ListArray.from_arrays(
        pa.array(np.arange(0, len(values) + 1, per_row, dtype=np.int32)), values
    )


def write_rows(
    folder: Path,
    rows: int,
    candidates: int = 1,
    options: Mapping[str, Any] = MappingProxyType({}),
    **texts: str,
) -> None:
    """Write equal rows, without ever holding one value twice."""
    count = rows * candidates
    chosen = {"image": "a.png", "sha256": "0" * 64, "expression": "it", "provenance": "given",
              "noun_phrase": "it", "model_version": "v", "counts": MASK["counts"],
              **texts}  # fmt: skip
    ints, floats = np.full(count, 10, np.int32), pa.array(np.ones(count))
    parts = {
        "rank": pa.array(ints), "score": floats, "size": nest(pa.array(np.repeat(ints, 2)), 2),
        "counts": repeat(chosen["counts"], count),
        "box_xywh": nest(pa.array(np.repeat(ints, 4)), 4),
        "predicted_iou": floats, "stability_score": floats, "source": repeat("x", count),
    }  # fmt: skip
    candidate = pa.StructArray.from_arrays([parts[name] for name in _NAMES], names=_NAMES)
    columns = {
        name: repeat(chosen[name], rows) if name in chosen else None for name in SCHEMA.names
    }
    columns |= {
        "height": pa.array(np.full(rows, 10, np.int32)),
        "width": pa.array(np.full(rows, 10, np.int32)),
        "confidence": pa.array(np.full(rows, 0.5)),
        "notices": nest(repeat("x", rows), 1),
        "candidates": nest(candidate, candidates),
    }
    write(folder, pa.table(columns), **options)


def write(folder: Path, table: pa.Table, **options: Any) -> None:
    (folder / "rows").mkdir()
    (folder / "photos").mkdir()
    run = {"source": str(folder / "photos")}
    (folder / "rows" / "_run.json").write_text(json.dumps(run))
    path = folder / "rows" / "part-0.parquet"
    # Without it, the file does not say that its columns were dictionaries.
    pq.write_table(table, path, compression="zstd", store_schema=False, **options)
    assert path.stat().st_size < 200_000


def save_photo(path: Path) -> str:
    Image.new("RGB", (10, 10)).save(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("rows", "candidates", "sample", "message"),
    [
        (1024, 20, 5, "one row unpacks to 100 MB"),
        (1024, 1, 1000, "Choose fewer: --sample"),
        (2, 1_500_000, 1, "12,000,000 values in one column"),
    ],
)
def test_a_column_of_one_huge_repeated_value(
    tmp_path: Path, rows: int, candidates: int, sample: int, message: str
) -> None:
    """5 to 100 GB, if it were unpacked."""
    huge = "1" * 5_000_000 if candidates < 1000 else "1"
    write_rows(tmp_path, rows, candidates, counts=huge)
    peak, said = measure(LOAD, str(tmp_path), str(sample))
    assert message in said
    assert peak < 900


def test_rows_that_are_huge_together(tmp_path: Path) -> None:
    options = {"use_dictionary": False, "write_statistics": False}
    write_rows(tmp_path, 60, 1, options, counts="1" * 5_000_000)
    peak, said = measure(LOAD, str(tmp_path), "1")
    assert "60 rows unpack to 300 MB" in said
    assert peak < 300


def test_many_rows_of_one_photo_are_read_in_little_memory(tmp_path: Path) -> None:
    """Without limits: all candidates of 30,000 rows, some gigabyte."""
    write_rows(tmp_path, 30_000, 10, {"row_group_size": 10_000}, counts="1" * 3_000)
    peak, said = measure(LOAD, str(tmp_path), "9")
    assert "a.png of" in said
    assert "cannot be read" in said
    assert peak < 900


def test_rows_are_decoded_in_pieces_and_none_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(tmp_path, 5000, 3)
    rows = list(BatchRows(str(tmp_path / "rows")).iterate())
    monkeypatch.setattr(module, "_DECODED_MAX_BYTES", 10_000)
    assert list(BatchRows(str(tmp_path / "rows")).iterate()) == rows
    assert len(rows) == 5000
    assert [len(row["candidates"]) for row in rows[:2]] == [3, 3]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"counts": "###"}, "The mask of 'it' in a.png is broken"),
        ({"counts": encode_coco_rle(np.ones((9, 9), bool))["counts"]}, "expected 10 x 10"),
        ({"expression": "x" * 3000}, "more than 2000 characters"),
        ({"image": "../outside.png"}, r"not in .*photos"),
        ({"image": "link.png"}, r"link\.png, which is .*outside\.png"),
    ],
)
def test_rows_that_no_batch_writes_are_refused(
    tmp_path: Path, texts: dict[str, str], message: str
) -> None:
    photo = tmp_path / "a.png"
    write_rows(tmp_path, 2, **{"sha256": save_photo(photo), **texts})
    photo.rename(tmp_path / "photos" / "a.png")
    save_photo(tmp_path / "outside.png")
    (tmp_path / "photos" / "link.png").symlink_to(tmp_path / "outside.png")
    with pytest.raises(DatasetError, match=message):
        load_parquet(str(tmp_path / "rows"), RowChoice(), tmp_path)


@pytest.mark.parametrize("column", ["height", "width"])
def test_a_row_without_a_size_is_refused(tmp_path: Path, column: str) -> None:
    write_rows(tmp_path, 2)
    path = tmp_path / "rows" / "part-0.parquet"
    table = pq.read_table(path)
    place = table.schema.get_field_index(column)
    pq.write_table(table.set_column(place, column, pa.nulls(2, pa.int32())), path)
    with pytest.raises(DatasetError, match="a row has no height or width"):
        load_parquet(str(tmp_path / "rows"), RowChoice(), tmp_path)


def test_other_columns_are_refused(tmp_path: Path) -> None:
    write(tmp_path, pa.table({"image": [1], "sha256": ["x"]}))
    with pytest.raises(DatasetError, match="its column image is int64, not string"):
        list(BatchRows(str(tmp_path / "rows")).iterate())
