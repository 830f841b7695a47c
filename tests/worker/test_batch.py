"""Batches: rows that say what an annotator would be offered, none twice and none missing."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from saymask.batch_rows import SCHEMA
from saymask.contract import ProposedPair, SegmentResult, Timings
from saymask.datasets import RowChoice
from saymask.datasets.parquet import BatchRows, load_parquet
from saymask.errors import DatasetError, GivenMasksError, ImageUnreadable
from saymask.image_files import IMAGE_SUFFIXES, is_image_name
from saymask.masks import decode_coco_rle
from saymask_worker.batch.coco_folder import ProposeOptions
from saymask_worker.batch.folders import ImageFolder, PartFolder
from saymask_worker.batch.local import run_local
from saymask_worker.batch.plan import BatchPlan, list_work
from saymask_worker.batch.rows import ImageRows, decode_done, encode_part
from saymask_worker.batch.tables import read_expressions
from saymask_worker.cli.main import app
from tests.fake_worker import build_candidate
from tests.worker.batch_files import read_rows, write_texts


class FakePipeline:
    """Answers at once; some bytes kill it, others are not an image or have no masks."""

    model_version = "fake-1"

    def __init__(self) -> None:
        self.prepared: list[str] = []

    def load_prepared(self, sha256: str) -> None:
        return None

    def prepare(self, data: bytes, name: str) -> tuple[Any, None]:
        if data == b"killed":
            raise KeyboardInterrupt
        if data == b"broken":
            raise ImageUnreadable("The photo is damaged.", "Save it again.")
        if data == b"not given":
            raise GivenMasksError("No proposals are given for the photo.", "Add them.")
        self.prepared.append(name)
        return hashlib.sha256(data).hexdigest(), None

    def segment(
        self, prepared: str, text: str, k: int, *, preparation: None, encoded: Any
    ) -> SegmentResult:
        assert hashlib.sha256(encoded.read()).hexdigest() == prepared
        candidates = tuple(build_candidate(rank) for rank in range(1, k + 1))
        size_hw = candidates[0].mask.size
        return SegmentResult(
            image_sha256=prepared, expression=text, size_hw=size_hw, candidates=candidates,
            confidence=len(text) / 20, proposals_count=9, model_version=self.model_version,
            from_cache=False, head_noun_phrase=None, timings=Timings(),
        )  # fmt: skip


class ProposingPipeline(FakePipeline):
    """Proposes two wordings for one object; nothing for the image ``empty``."""

    def prepare(self, data: bytes, name: str) -> tuple[Any, None]:
        super().prepare(data, name)

        class Prepared:
            class proposals:
                size_hw = build_candidate(1).mask.size

        return Prepared, None

    def propose(
        self, prepared: Any, data: bytes, count: int, least: float, seed: int, describer: str
    ) -> tuple[ProposedPair, ...]:
        if data == b"empty":
            return ()
        pair = ProposedPair(
            expressions=("the cat", "cat"), noun="cat", confidence=0.7, candidate=build_candidate(1)
        )
        return (pair,)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    photos = tmp_path / "photos"
    (photos / "more").mkdir(parents=True)
    for name in ("a.jpg", "b.png", "more/c.jpg"):
        (photos / name).write_bytes(name.encode())
    (photos / "notes.txt").write_text("no image")
    return photos


TEXTS = [("a.jpg", "the cat"), ("more/c.jpg", "a red cup"), ("a.jpg", "left"), ("b.png", "dog")]


def run(plan: BatchPlan, pipeline: FakePipeline | None = None) -> Any:
    return run_local(pipeline or FakePipeline(), plan, list_work(plan), lambda *_: None)  # type: ignore[arg-type]


@pytest.mark.parametrize("out", ["{tmp}/rows", "memory://bucket/rows"])
def test_every_expression_has_one_row_wherever_it_goes(
    out: str, folder: Path, tmp_path: Path
) -> None:
    out = out.format(tmp=tmp_path)
    plan = BatchPlan(
        str(folder), out, write_texts(folder.parent / "texts.jsonl", TEXTS), k=2, images_per_part=2
    )
    report = run(plan)
    assert (report.images, report.before, report.rows, report.failed) == (3, 0, 4, ())
    rows = read_rows(out)
    assert Counter((r["image"], r["expression"]) for r in rows) == Counter(TEXTS)
    first = next(r for r in rows if r["expression"] == "left")
    assert first["sha256"] == hashlib.sha256(b"a.jpg").hexdigest()
    assert first["provenance"] == "given"
    assert [c["rank"] for c in first["candidates"]] == [1, 2]
    mask = {key: first["candidates"][0][key] for key in ("size", "counts")}
    expected = build_candidate(1).mask.as_dict()
    assert (decode_coco_rle(mask) == decode_coco_rle(expected)).all()
    fsspec.filesystem("memory").store.clear()


def test_proposals_are_rows_and_empty_images_are_done(folder: Path, tmp_path: Path) -> None:
    (folder / "b.png").write_bytes(b"empty")
    plan = BatchPlan(str(folder), str(tmp_path / "rows"), propose=ProposeOptions(1, 0.5, 3))
    assert run(plan, ProposingPipeline()).rows == 4
    rows = read_rows(plan.out)
    assert {(r["image"], r["expression"], r["provenance"], r["noun_phrase"]) for r in rows} == {
        (image, text, "proposed", "cat")
        for image in ("a.jpg", "more/c.jpg")
        for text in ("the cat", "cat")
    }
    again = ProposingPipeline()
    assert run(plan, again).before == 3
    assert again.prepared == [], "the empty one is done too"


def test_an_interrupted_run_goes_on_and_only_changed_or_failed_images_are_done_again(
    folder: Path, tmp_path: Path
) -> None:
    (folder / "broken.jpg").write_bytes(b"broken")
    (folder / "more/c.jpg").write_bytes(b"killed")
    texts = [*TEXTS, ("broken.jpg", "the cat"), ("missing.jpg", "the cat")]
    plan = BatchPlan(
        str(folder),
        str(tmp_path / "rows"),
        write_texts(folder.parent / "texts.jsonl", texts),
        images_per_part=1,
    )
    with pytest.raises(KeyboardInterrupt):
        run(plan)
    (folder / "more/c.jpg").write_bytes(b"whole again")
    again = FakePipeline()
    report = run(plan, again)
    assert again.prepared == ["c"], "what was done is not done again"
    assert report.before == 2
    assert sorted(line.split(":")[0] for line in report.failed) == ["broken.jpg", "missing.jpg"]
    failures = (tmp_path / "rows" / "_failures.jsonl").read_text().splitlines()
    assert {json.loads(line)["image"] for line in failures} == {"broken.jpg", "missing.jpg"}
    (folder / "b.png").write_bytes(b"changed")
    changed = FakePipeline()
    run(plan, changed)
    assert changed.prepared == ["b"]
    assert not list((tmp_path / "rows").glob("_unfinished*"))


def test_the_next_images_are_read_while_one_is_answered(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every image but the last is answered only when the next one has been read."""
    names = ["a.jpg", "b.png", "more/c.jpg"]
    was_read = {name: threading.Event() for name in names}
    read = ImageFolder.read

    def note(source: ImageFolder, name: str) -> bytes:
        data = read(source, name)
        was_read[name].set()
        return data

    class Waiting(FakePipeline):
        def prepare(self, data: bytes, name: str) -> tuple[Any, None]:
            for following in names[len(self.prepared) + 1 :][:1]:
                assert was_read[following].wait(20), f"{following} is not read ahead"
            return super().prepare(data, name)

    monkeypatch.setattr(ImageFolder, "read", note)
    plan = BatchPlan(
        str(folder), str(tmp_path / "rows"), write_texts(folder.parent / "texts.jsonl", TEXTS),
        images_per_part=1,
    )  # fmt: skip
    assert run(plan, Waiting()).failed == ()


