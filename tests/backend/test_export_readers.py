"""What readers that are not ours make of an export: PIL without EXIF, YOLO's, mmdetection's."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import yaml
from PIL import Image, ImageOps
from pycocotools import mask as coco_mask

from saymask import private_files
from saymask.masks import Mask, encode_coco_rle
from saymask.private_files import UNFINISHED_PREFIX
from saymask_backend.export.model import SPLITS
from saymask_backend.export.plan import ExportError, ExportPlan, Format, parse_split
from saymask_backend.export.run import count_export, run_export
from saymask_backend.records.types import RecordView
from tests.backend.exports import (
    CATS,
    HEIGHT,
    WIDTH,
    box,
    export,
    groups,
    plan,
    read_image,
    record,
    ring,
)

ORIENTATION = 0x0112


def save_photo(format_: str, orientation: int, **options: Any) -> bytes:
    """A photo that is bright where its lower right is, however its file stores it."""
    pixels = np.full((HEIGHT, WIDTH, 3), 30, np.uint8)
    pixels[HEIGHT // 2 :, WIDTH // 2 :] = (220, 120, 60)
    undo = {2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}.get(orientation, 1)
    exif = Image.Exif()
    exif[ORIENTATION] = undo
    stored: Image.Image = ImageOps.exif_transpose(tag(Image.fromarray(pixels), exif))
    exif[ORIENTATION] = orientation
    buffer = io.BytesIO()
    stored.save(buffer, format_, exif=exif.tobytes(), **options)
    return buffer.getvalue()


def tag(image: Image.Image, exif: Image.Exif) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif.tobytes())
    return Image.open(buffer)


def lower_right() -> Mask:
    return box(WIDTH // 2, HEIGHT // 2, WIDTH // 2, HEIGHT // 2)


def export_photo(data: bytes, asked: ExportPlan, **fields: Any) -> Any:
    sha256 = hashlib.sha256(data).hexdigest()
    view = record(1, 1, "the corner", lower_right(), image_sha256=sha256, **fields)
    store = asked.out.parent / "photos"
    return run_export(asked, groups([view]), lambda _: data, store, lambda _: None)


def read_photo(folder: Path, format_: str) -> bytes:
    if format_ != "huggingface":
        photos = folder / ("reason_seg" if format_ == "reasonseg" else "images")
        (path,) = (p for p in photos.rglob("*") if p.is_file() and p.suffix != ".json")
        return path.read_bytes()
    import pyarrow.parquet as pq

    (path,) = (folder / "data").iterdir()
    data: bytes = pq.read_table(path).to_pylist()[0]["image"]["bytes"]
    return data


@pytest.mark.parametrize("format_", get_args(Format))
@pytest.mark.parametrize("images", ["copy", "link"])
def test_photo_and_mask_agree_with_and_without_exif(
    format_: str, images: str, tmp_path: Path
) -> None:
    data = save_photo("JPEG", 6)
    with Image.open(io.BytesIO(data)) as stored:
        assert stored.size == (HEIGHT, WIDTH), "a reader without EXIF would see it lying"
    summary = export_photo(data, plan(format_, tmp_path / "out", images=images))
    photo = Image.open(io.BytesIO(read_photo(tmp_path / "out", format_)))
    for seen in (photo, ImageOps.exif_transpose(photo)):
        pixels = np.asarray(seen.convert("RGB"))
        np.testing.assert_array_equal(pixels[..., 0] > 128, lower_right())
    assert summary.turned == 1
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text("utf-8"))
    assert manifest["photos_turned_upright"] == {"count": 1, "jpeg_quality": 95}
    if format_ == "huggingface":
        assert "1 photo whose" in (tmp_path / "out" / "README.md").read_text("utf-8")


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_every_turn_of_every_format(format_: str, orientation: int, tmp_path: Path) -> None:
    options = {"lossless": True} if format_ == "WEBP" else {}
    data = save_photo(format_, orientation, **options)
    export_photo(data, plan("coco", tmp_path / "out"))
    photo = Image.open(io.BytesIO(read_photo(tmp_path / "out", "coco")))
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert photo.format == ("JPEG" if format_ == "JPEG" else "PNG")
    assert photo.getexif().get(ORIENTATION, 1) == 1
    difference = np.abs(np.asarray(photo, int) - np.asarray(upright, int))
    if format_ == "JPEG":
        assert difference.mean() < 1
    else:
        assert not difference.any()
    np.testing.assert_array_equal(np.asarray(photo)[..., 0] > 128, lower_right())


@pytest.mark.parametrize("orientation", [0, 1, 9])
def test_an_upright_photo_stays_the_same_to_the_last_bit(orientation: int, tmp_path: Path) -> None:
    data = save_photo("JPEG", orientation)
    assert export_photo(data, plan("coco", tmp_path / "out")).turned == 0
    assert read_photo(tmp_path / "out", "coco") == data


def test_colour_profile_and_mode_stay(tmp_path: Path) -> None:
    data = save_photo("JPEG", 3, icc_profile=b"profile")
    export_photo(data, plan("coco", tmp_path / "out"))
    with Image.open(io.BytesIO(read_photo(tmp_path / "out", "coco"))) as photo:
        assert photo.info["icc_profile"] == b"profile"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (save_photo("JPEG", 1)[:-200], None),
        (save_photo("JPEG", 6)[:300], "photo is damaged"),
    ],
)
def test_a_damaged_photo(data: bytes, message: str | None, tmp_path: Path) -> None:
    """It is decoded only where it has to be turned."""
    asked = plan("coco", tmp_path / "out")
    if message is None:
        assert export_photo(data, asked).photos == 1
        return
    with pytest.raises(ExportError, match=message):
        export_photo(data, asked)


def test_a_photo_of_another_size_than_its_masks_is_named_and_left_out(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT + 1)).save(buffer, "PNG")
    odd = buffer.getvalue()
    sha256 = hashlib.sha256(odd).hexdigest()
    records = [*CATS, record(9, 9, "the odd one", box(2), image_sha256=sha256)]

    def read(view: RecordView) -> bytes:
        return odd if view.id == 9 else read_image(view)

    asked = plan("coco", tmp_path / "out")
    summary = run_export(asked, groups(records), read, tmp_path / "p", lambda _: None)
    assert summary.photos == 3
    (line,) = summary.failed
    assert "record 9: Its photo is 56 x 41 pixels; its masks were drawn on 56 x 40." in line
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text("utf-8"))
    assert manifest["left_out"] == [line]


def test_masks_of_different_sizes_leave_out_their_photo_alone(tmp_path: Path) -> None:
    other = {"size": [HEIGHT + 1, WIDTH], "counts": encode_coco_rle(box(2))["counts"]}
    odd = replace(record(9, 3, "the odd one", box(2)), coco_rle=other)
    records = [*CATS, odd]
    counted = count_export(plan("coco", tmp_path / "x"), groups(records), lambda _: None)
    summary = run_export(
        plan("coco", tmp_path / "out"), groups(records), read_image, tmp_path / "p", lambda _: None
    )
    for found in (counted, summary):
        assert found.photos == 2
        (line,) = found.failed
        assert "The masks of its photo have different sizes: [(40, 56), (41, 56)]." in line


def resolve_yolo(path: Path) -> dict[str, Any]:
    """What ultralytics makes of a ``data.yaml`` that is named by its full path.

    It demands train and val, resolves them against ``path`` or else the file's own folder, and
    ends where val does not exist; a folder without photos ends it later.
    """
    content = yaml.safe_load(path.read_text("utf-8"))
    root = Path(content.get("path") or path.parent)
    assert root.is_absolute()
    for split in ("train", "val", *(["test"] if "test" in content else [])):
        folder = (root / content[split]).resolve()
        assert [p for p in folder.iterdir() if p.is_file()], split
        content[split] = folder
    labels = [Path(str(content["train"]).replace("/images/", "/labels/"))]
    assert all(folder.is_dir() for folder in labels)
    return content


@pytest.mark.parametrize("split", ["50/25/25", "1/0/0", "0/1/0", "0/0/1"])
def test_yolo_finds_train_and_val_wherever_the_folder_is_moved(
    split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(CATS, plan("yolo", tmp_path / "out", split=parse_split(split, 0)))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    resolve_yolo(tmp_path / "out" / "data.yaml")
    (tmp_path / "out").rename(tmp_path / "moved")
    content = resolve_yolo(tmp_path / "moved" / "data.yaml")
    assert sorted(content["names"]) == [0, 1, 2]
    assert set(content["names"].values()) == {"cat", "dog", "object"}
    text = (tmp_path / "moved" / "data.yaml").read_text("utf-8")
    assert ("no photo fell into val" in text) == (split in ("1/0/0", "0/0/1"))


def test_yolo_without_photos_has_folders_for_them(tmp_path: Path) -> None:
    export(CATS, plan("yolo", tmp_path / "out", images="none"))
    assert sorted(p.name for p in (tmp_path / "out" / "images").iterdir()) == sorted(SPLITS)


def read_mmdetection(folder: Path) -> dict[tuple[int, str], Mask | None]:
    """``RefCOCODataset`` and ``LoadAnnotations`` of mmdetection, in their own order of steps.

    An instance whose list holds no polygon is ignored without a word: None.
    """
    instances = json.loads((folder / "instances.json").read_text("utf-8"))
    refs = pickle.loads((folder / "refs(saymask).p").read_bytes())
    annotations = {a["id"]: a for a in instances["annotations"]}
    found: dict[tuple[int, str], Mask | None] = {}
    for ref in refs:
        polygons = annotations[ref["ann_id"]]["segmentation"]
        assert isinstance(polygons, list)
        valid = [np.array(p) for p in polygons if len(p) % 2 == 0 and len(p) >= 6]
        mask = None
        if valid:
            rle = coco_mask.merge(coco_mask.frPyObjects([list(p) for p in valid], HEIGHT, WIDTH))
            mask = coco_mask.decode(rle).astype(bool)
        for sentence in ref["sentences"]:
            found[ref["image_id"], sentence["raw"].lower()] = mask
    return found


def test_mmdetection_reads_polygons_and_the_manifest_counts_what_it_ignores(
    tmp_path: Path,
) -> None:
    records = [record(1, 1, "the box", box(2)), record(2, 1, "the ring", ring())]
    export(records, plan("refcoco", tmp_path / "runs"))
    assert set(read_mmdetection(tmp_path / "runs").values()) == {None}
    summary = export(records, plan("refcoco", tmp_path / "polygons", polygons=True))
    found = {text: mask for (_, text), mask in read_mmdetection(tmp_path / "polygons").items()}
    np.testing.assert_array_equal(found["the box"], box(2))
    assert found["the ring"] is None, "a hole has no exact polygon"
    manifest = json.loads((tmp_path / "polygons" / "manifest.json").read_text("utf-8"))
    assert manifest["segmentations"] == {"polygons": 1, "run_lengths": 1}
    assert summary.inexact == 1


def read_categories(folder: Path, format_: str) -> dict[str, int]:
    """Ids by name; each reader's file lists all of them, and uses no other."""
    if format_ == "yolo":
        names = yaml.safe_load((folder / "data.yaml").read_text("utf-8"))["names"]
        return {name: number + 1 for number, name in names.items()}
    paths = sorted([*folder.glob("instances.json"), *folder.glob("annotations/*.json")])
    contents = [json.loads(path.read_text("utf-8")) for path in paths]
    found = [{c["name"]: c["id"] for c in content["categories"]} for content in contents]
    assert all(ids == found[0] for ids in found)
    used = {a["category_id"] for content in contents for a in content["annotations"]}
    assert used <= set(found[0].values())
    return found[0]


