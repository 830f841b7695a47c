"""Exports, read back by the tools people use, compared bit by bit."""

from __future__ import annotations

import errno
import hashlib
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask

from saymask.datasets import load_dataset
from saymask.errors import ImageUnreachable, InvalidRequest
from saymask.masks import Mask, decode_coco_rle, encode_coco_rle
from saymask_backend.export import run as run_module
from saymask_backend.export.merge import merge_records
from saymask_backend.export.model import to_sentence
from saymask_backend.export.outlines import to_exact_polygons, trace
from saymask_backend.export.plan import ExportError, Format, SplitRule, parse_split
from saymask_backend.export.run import count_export, run_export
from saymask_backend.records.types import RecordView
from tests.backend.exports import (
    CATS,
    HEIGHT,
    READERS,
    WIDTH,
    assert_same,
    box,
    export,
    groups,
    odd_records,
    plan,
    read_huggingface,
    read_image,
    record,
    ring,
    to_records,
    truth,
)


@pytest.mark.parametrize("polygons", [False, True])
@pytest.mark.parametrize("format_", READERS)
@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(items=odd_records)
def test_every_record_survives(
    format_: str, polygons: bool, items: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    records = to_records(items)
    out = tmp_path_factory.mktemp("x") / "out"
    export(records, plan(format_, out, polygons=polygons))
    assert_same(READERS[format_](out), truth(records))


@settings(
    deadline=None, max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(items=odd_records)
def test_hugging_face_gives_every_record_back(
    items: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    records = to_records(items)
    folder = tmp_path_factory.mktemp("x")
    export(records, plan("huggingface", folder / "out"))
    assert_same(read_huggingface(folder / "out", folder / "cache"), truth(records))


@settings(max_examples=200)
@given(arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_outlines_give_the_mask_back(mask: Mask) -> None:
    polygons = to_exact_polygons(mask)
    outer, holes = trace(mask)
    if polygons is None:
        return
    assert holes == 0
    assert polygons == outer
    drawn = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, *mask.shape)))
    assert (drawn.astype(bool) == mask).all()


def test_outlines_of_plain_shapes() -> None:
    assert trace(box(2, 3, 4, 5))[0] == [[2.0, 3.0, 6.0, 3.0, 6.0, 8.0, 2.0, 8.0]]
    outer, holes = trace(ring())
    assert (len(outer), holes) == (1, 1)
    assert to_exact_polygons(ring()) is None
    assert len(to_exact_polygons(box(2) | box(30)) or []) == 2
    corner = np.array([[True, False], [False, True]])
    assert len(trace(corner)[0]) == 2


def test_outlines_of_a_mask_of_very_many_specks() -> None:
    """Searching all edges for the beginning of each outline would take ten minutes."""
    specks = np.zeros((400, 400), dtype=bool)
    specks[::2, ::2] = True
    outer, holes = trace(specks)
    assert (len(outer), holes) == (40_000, 0)


def test_one_object_is_one_ref_with_several_sentences(tmp_path: Path) -> None:
    summary = export(CATS, plan("refcoco", tmp_path / "out"))
    assert (summary.photos, summary.referents, summary.expressions) == (3, 5, 6)
    with (tmp_path / "out" / "refs(saymask).p").open("rb") as file:
        refs = pickle.load(file)
    (cat,) = [r for r in refs if len(r["sentences"]) == 2]
    assert {s["raw"]: s["sent"] for s in cat["sentences"]} == {
        "the cat": "the cat", "The black cat!": "the black cat",
    }  # fmt: skip
    instances = json.loads((tmp_path / "out" / "instances.json").read_text("utf-8"))
    assert {c["name"] for c in instances["categories"]} == {"cat", "dog", "object"}
    raw = (tmp_path / "out" / "refs(saymask).p").read_bytes()
    assert raw[:2] == b"\x80\x02"


@pytest.mark.parametrize(
    ("raw", "sent"),
    [
        ("The man's HAT, left!", "the mans hat left"),
        ("  two\nlines\t ", "two lines"),
        ("naïve café—здесь", "naïve café здесь"),
        ("?!", ""),
    ],
)
def test_sentences_as_refer_makes_them(raw: str, sent: str) -> None:
    assert to_sentence(raw) == sent


def test_grefcoco_holds_several_objects_and_none(tmp_path: Path) -> None:
    summary = export(CATS, plan("grefcoco", tmp_path / "out"))
    assert summary.no_referent == 1
    refs = json.loads((tmp_path / "out" / "grefs(saymask).json").read_text("utf-8"))
    by_raw = {s["raw"]: r for r in refs for s in r["sentences"]}
    assert by_raw["a unicorn"]["ann_id"] == [-1]
    assert by_raw["a unicorn"]["no_target"]
    both, left = by_raw["both cats"], by_raw["the left cat"]
    assert len(both["ann_id"]) == 2
    assert set(left["ann_id"]) <= set(both["ann_id"])
    instances = json.loads((tmp_path / "out" / "instances.json").read_text("utf-8"))
    ids = [a["id"] for a in instances["annotations"]]
    assert len(ids) == len(set(ids)) == 5


@pytest.mark.parametrize("format_", ["refcoco", "grefcoco"])
def test_our_own_evaluation_reads_it(format_: str, tmp_path: Path) -> None:
    asked = plan(format_, tmp_path / "out", split=parse_split("1/0/0", 0))
    export(CATS, asked)
    dataset = load_dataset("export", tmp_path / "out", "train")
    wanted = truth(CATS)
    texts = {e.text for photo in dataset.images for e in photo.expressions}
    assert texts == {r.expression for r in CATS} - (
        set() if format_ == "grefcoco" else {"a unicorn"}
    )
    for photo in dataset.images:
        sha256 = hashlib.sha256(photo.path.read_bytes()).hexdigest()
        for expression in photo.expressions:
            mask = decode_coco_rle(expression.target)
            expected = wanted.get((sha256, expression.text), np.zeros((HEIGHT, WIDTH), bool))
            assert np.array_equal(mask, expected)


def test_several_annotators() -> None:
    a, b, c = box(2), box(4), box(30)
    group = [
        record(1, 1, "the cat", a, annotator="1"),
        record(2, 1, "The cat", b, annotator="2"),
        record(3, 1, "the cat", c, annotator="3"),
    ]
    (latest,), conflicts = merge_records(group, "latest", {})
    assert latest.coco_rle == encode_coco_rle(c)
    assert latest.sentences[0].annotators == ("1", "2", "3")
    assert latest.sentences[0].record_ids == (1, 2, 3)
    assert (conflicts.shared, conflicts.contradictions) == (1, 0)
    assert conflicts.ious[0] == pytest.approx((8 / 12 + 0 + 0) / 3)
    (majority,), _ = merge_records(group, "majority", {})
    assert majority.coco_rle is not None
    assert np.array_equal(decode_coco_rle(majority.coco_rle), a & b)
    every, _ = merge_records(group, "all", {"cat": "animal"})
    assert len(every) == 3
    assert {r.category for r in every} == {"animal"}
    against = [*group[:2], record(4, 1, "the cat", None, annotator="3")]
    (still,), conflicts = merge_records(against, "majority", {})
    assert still.coco_rle is not None
    assert conflicts.contradictions == 1
    nothing = [group[0], *(record(n, 1, "the cat", None, annotator=str(n)) for n in (5, 6))]
    (none,), _ = merge_records(nothing, "majority", {})
    assert none.coco_rle is None


def test_splits_hold_still() -> None:
    rule = parse_split("80/10/10", 0)
    photos = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(5000)]
    chosen = [rule.choose(photo) for photo in photos]
    assert chosen[:1000] == [rule.choose(photo) for photo in photos[:1000]]
    assert 0.78 < chosen.count("train") / 5000 < 0.82
    assert 0.08 < chosen.count("val") / 5000 < 0.12
    assert chosen != [parse_split("80/10/10", 1).choose(photo) for photo in photos]
    assert {SplitRule((0.0, 1.0, 0.0), 0).choose(photo) for photo in photos} == {"val"}
    # A larger train share moves photos into train, none out of it.
    wider = parse_split("90/5/5", 0)
    assert all(
        wider.choose(p) == "train" for p, c in zip(photos, chosen, strict=True) if c == "train"
    )
    for wrong in ("80/20", "a/b/c", "0/0/0", "-1/1/1", "nan/1/1", "inf/1/1"):
        with pytest.raises(InvalidRequest, match="80/10/10"):
            parse_split(wrong, 0)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("format_", get_args(Format))
