"""Comparing with Label Studio: against a server that pages, refuses, breaks off and forgets."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from saymask.errors import InvalidLabelConfig
from saymask_backend.label_studio import rest
from saymask_backend.label_studio.auth import LabelStudioError
from saymask_backend.label_studio.client import LabelStudioClient
from saymask_backend.label_studio.events import to_new_event
from saymask_backend.label_studio.rest import NotFound
from saymask_backend.records.stores import Stores
from saymask_backend.records.types import RecordFilter
from saymask_backend.services.record import Recorder
from saymask_backend.services.sync import Synchroniser
from tests.conftest import free_port
from tests.factories import PROJECT, annotation, brush, deletion, event, offer, square, task, typed

ALL = RecordFilter()


class Studio:
    """Label Studio's API as far as sync reads it."""

    def __init__(self) -> None:
        self.tasks: dict[int, list[dict[str, Any]]] = {}
        self.project: dict[str, Any] = dict(PROJECT)
        self.answers: list[int] = []
        self.pages: list[int] = []
        self.clock_behind = timedelta(0)
        self.says_zone = True
        self.retry_after = "0"
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status = outer.answers.pop(0) if outer.answers else 200
                body = outer.answer(urlsplit(self.path)) if status == 200 else {"detail": "no"}
                self.send_response_only(404 if body is None else status)
                date = datetime.now(UTC) - outer.clock_behind
                date = date if outer.says_zone else date.replace(tzinfo=None)
                self.send_header("Date", format_datetime(date, usegmt=outer.says_zone))
                if status == 429:
                    self.send_header("Retry-After", outer.retry_after)
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, url: Any) -> Any:
        if url.path == "/api/projects/7":
            return self.project
        if url.path == "/api/tasks":
            query = {name: int(values[0]) for name, values in parse_qs(url.query).items()
                     if values[0].isdigit()}  # fmt: skip
            self.pages.append(query["page"])
            start = (query["page"] - 1) * query["page_size"]
            ids = sorted(self.tasks)[start : start + query["page_size"]]
            if not ids and start:
                return None
            found = [{**task(i), "annotations": self.tasks[i]} for i in ids]
            return {"tasks": found, "total": len(self.tasks)}
        if url.path.startswith("/api/annotations/"):
            number = int(url.path.split("/")[3])
            return next(
                (a for many in self.tasks.values() for a in many if a["id"] == number), None
            )
        return None


@pytest.fixture
def studio() -> Iterator[Studio]:
    studio = Studio()
    yield studio
    studio.server.shutdown()
    studio.server.server_close()


def synchroniser(stores: Stores, client: LabelStudioClient) -> Synchroniser:
    return Synchroniser(client, stores, Recorder(stores), page_size=2)


def current(stores: Stores) -> dict[int, tuple[str, str]]:
    rows = stores.records.iterate_records(ALL)
    return {r.annotation_id: (r.outcome, r.expression) for r in rows}


def test_every_gap_is_filled_and_told(stores: Stores, studio: Studio) -> None:
    ids = offer(stores, 1, "the cat", [square(4)])
    accepted = annotation(11, brush(ids[0], square(4), "top-1", "prediction", "the cat"))
    stores.events.append_event(to_new_event(event(1, accepted)))
    old = annotation(12, [typed("the dog")])
    stores.events.append_event(to_new_event(event(2, old)))
    stores.events.append_event(to_new_event(event(3, annotation(13, [typed("gone")]))))
    studio.tasks = {
        1: [accepted],
        2: [annotation(12, [typed("the other dog")], after_s=5)],
        3: [],
        4: [annotation(14, [typed("new")]), annotation(15, [], was_cancelled=True)],
        5: [
            annotation(16, [{"id": "x", "type": "brushlabels", "from_name": "mask"}]),
            {"id": None},
        ],
    }
    with closing(LabelStudioClient(studio.url, "key")) as client:
        report = synchroniser(stores, client).sync(7)
        assert (report.tasks, report.annotations) == (5, 6)
        assert (report.missing, report.outdated, report.deleted) == (2, 1, 1)
        assert "One of its annotations has no id." in report.problems[0]
        assert "annotation 16" in report.problems[1]
        assert current(stores) == {
            11: ("accepted", "the cat"),
            12: ("no_mask", "the other dog"),
            14: ("no_mask", "new"),
            15: ("skipped", ""),
        }
        again = synchroniser(stores, client).sync(7)
        assert again.filled == 0


def test_sync_alone_gives_what_webhooks_give(studio: Studio, tmp_path: Any) -> None:
    """The same annotations, once by webhook and once by API, give equal records."""
    tables = []
    for way in ("webhook", "sync"):
        with closing(Stores(f"sqlite:///{tmp_path / way}.db")) as stores:
            stores.migrate()
            ids = offer(stores, 1, "the cat", [square(4), square(30)])
            result = brush(ids[1], square(30), "top-2", "prediction", "the cat")
            body = annotation(11, result)
            if way == "webhook":
                stores.events.append_event(to_new_event(event(1, body)))
                Recorder(stores).process_waiting()
            else:
                studio.tasks = {1: [body]}
                with closing(LabelStudioClient(studio.url, "key")) as client:
                    assert synchroniser(stores, client).sync(7).missing == 1
            tables.append(list(stores.records.iterate_records(ALL)))
    assert tables[0] == tables[1]


