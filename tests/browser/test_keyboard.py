"""Suggestions that can be seen, picked and kept without a mouse."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import sync_playwright

from saymask.masks import encode_coco_rle
from saymask_backend.label_studio.label_config import default_label_config, load_label_config
from saymask_backend.label_studio.predictions import build_region
from tests.browser.editor import Editor, launch_browser, open_editor
from tests.conftest import await_state
from tests.stack.running import Running, records_of, tasks_of

pytestmark = [pytest.mark.stack, pytest.mark.browser]

WINDOWS = [(1366, 768), (1500, 950), (1920, 1080)]
PHOTOS_WH = {
    "landscape": (1280, 853), "wide": (1600, 900), "square": (1024, 1024), "tall": (900, 1200),
    "phone": (1080, 2400), "panorama": (3000, 500), "squarish": (900, 1000),
}  # fmt: skip
# Left, top, right, bottom as shares of the photo's sides.
OBJECTS = {
    "at the bottom": (0.4, 0.7, 0.6, 1), "at the right": (0.8, 0.4, 1, 0.6),
    "at the left": (0, 0.4, 0.1, 0.6), "at the top": (0.4, 0, 0.6, 0.1),
    "everything": (0, 0, 1, 1), "in the corner": (0.8, 0.8, 1, 1),
}  # fmt: skip
EXPLAINED = (
    "Uncertain: another object fits almost as well. The photo may not show this. If so, choose 'no"
    " referent'. Interpreted 'speon' as 'spoon'. If that is wrong, rephrase."
)


@pytest.fixture(scope="module")
def project(stack: Running) -> int:
    """A project in which one suggestion at a time is shown."""
    stack.saymask("connect", "--create", "By keyboard")
    with closing(stack.client()) as client:
        number, _ = client.find_or_create_project("By keyboard")
    checks = stack.saymask("connect", "--project", str(number), "--suggestions", "one", "--json")
    assert {c["name"]: c["state"] for c in checks}["labelling config"] == "changed"
    again = stack.saymask("connect", "--project", str(number), "--suggestions", "one", "--json")
    assert {c["name"]: c["state"] for c in again}["labelling config"] == "ok"
    return number


@pytest.fixture
def open_task(
    stack: Running, project: int, editor: Editor, samples: dict[str, Path]
) -> Callable[[str], int]:
    """Open a task of its own, with both switches on and the focus in the field."""

    def make(photo: str) -> int:
        with closing(stack.client()) as client:
            client.import_images(project, [samples[photo]])
            task = int(tasks_of(client, project)[-1]["id"])
        editor.open(project, task)
        editor.auto_accept()
        editor.page.locator(".saymask-expression input").first.click()
        return task

    return make


def regions_of(editor: Editor) -> list[tuple[str, str, str]]:
    """Id, label and expression of each region."""
    return [(r["id"], r["label"], r["text"]) for r in editor.state["regions"]]


def test_a_task_without_a_mouse(
    stack: Running, editor: Editor, open_task: Callable[[str], int]
) -> None:
    task = open_task("astronaut")
    editor.actions = 0
    editor.enter("the woman")
    ((woman, *first),) = regions_of(editor)
    assert first == ["top-1", "the woman"]
    assert editor.state["suggestions"] == []
    for rank in (3, 2):
        editor.enter(str(rank))
        assert regions_of(editor) == [(woman, f"top-{rank}", "the woman")]
        assert editor.lines == ["the woman"], "numbers do not stay"
        assert editor.notice == f'"the woman": suggestion {rank} of 3.'
    editor.enter("8")
    assert editor.notice == '"the woman" has no suggestion 8; type 1 to 3.'
    assert regions_of(editor) == [(woman, "top-2", "the woman")]
    editor.enter("the helmet")
    assert [text for _, _, text in regions_of(editor)] == ["the woman", "the helmet"]
    editor.page.wait_for_timeout(500)
    editor.picture("keyboard")
    editor.submit_by_keyboard()
    assert editor.actions == 7, "one key after each line, and two to submit"
    found = {r.expression: r for r in records_of(stack, task, 2)}
    assert set(found) == {"the woman", "the helmet"}
    assert (found["the woman"].outcome, found["the woman"].rank) == ("accepted", 2)
    assert found["the woman"].shown == [1, 3, 2]
    assert (found["the helmet"].rank, found["the helmet"].shown) == (1, [1])
    assert {r.iou for r in found.values()} == {1.0}


def test_undo_brings_the_mask_before_back(
    stack: Running, editor: Editor, open_task: Callable[[str], int]
) -> None:
    task = open_task("coffee")
    editor.enter("the cup")
    (before,) = regions_of(editor)
    editor.enter("2")
    ((_, label, _),) = regions_of(editor)
    assert label == "top-2"
    editor.undo()
    assert regions_of(editor) == [before]
    editor.submit()
    (record,) = records_of(stack, task, 1)
    assert (record.outcome, record.rank, record.shown) == ("accepted", 1, [1, 2])


def test_a_number_does_not_overwrite_an_edited_mask(
    stack: Running, editor: Editor, open_task: Callable[[str], int]
) -> None:
    task = open_task("chelsea")
    editor.enter("the cat")
    editor.select_region()
    editor.press("e")
    with editor.page.expect_response(lambda r: "/drafts" in r.url, timeout=30_000):
        editor.stroke((0.2, 0.4), (0.5, 0.4))
    editor.press("v")
    editor.type("2")
    assert editor.notice is not None
    assert editor.notice.endswith("The mask that you edited stays.")
    (cat, _, _), (beside, _, _) = regions_of(editor)
    assert beside == f"{cat}-2"
    editor.enter("3")
    assert [region for region, _, _ in regions_of(editor)] == [cat, beside]
    editor.submit()
    (record,) = records_of(stack, task, 1)
    assert record.outcome == "edited", "two masks of one expression are one record"
    assert record.region_ids == [cat, beside]


def test_a_submitted_task_is_opened_again(
    stack: Running, editor: Editor, project: int, open_task: Callable[[str], int]
) -> None:
    task = open_task("rocket")
    editor.enter("the rocket")
    editor.submit()
    (record,) = records_of(stack, task, 1)
    assert record.rank == 1
    editor.open(project, task)
    editor.type("2")
    (region,) = regions_of(editor)
    assert region[1:] == ("top-2", "the rocket")
    editor.submit("Update")
    await_state(lambda: records_of(stack, task, 1)[0].rank == 2, "the update is not recorded", 30)
    (record,) = records_of(stack, task, 1)
    assert (record.outcome, record.shown) == ("accepted", [1, 2])


@pytest.fixture
def two_editors(stack: Running, tmp_path: Path) -> Iterator[tuple[Editor, Editor]]:
    """Two annotators in two browsers; the second was invited by the first."""
    with closing(stack.client()) as client:
        invitation = client.request("GET", "/api/invite")["invite_url"]
    with (
        sync_playwright() as playwright,
        closing(launch_browser(playwright, tmp_path / "first")) as first,
        closing(launch_browser(playwright, tmp_path / "second")) as second,
    ):
        editors = Editor(first.new_page(), stack), Editor(second.new_page(), stack)
        editors[0].log_in()
        page = editors[1].page
        page.goto(f"{stack.studio_url}{invitation}")
        page.fill("input[name=email]", "second@example.com")
        page.fill("input[name=password]", "second-annotator-1")
        page.click("button[type=submit]")
        page.wait_for_function("!location.pathname.includes('signup')", timeout=60_000)
        yield editors


def test_two_annotators_of_one_task(
    stack: Running,
    project: int,
    samples: dict[str, Path],
    two_editors: tuple[Editor, Editor],
) -> None:
    editor, second_editor = two_editors
    with closing(stack.client()) as client:
        client.import_images(project, [samples["flower"]])
        task = int(tasks_of(client, project)[-1]["id"])
    editor.open(project, task)
    editor.auto_accept()
    editor.page.locator(".saymask-expression input").first.click()
    editor.enter("the flower")
    second_editor.open(project, task)
    second_editor.auto_accept()
    second_editor.type("the flower")
    second_editor.type("3")
    editor.type("2")
    ((mine, label, _),) = regions_of(editor)
    assert label == "top-2"
    ((theirs, label, _),) = regions_of(second_editor)
    assert label == "top-3"
    assert mine != theirs
    editor.submit()
    second_editor.submit()
    found = records_of(stack, task, 2)
    assert sorted((r.rank or 0, r.outcome) for r in found) == [(2, "accepted"), (3, "accepted")]
    assert len({r.annotator for r in found}) == 2


def test_suggestions_shown_together_cover_none_and_numbers_show_the_others(
    stack: Running, editor: Editor, new_task: Callable[..., int]
) -> None:
    task = new_task("astronaut")
    editor.open(1, task)
    editor.type("the woman")
    assert [label for _, label, _ in editor.state["suggestions"]] == ["top-1"]
    assert editor.notice is not None
    assert editor.notice.startswith('"the woman": 3 suggestions, 1 shown; type 2 or 3 for another.')
    editor.page.wait_for_timeout(500)
    editor.picture("together")
    editor.enter("3")
    assert [label for _, label, _ in editor.state["suggestions"]] == ["top-3"]
    editor.accept(3)
    editor.submit()
    (record,) = records_of(stack, task, 1)
    assert (record.outcome, record.rank, record.shown) == ("accepted", 3, [1, 3])


def draw(size_wh: tuple[int, int], share: tuple[float, float, float, float]) -> dict[str, Any]:
    width, height = size_wh
    left, top, right, bottom = share
    mask = np.zeros((height, width), bool)
    mask[int(top * height) : int(bottom * height), int(left * width) : int(right * width)] = True
    return encode_coco_rle(mask)


@pytest.fixture(scope="module")
def shapes(
    stack: Running, samples: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, int]:
    """A task for each shape of photo."""
    folder = tmp_path_factory.mktemp("shapes")
    with closing(stack.client()) as client, Image.open(samples["chelsea"]) as photo:
        for name, size in PHOTOS_WH.items():
            photo.resize(size).save(folder / f"{name}.jpg")
            client.import_images(1, [folder / f"{name}.jpg"])
        images = {task["data"]["image"]: int(task["id"]) for task in tasks_of(client)}
    return {
        name: next(task for image, task in images.items() if image.endswith(f"-{name}.jpg"))
        for name in PHOTOS_WH
    }


@pytest.mark.parametrize("window", WINDOWS, ids=lambda size: f"{size[0]}x{size[1]}")
def test_every_mark_is_in_reach(
    stack: Running, shapes: dict[str, int], tmp_path: Path, window: tuple[int, int]
) -> None:
    config = load_label_config(default_label_config())
    missed = []
    with open_editor(stack, tmp_path / "profile", window) as editor:
        for name, task in shapes.items():
            editor.open(1, task)
            for place, share in OBJECTS.items():
                entries = build_region(
                    config, region_id=place, coco_rle=draw(PHOTOS_WH[name], share),
                    label="top-1", expression=place,
                )  # fmt: skip
                field = {
                    "to_name": "image", "type": "textarea", "origin": "manual",
                    "value": {"text": [f"{line} the cat on the left" for line in range(9)]},
                }  # fmt: skip
                said = {"text": [f'"{place}": 3 suggestions, 1 shown; type 2 or 3. {EXPLAINED}']}
                entries += [
                    field | {"id": "typed", "from_name": "expression"},
                    field | {"id": "said", "from_name": "saymask_notice", "value": said},
                ]
                editor.page.evaluate(
                    "given => window.Htx.annotationStore.selected.setSuggestions(given)", entries
                )
                editor.page.wait_for_timeout(150)
                mark = editor.find_mark(1, accept=True)
                if not editor.is_reachable(mark):
                    missed.append((name, place, mark))
            editor.picture(f"marks-{window[0]}-{name}")
    assert not missed