def test_the_same_bytes_under_two_names_are_two_images(folder: Path, tmp_path: Path) -> None:
    (folder / "b.png").write_bytes(b"a.jpg")
    plan = BatchPlan(
        str(folder), str(tmp_path / "rows"), write_texts(folder.parent / "texts.jsonl", TEXTS)
    )
    run(plan)
    assert {r["image"] for r in read_rows(plan.out)} == {"a.jpg", "b.png", "more/c.jpg"}


def test_another_run_does_not_mix_with_it(folder: Path, tmp_path: Path) -> None:
    plan = BatchPlan(
        str(folder), str(tmp_path / "rows"), write_texts(folder.parent / "texts.jsonl", TEXTS)
    )
    run(plan)
    for other in (
        BatchPlan(str(folder), plan.out, plan.expressions, k=5),
        BatchPlan(str(folder), plan.out, write_texts(folder.parent / "texts.jsonl", TEXTS[:2])),
        BatchPlan(str(folder), plan.out),
    ):
        with pytest.raises(DatasetError, match="belongs to another run"):
            run(other)


def test_a_damaged_part_is_named(folder: Path, tmp_path: Path) -> None:
    plan = BatchPlan(
        str(folder), str(tmp_path / "rows"), write_texts(folder.parent / "texts.jsonl", TEXTS)
    )
    run(plan)
    (part,) = (tmp_path / "rows").glob("part-*.parquet")
    part.write_bytes(part.read_bytes()[:50])
    for read in (lambda: run(plan), lambda: read_rows(plan.out)):
        with pytest.raises(DatasetError, match=part.name):
            read()


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("t.csv", "image,text\na.jpg,the cat\n", "Row 1"),
        ("t.jsonl", '{"image": "a.jpg"}', "Row 1"),
        ("t.jsonl", "[1]", "Row 1"),
        ("t.jsonl", "{", "not valid JSON"),
        ("t.jsonl", '{"image": "a.jpg", "expression": "?!"}', "Row 1 .* a.jpg: .* no word"),
        ("t.csv", "image,expression\na.jpg,the cat\nb.jpg,\n", "Row 2 .* b.jpg: .* empty"),
        ("t.jsonl", "\n", "no expression"),
        ("t.csv", "image,expression\n", "no expression"),
    ],
)
def test_wrong_files_of_expressions_are_refused(
    name: str, text: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DatasetError, match=said):
        read_expressions(str(tmp_path / name))


