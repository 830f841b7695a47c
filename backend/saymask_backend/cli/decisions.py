"""``saymask decisions``: what people decided about the rows of a batch."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from saymask.errors import ConfigError
from saymask_backend.cli.context import (
    JsonOption,
    open_records,
    print_json,
    print_line,
    progress_bar,
)
from saymask_backend.context import build_fetcher
from saymask_backend.records.types import RecordFilter
from saymask_backend.services.export import Exporter


def decisions(
    rows: Annotated[str, typer.Argument(help="The folder of saymask-worker batch.")],
    project: Annotated[int, typer.Option(help="Into which rows were imported.")],
    out: Annotated[Path, typer.Option(help="The Parquet file to write.")],
    as_json: JsonOption = False,
) -> None:
    """Write what people decided about the rows of a batch, to be joined with them.

    sha256 and expression are those of the batch's rows.

    Example: saymask decisions rows --project 3 --out decisions.parquet
    """
    try:
        from saymask_backend.services.batch_decisions import write_decisions
    except ImportError as error:
        raise ConfigError(f"{error}.", "pip install 'saymask[batch]'") from error
    record_filter = RecordFilter(project_id=project)
    with open_records() as opened:
        records = opened.stores.records
        image_dir = opened.settings.data_dir / "photos"
        exporter = Exporter(opened.stores, build_fetcher(opened.settings), image_dir)
        with progress_bar("reading photos", quiet=as_json) as bar:
            exporter.hash_unread_images(record_filter, bar, skip_missing=True)
        report = write_decisions(rows, records.iterate_records(record_filter), out)
    if as_json:
        print_json(asdict(report))
        return
    print_line(f"{report.decisions} decisions in {out}")
    if report.unmatched:
        print_line(f"{report.unmatched} records are about other expressions")
