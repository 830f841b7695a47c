"""Backups that come back, on either database, and messages that adjacent versions share."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from saymask.contract import (
    JobReply,
    PrepareRequest,
    RefineRequest,
    SegmentRequest,
    WorkerStatus,
    build_job_id,
)
from saymask.errors import DatasetError
from saymask_backend.label_studio.events import to_new_event
from saymask_backend.records import database
from saymask_backend.records.backup import restore_backup, write_backup
from saymask_backend.records.database import StoreError
from saymask_backend.records.stores import Stores
from saymask_backend.services.record import Recorder
from tests.backend.submissions import ALL, A, B, process, send
from tests.conftest import DATA
from tests.factories import annotation, brush, deletion, event, offer, typed
from tests.peak_memory import measure

SAYMASK = Path(sys.executable).parent / "saymask"


def ignore(_done: int, _total: int) -> None:
    pass


def fill(stores: Stores) -> None:
    ids = offer(stores, 1, "the 🐶", [A, B])
    process(
        stores,
        event(1, annotation(5, brush(ids[1], B, "top-2", "prediction", "the 🐶"))),
        event(2, annotation(6, [typed("gone")])),
        deletion(6),
        event(3, annotation(7, [{"type": "brushlabels", "from_name": "mask", "id": "x"}])),
    )
    send(stores, event(4, annotation(8, [typed("waiting")])))


def snapshot(stores: Stores) -> list[object]:
    return [
        list(stores.records.iterate_records(ALL)),
        stores.events.list_waiting(9),
        stores.events.list_problems(),
        stores.requests.list_recent(),
        stores.requests.load_offer(1),
        stores.annotations.load_current_hashes(stores.records.load_record(1).project),  # type: ignore[union-attr]
    ]


def test_a_backup_comes_back(stores: Stores, tmp_path: Path, postgres_url: str) -> None:
    fill(stores)
    counts = write_backup(stores.database, tmp_path / "b.zip", ignore)
    assert counts["event"] == 5
    assert counts["candidate"] == 2
    with closing(Stores(f"sqlite:///{tmp_path / 'again.db'}")) as again:
        assert restore_backup(again.database, tmp_path / "b.zip", ignore) == counts
        assert snapshot(again) == snapshot(stores)
        # What comes next is numbered after what was there.
        assert Recorder(again).process_waiting() == 1
        offer(again, 9, "next", [A])
        assert [r.id for r in again.records.iterate_records(ALL)][-1] > 1
        with pytest.raises(StoreError, match="not empty"):
            restore_backup(again.database, tmp_path / "b.zip", ignore)


def test_from_sqlite_to_postgresql(tmp_path: Path, url: str) -> None:
    with closing(Stores(f"sqlite:///{tmp_path / 'old.db'}")) as old:
        old.migrate()
        fill(old)
        write_backup(old.database, tmp_path / "b.zip", ignore)
        with closing(Stores(url)) as new:
            restore_backup(new.database, tmp_path / "b.zip", ignore)
            assert snapshot(new) == snapshot(old)
            assert Recorder(new).process_waiting() == 1
            assert len(offer(new, 9, "next", [A])) == 1


def test_a_backup_is_one_state_while_others_write(stores: Stores, tmp_path: Path) -> None:
    fill(stores)
    stop = threading.Event()

    def write_on() -> None:
        number = 100
        while not stop.is_set():
            number += 1
            process(stores, event(number, annotation(number, [typed("more")])))

    writer = threading.Thread(target=write_on)
    writer.start()
    try:
        for number in range(5):
            path = tmp_path / f"{number}.zip"
            counts = write_backup(stores.database, path, ignore)
            with closing(Stores(f"sqlite:///{tmp_path / f'{number}.db'}")) as again:
                assert restore_backup(again.database, path, ignore) == counts
    finally:
        stop.set()
        writer.join()


LATER = """
import sqlalchemy as sa
from alembic import op
revision, down_revision, branch_labels, depends_on = "0009", "0008", None, None
def upgrade():
    op.execute("UPDATE record SET outcome = 'edited' WHERE outcome = 'accepted'")
    op.add_column("record", sa.Column("more", sa.Integer, nullable=False, server_default="8"))
