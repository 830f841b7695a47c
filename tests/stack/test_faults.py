"""What must neither lose nor double a record: processes killed, databases locked and full."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from sqlalchemy import event as sa_event
from sqlalchemy import inspect

from saymask_backend.label_studio.events import to_new_event
from saymask_backend.records import database
from saymask_backend.records.database import StoreError
from saymask_backend.records.stores import Stores
from saymask_backend.records.tables import Base
from saymask_backend.records.types import RecordFilter
from saymask_backend.services.record import Recorder
from tests.conftest import free_port, start_backend
from tests.factories import annotation, brush, event, offer, square, typed

ALL = RecordFilter()


def test_backend_killed_while_webhooks_come(url: str) -> None:
    """Every webhook that was answered is one record, no more, no fewer."""
    with closing(Stores(url)) as stores:
        stores.migrate()
        ids = offer(stores, 1, "the cat", [square(4)])
    acknowledged: set[int] = set()
    numbers = iter(range(1, 100_000))
    lock = threading.Lock()
    for round_s in (0.3, 0.8):
        port = free_port()
        process = start_backend(url, port)
        stop = threading.Event()

        def send(port: int = port, stop: threading.Event = stop) -> None:
            with httpx.Client(timeout=10) as client:
                while not stop.is_set():
                    with lock:
                        number = next(numbers)
                    result = brush(ids[0], square(4), "top-1", "prediction", "the cat")
                    body = event(1, annotation(number, result))
                    try:
                        answer = client.post(f"http://127.0.0.1:{port}/webhook", json=body)
                    except httpx.HTTPError:
                        return
                    if answer.status_code == 200:
                        acknowledged.add(number)

        threads = [threading.Thread(target=send) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(round_s)
        process.send_signal(signal.SIGKILL)
        process.wait()
        stop.set()
        for thread in threads:
            thread.join()
    assert acknowledged
    with closing(Stores(url)) as stores:
        Recorder(stores).process_waiting()
        recorded = [record.annotation_id for record in stores.records.iterate_records(ALL)]
        assert len(recorded) == len(set(recorded))
        assert acknowledged <= set(recorded)
        assert set(stores.events.count_events_by_state()) == {"understood"}
        assert {record.outcome for record in stores.records.iterate_records(ALL)} == {"accepted"}


_KILLED_IN_MIGRATION = """
import os, signal, sys
from alembic import op
from saymask_backend.records.stores import Stores
make = op.create_table
def dies(name, *columns, **options):
    if name == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)
    return make(name, *columns, **options)
op.create_table = dies
Stores(sys.argv[1]).migrate()
"""


def migrate_and_die(url: str, table: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _KILLED_IN_MIGRATION, url, table], check=False, capture_output=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


@pytest.mark.parametrize("table", ["request", "record"])
def test_killed_in_the_middle_of_a_migration(url: str, table: str) -> None:
    migrate_and_die(url, table)
    with closing(Stores(url)) as stores:
        assert stores.database.revision() is None
        stores.migrate()
        assert stores.database.revision() == "0008"
        tables = inspect(stores.database.engine)
        assert set(Base.metadata.tables) <= set(tables.get_table_names())


def test_locked_for_a_while_and_for_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.db"
    with closing(Stores(f"sqlite:///{path}")) as stores:
        stores.migrate()
    monkeypatch.setattr(database, "_BUSY_TIMEOUT_MS", 1500)
    with (
        closing(Stores(f"sqlite:///{path}")) as stores,
        closing(sqlite3.connect(path, check_same_thread=False, isolation_level=None)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        threading.Timer(0.5, other.execute, ["COMMIT"]).start()
        stores.events.append_event(to_new_event({"action": "X"}))
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="locked"):
            stores.events.append_event(to_new_event({"action": "X"}))
        other.execute("COMMIT")
        stores.events.append_event(to_new_event({"action": "X"}))
        assert stores.events.count_events_by_action() == {"X": 2}


def test_disk_full_while_recording(tmp_path: Path) -> None:
    with closing(Stores(f"sqlite:///{tmp_path / 'x.db'}")) as stores:
        stores.migrate()
        for number in range(40):
            body = event(number, annotation(number, [typed("x" * 2000)]))
            stores.events.append_event(to_new_event(body))

        def no_room(connection: sqlite3.Connection, *_: object) -> None:
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count={pages}")

        sa_event.listen(stores.database.engine, "checkout", no_room)
        with pytest.raises(StoreError, match="full"):
            Recorder(stores).process_waiting()
        with pytest.raises(StoreError, match="full"):
            stores.events.append_event(to_new_event(event(99, "x" * 50_000)))
        sa_event.remove(stores.database.engine, "checkout", no_room)

        def room(connection: sqlite3.Connection, *_: object) -> None:
            connection.execute("PRAGMA max_page_count=100000")

        sa_event.listen(stores.database.engine, "checkout", room)
        Recorder(stores).process_waiting()
        assert stores.records.count_records(ALL) == 40
        assert len({record.annotation_id for record in stores.records.iterate_records(ALL)}) == 40