def test_expressions_are_read_once_each(tmp_path: Path) -> None:
    path = tmp_path / "t.CSV"
    path.write_text('expression,image\n"the cat, left",b.jpg\ndog,a.jpg\ndog,a.jpg\n')
    assert read_expressions(str(path)) == {"a.jpg": ("dog",), "b.jpg": ("the cat, left",)}


def test_places_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds no image"):
        ImageFolder(str(tmp_path)).list_images()
    with pytest.raises(DatasetError, match="cannot be opened"):
        ImageFolder("nowhere://bucket").list_images()
    with pytest.raises(DatasetError, match="cannot be read"):
        read_expressions(str(tmp_path / "missing.csv"))
    for content in ("{", "[]", "[" * 100_000):
        (tmp_path / "_run.json").write_text(content)
        with pytest.raises(DatasetError, match="cannot be used"):
            PartFolder(str(tmp_path)).begin({})
        with pytest.raises(DatasetError, match="not a folder of saymask-worker batch"):
            BatchRows(str(tmp_path))


CANDIDATE = {
    "rank": 1, "score": 0.5, "size": [9, 9], "counts": "x", "box_xywh": [0, 0, 1, 1],
    "predicted_iou": 0.5, "stability_score": 0.5, "source": "proposals",
}  # fmt: skip


def test_a_part_says_which_images_are_done(tmp_path: Path) -> None:
    images = [ImageRows("a.jpg", "1" * 64), ImageRows("ü.jpg", "2" * 64)]
    path = tmp_path / "part.parquet"
    path.write_bytes(encode_part(images))
    assert decode_done(path) == [image.key for image in images]
    table = pq.read_table(path)
    assert table.num_rows == 0
    assert table.schema.remove_metadata() == SCHEMA


