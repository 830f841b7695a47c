"""Everything in the database as one file, and back: from SQLite to PostgreSQL too.

The file is a ZIP archive: ``manifest.json`` with the schema's revision and the number of rows, and
one ``<table>.jsonl`` per table. It is one consistent state, whatever is written meanwhile.

A file may come from anywhere: it is read row by row, and a row is bounded before it is decoded.
"""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, DateTime, MetaData, Table, func, insert, select, text
from sqlalchemy.exc import SQLAlchemyError

from saymask.errors import DatasetError, InvalidRequest, counted
from saymask.left_out import OnProgress
from saymask.private_files import create_private_file, replace_atomically
from saymask_backend.records.database import Database, StoreError, check_revision, read_revision
from saymask_backend.records.tables import Base

_MANIFEST = "manifest.json"
_FORMAT = "saymask-backup-1"
_ROWS_AT_ONCE = 500
_BYTES_AT_ONCE = 16_000_000
_STREAM = {"yield_per": _ROWS_AT_ONCE}
_OLD_BACKUP_CURE = "Restore it with the saymask that made it, and export its records there."
_MANIFEST_MAX_BYTES = 1_000_000
ROW_MAX_BYTES = 128_000_000
"""Longest row that is read by default: a webhook of the longest body, each character escaped."""
# Each value of a row takes up to 72 bytes of memory, however short it is in the file.
_ROW_MAX_VALUES = 5_000_000
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)

# What reading a damaged archive, or one that something else wrote, was seen to raise.
_DAMAGES = (
    OSError, zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, TypeError,
    AttributeError, RecursionError, NotImplementedError, RuntimeError,
)  # fmt: skip


def write_backup(database: Database, path: Path, progress: OnProgress) -> dict[str, int]:
    """Write all rows to a file; returns their number per table.

    Raises:
        StoreError: the database cannot be read, or was never migrated.
        InvalidRequest: the file cannot be written.
    """
    try:
        with replace_atomically(path) as part:
            # Everything anybody typed: for its owner alone, wherever it lies.
            create_private_file(part)
            with (
                database.read_snapshot() as connection,
                zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive,
            ):
                revision = read_revision(connection)
                if revision is None:
                    raise StoreError("The database was never migrated.", "Run: saymask stats")
                counts = _write_tables(connection, archive, progress)
                manifest = {
                    "format": _FORMAT,
                    "revision": revision,
                    "written_at": datetime.now(UTC).isoformat(),
                    "rows": counts,
                }
                archive.writestr(_MANIFEST, json.dumps(manifest, indent=2))
    except OSError as error:
        raise InvalidRequest(
            f"{path} cannot be written: {error}.", "Name a file in a folder that exists."
        ) from error
    return counts


def restore_backup(
    database: Database, path: Path, progress: OnProgress, row_max_bytes: int = ROW_MAX_BYTES
) -> dict[str, int]:
    """Fill an empty database from a file and bring its schema up to date; all rows or none.

    Memory holds some rows at a time, whatever the file unpacks to.

    Args:
        database: to fill.
        path: of the file.
        progress: called after every few rows.
        row_max_bytes: longest row that is read.

    Raises:
        DatasetError: the file is not a backup, damaged, or has rows too large to be ours.
        StoreError: the database holds rows already, or cannot be written.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            manifest = _read_manifest(archive)
            if manifest["format"] != _FORMAT:
                raise DatasetError(f"{path} has the unknown format {manifest['format']!r}.")
            check_revision(manifest["revision"], "backup", _OLD_BACKUP_CURE, DatasetError)
            _clear_empty(database)
            # An older file has older tables; what changed since then is done to its rows.
            database.migrate(manifest["revision"])
            with database.engine.begin() as connection:
                _read_tables(connection, archive, row_max_bytes, manifest["rows"], progress)
    except SQLAlchemyError as error:
        raise database.explain("filled", error) from error
    except _DAMAGES as error:
        raise DatasetError(
            f"{path} is not a backup, or damaged: {error}.", "Make one: saymask backup FILE.zip"
        ) from error
    database.migrate()
    return dict(manifest["rows"])


def _read_manifest(archive: zipfile.ZipFile) -> dict[str, Any]:
    with archive.open(_MANIFEST) as file:
        text = file.read(_MANIFEST_MAX_BYTES + 1)
    if len(text) > _MANIFEST_MAX_BYTES:
        raise ValueError(f"{_MANIFEST} is longer than {_MANIFEST_MAX_BYTES:,} bytes")
    manifest: dict[str, Any] = json.loads(text)
    return manifest


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
    connection: Connection, archive: zipfile.ZipFile, progress: OnProgress
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
                text = json.dumps(dict(row), default=_to_text, ensure_ascii=False)
                # JSON columns may hold halves of surrogate pairs, as JavaScript does.
                file.write(text.encode("utf-8", "surrogatepass") + b"\n")
                done += 1
                if done % _ROWS_AT_ONCE == 0 or done == total:
                    progress(done, total)
    return counts


def _read_tables(
    connection: Connection,
    archive: zipfile.ZipFile,
    row_max_bytes: int,
    counts: dict[str, int],
    progress: OnProgress,
) -> None:
    done, total = 0, sum(counts.values())
    for table in _reflect(connection):
        read, expected = 0, counts.get(table.name, 0)
        for rows in _read_rows(archive, table, row_max_bytes):
            read += len(rows)
            if read > expected:
                break
            connection.execute(insert(table), rows)
            progress(done + read, total)
        if read != expected:
            raise DatasetError(
                f"The backup says {counted(expected, 'row')} of {table.name}, and has"
                f" {'more' if read > expected else read}.",
                "It is damaged or was changed: restore another one.",
            )
        done += read
        _continue_numbering(connection, table)


def _read_rows(
    archive: zipfile.ZipFile, table: Table, row_max_bytes: int
) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of a table, a few or, where they are long, one at a time."""
    rows: list[dict[str, Any]] = []
    size = 0
    with archive.open(f"{table.name}.jsonl") as file:
        while line := file.readline(row_max_bytes + 1):
            _check_size(line, table, row_max_bytes)
            rows.append(_read_row(line, table))
            size += len(line)
            if len(rows) == _ROWS_AT_ONCE or size > _BYTES_AT_ONCE:
                yield rows
                rows, size = [], 0
    if rows:
        yield rows


def _check_size(line: bytes, table: Table, row_max_bytes: int) -> None:
    """Refuse a row that would take far more memory than one that was recorded."""
    if len(line) > row_max_bytes:
        raise DatasetError(
            f"A row of {table.name} is longer than {row_max_bytes / 1e6:g} MB.",
            "No row of a backup is that long: the file was changed.",
        )
    if len(line) > _ROW_MAX_VALUES:
        structure = _STRING.sub(b"", line)
        if sum(map(structure.count, (b",", b"[", b"{"))) > _ROW_MAX_VALUES:
            raise DatasetError(
                f"A row of {table.name} has more than {_ROW_MAX_VALUES:,} values.",
                "No row of a backup has that many: the file was changed.",
            )


def _read_row(line: bytes, table: Table) -> dict[str, Any]:
    row: dict[str, Any] = json.loads(line)
    if row.keys() != set(table.columns.keys()):
        raise ValueError(f"a row of {table.name} has other columns than the table")
    for column in table.columns:
        if isinstance(column.type, DateTime) and row[column.name] is not None:
            row[column.name] = datetime.fromisoformat(row[column.name])
    return row


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


def _to_text(value: object) -> str:
    """Times as text with their zone; the database's times without one are UTC."""
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat()
    raise TypeError(f"{type(value).__name__} in a row")