@pytest.mark.parametrize("format_", ["coco", "refcoco", "grefcoco", "yolo"])
def test_category_ids_count_from_one_and_stay_when_an_export_is_replaced(
    format_: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    export(CATS[3:], plan(format_, out))
    before = read_categories(out, format_)
    assert sorted(before.values()) == list(range(1, len(before) + 1))
    more = [*CATS, *(record(20 + n, n, f"a {n}", box(3 * n), head_noun_phrase=f"the thing{n}")
                     for n in range(4, 9))]  # fmt: skip
    export(more, plan(format_, out, replace=True))
    after = read_categories(out, format_)
    assert {name: after[name] for name in before} == before
    assert sorted(after.values()) == list(range(1, len(after) + 1))
    assert len(after) == len(before) + 6
    export(CATS[:1], plan(format_, out, replace=True))
    assert read_categories(out, format_) == after, "what is not used now may be used again"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda out: (out / "mine.txt").write_text("x"), "changed since.*mine.txt"),
        (lambda out: (out / "annotations" / "instances_val.json").write_text("{}"), "changed"),
        (lambda out: (out / "annotations" / "instances_val.json").unlink(), "changed"),
        (lambda out: (out / "manifest.json").unlink(), "not an earlier export"),
        (lambda out: (out / "manifest.json").write_text("[]"), "not an earlier export"),
    ],
)
def test_what_is_not_ours_is_not_replaced(
    change: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    export(CATS, plan("coco", out))
    change(out)
    before = sorted(p for p in out.rglob("*"))
    with pytest.raises(ExportError, match=message):
        export(CATS, plan("coco", out, replace=True))
    assert sorted(p for p in out.rglob("*")) == before


def test_photos_put_by_hand_into_an_export_without_any_are_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(CATS, plan("coco", out, images="none"))
    export(CATS, plan("coco", out, images="none", replace=True))
    (out / "images").mkdir()
    (out / "images" / "a.jpg").write_bytes(b"mine")
    with pytest.raises(ExportError, match="changed since it was exported: images"):
        export(CATS, plan("coco", out, replace=True))


@pytest.mark.parametrize("killed_at", [1, 2])
def test_killed_while_an_export_is_replaced(
    killed_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    export(CATS[:3], plan("coco", out))
    calls = 0

    def die(source: Any, target: Any) -> None:
        nonlocal calls
        if Path(source).parent.name.startswith(UNFINISHED_PREFIX):
            os.rename(source, target)
            return
        calls += 1
        if calls == killed_at:
            raise KeyboardInterrupt
        os.rename(source, target)

    monkeypatch.setattr(private_files.os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        export(CATS, plan("coco", out, replace=True))
    monkeypatch.undo()
    with pytest.raises(ExportError, match="exists already"):
        export(CATS, plan("coco", out))
    export(CATS, plan("coco", out, replace=True))
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert len(list((out / "images").iterdir())) == 3


def test_a_link_among_unfinished_files_is_removed_and_not_followed(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir()
    (private / "a.jpg").write_bytes(b"mine")
    partial = tmp_path / ".out.partial"
    partial.mkdir()
    (partial / "images").symlink_to(private)
    export(CATS, plan("coco", tmp_path / "out"))
    assert (private / "a.jpg").read_bytes() == b"mine"
    assert len(list(private.iterdir())) == 1
