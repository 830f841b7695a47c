"""The connection, its migrations, and database errors in words."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from filelock import FileLock, Timeout
from sqlalchemy import Connection, Engine, Select, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    NoSuchModuleError,
    SQLAlchemyError,
    StatementError,
)
from sqlalchemy.orm import Session

from saymask.errors import ConfigError, SaymaskError
from saymask.private_files import create_private_file, make_private_folder
from saymask.redaction import explain

Scalar = TypeVar("Scalar")
Key = TypeVar("Key")
Value = TypeVar("Value")

_WAL_RETRY_S = 0.02
_LOCK_RETRY_S = 0.05
_BUSY_TIMEOUT_MS = 10_000
_MIGRATIONS = Path(__file__).parent / "migrations"
_OLD_DATABASE_CURE = (
    "Export its records with the saymask that wrote it. Then set SAYMASK_DATABASE_URL or"
    " SAYMASK_DATA_DIR to a new database: saymask sync fills it with the annotations that Label"
    " Studio has."
)


class StoreError(SaymaskError):
    """The database cannot be opened, read or written."""

    http_status = 503
    concerns_all = True


class InvalidRecord(SaymaskError):
    """The database works, and refuses this content."""

    http_status = 422


class Database:
    """One database, SQLite or PostgreSQL.

    Args:
        url: SQLAlchemy URL. SQLite files are opened in WAL mode with full synchronisation.
        creates: an SQLite file that does not exist is created.

    Raises:
        ConfigError: the URL is malformed, its driver is not installed, or the file is missing.
    """

    def __init__(self, url: str, *, creates: bool = True) -> None:
        try:
            parsed = make_url(url)
            if parsed.get_backend_name() == "postgresql" and parsed.drivername == "postgresql":
                parsed = parsed.set(drivername="postgresql+psycopg")
            if parsed.get_backend_name() == "sqlite" and parsed.database:
                _require_file(Path(parsed.database), creates=creates)
            self.engine: Engine = create_engine(parsed, pool_pre_ping=True, pool_size=20)
        except (ArgumentError, ValueError, ModuleNotFoundError, OSError) as error:
            raise ConfigError(
                f"The database cannot be opened: {_explain_opening(error)}.",
                "Check SAYMASK_DATABASE_URL; PostgreSQL needs pip install 'saymask[postgresql]'.",
            ) from error
        if self.engine.dialect.name == "sqlite":
            event.listen(self.engine, "do_connect", _create_sqlite_file)
            event.listen(self.engine, "connect", _set_sqlite_pragmas)

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    def migrate(self, revision: str = "head") -> None:
        """Bring the schema up to date; two processes may do so at the same time.

        Args:
            revision: to stop at.

        Raises:
            StoreError: unreachable, locked, full, or of a revision that this version cannot read.
        """
        config = _alembic_config()
        try:
            with self.engine.connect() as connection, _migration(connection):
                if (revision_now := read_revision(connection)) is not None:
                    check_revision(revision_now, "database", _OLD_DATABASE_CURE, StoreError)
                config.attributes["connection"] = connection
                command.upgrade(config, revision)
        except SQLAlchemyError as error:
            raise self.explain("brought up to date", error) from error

    def revision(self) -> str | None:
        """Return the schema revision of the database, None before the first migration."""
        with self.engine.connect() as connection:
            return read_revision(connection)

    @contextmanager
    def recording_lock(self, wait_s: float) -> Iterator[bool]:
        """Let one thread of all processes that use the database turn events into records.

        The lock ends with the process that holds it, however that ends.

        Args:
            wait_s: how long to wait for another holder.

        Returns:
            Whether it was obtained.
        """
        if self.engine.dialect.name != "postgresql":
            with _file_lock(self.engine.url.database, wait_s) as is_ours:
                yield is_ours
            return
        deadline = time.monotonic() + wait_s
        try:
            with self.engine.connect() as connection:
                lock = text("SELECT pg_try_advisory_xact_lock(7368114)")
                while not (is_ours := bool(connection.scalar(lock))):
                    if time.monotonic() > deadline:
                        break
                    time.sleep(_LOCK_RETRY_S)
                yield is_ours
        except SQLAlchemyError as error:
            raise self.explain("locked", error) from error

    @contextmanager
    def read_snapshot(self) -> Iterator[Connection]:
        """Open a connection that sees one state, whatever others write meanwhile.

        Raises:
            StoreError: the database cannot be read.
        """
        try:
            with self.engine.connect() as connection:
                if self.engine.dialect.name == "postgresql":
                    connection.execution_options(isolation_level="REPEATABLE READ")
                else:
                    connection.exec_driver_sql("BEGIN")
                yield connection
        except SQLAlchemyError as error:
            raise self.explain("read", error) from error

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Open a session.

        Raises:
            InvalidRecord: the content is refused, and would be every time.
            StoreError: everything else; trying again later may help.
        """
        try:
            with Session(self.engine, expire_on_commit=False) as session:
                yield session
        except SQLAlchemyError as error:
            if _is_about_content(error):
                raise InvalidRecord(
                    f"The database refuses this content: {_reason(error)}."
                ) from error
            raise self.explain("used", error) from error
        except (OverflowError, UnicodeEncodeError) as error:
            # Of the drivers, for a number or text that no database could hold.
            raise InvalidRecord(f"The database refuses this content: {error}.") from error

    def scalars(self, query: Select[Scalar]) -> list[Scalar]:
        """Run a query of one column or entity in a separate transaction."""
        with self.session() as session:
            return list(session.scalars(query))

    def read_pairs(self, query: Select[Key, Value]) -> dict[Key, Value]:
        """Run a query of two columns in a separate transaction; later rows replace earlier."""
        with self.session() as session:
            return dict(session.execute(query).all())

    def explain(self, doing: str, error: SQLAlchemyError) -> StoreError:
        """Describe a failure in words."""
        address = self.engine.url.set(query={}).render_as_string(hide_password=True)
        return StoreError(
            f"The database could not be {doing}: {_reason(error)}.",
            f"Check that {address} is reachable, not locked by another program and not full.",
        )