def test_broken_off_it_goes_on_where_it_was(stores: Stores, studio: Studio) -> None:
    studio.tasks = {n: [annotation(100 + n, [typed(f"thing {n}")])] for n in range(1, 8)}
    # project, page 1, page 2, then a failure that is no mere busyness
    studio.answers = [200, 200, 200, 500]
    with closing(LabelStudioClient(studio.url, "key")) as client:
        with pytest.raises(LabelStudioError, match="500"):
            synchroniser(stores, client).sync(7)
        assert len(current(stores)) == 4
        report = synchroniser(stores, client).sync(7)
    assert report.taken_up
    assert report.missing == 7
    assert report.deleted == 0
    # The rest first, then what the first run had seen.
    assert studio.pages == [1, 2, 3, 4, 1, 2]
    assert (report.tasks, report.annotations) == (7, 7)
    assert len(current(stores)) == 7


@pytest.mark.parametrize("retry_after", ["0", "-1", "nan"])
def test_busy_is_waited_for_and_full_pages_end(
    retry_after: str, stores: Stores, studio: Studio
) -> None:
    studio.retry_after = retry_after
    studio.tasks = {n: [annotation(n, [typed("x")])] for n in (1, 2)}
    studio.answers = [429, 503, 200, 429]
    with closing(LabelStudioClient(studio.url, "key")) as client:
        assert synchroniser(stores, client).sync(7).missing == 2


def test_a_task_that_slipped_through_the_pages_is_not_deleted(
    stores: Stores, studio: Studio
) -> None:
    kept = annotation(11, [typed("x")])
    stores.events.append_event(to_new_event(event(1, kept)))
    studio.tasks = {1: [kept]}
    with closing(LabelStudioClient(studio.url, "key")) as client:
        reader = synchroniser(stores, client)
        reader._iterate_pages = lambda *_: iter(())  # type: ignore[method-assign]
        assert reader.sync(7).deleted == 0
    assert 11 in current(stores)


def test_label_studio_down_during_sync(stores: Stores) -> None:
    with (
        closing(LabelStudioClient(f"http://127.0.0.1:{free_port()}", "key")) as client,
        pytest.raises(LabelStudioError, match="cannot be reached"),
    ):
        synchroniser(stores, client).sync(7)


def test_what_is_no_project_of_ours(stores: Stores, studio: Studio) -> None:
    with closing(LabelStudioClient(studio.url, "key")) as client:
        with pytest.raises(NotFound):
            synchroniser(stores, client).sync(8)
        studio.project["label_config"] = "<View/>"
        with pytest.raises(InvalidLabelConfig):
            synchroniser(stores, client).sync(7)
        stores.events.append_event(to_new_event({"action": "X", "project": {"id": 7}}))
        synchroniser(stores, client).sync_all(lambda: False)


def test_a_deletion_of_what_still_exists_is_healed(stores: Stores, studio: Studio) -> None:
    """A forged or mistaken deletion empties the view until the next comparison."""
    body = annotation(11, [typed("the cat")])
    for webhook in (event(1, body), deletion(11)):
        stores.events.append_event(to_new_event(webhook))
    studio.tasks = {1: [body]}
    with closing(LabelStudioClient(studio.url, "key")) as client:
        assert synchroniser(stores, client).sync(7).missing == 1
        assert current(stores) == {11: ("no_mask", "the cat")}
        assert synchroniser(stores, client).sync(7).filled == 0
        studio.tasks = {1: []}
        assert synchroniser(stores, client).sync(7).deleted == 1
        assert current(stores) == {}


def test_label_studio_set_up_anew_beside_the_kept_database(stores: Stores, studio: Studio) -> None:
    """Numbers begin at 1 again; old records stay, new ones are not taken for old ones."""
    stores.events.append_event(to_new_event(event(1, annotation(11, [typed("old")]))))
    studio.project = {**PROJECT, "created_at": "2026-11-25T00:00:00Z"}
    studio.tasks = {1: [annotation(11, [typed("new")])]}
    with closing(LabelStudioClient(studio.url, "key")) as client:
        report = synchroniser(stores, client).sync(7)
    assert (report.missing, report.deleted) == (1, 0)
    texts = [(r.annotation_id, r.expression) for r in stores.records.iterate_records(ALL)]
    assert texts == [(11, "old"), (11, "new")]


