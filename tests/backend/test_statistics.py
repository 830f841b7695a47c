"""Figures against a truth worked out by hand; what the command line and the page say of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saymask.errors import ImageUnreadable, InvalidRequest
from saymask_backend.cli.context import parse_since
from saymask_backend.label_studio.events import to_new_event
from saymask_backend.records.statistics import IOU_EDGES, compute_spread
from saymask_backend.records.stores import Stores
from saymask_backend.records.types import RecordFilter
from saymask_backend.services.draw_decision import draw_decision
from saymask_backend.services.record import Recorder
from saymask_backend.services.report import Reporter
from tests.browser.editor import CHROMIUM_FLAGS, SCREENSHOTS, chromium
from tests.conftest import free_port, start_backend
from tests.factories import HEIGHT, WIDTH, annotation, brush, event, offer, square, typed, verdict

A, B, C = square(4), square(24), square(44)


def day(stores: Stores) -> None:
    """One of every outcome, and two annotators on task 1."""
    number = 0

    def hand_in(task_id: int, result: list, **fields: object) -> None:
        nonlocal number
        number += 1
        body = event(task_id, annotation(number, result, **fields))
        stores.events.append_event(to_new_event(body))

    cat = offer(stores, 1, "the cat", [A, B, C])
    hand_in(1, brush(cat[0], A, "top-1", "prediction", "the cat"), lead_time=10.0)
    hand_in(1, brush(cat[1], B, "top-2", "prediction", "The cat"), lead_time=20.0, completed_by=2)
    dog = offer(stores, 2, "the dog", [A, B, C])
    smaller = square(44, side=6)
    hand_in(2, brush(dog[2], smaller, "top-3", "prediction-changed", "the dog"), lead_time=30.0)
    bird = offer(stores, 3, "the bird", [A], source="trained")
    hand_in(3, brush(bird[0], A, "referent", "prediction", "the bird"), lead_time=4.0)
    offer(stores, 4, "the cup", [A])
    drawn = [typed("the cup"), *brush("own", B, "referent", "manual")]
    hand_in(4, drawn, lead_time=60.0)
    hand_in(5, [typed("the tree"), *brush("own", B, "referent", "manual")], lead_time=50.0)
    hand_in(6, [typed("the moon"), verdict("no referent")], lead_time=3.0)
    hand_in(7, [typed("the star"), verdict("ambiguous")], lead_time=5.0)
    hand_in(8, [], was_cancelled=True, lead_time=None)
    Recorder(stores).process_waiting()


@pytest.fixture
def full(stores: Stores) -> Stores:
    day(stores)
    return stores


def test_known_truth(full: Stores) -> None:
    report = Reporter(full).build_report(RecordFilter(), "annotator")
    quality = report.quality
    assert quality.samples == 9
    assert quality.outcomes == {
        "accepted": 2, "edited": 1, "relabelled": 1, "drawn_after_rejection": 1, "drawn": 1,
        "no_referent": 1, "ambiguous": 1, "skipped": 1,
    }  # fmt: skip
    assert quality.judged == 5
    assert quality.acceptance_at == {"1": 0.4, "3": 0.8, "k": 0.8}
    assert quality.ranks == {1: 2, 2: 1, 3: 1}
    assert quality.edit_rate == 0.25
    assert quality.drawn_rate == round(2 / 6, 4)
    assert quality.iou_accepted.count == 4
    assert quality.iou_accepted.median == 1.0
    # rank 1 against the final mask: 1, 0, 0, 1, 0
    assert (quality.iou_first.count, quality.iou_first.median) == (5, 0.0)
    assert sum(quality.iou_histogram) == 5
    assert (quality.iou_histogram[0], quality.iou_histogram[-1]) == (3, 2)
    assert len(quality.iou_histogram) == len(IOU_EDGES) - 1
    times = [10, 20, 30, 4, 60, 50, 3, 5]
    assert quality.seconds.count == 8
    assert quality.seconds.median == np.median(times)
    assert quality.seconds.p90 == round(float(np.percentile(times, 90)), 4)
    assert quality.per_hour == round(8 / sum(times) * 3600, 1)
    assert quality.against_polygons == round(80 / np.median(times), 2)
    assert {name: group.samples for name, group in report.groups.items()} == {"1": 8, "2": 1}
    assert report.sources == {
        "proposals": {"offered": 3, "accepted": 3}, "trained": {"offered": 1, "accepted": 1},
    }  # fmt: skip
    assert report.shared == 1
    (one,) = report.disagreements
    assert (one.task_id, one.iou, one.annotators) == (1, 0.0, 2)
    assert report.latency_ms == {"p50": 40.0, "p90": 40.0, "p99": 40.0}


def test_groups_and_filters(full: Stores) -> None:
    models = Reporter(full).build_report(RecordFilter(), "model").groups
    assert {name: group.samples for name, group in models.items()} == {
        "none": 4, "saymask-test": 5,
    }  # fmt: skip
    assert len(Reporter(full).build_report(RecordFilter(), "day").groups) == 1
    sources = Reporter(full).build_report(RecordFilter(), "source").groups
    assert {name: group.samples for name, group in sources.items()} == {
        "none accepted": 5, "proposals": 3, "trained": 1,
    }  # fmt: skip
    nobody = Reporter(full).build_report(RecordFilter(project_id=99), "day")
    assert nobody.quality.samples == 0
    assert nobody.quality.acceptance_at == {"1": None, "3": None, "k": None}
    json.dumps(nobody.to_json(), default=str)


def test_spread_of_nothing() -> None:
    assert compute_spread([]).median is None


def run(database: Path, *arguments: str, columns: int = 160) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).parent / "saymask"), *arguments], check=False, text=True,
        capture_output=True,
        env={
            **os.environ, "SAYMASK_DATABASE_URL": f"sqlite:///{database}", "COLUMNS": str(columns),
        },
    )  # fmt: skip


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "x.db"
    with closing(Stores(f"sqlite:///{path}")) as stores:
        stores.migrate()
        day(stores)
    return path


def test_command_line(database: Path) -> None:
    stats = json.loads(run(database, "stats", "--json", "--project", "7").stdout)
    assert stats["quality"]["acceptance_at"] == {"1": 0.4, "3": 0.8, "k": 0.8}
    words = run(database, "stats", "--by", "annotator").stdout
    assert "drawn by hand after rejection" in words
    listed = json.loads(run(database, "records", "list", "--json", "--outcome", "edited").stdout)
    (edited,) = listed
    assert edited["iou"] == 0.25
    assert "the dog" in run(database, "records", "list").stdout
    shown = json.loads(run(database, "records", "show", str(edited["id"]), "--json").stdout)
    assert [c["rank"] for c in shown["candidates"]] == [1, 2, 3]
    assert [h["outcome"] for h in shown["history"]] == ["edited"]
    assert "history" in run(database, "records", "show", str(edited["id"])).stdout
    assert "0 processed again" in run(database, "records", "retry").stdout


@pytest.mark.parametrize("columns", [80, 160])
def test_tables_are_whole_in_an_ordinary_terminal(database: Path, columns: int) -> None:
    stats = run(database, "stats", "--by", "annotator", columns=columns).stdout
    listed = run(database, "records", "list", columns=columns).stdout
    headings = ("annotator", "samples", "edited", "drawn", "s p90", "decided (UTC)", "rank")
    assert all(heading in stats + listed for heading in headings)
    assert all(outcome in listed for outcome in ("drawn_after_rejection", "relabelled"))
    assert "…" not in stats + listed
    tables = [*stats.splitlines()[:4], *listed.splitlines()]
    assert max(map(len, tables)) <= columns


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("records", "show", "999"), "There is no record 999"),
        (("records", "show", "9" * 20), "The database refuses this content"),
        (("records", "list", "--annotator", "\udce9"), "The database refuses this content"),
        (("records", "list", "--project", "9" * 20), "less than or equal to 2147483647"),
        (("records", "list", "--outcome", "nice"), "'nice' is not one of 'accepted'"),
        (("stats", "--since", "yesterday"), "is not a time"),
        (("stats", "--by", "weather"), "'weather' is not one of 'annotator', 'day'"),
        (("sync", "--project", "1"), "SAYMASK_LABEL_STUDIO_URL"),
    ],
)
def test_errors_say_cause_and_cure(
    database: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = run(database, *arguments)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.replace("│", "").split())


def test_since() -> None:
    assert parse_since(None) is None
    assert parse_since("2026-11-01") == datetime(2026, 11, 1, tzinfo=UTC)
    two_days_ago = parse_since("2d")
    assert two_days_ago is not None
    assert round((datetime.now(UTC) - two_days_ago).total_seconds() / 86400, 3) == 2
    with pytest.raises(InvalidRequest, match="too long"):
        parse_since("99999999999d")


def test_overlay_shows_candidates_and_final_mask(full: Stores, tmp_path: Path) -> None:
    record = next(r for r in full.records.iterate_records(RecordFilter()) if r.outcome == "edited")
    assert record.request_id is not None
    offered = full.requests.load_offer(record.request_id)
    Image.new("RGB", (WIDTH, HEIGHT), "gray").save(tmp_path / "photo.png")
    sheet = np.asarray(draw_decision((tmp_path / "photo.png").read_bytes(), record, offered))
    bar = sheet.shape[0] - HEIGHT
    left, right = sheet[bar:, :WIDTH], sheet[bar:, WIDTH + 4 :]
    assert tuple(left[4, 4]) == (230, 25, 75), "the outline of the first candidate"
    assert tuple(right[4, 44]) == (255, 225, 25), "the outline of the final mask"
    assert tuple(right[4, 4]) == (128, 128, 128), "nothing but the final mask on the right"
    Image.new("RGB", (9, 9)).save(tmp_path / "other.png")
    with pytest.raises(ImageUnreadable, match="9 x 9"):
        draw_decision((tmp_path / "other.png").read_bytes(), record, offered)
    with pytest.raises(ImageUnreadable, match="cannot be read"):
        draw_decision(b"nothing", record, offered)


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1000])
def test_status_page_on_a_phone_and_on_a_desk(database: Path, tmp_path: Path, width: int) -> None:
    from playwright.sync_api import sync_playwright

    port = free_port()
    process = start_backend(f"sqlite:///{database}", port)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=chromium(), headless=True, args=CHROMIUM_FLAGS
            )
            page = browser.new_page(viewport={"width": width, "height": 900})
            page.goto(f"http://127.0.0.1:{port}/status?project=7")
            cards = page.locator(".cards div").all_inner_texts()
            assert "9\nsamples" in cards
            assert "40 %\nfirst candidate accepted" in cards
            assert page.locator("svg").count() == 4
            assert page.locator("svg").first.locator("rect").count() == 8
            assert "they differ on 1" in page.locator("body").inner_text()
            overflow = page.evaluate(
                "document.scrollingElement.scrollWidth - document.scrollingElement.clientWidth"
            )
            assert overflow <= 0, "the page must not scroll sideways"
            SCREENSHOTS.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=SCREENSHOTS / f"quality-{width}.png", full_page=True)
            page.goto(f"http://127.0.0.1:{port}/status?project=99")
            assert "No annotation has been submitted yet" in page.locator("body").inner_text()
            browser.close()
    finally:
        process.terminate()
        process.wait(20)
