"""A task with a hundred accepted masks in the editor, of BrushLabels and of BitmaskLabels."""

from __future__ import annotations

import json
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.measure import Cells, Table
from saymask.masks import Mask, encode_coco_rle
from saymask_backend.label_studio.label_config import load_label_config
from saymask_backend.label_studio.mask_values import MASK_TAGS
from saymask_backend.label_studio.predictions import build_region
from saymask_backend.local_stack.up import sample_images
from tests.browser.editor import open_editor
from tests.stack.running import Running, running, tasks_of

REGIONS = 100
_COUNT_REGIONS = """() => [...window.Htx.annotationStore.selected.areas.values()]
    .filter(area => area.type.endsWith('region') && !area.classification).length"""


def measure() -> Table:
    """Bytes of the annotation, and seconds to open the task and to update it."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch, running(Path(scratch)) as stack:
        for tag in MASK_TAGS:
            rows.append({"tag": tag, **_measure_tag(stack, tag, Path(scratch))})
    return Table(f"{REGIONS} accepted masks on one photo", rows)


def _measure_tag(stack: Running, tag: str, scratch: Path) -> Cells:
    stack.saymask("connect", "--create", tag, "--mask-tag", tag)
    photo = sample_images()[0]
    with closing(stack.client()) as client, Image.open(photo) as image:
        project, _ = client.find_or_create_project(tag)
        config = load_label_config(client.get_project(project).label_config or "")
        client.import_images(project, [photo])
        task = int(tasks_of(client, project)[0]["id"])
        result: list[dict[str, Any]] = []
        for number in range(REGIONS):
            mask = encode_coco_rle(_draw(image.height, image.width, number))
            result += build_region(
                config, region_id=f"r{number}", coco_rle=mask, label="top-1",
                expression=f"object {number}",
            )  # fmt: skip
        client.request("POST", f"/api/tasks/{task}/annotations", json={"result": result})
    with open_editor(stack, scratch / f"profile-{tag}") as editor:
        started = time.monotonic()
        editor.open(project, task)
        while editor.page.evaluate(_COUNT_REGIONS) < REGIONS:
            editor.page.wait_for_timeout(50)
        opened = time.monotonic() - started
        editor.type("one more")
        started = time.monotonic()
        editor.submit("Update")
        updated = time.monotonic() - started
    megabytes = len(json.dumps(result)) / 1e6
    return {"annotation, MB": megabytes, "open, s": opened, "update, s": updated}


def _draw(height: int, width: int, number: int) -> Mask:
    """A shape with a wavy edge, as an object's."""
    draw = np.random.default_rng(number)
    y, x = np.mgrid[:height, :width]
    center_y, center_x = draw.uniform(0.1, 0.9, 2) * (height, width)
    angle = np.arctan2(y - center_y, x - center_x)
    waves = sum(
        draw.uniform(0, 0.2 / n) * np.sin(n * angle + draw.uniform(0, 6)) for n in (2, 3, 5, 9, 17)
    )
    radius = draw.uniform(0.05, 0.25) * min(height, width)
    distance: Mask = np.hypot(y - center_y, x - center_x) < radius * (1 + waves)
    return distance