"""


def test_a_backup_of_an_earlier_schema(
    stores: Stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows are brought up to date as a database of that version would be."""
    fill(stores)
    write_backup(stores.database, tmp_path / "b.zip", ignore)
    migrations = tmp_path / "migrations"
    shutil.copytree(database._MIGRATIONS, migrations)
    (migrations / "versions" / "0009_later.py").write_text(LATER)
    monkeypatch.setattr(database, "_MIGRATIONS", migrations)
    with closing(Stores(f"sqlite:///{tmp_path / 'new.db'}")) as target:
        # A database that was migrated and never used is as good as none.
        target.migrate()
        restore_backup(target.database, tmp_path / "b.zip", ignore)
        stores.migrate()
        assert stores.database.revision() == target.database.revision() == "0009"
        assert snapshot(target) == snapshot(stores)
        assert next(r.outcome for r in target.records.iterate_records(ALL)) == "edited"
        with target.database.session() as session:
            assert session.scalars(text("SELECT DISTINCT more FROM record")).all() == [8]


@pytest.mark.parametrize(
    "damage", ["cut", "missing", "text", "rows", "format", "revision 0003", "revision 0999"]
)
def test_a_damaged_backup_changes_nothing(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "b.zip"
    with closing(Stores(f"sqlite:///{tmp_path / 'a.db'}")) as stores:
        stores.migrate()
        fill(stores)
        write_backup(stores.database, path, ignore)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "missing":
        path.unlink()
    elif damage == "text":
        path.write_text("not a zip")
    else:
        with zipfile.ZipFile(path) as archive:
            content = {name: archive.read(name) for name in archive.namelist()}
        if damage == "rows":
            content["record.jsonl"] = b""
        else:
            change = {"format": "other"}
            if damage.startswith("revision"):
                change = {"revision": damage.split()[1]}
            manifest = json.loads(content["manifest.json"]) | change
            content["manifest.json"] = json.dumps(manifest).encode()
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in content.items():
                archive.writestr(name, data)
    with closing(Stores(f"sqlite:///{tmp_path / 'new.db'}")) as new:
        with pytest.raises(DatasetError):
            restore_backup(new.database, path, ignore)
        new.migrate()
        assert new.records.count_records(ALL) == 0
        assert new.requests.count_requests() == {}


RESTORE = """
from contextlib import closing
from pathlib import Path
from saymask_backend.records.backup import restore_backup
from saymask_backend.records.stores import Stores
with closing(Stores("sqlite:///" + sys.argv[2])) as stores:
    return restore_backup(stores.database, Path(sys.argv[1]), lambda *_: None)["event"]
"""


def write_events(path: Path, tmp_path: Path, bodies: list[str | list[Any]]) -> None:
    """A backup with events of these bodies, written without holding all of them."""
    with closing(Stores(f"sqlite:///{tmp_path / 'a.db'}")) as stores:
        stores.migrate()
        send(stores, event(4, annotation(8, [typed("waiting")])))
        write_backup(stores.database, path, ignore)
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    row = json.loads(content.pop("event.jsonl"))
    manifest = json.loads(content.pop("manifest.json"))
    manifest["rows"]["event"] = len(bodies)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
        archive.writestr("manifest.json", json.dumps(manifest))
        with archive.open("event.jsonl", "w", force_zip64=True) as file:
            for number, body in enumerate(bodies, 1):
                line = json.dumps({**row, "id": number, "body": "BODY"}).encode()
                text = (
                    json.dumps(body, ensure_ascii=False).encode()
                    if isinstance(body, str)
                    else body[0]
                )
                file.write(line.replace(b'"BODY"', text) + b"\n")
    assert path.stat().st_size < 3_000_000


@pytest.mark.parametrize(
    ("bodies", "said"),
    [
        (["x" * 2_000_000] * 200, "200"),
        (["x" * 250_000_000], "refused: A row of event is longer than 128 MB."),
        ([[b"[" + b"[]," * 30_000_000 + b"0]"]], "refused: A row of event has more than 5,000,000"),
        ([[b"[" * 3_000_000]], "refused: .* is not a backup, or damaged: .*recursion"),
    ],
    ids=["many", "long", "values", "deep"],
)
def test_a_backup_that_unpacks_to_gigabytes(
    tmp_path: Path, bodies: list[str | list[Any]], said: str
) -> None:
    """Rows of honest length come back; none of the others is decoded."""
    write_events(tmp_path / "b.zip", tmp_path, bodies)
    peak, found = measure(RESTORE, str(tmp_path / "b.zip"), str(tmp_path / "new.db"))
    assert re.match(said, found)
    assert peak < 500


def test_the_longest_webhook_comes_back(tmp_path: Path) -> None:
    """In a backup each of its characters may be escaped."""
    body = '"' * 10_000 + "ü🐶" * 1000
    write_events(tmp_path / "b.zip", tmp_path, [body])
    with closing(Stores(f"sqlite:///{tmp_path / 'new.db'}")) as new:
        with pytest.raises(DatasetError, match=r"longer than 0\.01 MB"):
            restore_backup(new.database, tmp_path / "b.zip", ignore, 10_000)
        size = len(json.dumps(body, ensure_ascii=False).encode()) + 1000
        restore_backup(new.database, tmp_path / "b.zip", ignore, size)
        write_backup(new.database, tmp_path / "again.zip", ignore)
    with zipfile.ZipFile(tmp_path / "again.zip") as archive:
        line = archive.read("event.jsonl")
    assert json.loads(line)["body"] == body
    assert len(line) < size


@pytest.mark.parametrize(
    "change",
    [
        {"manifest.json": b"[]"},
        {"manifest.json": b'{"format": "saymask-backup-1", "revision": []}'},
        {"manifest.json": b" " * 2_000_000},
        {"event.jsonl": b"7\n"},
        {"event.jsonl": b'{"id": 1}\n'},
        {"event.jsonl": b"\xff\n"},
    ],
)
def test_a_backup_of_another_shape_is_refused_in_words(
    tmp_path: Path, change: dict[str, bytes]
) -> None:
    write_events(tmp_path / "b.zip", tmp_path, ["x"])
    with zipfile.ZipFile(tmp_path / "b.zip") as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        for name, data in (content | change).items():
            archive.writestr(name, data)
    with (
        closing(Stores(f"sqlite:///{tmp_path / 'new.db'}")) as new,
        pytest.raises(DatasetError, match="is not a backup, or damaged"),
    ):
        restore_backup(new.database, tmp_path / "b.zip", ignore)


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("SAYMASK_DATA_DIR", str(tmp_path / "a"))
    with closing(Stores(f"sqlite:///{tmp_path / 'a' / 'saymask.db'}")) as stores:
        stores.migrate()
        fill(stores)
    path = tmp_path / "b.zip"
    done = subprocess.run([SAYMASK, "backup", path], capture_output=True, text=True, check=True)
    assert "rows in" in done.stdout
    monkeypatch.setenv("SAYMASK_DATA_DIR", str(tmp_path / "b"))
    done = subprocess.run(
        [SAYMASK, "restore", path, "--json"], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["event"] == 5
    again = subprocess.run([SAYMASK, "restore", path], capture_output=True, text=True, check=False)
    assert again.returncode == 2
    assert "not empty" in again.stderr
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


MESSAGES = json.loads((DATA / "messages_24bb01a.json").read_text("utf-8"))


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("segment", SegmentRequest), ("refine", RefineRequest), ("prepare", PrepareRequest),
        ("answered", JobReply), ("failed", JobReply), ("heartbeat", WorkerStatus),
    ],
)  # fmt: skip
def test_messages_of_24bb01a_are_the_same(name: str, model: type) -> None:
    """Written by that commit's own code: read here, and written again with the same content.

    So either side of the queue may be updated first.
    """
    parsed = model.model_validate(MESSAGES[name])  # type: ignore[attr-defined]
    written = parsed.model_dump(mode="json")
    assert keep_known(written, MESSAGES[name]) == MESSAGES[name]
    # What a later version may add is ignored.
    assert model.model_validate({**MESSAGES[name], "added_later": 1}) == parsed  # type: ignore[attr-defined]


def keep_known(written: Any, before: Any) -> Any:
    """What was written, without fields that did not exist before: they are ignored."""
    if isinstance(before, dict):
        return {name: keep_known(written[name], value) for name, value in before.items()}
    if isinstance(before, list):
        return [keep_known(new, old) for new, old in zip(written, before, strict=True)]
    return written


def test_equal_requests_have_equal_jobs_in_both_versions() -> None:
    request = SegmentRequest.model_validate(MESSAGES["segment"])
    assert build_job_id("segment", "v", request) == MESSAGES["job_id"]


def test_a_waiting_webhook_of_an_earlier_version_is_processed(stores: Stores) -> None:
    """It does not know the newest request; then our own clock decides."""
    from sqlalchemy import update

    from saymask_backend.records.tables import Event

    offer(stores, 1, "the cat", [A])
    body = event(1, annotation(5, [typed("the cat"), *brush("own", B, "referent", "manual")]))
    stores.events.append_event(to_new_event(body))
    with stores.database.session() as session, session.begin():
        session.execute(update(Event).values(last_request_id=None))
    Recorder(stores).process_waiting()
    (record,) = stores.records.iterate_records(ALL)
    assert record.outcome == "drawn_after_rejection"
