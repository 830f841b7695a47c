"""Everything in the database as one file, and back: from SQLite to PostgreSQL too.

The file is a ZIP archive: ``manifest.json`` with the schema's revision and the number of rows, and
one ``<table>.jsonl`` per table. It is one consistent state, whatever is written meanwhile.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, DateTime, MetaData, Table, func, insert, select, text
from sqlalchemy.exc import SQLAlchemyError

from backend.records.database import Database, StoreError
from backend.records.tables import Base
from saymask.errors import DatasetError, InvalidRequest
from saymask.private_files import create_private_file

_MANIFEST = "manifest.json"
_FORMAT = "saymask-backup-1"
_ROWS_AT_ONCE = 500
_STREAM = {"yield_per": _ROWS_AT_ONCE}

Progress = Callable[[int, int], None]
"""Called with the number of finished rows and of all."""


def write_backup(database: Database, path: Path, progress: Progress) -> dict[str, int]:
    """Write all rows to a file; returns their number per table.

    Raises:
        StoreError: the database cannot be read, or was never migrated.
        InvalidRequest: the file cannot be written.
    """
    unfinished = path.with_name(f".{path.name}.writing")
    try:
        # Everything anybody typed: for its owner alone, wherever it lies.
        create_private_file(unfinished)
        with (
            database.read_snapshot() as connection,
            zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED) as archive,
        ):
            counts = _write_tables(connection, archive, progress)
            manifest = {
                "format": _FORMAT,
                "revision": _read_revision(connection),
                "written_at": datetime.now(UTC).isoformat(),
                "rows": counts,
            }
            archive.writestr(_MANIFEST, json.dumps(manifest, indent=2))
        os.replace(unfinished, path)
    except OSError as error:
        raise InvalidRequest(
            f"{path} cannot be written: {error}.", "Name a file in a folder that exists."
        ) from error
    finally:
        unfinished.unlink(missing_ok=True)
    return counts


def restore_backup(database: Database, path: Path, progress: Progress) -> dict[str, int]:
    """Fill an empty database from a file and bring its schema up to date; all rows or none.

    Raises:
        DatasetError: the file is not a backup, or damaged.
        StoreError: the database holds rows already, or cannot be written.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            manifest = json.loads(archive.read(_MANIFEST))
            if manifest["format"] != _FORMAT:
                raise DatasetError(f"{path} has the unknown format {manifest['format']!r}.")
            _check_revision(database, manifest["revision"])
            _clear_empty(database)
            # An older file has older tables; what changed since then is done to its rows.
            database.migrate(manifest["revision"])
            with database.engine.begin() as connection:
                _read_tables(connection, archive, manifest["rows"], progress)
    except SQLAlchemyError as error:
        raise database.explain("filled", error) from error
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, TypeError) as error:
        raise DatasetError(
            f"{path} is not a backup, or damaged: {error}.", "Make one: saymask backup FILE.zip"
        ) from error
    database.migrate()
    return dict(manifest["rows"])


def _check_revision(database: Database, revision: str) -> None:
    if revision not in database.list_revisions():
        raise DatasetError(
            f"The backup has the schema {revision!r}, which this version does not know.",
            "Update saymask to the version that made it, or a later one.",
        )


def _clear_empty(database: Database) -> None:
    """Drop our tables if none has a row: they may be newer than those of the file.

    Raises:
        StoreError: one has rows.
    """
    with database.engine.begin() as connection:
        tables = _reflect(connection)
        for table in tables:
            if connection.scalar(select(func.count()).select_from(table)):
                raise StoreError(
                    f"The database is not empty: {table.name} has rows.",
                    "Restore into a new one: set SAYMASK_DATABASE_URL or SAYMASK_DATA_DIR.",
                )
        for table in reversed(tables):
            table.drop(connection)
        connection.execute(text("DROP TABLE IF EXISTS alembic_version"))


def _write_tables(
    connection: Connection, archive: zipfile.ZipFile, progress: Progress
) -> dict[str, int]:
    tables = _reflect(connection)
    counts = {
        table.name: int(connection.scalar(select(func.count()).select_from(table)) or 0)
        for table in tables
    }
    done, total = 0, sum(counts.values())
    for table in tables:
        rows = connection.execute(select(table).order_by(table.c.id), execution_options=_STREAM)
        with archive.open(f"{table.name}.jsonl", "w", force_zip64=True) as file:
            for row in rows.mappings():
                file.write(json.dumps(dict(row), default=_to_text).encode() + b"\n")
                done += 1
                if done % _ROWS_AT_ONCE == 0 or done == total:
                    progress(done, total)
    return counts


def _read_tables(
    connection: Connection, archive: zipfile.ZipFile, counts: dict[str, int], progress: Progress
) -> None:
    done, total = 0, sum(counts.values())
    for table in _reflect(connection):
        read = 0
        for rows in _read_rows(archive, table):
            connection.execute(insert(table), rows)
            read += len(rows)
            progress(done + read, total)
        if read != counts.get(table.name, 0):
            raise DatasetError(f"The backup has {read} rows of {table.name}, not as it says.")
        done += read
        _continue_numbering(connection, table)


def _read_rows(archive: zipfile.ZipFile, table: Table) -> Iterator[list[dict[str, Any]]]:
    times = [column.name for column in table.columns if isinstance(column.type, DateTime)]
    with archive.open(f"{table.name}.jsonl") as file:
        while lines := list(islice(file, _ROWS_AT_ONCE)):
            rows = [json.loads(line) for line in lines]
            for row in rows:
                for name in times:
                    if row[name] is not None:
                        row[name] = datetime.fromisoformat(row[name])
            yield rows


def _continue_numbering(connection: Connection, table: Table) -> None:
    """Let PostgreSQL number new rows after those that came with their numbers."""
    if connection.dialect.name == "postgresql":
        connection.execute(
            text(
                f"SELECT setval(pg_get_serial_sequence('{table.name}', 'id'),"  # noqa: S608
                f" greatest((SELECT max(id) FROM {table.name}), 1))"
            )
        )


def _reflect(connection: Connection) -> list[Table]:
    """Our tables as they are in the database, those that others refer to first."""
    metadata = MetaData()
    metadata.reflect(connection, only=lambda name, _: name in Base.metadata.tables)
    return metadata.sorted_tables


def _read_revision(connection: Connection) -> str:
    return str(connection.scalar(text("SELECT version_num FROM alembic_version")))


def _to_text(value: object) -> str:
    """Times as text with their zone; the database's times without one are UTC."""
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat()
    raise TypeError(f"{type(value).__name__} in a row")