def test_two_exports_are_byte_identical(format_: str, tmp_path: Path) -> None:
    first = plan(format_, tmp_path / "a")
    export(CATS, first)
    export([replace(r) for r in CATS], replace(first, out=tmp_path / "b"))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text("utf-8"))
    assert manifest["counts"]["photos"] == 3
    assert manifest["model_versions"] == ["saymask-test"]
    for name, digest in manifest["files"].items():
        assert hashlib.sha256((tmp_path / "a" / name).read_bytes()).hexdigest() == digest


def test_a_dry_run_counts_the_same_and_writes_nothing(tmp_path: Path) -> None:
    asked = plan("coco", tmp_path / "out")
    counted = count_export(asked, groups(CATS), lambda _n: None)
    assert not list(tmp_path.iterdir())
    assert counted == export(CATS, asked)


def test_interrupted_exports_leave_nothing_and_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saymask_backend.export.image_store._REMOVED_AT_ONCE", 1)
    asked = plan("coco", tmp_path / "out")
    read: list[int] = []

    def breaks(one: RecordView) -> bytes:
        if len(read) == 2:
            raise KeyboardInterrupt
        read.append(one.task_id)
        return read_image(one)

    with pytest.raises(KeyboardInterrupt):
        run_export(asked, groups(CATS), breaks, tmp_path / "p", lambda _n: None)
    assert not asked.out.exists()

    def counts(one: RecordView) -> bytes:
        read.append(one.task_id)
        return read_image(one)

    run_export(asked, groups(CATS), counts, tmp_path / "p", lambda _n: None)
    assert sorted(read) == [1, 2, 3], "photos that were read are not read again"
    export(CATS, replace(asked, out=tmp_path / "other"))
    assert contents(asked.out) == contents(tmp_path / "other")
    assert not list(tmp_path.glob(".*partial"))


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    asked = plan("coco", tmp_path / "out")
    monkeypatch.setattr(run_module, "_write_manifest", full)
    with pytest.raises(ExportError, match="No space left"):
        export(CATS, asked)
    assert not asked.out.exists()
    monkeypatch.undo()
    export(CATS, asked)