def test_parts_of_many_long_masks_are_read_again(tmp_path: Path) -> None:
    """Several groups of rows, and more text than a dictionary of Parquet's would hold."""
    row = {
        **dict.fromkeys(SCHEMA.names), "image": "a.jpg", "sha256": "1" * 64,
        "notices": ["one", "two"], "expression": "the cat", "confidence": 0.5,
        "height": 9, "width": 9,
    }  # fmt: skip
    rows = tuple(
        {**row, "candidates": [{**CANDIDATE, "counts": f"{number}" * 500} for _ in range(3)]}
        for number in range(1500)
    )
    (tmp_path / "_run.json").write_text('{"source": "x"}')
    (tmp_path / "part-0.parquet").write_bytes(encode_part([ImageRows("a.jpg", "1" * 64, rows)]))
    assert pq.ParquetFile(tmp_path / "part-0.parquet").metadata.num_row_groups == 2
    assert tuple(read_rows(tmp_path)) == rows


def test_a_photo_that_is_gone_or_changed_is_left_out_of_a_review(
    folder: Path, tmp_path: Path
) -> None:
    texts = write_texts(folder.parent / "texts.jsonl", TEXTS)
    plan = BatchPlan(str(folder), str(tmp_path / "rows"), texts)
    run(plan)
    first, *others = [image.path for image in load_parquet(plan.out, RowChoice(), tmp_path).images]
    first.write_bytes(b"changed")
    dataset = load_parquet(plan.out, RowChoice(), tmp_path)
    assert [image.path for image in dataset.images] == others
    (said,) = dataset.left_out
    assert f"{first.name} has changed" in said
    first.unlink()
    (said,) = load_parquet(plan.out, RowChoice(), tmp_path).left_out
    assert first.name in said
    assert "cannot be read" in said
    for path in others:
        path.unlink()
    with pytest.raises(DatasetError, match="cannot be read"):
        load_parquet(plan.out, RowChoice(), tmp_path)


