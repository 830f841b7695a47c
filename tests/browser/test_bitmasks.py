"""A project with BitmaskLabels: masks travel as pictures, and an edit changes its pixels alone."""

from __future__ import annotations

import base64
import io
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from saymask.masks import Mask, decode_coco_rle
from tests.browser.editor import Editor
from tests.stack.running import Running, records_of, tasks_of

pytestmark = [pytest.mark.stack, pytest.mark.browser]

# Of the sample; the editor shows it at its own size.
WIDTH, HEIGHT = 451, 300


@pytest.fixture(scope="module")
def project(stack: Running) -> int:
    title = "Bitmasks"
    checks = stack.saymask(
        "connect", "--create", title, "--mask-tag", "BitmaskLabels", "--json"
    )  # fmt: skip
    assert {check["state"] for check in checks} <= {"ok", "changed", "unknown"}, checks
    with closing(stack.client()) as client:
        return client.find_or_create_project(title)[0]


def add_task(stack: Running, project: int, photo: Path, **data: str) -> int:
    with closing(stack.client()) as client:
        reference = client.upload_image(project, photo, photo.name)
        client.import_tasks(project, [{"data": {"image": reference, **data}}])
        return int(tasks_of(client, project)[-1]["id"])


def mask_of(stack: Running, project: int, task: int) -> tuple[dict[str, Any], Mask]:
    """The only mask of a task's only annotation as Label Studio keeps it."""
    with closing(stack.client()) as client:
        (found,) = (t["annotations"] for t in tasks_of(client, project) if t["id"] == task)
    (region,) = (e for e in found[0]["result"] if e["type"] == "bitmasklabels")
    address = region["value"]["imageDataURL"]
    picture = Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))
    return region, np.asarray(picture.convert("RGBA"))[..., 3] > 127


def recorded_mask(stack: Running, task: int, outcome: str) -> Mask:
    (record,) = records_of(stack, task, 1)
    assert (record.outcome, record.rank, record.notes) == (outcome, 1, [])
    assert record.coco_rle is not None
    return decode_coco_rle(record.coco_rle)


def offered_mask(stack: Running, region_id: str) -> Mask:
    with closing(stack.open_stores()) as stores:
        offer = stores.requests.load_offer(int(region_id.removeprefix("sm").partition("_")[0]))
    first = offer.find_rank(1) if offer is not None else None
    assert first is not None
    return decode_coco_rle(first.coco_rle)


def test_suggestions_and_predictions_are_kept_bit_by_bit(
    stack: Running, editor: Editor, project: int, samples: dict[str, Path]
) -> None:
    typed = add_task(stack, project, samples["astronaut"])
    predicted = add_task(stack, project, samples["astronaut"], expression="the helmet")
    assert stack.saymask("preannotate", "--project", str(project), "--json")["predicted"] == 1
    editor.open(project, typed)
    editor.type("the helmet")
    for rank in ("2", "1"):
        editor.enter(rank)
        assert [label for _, label, _ in editor.state["suggestions"]] == [f"top-{rank}"]
    editor.page.wait_for_timeout(700)
    editor.picture("bitmasks")
    editor.accept(1)
    editor.submit()
    editor.open(project, predicted)
    editor.submit()
    for task in (typed, predicted):
        region, mask = mask_of(stack, project, task)
        assert region["origin"] == "prediction"
        assert np.array_equal(mask, offered_mask(stack, region["id"]))
        assert np.array_equal(mask, recorded_mask(stack, task, "accepted"))
    (report,) = stack.saymask("sync", "--project", str(project), "--json")["projects"]
    assert (report["annotations"], report["problems"]) == (2, [])
    assert report["missing"] == report["outdated"] == 0, "the webhooks told everything"
    checks = stack.saymask("doctor", "--project", str(project), "--json")
    assert {check["state"] for check in checks} == {"ok"}, checks


def test_an_edit_changes_its_own_pixels_alone(
    stack: Running, editor: Editor, project: int, samples: dict[str, Path]
) -> None:
    task = add_task(stack, project, samples["chelsea"])
    editor.open(project, task)
    editor.type("the cat")
    editor.accept(1)
    editor.select_region()
    for tool, left, right, y in (("b", 380, 440, 10), ("e", 100, 200, 150)):
        editor.press(tool)
        for _ in range(4):
            editor.press("[")  # down to one pixel
        editor.stroke((left / WIDTH, y / HEIGHT), (right / WIDTH, y / HEIGHT))
    editor.picture("bitmask-edited")
    editor.submit()
    region, mask = mask_of(stack, project, task)
    assert region["origin"] == "prediction-changed"
    suggested = offered_mask(stack, region["id"])
    expected = suggested.copy()
    expected[10, 380:441] = True
    expected[150, 100:201] = False
    assert (expected & ~suggested).any()
    assert (suggested & ~expected).any()
    assert np.array_equal(mask, expected)
    assert np.array_equal(recorded_mask(stack, task, "edited"), expected)
