"""Expressions that nobody typed: proposed, confirmed with one key, reworded, rejected, verified."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from saymask.masks import decode_coco_rle
from saymask_backend.label_studio.client import LabelStudioClient
from saymask_backend.records.types import RecordFilter, RecordView
from tests.browser.editor import Editor
from tests.conftest import await_state
from tests.factories import brush
from tests.stack.running import Running, tasks_of

pytestmark = [pytest.mark.stack, pytest.mark.browser]

PHOTOS = ("coffee", "flower", "rocket")
# The tests' coarse grid finds little that is sure.
LITTLE = ("--confidence", "0.2")


@pytest.fixture
def client(stack: Running) -> Iterator[LabelStudioClient]:
    with closing(stack.client()) as opened:
        yield opened


@pytest.fixture
def create_project(
    stack: Running, client: LabelStudioClient, samples: dict[str, Path]
) -> Callable[[str], int]:
    """A project with some photos, connected and prepared."""

    def create(title: str) -> int:
        stack.saymask("connect", "--create", title, "--backend-url", stack.backend_url)
        project, _ = client.find_or_create_project(title)
        client.import_images(project, [samples[name] for name in PHOTOS])
        stack.saymask("prepare", "--project", str(project))
        return project

    return create


def records_of(stack: Running, project: int, count: int) -> list[RecordView]:
    """Wait for a number of records."""

    def read() -> list[RecordView]:
        with closing(stack.open_stores()) as stores:
            return list(stores.records.iterate_records(RecordFilter(project_id=project)))

    await_state(lambda: len(read()) >= count, f"there are no {count} records", 30)
    return read()


def test_confirmed_and_rejected_with_one_key(
    stack: Running,
    client: LabelStudioClient,
    editor: Editor,
    create_project: Callable[[str], int],
) -> None:
    project = create_project("Proposed one by one")
    command = ("propose", "--project", str(project), "--one-per-task", *LITTLE, "--json")
    counted = stack.saymask(*command, "--dry-run")
    assert len(tasks_of(client, project)) == len(PHOTOS), "a dry run stores nothing"
    report = stack.saymask(*command)
    assert (report["photos"], report["failed"]) == (len(PHOTOS), [])
    assert report["expressions"] == report["tasks"] == counted["expressions"] >= 3
    again = stack.saymask(*command)
    assert (again["photos"], again["up_to_date"]) == (0, len(PHOTOS)), "it goes on where it stopped"
    assert len(tasks_of(client, project)) == len(PHOTOS) + report["tasks"]

    editor.label_as_displayed(report["url"])
    (first,) = editor.state["regions"]
    assert first["origin"] == "prediction"
    assert "Ctrl+Enter confirms" in str(editor.notice)
    editor.picture("proposed")
    took = editor.press_for_next("Control+Enter")
    print(f"confirmed in {took:.2f} s")
    (second,) = editor.state["regions"]
    editor.press_for_next("Control+Space")
    records = records_of(stack, project, 2)
    assert [(r.expression, r.outcome, r.provenance) for r in records] == [
        (first["text"], "accepted", "proposed"),
        (second["text"], "rejected", "proposed"),
    ]
    quality = stack.saymask("stats", "--project", str(project), "--json")["quality"]
    assert quality["proposals"] == {"confirmed": 1, "rejected": 1}


def test_a_false_expression_is_confirmed_with_one_key(
    stack: Running,
    client: LabelStudioClient,
    editor: Editor,
    create_project: Callable[[str], int],
) -> None:
    project = create_project("Proposed as false")
    task = tasks_of(client, project)[0]["id"]
    result = build_disc("the second cup from the left", (0.5, 0.5))
    client.request("POST", f"/api/tasks/{task}/annotations", json={"result": result})
    records_of(stack, project, 1)
    report = stack.saymask("propose", "--project", str(project), "--negatives", "--json")
    assert (report["photos"], report["tasks"], report["failed"]) == (1, 1, [])
    editor.label_as_displayed(report["url"])
    assert editor.state["regions"] == []
    assert "no such thing" in str(editor.notice)
    editor.page.keyboard.press("Control+Enter")
    _, record = records_of(stack, project, 2)
    assert (record.outcome, record.provenance) == ("no_referent", "proposed")
    assert record.expression.endswith(" cup from the left")


def test_several_in_one_task_are_reworded_deleted_and_verified(
    stack: Running,
    client: LabelStudioClient,
    editor: Editor,
    create_project: Callable[[str], int],
    tmp_path: Path,
) -> None:
    project = create_project("Proposed together")
    report = stack.saymask("propose", "--project", str(project), *LITTLE, "--json")
    assert report["tasks"] <= len(PHOTOS) < report["expressions"]
    tasks = [t for t in tasks_of(client, project) if t["total_predictions"]]
    task = max(tasks, key=lambda t: len(t["predictions"][0]["result"]))
    editor.open(project, task["id"])
    kept, deleted = editor.state["regions"][:2]
    assert [kept["label"], deleted["label"]] == ["top-1", "top-2"], "colours tell them apart"
    editor.picture("proposed-together")
    reworded = "whatever it is"
    editor.page.evaluate(_REWORD, [kept["id"], reworded])
    editor.page.evaluate(_DELETE, deleted["id"])
    editor.submit()
    records = records_of(stack, project, 2)
    assert {(r.expression, r.outcome, r.provenance) for r in records} >= {
        (reworded, "accepted", "reworded"), (deleted["text"], "rejected", "proposed"),
    }  # fmt: skip

    confirmed = next(r for r in records if r.expression == reworded)
    added = stack.saymask("verify", "--project", str(project), "--sample", "1", "--json")
    assert (added["added"], added["summary"]) == (1, None)
    own, _ = client.find_or_create_project(f"Verification of project {project}")
    (blind,) = tasks_of(client, own)
    assert blind["data"]["expression"] == reworded
    editor.open(own, blind["id"], has_expression=False)
    assert editor.state["regions"] == [], "nothing of the recorded mask is seen"
    editor.click_plain(*inside(confirmed))
    editor.picture("verified")
    editor.submit()
    summary = stack.saymask("verify", "--project", str(project), "--json")["summary"]
    assert (summary["records"], summary["error_rate"]) == (1, 0.0)
    out = tmp_path / "verified"
    exported = stack.saymask(
        "export", "coco", str(out), "--project", str(project), "--verified", "--json"
    )
    assert exported["expressions"] == 1


def test_planted_wrong_masks_are_found(
    stack: Running,
    client: LabelStudioClient,
    create_project: Callable[[str], int],
) -> None:
    """Twenty records, two of them with another object's mask; a second person clicks right."""
    project = create_project("Verified")
    right, wrong = (0.25, 0.5), (0.75, 0.5)
    task = tasks_of(client, project)[0]["id"]
    for number in range(20):
        place = wrong if number in (4, 13) else right
        result = build_disc(f"thing {number}", place)
        client.request("POST", f"/api/tasks/{task}/annotations", json={"result": result})
    records_of(stack, project, 20)
    stack.saymask("verify", "--project", str(project), "--sample", "200")
    own, _ = client.find_or_create_project(f"Verification of project {project}")
    for blind in tasks_of(client, own):
        answer = {"result": [build_click(right)]}
        client.request("POST", f"/api/tasks/{blind['id']}/annotations", json=answer)
    summary = stack.saymask("verify", "--project", str(project), "--json")["summary"]
    assert (summary["records"], summary["error_rate"]) == (20, 0.1)
    assert summary["verdicts"] == {"confirmed": 18, "elsewhere": 2}
    assert summary["low"] < 0.1 < summary["high"]


