"""The database, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from saymask.contract import Candidate, CocoRle, SegmentResult, Timings
from saymask.errors import ConfigError, InternalError
from saymask_backend.cli.main import app
from saymask_backend.label_studio.events import to_new_event, to_oversized_event
from saymask_backend.records.database import InvalidRecord, StoreError
from saymask_backend.records.requests import NewRequest
from saymask_backend.records.stores import Stores
from saymask_backend.records.types import ProjectKey
from tests.conftest import compare_with_tables, list_bodies

NEW = NewRequest(
    project=ProjectKey(1),
    task_id=2,
    expression="the 🐶\n'; DROP TABLE event;--",
    k=3,
    image="/x.png",
)


def result(count: int) -> SegmentResult:
    candidates = tuple(
        Candidate(
            rank=rank,
            score=0.5,
            mask=CocoRle(size=(2, 2), counts="04"),
            box_xywh=(0, 0, 2, 2),
            predicted_iou=0.9,
            stability_score=0.8,
        )
        for rank in range(1, count + 1)
    )
    return SegmentResult(
        image_sha256="a" * 64, expression="x", size_hw=(2, 2), candidates=candidates,
        head_noun_phrase=None, proposals_count=count, model_version="v", from_cache=True,
        timings=Timings(),
    )  # fmt: skip


def test_another_process_that_leaves_takes_no_writes_with_it(tmp_path: Path) -> None:
    """The last process to close a SQLite database deletes its log; locks tell which one is last.

    A process loses its locks when it opens and closes the file apart from SQLite.
    """
    url = f"sqlite:///{tmp_path / 'x.db'}"
    come_and_go = (
        "import sys; from saymask_backend.records.stores import Stores;"
        " stores = Stores(sys.argv[1]); stores.migrate(); stores.close()"
    )
    with closing(Stores(url)) as stores:
        stores.migrate()
        with stores.database.engine.connect() as first, stores.database.engine.connect() as second:
            for connection in (first, second):
                connection.execute(text("SELECT count(*) FROM request")).all()
        subprocess.run([sys.executable, "-c", come_and_go, url], check=True)
        stores.requests.add_request(NEW)
        with closing(sqlite3.connect(tmp_path / "x.db")) as other:
            assert other.execute("SELECT count(*) FROM request").fetchone() == (1,)


def test_migrations_make_the_tables_of_the_model(stores: Stores) -> None:
    assert compare_with_tables(stores) == []
    assert stores.database.revision() == "0008"
    stores.migrate()


def test_a_schema_that_differs_from_the_tables_is_noticed(stores: Stores) -> None:
    with stores.database.engine.begin() as connection:
        connection.execute(text("DROP INDEX ix_record_outcome"))
        connection.execute(text("ALTER TABLE record ADD COLUMN more INTEGER"))
    assert len(compare_with_tables(stores)) == 2


def test_migration_by_two_at_one_time(url: str) -> None:
    opened = [Stores(url) for _ in range(4)]
    failures: list[Exception] = []

    def migrate(own: Stores) -> None:
        try:
            own.migrate()
        except StoreError as error:
            failures.append(error)

    threads = [threading.Thread(target=migrate, args=(one,)) for one in opened]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert opened[0].database.revision() == "0008"
    for one in opened:
        one.close()


def test_request_answered(stores: Stores) -> None:
    request_id = stores.requests.add_request(NEW)
    assert stores.requests.list_recent()[0].status == "waiting"
    stores.requests.save_answer(request_id, result(2), 12.5)
    view = stores.requests.list_recent()[0]
    assert (view.status, view.expression, view.best_score) == ("answered", NEW.expression, 0.5)
    offer = stores.requests.load_offer(request_id)
    assert offer is not None
    assert [candidate.region_id for candidate in offer.candidates] == [
        f"sm{request_id}_1", f"sm{request_id}_2",
    ]  # fmt: skip
    assert offer.candidates[0].coco_rle == {"size": [2, 2], "counts": "04"}
    assert view.created_at.tzinfo is not None


def test_request_failed(stores: Stores) -> None:
    request_id = stores.requests.add_request(NEW)
    stores.requests.save_failure(request_id, InternalError("broken", "mend it"), 3.0)
    view = stores.requests.list_recent()[0]
    assert (view.status, view.error_code, view.error_text) == (
        "failed", "InternalError", "broken mend it",
    )  # fmt: skip


def test_an_answer_is_stored_once(stores: Stores) -> None:
    """A region's id is never given twice."""
    request_id = stores.requests.add_request(NEW)
    stores.requests.save_answer(request_id, result(1), 1.0)
    with pytest.raises(InvalidRecord):
        stores.requests.save_answer(request_id, result(2), 1.0)
    offer = stores.requests.load_offer(request_id)
    assert offer is not None
    assert len(offer.candidates) == 1


def test_events_keep_what_recording_reads(stores: Stores) -> None:
    action = "ANNOTATION_CREATED"
    body = {"action": action, "task": {"id": 3, "data": "\0\ud800🐶"}, "annotation": {"id": True}}
    stores.events.append_event(to_new_event({**body, "more": "x" * 1000}))
    assert list_bodies(stores) == [body]
    assert stores.events.count_events_by_action() == {action: 1}


def test_processed_events_keep_no_body_unless_they_can_be_tried_again(stores: Stores) -> None:
    ids = [stores.events.append_event(to_new_event({"action": "X"})) for _ in range(3)]
    stores.events.append_event(to_oversized_event(16.0))
    stores.events.mark_event(ids[0], "understood")
    stores.events.mark_event(ids[1], "nothing")
    stores.events.mark_event(ids[2], "problem", "odd")
    assert list_bodies(stores) == [None, {"action": "X"}, None, None]
    assert stores.events.retry_problems() == 1, "the one that was too large has nothing to try"
    assert [waiting.id for waiting in stores.events.list_waiting(10)] == [ids[2]]


def test_many_writers(stores: Stores) -> None:
    def write() -> None:
        for _ in range(20):
            stores.events.append_event(to_new_event({"action": "X"}))

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stores.events.count_events_by_action() == {"X": 160}


def test_wrong_urls_are_explained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        Stores("nonsense")
    with pytest.raises(ConfigError, match="opened"):
        Stores("mysql://x/y")


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    path.write_bytes(b"no database" * 100)
    with pytest.raises(StoreError, match="not a database"):
        Stores(f"sqlite:///{path}").migrate()


def test_written_means_on_disk(tmp_path: Path) -> None:
    stores = Stores(f"sqlite:///{tmp_path / 'x.db'}")
    stores.migrate()
    stores.events.append_event(to_new_event({"action": "X"}))
    with sqlite3.connect(tmp_path / "x.db") as connection:
        assert connection.execute("SELECT count(*) FROM event").fetchone() == (1,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    stores.close()


@pytest.mark.parametrize(
    "command",
    [["stats"], ["records", "list"], ["sync"], ["backup", "x.zip"], ["export", "coco", "out"],
     ["verify", "--project", "1"], ["train"]],
)  # fmt: skip
def test_reading_records_outside_an_installation_creates_no_database(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAYMASK_DATA_DIR", str(tmp_path / "data"))
    done = CliRunner().invoke(app, command)
    assert isinstance(done.exception, ConfigError), done.output
    assert "folder in which `make up` was started" in done.exception.cure
    assert list(tmp_path.iterdir()) == []
