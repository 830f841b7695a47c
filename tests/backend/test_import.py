"""``saymask import coco`` as people run it, against what Label Studio would answer."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from saymask.masks import decode_brush_rle, encode_coco_rle
from saymask_backend.label_studio.label_config import default_label_config
from tests.backend.http import JSON_TYPE, Handler
from tests.refcoco import SIZE_HW, square, write_refcoco

HEIGHT, WIDTH = SIZE_HW


class LabelStudio:
    """Takes uploads and tasks, and lists the tasks."""

    def __init__(self) -> None:
        self.tasks: list[dict[str, Any]] = []
        self.uploads: list[str] = []
        outer = self

        class Api(Handler):
            def do_GET(self) -> None:
                number = self.path.rpartition("/")[2]
                if self.path.startswith("/api/projects"):
                    self.answer({"id": 1, "title": "P", "label_config": default_label_config()})
                elif self.path.startswith("/api/tasks"):
                    self.answer({"tasks": outer.tasks, "total": len(outer.tasks)})
                else:
                    self.answer({"file": f"upload/1/{outer.uploads[int(number)]}"})

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers["Content-Type"] == "application/json":
                    new = [{"id": len(outer.tasks) + 1, **task} for task in json.loads(body)]
                    outer.tasks += new
                    self.answer({})
                else:
                    name = re.search(rb'filename="([^"]*)"', body)
                    assert name is not None
                    outer.uploads.append(name[1].decode())
                    self.answer({"file_upload_ids": [len(outer.uploads) - 1]})

            def answer(self, value: object) -> None:
                self.send(json.dumps(value).encode(), headers=JSON_TYPE)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def studio() -> Iterator[LabelStudio]:
    studio = LabelStudio()
    yield studio
    studio.server.shutdown()
    studio.server.server_close()


def run_import(
    studio: LabelStudio, root: Path, *options: str, format_: str = "coco"
) -> tuple[int, dict[str, Any]]:
    """Exit status and report."""
    program = Path(sys.executable).parent / "saymask"
    done = subprocess.run(
        [program, "import", format_, root, "--project", "1", "--json", *options],
        env={
            **os.environ,
            "SAYMASK_LABEL_STUDIO_URL": f"http://127.0.0.1:{studio.server.server_port}",
            "SAYMASK_LABEL_STUDIO_API_KEY": "0123456789abcdef0123456789abcdef01234567",
        },
        cwd=root, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def write_set(root: Path) -> None:
    """As tools on Windows write it: folders, text ids, a mark; and some of it odd."""
    names = ["cam1\\0001.jfif", "cam2\\0001.jpg", "cam2\\0002.tif", "gone.jpg", "empty.png"]
    (root / "annotations").mkdir(parents=True)
    for shade, name in enumerate(names):
        path = root / "images" / name.replace("\\", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = "TIFF" if path.suffix == ".tif" else "PNG" if path.suffix == ".png" else "JPEG"
        if name != "gone.jpg":
            Image.new("RGB", (WIDTH, HEIGHT), (40 * shade, 0, 0)).save(path, kind)
    mask = encode_coco_rle(square(4, 30, 10))
    annotations = [
        {"id": n, "image_id": str(n), "category_id": 1, "segmentation": mask, "iscrowd": 1,
         "attributes": {}}
        for n in range(4)
    ]  # fmt: skip
    annotations.append({"id": 9, "image_id": 0, "category_id": 1, "segmentation": []})
    content = {
        "images": [
            {"id": n, "file_name": name, "height": HEIGHT, "width": WIDTH}
            for n, name in enumerate(names)
        ],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cat"}],
    }
    path = root / "annotations" / "instances_default.json"
    path.write_text(json.dumps(content), encoding="utf-8-sig")


def test_what_can_be_used_is_imported_and_the_rest_is_named(
    studio: LabelStudio, tmp_path: Path
) -> None:
    write_set(tmp_path)
    status, report = run_import(studio, tmp_path)
    assert status == 1
    assert (report["tasks"], report["expressions"], report["unannotated"]) == (2, 2, 0)
    assert sorted(studio.uploads) == ["0001.jpg", "0001.jpg"], "a JPEG is named so"
    told = "\n".join(report["failed"])
    assert len(report["failed"]) == 3
    for part in ("annotation 9 in", "gone.jpg is missing", "0002.tif is in a format"):
        assert part in told
    result = studio.tasks[0]["predictions"][0]["result"]
    (brush,) = (region for region in result if "rle" in region["value"])
    mask = decode_brush_rle(brush["value"]["rle"], SIZE_HW)
    assert (mask == square(4, 30, 10)).all()
    assert run_import(studio, tmp_path)[1]["existing"] == 2, "nothing twice"
    assert len(studio.tasks) == 2


def test_photos_without_annotations_are_imported_on_request(
    studio: LabelStudio, tmp_path: Path
) -> None:
    write_set(tmp_path)
    _, report = run_import(studio, tmp_path, "--unannotated")
    assert (report["tasks"], report["photos"], report["unannotated"]) == (3, 3, 1)
    (empty,) = (t for t in studio.tasks if "predictions" not in t)
    assert empty["data"]["image"] == "/data/upload/1/empty.png"
    assert "expressions" not in empty["data"]
    assert run_import(studio, tmp_path, "--unannotated")[1]["tasks"] == 0


def test_a_whole_set_ends_with_status_0(studio: LabelStudio, tmp_path: Path) -> None:
    write_set(tmp_path)
    path = tmp_path / "annotations" / "instances_default.json"
    content = json.loads(path.read_text("utf-8-sig"))
    content["images"] = content["images"][:2]
    content["annotations"] = content["annotations"][:2]
    path.write_text(json.dumps(content))
    assert run_import(studio, tmp_path, "--dry-run")[0] == 0
    assert studio.tasks == []


def test_a_missing_photo_of_refcoco_is_named_and_the_others_are_imported(
    studio: LabelStudio, tmp_path: Path
) -> None:
    root = write_refcoco(tmp_path)
    (root / "images/mscoco/images/train2014/p1.jpg").unlink()
    status, report = run_import(studio, root, format_="refcoco")
    assert (status, report["photos"], len(studio.tasks)) == (1, 2, 2)
    (line,) = report["failed"]
    assert "p1.jpg is missing" in line