def _reason(error: SQLAlchemyError) -> str:
    return explain(getattr(error, "orig", None) or error)


def _require_file(path: Path, *, creates: bool) -> None:
    """Check that a SQLite database exists, or make the folder to create it in."""
    if creates:
        make_private_folder(path.parent)
    elif not path.exists():
        raise ConfigError(
            f"There is no database {path}.",
            "Run the command in the folder in which `make up` was started, or set SAYMASK_DATA_DIR"
            " or SAYMASK_DATABASE_URL as for the backend.",
        )


def _explain_opening(error: Exception) -> str:
    """The reason, without the address that SQLAlchemy quotes when it cannot read it."""
    if isinstance(error, NoSuchModuleError) or not isinstance(error, ArgumentError | ValueError):
        return explain(error)
    return "its address is malformed (it is not shown)"


@contextmanager
def _file_lock(database: str | None, wait_s: float) -> Iterator[bool]:
    """A lock next to the file of a SQLite database; one in memory belongs to one thread."""
    if not database or database == ":memory:":
        yield True
        return
    lock = FileLock(f"{database}.recording", mode=0o600)
    try:
        lock.acquire(timeout=wait_s)
    except Timeout:
        yield False
        return
    except OSError as error:
        raise StoreError(
            f"{lock.lock_file} cannot be written: {error}.", "Check the folder's rights and room."
        ) from error
    try:
        yield True
    finally:
        lock.release()


def check_revision(revision: str, what: str, old_cure: str, error: type[SaymaskError]) -> None:
    """Check that this version can read a schema.

    Args:
        revision: of the schema.
        what: has it, for the message.
        old_cure: what to do where it is too old.
        error: to raise.

    Raises:
        SaymaskError: ``error``; the schema is older than this version can read, or unknown to it.
    """
    scripts = ScriptDirectory.from_config(_alembic_config())
    readable = sorted(script.revision for script in scripts.walk_revisions())
    if revision in readable:
        return
    if revision < readable[0]:
        raise error(
            f"The {what} has the schema {revision}, older than this version can read.", old_cure
        )
    raise error(
        f"The {what} has the schema {revision}, which this version does not know.",
        "Update saymask to the version that wrote it, or a later one.",
    )


def _alembic_config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    return config


def read_revision(connection: Connection) -> str | None:
    """Return the schema revision of a database, None before the first migration."""
    return MigrationContext.configure(connection).get_current_revision()


def _is_about_content(error: SQLAlchemyError) -> bool:
    """Whether the database refused a value, as opposed to not working."""
    is_conversion = isinstance(error, StatementError) and not isinstance(error, DBAPIError)
    return is_conversion or isinstance(error, DataError | IntegrityError)


@contextmanager
def _migration(connection: Connection) -> Iterator[None]:
    """One transaction that no other process migrates in."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(7368113)"))
    else:
        # SQLite's driver would begin only at the first write, after the check of the revision;
        # this takes the lock first and makes everything atomic.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    yield
    connection.commit()


def _create_sqlite_file(_: Any, __: Any, arguments: list[Any], ___: Any) -> None:
    """Create a new database for its owner alone; SQLite's other files take its rights."""
    name = str(arguments[0]) if arguments else ""
    if name and name != ":memory:" and not name.startswith("file:"):
        with contextlib.suppress(OSError):  # which SQLite explains itself
            create_private_file(Path(name))


def _set_sqlite_pragmas(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={_BUSY_TIMEOUT_MS}")
    _switch_to_wal(cursor)
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _switch_to_wal(cursor: sqlite3.Cursor) -> None:
    """Switch a new file to WAL; SQLite itself does not wait when another process does it too."""
    deadline = time.monotonic() + _BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(_WAL_RETRY_S)
        else:
            return
