"""Batches: rows that say what an annotator would be offered, none twice and none missing."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from saymask.batch_rows import SCHEMA
from saymask.contract import ProposedPair, SegmentResult, Timings
from saymask.datasets import RowChoice
from saymask.datasets.parquet import BatchRows, load_parquet
from saymask.errors import DatasetError, ImageUnreadable, InvalidExpression
from saymask.masks import decode_coco_rle
from tests.conftest import await_state
from tests.fake_worker import build_candidate
from worker.batch.local import run_local
from worker.batch.places import Source, Target, read_expressions
from worker.batch.plan import BatchPlan, ProposeOptions, list_work
from worker.batch.rows import ImageRows, decode_done, encode_part
from worker.cli.main import app
from worker.pipeline.build import build_pipeline
from worker.settings import load_worker_settings
from worker.weights import DEFAULT, WeightStore


class FakePipeline:
    """Answers at once; of the bytes ``killed`` it dies, ``broken`` are not an image."""

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
        self.prepared.append(name)
        return hashlib.sha256(data).hexdigest(), None

    def segment(
        self, prepared: str, text: str, k: int, *, preparation: None, read_image: Any
    ) -> SegmentResult:
        if text == "?":
            raise InvalidExpression("no word")
        assert hashlib.sha256(read_image()).hexdigest() == prepared
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
        self, prepared: Any, data: bytes, count: int, least: float, seed: int
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


def write_texts(folder: Path, rows: list[tuple[str, str]]) -> str:
    path = folder.parent / "texts.jsonl"
    lines = [json.dumps({"image": i, "expression": e}) for i, e in rows]
    path.write_text("\n".join(lines))
    return str(path)


TEXTS = [("a.jpg", "the cat"), ("more/c.jpg", "a red cup"), ("a.jpg", "left"), ("b.png", "dog")]


def run(plan: BatchPlan, pipeline: FakePipeline | None = None) -> Any:
    return run_local(pipeline or FakePipeline(), plan, list_work(plan), lambda *_: None)  # type: ignore[arg-type]


def read_rows(out: str | Path) -> list[dict[str, Any]]:
    return list(BatchRows(str(out)).iterate())


@pytest.mark.parametrize("out", ["{tmp}/rows", "memory://bucket/rows"])
def test_every_expression_has_one_row_wherever_it_goes(
    out: str, folder: Path, tmp_path: Path
) -> None:
    out = out.format(tmp=tmp_path)
    plan = BatchPlan(str(folder), out, write_texts(folder, TEXTS), k=2, images_per_part=2)
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
        str(folder), str(tmp_path / "rows"), write_texts(folder, texts), images_per_part=1
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


def test_the_same_bytes_under_two_names_are_two_images(folder: Path, tmp_path: Path) -> None:
    (folder / "b.png").write_bytes(b"a.jpg")
    plan = BatchPlan(str(folder), str(tmp_path / "rows"), write_texts(folder, TEXTS))
    run(plan)
    assert {r["image"] for r in read_rows(plan.out)} == {"a.jpg", "b.png", "more/c.jpg"}


def test_another_run_does_not_mix_with_it(folder: Path, tmp_path: Path) -> None:
    plan = BatchPlan(str(folder), str(tmp_path / "rows"), write_texts(folder, TEXTS))
    run(plan)
    for other in (
        BatchPlan(str(folder), plan.out, plan.expressions, k=5),
        BatchPlan(str(folder), plan.out, write_texts(folder, TEXTS[:2])),
        BatchPlan(str(folder), plan.out),
    ):
        with pytest.raises(DatasetError, match="belongs to another run"):
            run(other)


def test_a_damaged_part_is_named(folder: Path, tmp_path: Path) -> None:
    plan = BatchPlan(str(folder), str(tmp_path / "rows"), write_texts(folder, TEXTS))
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
        Source(str(tmp_path)).list_images()
    with pytest.raises(DatasetError, match="cannot be opened"):
        Source("nowhere://bucket").list_images()
    with pytest.raises(DatasetError, match="cannot be read"):
        read_expressions(str(tmp_path / "missing.csv"))
    (tmp_path / "_run.json").write_text("{")
    with pytest.raises(DatasetError, match="cannot be used"):
        Target(str(tmp_path)).begin({})


def test_a_part_says_which_images_are_done(tmp_path: Path) -> None:
    images = [ImageRows("a.jpg", "1" * 64), ImageRows("ü.jpg", "2" * 64)]
    path = tmp_path / "part.parquet"
    path.write_bytes(encode_part(images))
    assert decode_done(path) == [image.key for image in images]
    table = pq.read_table(path)
    assert table.num_rows == 0
    assert table.schema.remove_metadata() == SCHEMA


def test_rows_to_review_are_chosen_alike_each_time(folder: Path, tmp_path: Path) -> None:
    plan = BatchPlan(str(folder), str(tmp_path / "rows"), write_texts(folder, TEXTS))
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
    with pytest.raises(DatasetError, match=r"a\.jpg has changed"):
        choose()
    run(plan)
    assert sorted(choose()) == sorted(text for _, text in TEXTS), "rows of what it shows now"
    (folder / "a.jpg").unlink()
    with pytest.raises(DatasetError, match="cannot be read"):
        choose()
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


def read_title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return ""


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.slow
class TestRay:
    """Real actors, real weights, a coarse grid."""

    SETTINGS: ClassVar[dict[str, str]] = {
        "SAYMASK_ENCODER": "starter", "SAYMASK_POINTS_PER_SIDE": "4",
        "SAYMASK_MAX_PROPOSALS": "8", "SAYMASK_FIRST_LOOK": "off", "SAYMASK_DEVICE": "cpu",
    }  # fmt: skip

    @pytest.fixture
    def photos(self, samples: dict[str, Path], tmp_path: Path) -> Path:
        missing = [name for name in DEFAULT if not WeightStore().is_present(name)]
        if missing:
            pytest.skip(f"weights not pulled: {missing} (saymask-worker models pull)")
        folder = tmp_path / "photos"
        folder.mkdir()
        image = Image.open(samples["chelsea"]).convert("RGB").resize((320, 240))
        for number in range(8):
            image.rotate(number * 3).save(folder / f"{number:02}.png")
        rows = [{"image": f"{n:02}.png", "expression": t} for n in range(8) for t in ("cat", "ear")]
        (tmp_path / "texts.jsonl").write_text("\n".join(map(json.dumps, rows)))
        return folder

    def start(self, photos: Path, out: Path, *engine: str) -> subprocess.Popen[str]:
        program = Path(sys.executable).parent / "saymask-worker"
        return subprocess.Popen(
            [program, "batch", photos, "--expressions", photos.parent / "texts.jsonl", "--out", out,
             "--images-per-part", "1", "--json", "--engine", *engine],
            env={**os.environ, **self.SETTINGS, "SAYMASK_PREPARED_DIR": str(out) + "-prepared"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def finish(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        stdout, stderr = process.communicate(timeout=400)
        assert process.returncode == 0, stderr[-3000:]
        report: dict[str, Any] = json.loads(stdout)
        return report

    def test_killed_in_the_middle_it_goes_on_and_both_engines_give_the_same(
        self, photos: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "ray"
        process = self.start(photos, out, "ray", "--actors", "2")
        await_state(lambda: len(list(out.glob("part-*"))) >= 3, "three parts", 300)
        children = psutil.Process(process.pid).children(recursive=True)
        actors = [c for c in children if "MapWorker" in read_title(c)]
        assert len(actors) == 2
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        await_state(lambda: not any(map(is_alive, actors)), "the end of Ray's actors", 60)
        before = len(list(out.glob("part-*")))
        assert 3 <= before < 8
        report = self.finish(self.start(photos, out, "ray", "--actors", "2"))
        assert (report["images"], report["failed"]) == (8, [])
        assert report["before"] == before
        assert report["rows"] == 2 * (8 - before)
        rows = read_rows(out)
        assert Counter((r["image"], r["expression"]) for r in rows) == Counter(
            (f"{n:02}.png", t) for n in range(8) for t in ("cat", "ear")
        ), "none twice, none missing"
        local = tmp_path / "local"
        assert self.finish(self.start(photos, local, "local"))["rows"] == 16

        def by_key(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
            return sorted(rows, key=lambda r: (r["image"], r["expression"]))

        assert by_key(read_rows(local)) == by_key(rows), "masks and scores are equal to the byte"
        # Ray's agents notice after a minute that their driver is gone.
        await_state(lambda: not any(map(is_alive, children)), "the end of Ray's processes", 120)

    def test_rows_are_what_an_annotator_would_be_offered(
        self, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in self.SETTINGS.items():
            monkeypatch.setenv(name, value)
        pipeline = build_pipeline(load_worker_settings(prepared_dir=tmp_path / "prepared"))
        texts = write_texts(photos, [("00.png", "the cat"), ("05.png", "the ear on the left")])
        plan = BatchPlan(str(photos), str(tmp_path / "rows"), texts)
        run_local(pipeline, plan, list_work(plan), lambda *_: None)
        for row in read_rows(plan.out):
            data = (photos / row["image"]).read_bytes()
            prepared, timings = pipeline.prepare(data)
            result = pipeline.segment(prepared, row["expression"], 3, preparation=timings)
            assert row["confidence"] == result.confidence
            assert row["noun_phrase"] == result.head_noun_phrase
            offered = [(c["counts"], c["score"]) for c in row["candidates"]]
            assert offered == [(c.mask.counts, c.score) for c in result.candidates]
            shape = np.array(Image.open(photos / row["image"])).shape[:2]
            assert tuple(row["candidates"][0]["size"]) == shape

    def test_an_actor_that_cannot_start_says_why(self, photos: Path, tmp_path: Path) -> None:
        out = tmp_path / "rows"
        Target(str(out)).begin({"model_version": "another"})
        process = self.start(photos, out, "ray")
        _, stderr = process.communicate(timeout=300)
        assert process.returncode == 2
        assert "belongs to another run" in stderr