@pytest.mark.parametrize("source", ["{tmp}/photos", "memory://photos"])
@pytest.mark.parametrize(("typed", "stored"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_of_names_are_found_however_they_are_stored(
    typed: str, stored: str, source: str, tmp_path: Path
) -> None:
    """A table typed on one system, photos from another."""
    source = source.format(tmp=tmp_path)
    system, root = fsspec.core.url_to_fs(source)
    system.makedirs(root, exist_ok=True)
    system.pipe_file(f"{root}/{unicodedata.normalize(stored, 'größe é.jpg')}", b"a")
    texts = write_texts(tmp_path / "t", [(unicodedata.normalize(typed, "größe é.jpg"), "cat")])
    plan = BatchPlan(source, str(tmp_path / "rows"), texts)
    assert run(plan).failed == ()
    (image,) = load_parquet(plan.out, RowChoice(), tmp_path / "copies").images
    assert image.path.read_bytes() == b"a"
    fsspec.filesystem("memory").store.clear()


def test_a_source_that_does_not_exist_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"There is no folder .*photoz"):
        list_work(BatchPlan(str(tmp_path / "photoz"), str(tmp_path / "rows")))


def test_a_name_that_leads_out_of_the_source_is_a_failure(folder: Path, tmp_path: Path) -> None:
    (folder.parent / "private.jpg").write_bytes(b"private")
    texts = write_texts(tmp_path / "t", [("../private.jpg", "the cat"), ("a.jpg", "the cat")])
    report = run(BatchPlan(str(folder), str(tmp_path / "rows"), texts))
    (failure,) = report.failed
    assert "../private.jpg" in failure
    assert "leads out of" in failure
    assert [row["image"] for row in read_rows(tmp_path / "rows")] == ["a.jpg"]


def test_rows_to_review_are_chosen_alike_each_time(folder: Path, tmp_path: Path) -> None:
    plan = BatchPlan(
        str(folder), str(tmp_path / "rows"), write_texts(folder.parent / "texts.jsonl", TEXTS)
    )
    run(plan)

    def choose(**choice: Any) -> list[str]:
        dataset = load_parquet(plan.out, RowChoice(**choice), tmp_path)
        return [e.text for image in dataset.images for e in image.expressions]

    assert sorted(choose()) == sorted(text for _, text in TEXTS)
    assert sorted(choose(doubtful=0.21)) == ["dog", "left"]
    assert choose(sample=2) == choose(sample=2)
    assert len(choose(sample=2)) == 2
    assert {tuple(choose(sample=2, seed=seed)) for seed in range(9)} != {tuple(choose(sample=2))}
    (folder / "a.jpg").write_bytes(b"changed")
    run(plan)
    assert sorted(choose()) == sorted(text for _, text in TEXTS), "rows of what it shows now"
    with pytest.raises(DatasetError, match="not a folder of"):
        load_parquet(str(folder), RowChoice(), tmp_path)


def test_images_of_a_remote_source_are_fetched(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/photos/x/a.jpg", b"a.jpg")
    texts = write_texts(tmp_path / "x", [("x/a.jpg", "the cat")])
    plan = BatchPlan("memory://photos", str(tmp_path / "rows"), texts)
    assert run(plan).failed == ()
    dataset = load_parquet(plan.out, RowChoice(), tmp_path / "copies")
    assert dataset.images[0].path.read_bytes() == b"a.jpg"
    memory.store.clear()


def test_the_command_refuses_what_does_not_fit(folder: Path, tmp_path: Path) -> None:
    base = ["batch", str(folder), "--out", str(tmp_path / "rows")]
    for wrong in ([], ["--propose", "--expressions", "x.csv"], ["--propose", "--engine", "spark"]):
        assert CliRunner().invoke(app, [*base, *wrong]).exit_code != 0
    done = CliRunner().invoke(app, [*base, "--propose", "--dry-run", "--json"])
    assert json.loads(done.stdout) == {"photos": 3}
    assert not (tmp_path / "rows").exists()


NOT_UTF8 = b"caf\xe9.jpg"


def test_a_name_that_is_not_utf8_concerns_itself_only(folder: Path, tmp_path: Path) -> None:
    with open(os.fsencode(folder) + b"/" + NOT_UTF8, "wb") as file:
        file.write(b"named oddly")
    plan = BatchPlan(str(folder), str(tmp_path / "rows"))
    report = run(plan, ProposingPipeline())
    failed = ("caf\\xe9.jpg: its name is not UTF-8. Rename the file.",)
    assert (report.images, report.rows, report.failed) == (4, 6, failed)
    failure = json.loads((tmp_path / "rows" / "_failures.jsonl").read_text("utf-8"))
    assert failure["image"] == "caf\\xe9.jpg"
    assert {row["image"] for row in read_rows(plan.out)} == {"a.jpg", "b.png", "more/c.jpg"}
    again = ProposingPipeline()
    assert run(plan, again).before == 3
    assert again.prepared == []
    for path in folder.rglob("*.*"):
        if NOT_UTF8 not in os.fsencode(path):
            path.unlink()
    with pytest.raises(DatasetError, match=r"No photo can be used.*not UTF-8"):
        run(plan)


@pytest.mark.parametrize("command", ["batch", "propose"])
def test_the_commands_name_it_and_end_with_status_1(
    command: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a target whose name is not UTF-8 either."""
    with open(os.fsencode(folder) + b"/" + NOT_UTF8, "wb") as file:
        file.write(b"named oddly")
    monkeypatch.setattr(
        "saymask_worker.pipeline.build.build_pipeline", lambda _: ProposingPipeline()
    )
    out = os.fsdecode(os.fsencode(tmp_path) + b"/rows \xe9 [v1]")
    options = ["--propose"] if command == "batch" else []
    for _ in range(2):
        done = CliRunner().invoke(app, [command, str(folder), "--out", out, *options])
        assert done.exit_code == 1, done.output
        assert "failed: caf\\xe9.jpg: its name is not UTF-8." in done.output
        assert "rows \\xe9 [v1]" in done.output
    assert "3 photos done before" in done.output


def test_a_name_in_a_table_may_be_no_text_either(folder: Path, tmp_path: Path) -> None:
    texts = [*TEXTS, (os.fsdecode(NOT_UTF8), "the cat")]
    plan = BatchPlan(
        str(folder), str(tmp_path / "rows"), write_texts(folder.parent / "texts.jsonl", texts)
    )
    report = run(plan)
    assert report.rows == len(TEXTS)
    assert [line.partition(":")[0] for line in report.failed] == ["caf\\xe9.jpg"]


def test_a_name_that_no_file_can_have_is_a_failure_of_its_own(folder: Path, tmp_path: Path) -> None:
    texts = write_texts(tmp_path / "t.jsonl", [("a\0.jpg", "the cat"), ("a.jpg", "the cat")])
    report = run(BatchPlan(str(folder), str(tmp_path / "rows"), texts))
    (failure,) = report.failed
    assert "it cannot be read: " in failure
    assert [row["image"] for row in read_rows(tmp_path / "rows")] == ["a.jpg"]


@pytest.mark.parametrize("out", ["{tmp}/rows [v1] *?", "memory://bucket/rows [v1]"])
def test_brackets_in_the_name_of_the_target(out: str, folder: Path, tmp_path: Path) -> None:
    """Nothing is done again, and what was written is read: no name is a pattern."""
    plan = BatchPlan(
        str(folder),
        out.format(tmp=tmp_path),
        write_texts(folder.parent / "texts.jsonl", TEXTS),
        images_per_part=1,
    )
    assert run(plan).rows == 4
    again = FakePipeline()
    assert run(plan, again).before == 3
    assert again.prepared == []
    assert len(read_rows(plan.out)) == 4
    assert len(load_parquet(plan.out, RowChoice(), tmp_path).images) == 3
    fsspec.filesystem("memory").store.clear()


@pytest.mark.parametrize("source", ["{tmp}/photos [v1] *?", "memory://photos [v1]"])
def test_brackets_in_the_name_of_the_source(source: str, folder: Path, tmp_path: Path) -> None:
    source = source.format(tmp=tmp_path)
    system, root = fsspec.core.url_to_fs(source)
    system.makedirs(f"{root}/b [2]")
    for name in ("a [1].jpg", "b [2]/a.jpg"):
        system.pipe_file(f"{root}/{name}", name.encode())
    plan = BatchPlan(source, str(tmp_path / "rows"))
    assert run(plan, ProposingPipeline()).failed == ()
    images = load_parquet(plan.out, RowChoice(), tmp_path / "copies").images
    assert [image.path.read_bytes() for image in images] == [b"a [1].jpg", b"b [2]/a.jpg"]
    fsspec.filesystem("memory").store.clear()


def test_a_photo_without_given_masks_fails_alone(folder: Path, tmp_path: Path) -> None:
    (folder / "b.png").write_bytes(b"not given")
    report = run(BatchPlan(str(folder), str(tmp_path / "rows")), ProposingPipeline())
    assert report.rows == 4
    assert report.failed == ("b.png: No proposals are given for the photo. Add them.",)


def test_hidden_files_are_no_photos(folder: Path) -> None:
    """macOS keeps a resource fork beside each file on foreign disks, and in its archives."""
    for name in ("._a.jpg", ".hidden/d.jpg", "__MACOSX/._a.jpg", ".d.jpg", "e.JFIF"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(name.encode())
    assert ImageFolder(str(folder)).list_images() == ["a.jpg", "b.png", "e.JFIF", "more/c.jpg"]


def test_suffixes_are_those_of_all_formats_that_are_decoded() -> None:
    from PIL import Image

    from saymask.image_decoding import _FORMATS

    known = {s for s, name in Image.registered_extensions().items() if name in (*_FORMATS, "MPO")}
    # Animations and floating point, which are refused.
    assert set(IMAGE_SUFFIXES) == known - {".apng", ".pfm"}
    assert is_image_name("a/b.c/D.Jpe")
    assert not is_image_name("a.jpg/notes.txt")