def test_what_stops_an_export(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(ExportError, match="exists already"):
        export(CATS, plan("coco", tmp_path / "there"))
    with pytest.raises(ExportError, match="Nothing was selected"):
        export([], plan("coco", tmp_path / "empty"))
    assert (
        sorted(p.name for p in tmp_path.iterdir()) == ["photos", "there"]
        or not (tmp_path / "empty").exists()
    )
    changed = replace(CATS[0], task_id=9)
    with pytest.raises(ExportError, match="content changed"):
        export([changed], plan("coco", tmp_path / "changed"))

    def gone(one: RecordView) -> bytes:
        if one.task_id == 2:
            raise ImageUnreachable("It is gone.", "Bring it back.")
        return read_image(one)

    asked = plan("coco", tmp_path / "out")
    with pytest.raises(ExportError, match="--skip-missing"):
        run_export(asked, groups(CATS), gone, tmp_path, lambda _n: None)
    skipping = replace(asked, skip_missing=True)
    summary = run_export(skipping, groups(CATS), gone, tmp_path, lambda _n: None)
    assert summary.photos == 2
    assert "gone" in summary.failed[0]


def test_links_and_no_images(tmp_path: Path) -> None:
    for name in ("a", "b"):
        export(CATS, plan("coco", tmp_path / name, images="link"))
    first, second = (sorted((tmp_path / n / "images").iterdir()) for n in ("a", "b"))
    assert [p.name for p in first] == [p.name for p in second]
    assert all(a.samefile(b) for a, b in zip(first, second, strict=True))
    export(CATS, plan("refcoco", tmp_path / "c", images="none"))
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == [
        "instances.json", "manifest.json", "refs(saymask).p",
    ]  # fmt: skip
    export(CATS, plan("huggingface", tmp_path / "d", images="none"))
    card = (tmp_path / "d" / "README.md").read_text("utf-8")
    assert "| train |" in card or "| val |" in card or "| test |" in card
    assert "no referent" in card


def test_yolo_lines(tmp_path: Path) -> None:
    export([record(1, 1, "the cat", box(14, 10, 28, 20))], plan("yolo", tmp_path / "out"))
    (label,) = (tmp_path / "out" / "labels").rglob("*.txt")
    values = label.read_text("utf-8").split()
    assert values[0] == "0"
    assert [float(v) for v in values[1:]] == [0.25, 0.25, 0.75, 0.25, 0.75, 0.75, 0.25, 0.75]
    assert '0: "cat"' in (tmp_path / "out" / "data.yaml").read_text("utf-8")