def inside(record: RecordView) -> tuple[float, float]:
    """A point well inside a record's mask, as shares of the sides."""
    mask = decode_coco_rle(record.coco_rle or {})
    rows, columns = np.nonzero(mask)
    row = int(np.median(rows))
    own = columns[rows == row]
    return float(own[len(own) // 2]) / mask.shape[1], row / mask.shape[0]


def build_disc(expression: str, center: tuple[float, float]) -> list[dict[str, Any]]:
    """A hand-drawn disc, as an annotation's result."""
    y, x = np.mgrid[0:400, 0:600]
    disc = np.hypot(x - 600 * center[0], y - 400 * center[1]) < 60
    return brush(expression.replace(" ", "-"), disc, "referent", "manual", expression)


def build_click(place: tuple[float, float]) -> dict[str, Any]:
    return {
        "id": "c", "type": "keypointlabels", "from_name": "click", "to_name": "image",
        "original_width": 600, "original_height": 400, "image_rotation": 0, "origin": "manual",
        "value": {
            "x": 100 * place[0], "y": 100 * place[1], "width": 0.3, "keypointlabels": ["meant"],
        },
    }  # fmt: skip


_REWORD = """([id, text]) => {
  const areas = [...window.Htx.annotationStore.selected.areas.values()];
  const area = areas.find(a => a.cleanId === id && a.type === 'brushregion');
  area.results.find(r => r.from_name.name === 'region_expression').setValue([text]);
}"""
_DELETE = """id => {
  const areas = [...window.Htx.annotationStore.selected.areas.values()];
  areas.find(a => a.cleanId === id && a.type === 'brushregion').deleteRegion();
}"""