def test_what_sync_reads_replaces_a_state_from_the_future(stores: Stores, studio: Studio) -> None:
    future = annotation(11, [typed("wrong")], updated_at="2099-01-01T00:00:00Z")
    stores.events.append_event(to_new_event(event(1, future)))
    studio.tasks = {1: [annotation(11, [typed("right")])]}
    with closing(LabelStudioClient(studio.url, "key")) as client:
        assert synchroniser(stores, client).sync(7).outdated == 1
    assert current(stores) == {11: ("no_mask", "right")}


def test_label_studios_clock_is_read_from_its_answers(stores: Stores, studio: Studio) -> None:
    """An hour behind ours, it saved a drawing after our offer, at a time before it."""
    offer(stores, 1, "the cat", [square(4)])
    saved_at = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    drawn = [typed("the cat"), *brush("own", square(30), "referent", "manual")]
    studio.tasks = {1: [annotation(11, drawn, updated_at=saved_at)]}
    studio.clock_behind = timedelta(hours=1)
    with closing(LabelStudioClient(studio.url, "key")) as client:
        assert synchroniser(stores, client).sync(7).missing == 1
    assert current(stores) == {11: ("drawn_after_rejection", "the cat")}


def test_a_date_without_its_zone_tells_no_clock(stores: Stores, studio: Studio) -> None:
    studio.says_zone = False
    studio.tasks = {1: [annotation(11, [typed("x")])]}
    with closing(LabelStudioClient(studio.url, "key")) as client:
        assert synchroniser(stores, client).sync(7).missing == 1


def test_what_was_lost_before_a_resumed_comparison_is_found(stores: Stores, studio: Studio) -> None:
    """Two comparisons at once share a run; the second one still sees every page."""
    studio.tasks = {n: [annotation(100 + n, [typed("x")])] for n in range(1, 6)}
    studio.answers = [200, 200, 200, 500]
    with closing(LabelStudioClient(studio.url, "key")) as client:
        with pytest.raises(LabelStudioError):
            synchroniser(stores, client).sync(7)
        # On a page that was compared already; its webhook was lost.
        studio.tasks[1] = [annotation(101, [typed("changed")], after_s=5)]
        report = synchroniser(stores, client).sync(7)
    assert report.taken_up
    assert current(stores)[101] == ("no_mask", "changed")


def test_a_page_that_is_too_large_is_read_task_by_task(
    stores: Stores, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each annotation is small enough, and all of a page are not; one is too large alone."""
    texts = dict.fromkeys(range(1, 8), "x" * 4000) | {4: "x" * 20_000}
    studio.tasks = {n: [annotation(100 + n, [typed(text)])] for n, text in texts.items()}
    with closing(LabelStudioClient(studio.url, "key")) as client:
        assert synchroniser(stores, client).sync(7).problems == ()
        monkeypatch.setattr(rest, "_MAX_PAGE_BYTES", 6000)
        monkeypatch.setattr(rest, "_MAX_ANSWER_BYTES", 10_000)
        for n in studio.tasks:
            studio.tasks[n] = [annotation(100 + n, [typed(f"new {texts[n]}")], after_s=5)]
        report = synchroniser(stores, client).sync(7)
        assert (report.outdated, report.deleted) == (6, 0)
        (problem,) = report.problems
        assert "a task: Label Studio's answer to /api/tasks is larger than 0.01 MB" in problem
        recorded = current(stores)
        assert [n for n in sorted(recorded) if recorded[n][1].startswith("new")] == [
            101, 102, 103, 105, 106, 107,
        ]  # fmt: skip


def test_a_comparison_that_breaks_off_within_a_large_page_goes_on_there(
    stores: Stores, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest, "_MAX_PAGE_BYTES", 6000)
    studio.tasks = {n: [annotation(100 + n, [typed("x" * 4000)])] for n in range(1, 6)}
    # The project, page 1 and its two tasks, page 2 and its first task, then a failure.
    studio.answers = [200] * 6 + [500]
    with closing(LabelStudioClient(studio.url, "key")) as client:
        with pytest.raises(LabelStudioError, match="500"):
            synchroniser(stores, client).sync(7)
        report = synchroniser(stores, client).sync(7)
    assert report.taken_up
    assert report.deleted == 0
    assert sorted(current(stores)) == [101, 102, 103, 104, 105]


def test_gaps_are_not_filled_while_another_process_records(
    stores: Stores, url: str, studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The events wait and a warning is logged; the other process or the next sync records them."""
    monkeypatch.setattr(Recorder.process_waiting, "__defaults__", (lambda: False, 0.05))
    studio.tasks = {n: [annotation(100 + n, [typed("x")])] for n in range(1, 4)}
    with (
        closing(Stores(url)) as others,
        closing(LabelStudioClient(studio.url, "key")) as client,
    ):
        with others.database.recording_lock(0) as is_theirs:
            assert is_theirs
            report = synchroniser(stores, client).sync(7)
        assert report.filled == 0
        assert len(report.problems) == 3
        assert "annotation 101: It is stored and waits" in report.problems[0]
        assert current(stores) == {}
        assert synchroniser(stores, client).sync(7).problems == ()
    assert sorted(current(stores)) == [101, 102, 103]
