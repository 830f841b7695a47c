"""``saymask backup`` and ``restore``."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from saymask_backend.cli.context import JsonOption, print_json, print_line, progress_bar
from saymask_backend.config import load_settings
from saymask_backend.records.backup import restore_backup, write_backup
from saymask_backend.records.stores import Stores

FileArgument = Annotated[Path, typer.Argument(help="A .zip file.")]


def backup(file: FileArgument, as_json: JsonOption = False) -> None:
    """Write everything in the database to one file, also while the backend runs.

    Label Studio's own data is not in it.

    Example: saymask backup saymask-2026-11-25.zip
    """
    with closing(Stores(load_settings().effective_database_url)) as stores:
        stores.migrate()
        with progress_bar("writing", quiet=as_json) as bar:
            counts = write_backup(stores.database, file, bar)
    _print(counts, f"in {file}", as_json=as_json)


def restore(file: FileArgument, as_json: JsonOption = False) -> None:
    """Fill a new, empty database from a backup of this or an earlier version.

    Example: SAYMASK_DATABASE_URL=postgresql://host/new saymask restore saymask-2026-11-25.zip
    """
    with (
        closing(Stores(load_settings().effective_database_url)) as stores,
        progress_bar("reading", quiet=as_json) as bar,
    ):
        counts = restore_backup(stores.database, file, bar)
    _print(counts, "restored", as_json=as_json)


def _print(counts: dict[str, int], what: str, *, as_json: bool) -> None:
    if as_json:
        print_json(counts)
        return
    for table, count in counts.items():
        print_line(f"  {count:8d}  {table}")
    print_line(f"{sum(counts.values())} rows {what}")
