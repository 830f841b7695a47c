"""``saymask export`` and the readers behind ``saymask import``, as people run them."""

from __future__ import annotations

import base64
import io
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from saymask.datasets import RowChoice
from saymask.datasets.coco import load_coco
from saymask.errors import DatasetError
from saymask.masks import decode_coco_rle
from saymask_backend.label_studio.events import to_new_event
from saymask_backend.label_studio.images import ImageFetcher
from saymask_backend.records.stores import Stores
from saymask_backend.records.types import RecordFilter
from saymask_backend.services.export import Exporter
from saymask_backend.services.import_dataset import read_import
from saymask_backend.services.record import Recorder
from tests import factories
from tests.backend.exports import CATS, HEIGHT, WIDTH, box, export, plan, truth
from tests.backend.test_statistics import run


def data_uri(number: int) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (factories.WIDTH, factories.HEIGHT), (number, 90, 60)).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Four hand-drawn masks on three photos no worker has seen, and a verdict."""
    path = tmp_path / "x.db"
    with closing(Stores(f"sqlite:///{path}")) as stores:
        stores.migrate()
        photos = (1, 1, 2, 3, 3)
        for number, photo in enumerate(photos, 1):
            said = "a unicorn" if number == 5 else f"thing {number}"
            mask = factories.brush(
                f"own{number}", factories.square(10 * number), "referent", "manual"
            )
            marks = [factories.verdict("no referent")] if number == 5 else mask
            body = factories.event(
                photo, factories.annotation(number, [factories.typed(said), *marks])
            )
            body["task"]["data"]["image"] = data_uri(photo)
            stores.events.append_event(to_new_event(body))
        Recorder(stores).process_waiting()
    return path


def test_export_as_people_run_it(database: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    dry = json.loads(run(database, "export", "coco", str(out), "--dry-run", "--json").stdout)
    assert (dry["photos"], dry["expressions"]) == (3, 4)
    assert not out.exists()
    said = run(database, "export", "coco", str(out), "--split", "1/0/0").stdout
    assert "4 referents with 4 expressions on 3 photos" in said.replace("\n", " ")
    content = json.loads((out / "annotations" / "instances_train.json").read_text("utf-8"))
    assert len(content["annotations"]) == 4
    assert len(list((out / "images").iterdir())) == 3
    again = run(database, "export", "coco", str(out))
    assert again.returncode == 2
    assert "exists already" in again.stderr
    with_none = run(database, "export", "grefcoco", str(tmp_path / "g"), "--json").stdout
    assert json.loads(with_none)["no_referent"] == 1
    only = run(database, "export", "yolo", str(tmp_path / "y"), "--outcome", "drawn", "--json")
    assert json.loads(only.stdout)["expressions"] == 4
    chats = tmp_path / "chats"
    run(database, "export", "grounding", str(chats), "--coordinates", "thousandths")
    manifest = json.loads((chats / "manifest.json").read_text("utf-8"))
    assert manifest["query"]["coordinates"] == "thousandths"
    assert manifest["counts"]["no_referent"] == 1
    for_lisa = run(database, "export", "reasonseg", str(tmp_path / "lisa")).stdout
    assert "3 photos written as JPEG" in for_lisa
    mapping = tmp_path / "names.json"
    mapping.write_text(json.dumps({"thing": "tool"}), "utf-8")
    run(database, "export", "coco", str(tmp_path / "c"), "--categories", str(mapping))


def test_category_ids_are_the_same_in_all_exports_of_a_project(
    database: Path, tmp_path: Path
) -> None:
    def describe(nouns: dict[int, str]) -> None:
        """Nouns, and hashes that bring the photos of late annotations to the front."""
        with closing(sqlite3.connect(database)) as connection:
            for number, noun in nouns.items():
                connection.execute(
                    "UPDATE record SET head_noun_phrase = ?, photo_sha256 = ?"
                    " WHERE annotation_id = ?",
                    (noun, f"{9 - number}" * 64, number),
                )
            connection.commit()

    def export_ids(folder: str, **fields: Any) -> dict[str, int]:
        asked = plan("coco", tmp_path / folder, images="none", **fields)
        with closing(Stores(f"sqlite:///{database}")) as stores:
            exporter = Exporter(stores, cast(ImageFetcher, None), tmp_path)
            chosen = RecordFilter(project_id=factories.KEY.id, outcomes=("drawn",))
            exporter.write(asked, chosen, lambda *_: None, [])
        path = tmp_path / folder / "annotations" / "instances_train.json"
        listed = json.loads(path.read_text("utf-8"))["categories"]
        return {category["name"]: category["id"] for category in listed}

    describe({1: "the dog", 2: "a zebra", 3: "an ant", 4: "the cat", 5: "the unicorn"})
    ids = {"dog": 1, "zebra": 2, "ant": 3, "cat": 4}
    assert export_ids("first") == ids
    assert export_ids("as pets", categories={"cat": "dog"}) == {"dog": 1, "zebra": 2, "ant": 3}
    with closing(Stores(f"sqlite:///{database}")) as stores:
        # The first annotation changes, so that its record is a new one, and a sixth comes.
        for number in (1, 6):
            mask = factories.brush("own", factories.square(60), "referent", "manual")
            saved = factories.annotation(number, [factories.typed("x"), *mask], after_s=60)
            body = factories.event(number, saved, "ANNOTATION_UPDATED")
            stores.events.append_event(to_new_event(body))
        Recorder(stores).process_waiting()
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT count(*) FROM record").fetchone() == (7,)
    describe({1: "the dog", 6: "a bee"})
    assert export_ids("later") == {**ids, "bee": 5}


def test_a_photo_that_is_left_out_gives_exit_status_1(database: Path, tmp_path: Path) -> None:
    mask = factories.brush("own9", factories.square(10), "referent", "manual")
    body = factories.event(9, factories.annotation(9, [factories.typed("thing 9"), *mask]))
    body["task"]["data"]["image"] = "ftp://host/gone.png"
    with closing(Stores(f"sqlite:///{database}")) as stores:
        stores.events.append_event(to_new_event(body))
    assert run(database, "export", "coco", str(tmp_path / "out")).returncode == 2
    done = run(database, "export", "coco", str(tmp_path / "out"), "--skip-missing", "--json")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    (line,) = report["failed"]
    assert "ftp://host/gone.png" in line
    assert report["photos"] == 3
    told = run(database, "export", "yolo", str(tmp_path / "y"), "--skip-missing")
    assert (told.returncode, "failed: ftp://host/gone.png" in told.stderr) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("export", "voc", "x"), "'voc' is not one of 'coco'"),
        (
            ("export", "coco", "x", "--images", "some"),
            "'some' is not one of 'copy', 'link', 'none'",
        ),
        (
            ("export", "coco", "x", "--merge", "best"),
            "'best' is not one of 'latest', 'majority', 'all'",
        ),
        (("export", "coco", "x", "--split", "80"), "80/10/10"),
        (("export", "coco", "x", "--outcome", "no_referent"), "none of these outcomes"),
        (("export", "coco", "x", "--project", "99"), "Nothing was selected"),
        (("export", "coco", "x", "--categories", "/nowhere.json"), "cannot be read"),
        (("import", "voc", "x", "--project", "1"), "'voc' is not one of 'refcoco'"),
        (("import", "coco", "/nowhere", "--project", "1"), "holds no COCO"),
        (("import", "refcoco", "/nowhere", "--project", "1"), "no folder"),
    ],
)
def test_errors_say_cause_and_cure(
    database: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    named = [str(tmp_path / "x") if a == "x" else a for a in arguments]
    done = run(database, *named)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.replace("│", "").split())
    assert not (tmp_path / "x").exists()


def read_back(dataset: Any) -> dict[str, np.ndarray]:
    return {e.text: decode_coco_rle(e.target) for i in dataset.images for e in i.expressions}


@pytest.mark.parametrize("format_", ["coco", "refcoco", "grefcoco"])
def test_what_was_exported_is_read_again(format_: str, tmp_path: Path) -> None:
    export(CATS, plan(format_, tmp_path / "out"))
    masks = read_back(read_import(format_, str(tmp_path / "out"), None, RowChoice(), tmp_path))
    for (_, text), mask in truth(CATS).items():
        assert np.array_equal(masks[text], mask), text
    assert ("a unicorn" in masks) == (format_ == "grefcoco")


def test_coco_sets_without_sentences(tmp_path: Path) -> None:
    """As the published ones: by category, several objects one referent, crowds left out."""
    (tmp_path / "val2017").mkdir()
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "val2017" / "1.jpg")
    masks = [box(2), box(30), box(20)]
    annotations = [
        {"id": n, "image_id": 1, "category_id": 3, "iscrowd": int(n == 3),
         "segmentation": encode(mask)}
        for n, mask in enumerate(masks, 1)
    ]  # fmt: skip
    content = {
        "images": [{"id": 1, "file_name": "1.jpg", "height": HEIGHT, "width": WIDTH}],
        "annotations": annotations, "categories": [{"id": 3, "name": "cat"}],
    }  # fmt: skip
    (tmp_path / "annotations").mkdir()
    path = tmp_path / "annotations" / "instances_val2017.json"
    path.write_text(json.dumps(content), "utf-8")
    for root in (tmp_path, path):
        (image,) = load_coco(root).images
        (cats,) = image.expressions
        assert cats.text == "cat"
        assert len(cats.parts) == 2
        assert np.array_equal(decode_coco_rle(cats.target), masks[0] | masks[1])
    path.write_text(json.dumps({"images": 3}), "utf-8")
    with pytest.raises(DatasetError, match="not a COCO instances file"):
        load_coco(tmp_path)


def encode(mask: np.ndarray) -> dict[str, Any]:
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


@pytest.mark.parametrize("format_", ["coco", "refcoco", "grefcoco"])
@pytest.mark.parametrize("linked", ["photo", "folder"])
def test_a_link_that_leaves_the_dataset_uploads_nothing(
    format_: str, linked: str, tmp_path: Path
) -> None:
    root = tmp_path / "out"
    export(CATS, plan(format_, root))
    folder = root / "images"
    target = next(folder.iterdir()) if linked == "photo" else folder
    outside = tmp_path / "private"
    target.rename(outside)
    target.symlink_to(outside)
    with pytest.raises(DatasetError, match=r"images are not in .*out, first .*private"):
        read_import(format_, str(root), None, RowChoice(), tmp_path)
    target.unlink()
    # One that stays inside is as good as a copy.
    outside.rename(root / "kept")
    target.symlink_to(root / "kept")
    assert read_import(format_, str(root), None, RowChoice(), tmp_path).images


@pytest.mark.parametrize("name", ["../private.png", "{outside}/private.png", "x/../../private.png"])
def test_a_name_that_leads_out_of_the_dataset_finds_nothing(name: str, tmp_path: Path) -> None:
    root = tmp_path / "out"
    export(CATS, plan("refcoco", root))
    image = next((root / "images").iterdir())
    image.rename(tmp_path / "private.png")
    path = root / "instances.json"
    content = path.read_text("utf-8").replace(image.name, name.format(outside=tmp_path))
    path.write_text(content, "utf-8")
    dataset = read_import("refcoco", str(root), None, RowChoice(), tmp_path)
    assert len(dataset.images) == 2
    (line,) = dataset.left_out
    assert "private.png is missing" in line


def test_an_export_is_replaced_when_asked(database: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(database, "export", "coco", str(out))
    again = run(database, "export", "coco", str(out), "--replace")
    assert "holds 4 referents" in again.stdout.replace("\n", " "), again.stdout
    (out / "mine.txt").write_text("notes")
    refused = run(database, "export", "coco", str(out), "--replace")
    assert refused.returncode == 2
    assert "mine.txt" in refused.stderr
    assert (out / "mine.txt").exists()
