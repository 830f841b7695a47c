"""A photo as a phone takes it: twelve megapixels, held upright, never seen before."""

from __future__ import annotations

import os
import signal
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from saymask.masks import compute_box_xywh, decode_coco_rle
from tests.browser.editor import Editor
from tests.conftest import await_state
from tests.stack.running import Running, records_of, tasks_of, workers_of

pytestmark = [pytest.mark.stack, pytest.mark.browser]

# Of the cat on the sample photo, as in ``tests/worker/test_pipeline.py``.
CAT_XYWH, SAMPLE_HEIGHT_PX = (0, 0, 410, 300), 300
LARGE_HW = (2820, 4240)
TURNED_RIGHT = 6


def write_phone_photo(sample: Path, path: Path) -> None:
    """The sample in large, stored on its side with a note about it, as phones do."""
    large = Image.open(sample).convert("RGB").resize(LARGE_HW[::-1], Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = TURNED_RIGHT
    # The comment makes it another file each time: prepared images outlive a test run.
    stored = large.transpose(Image.Transpose.ROTATE_90)
    stored.save(path, quality=90, exif=exif, comment=os.urandom(8).hex())


def said_again(editor: Editor) -> bool:
    """Whether the full answer is there; ask again if it was not ready."""
    if editor.is_searching:
        return False
    if "not ready" in (editor.notice or ""):
        editor.type("1", wait=False)
        editor.page.wait_for_timeout(1000)
        return False
    return "Quick result" not in (editor.notice or "")


def test_a_first_look_at_a_large_photo_and_then_the_full_answer(
    stack: Running, editor: Editor, samples: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "phone.jpg"
    write_phone_photo(samples["chelsea"], path)
    background = [
        worker for worker in workers_of(stack)
        if worker.environ().get("SAYMASK_QUEUES") == "background"
    ]  # fmt: skip
    assert background
    for worker in background:
        # So that the photo is not prepared before the expression is typed.
        os.kill(worker.pid, signal.SIGSTOP)
    try:
        with closing(stack.client()) as client:
            client.import_images(1, [path])
            task = int(tasks_of(client)[-1]["id"])
        editor.open(1, task)
        editor.type("the cat")
        assert editor.notice is not None
        assert "Quick result; type 1" in editor.notice
        editor.page.wait_for_timeout(700)
        editor.picture("first-look")
    finally:
        for worker in background:
            os.kill(worker.pid, signal.SIGCONT)
    (look, *_) = editor.state["suggestions"][-1]
    editor.type("1", wait=False)
    await_state(lambda: said_again(editor), "the full answer does not come", 120)
    assert editor.notice == '"the cat": suggestion 1 of 3.'
    ((full, *_),) = editor.state["suggestions"]
    assert full == look, "it takes the place of the first look"
    editor.page.wait_for_timeout(700)
    editor.picture("after-first-look")
    editor.accept(1)
    editor.submit()
    (record,) = records_of(stack, task, 1)
    assert (record.outcome, record.rank) == ("accepted", 1)
    assert record.model_version is not None
    assert not record.model_version.endswith("-first")
    assert record.coco_rle is not None
    mask = decode_coco_rle(record.coco_rle)
    assert mask.shape == LARGE_HW
    box = np.array(compute_box_xywh(mask)) * SAMPLE_HEIGHT_PX / LARGE_HW[0]
    assert np.allclose(box, CAT_XYWH, atol=40), box
