"""Batches with real weights, here and on Ray's actors: equal, none twice, none missing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from saymask_worker.batch.folders import PartFolder
from saymask_worker.batch.local import run_local
from saymask_worker.batch.plan import BatchPlan, list_work
from saymask_worker.config.settings import load_worker_settings
from saymask_worker.pipeline.build import build_pipeline
from tests.conftest import await_state
from tests.weights import require_weights
from tests.worker.batch_files import read_rows, write_texts

pytestmark = pytest.mark.slow

# A coarse grid: what is tested is the same.
SETTINGS = {
    "SAYMASK_ENCODER": "starter", "SAYMASK_POINTS_PER_SIDE": "4",
    "SAYMASK_FIRST_LOOK": "off", "SAYMASK_DEVICE": "cpu",
}  # fmt: skip
TEXTS = [(f"{number:02}.png", text) for number in range(8) for text in ("cat", "ear")]


@pytest.fixture
def photos(samples: dict[str, Path], tmp_path: Path) -> Path:
    require_weights()
    folder = tmp_path / "photos"
    folder.mkdir()
    image = Image.open(samples["chelsea"]).convert("RGB").resize((320, 240))
    for number in range(8):
        image.rotate(number * 3).save(folder / f"{number:02}.png")
    write_texts(tmp_path / "texts.jsonl", TEXTS)
    return folder


def start(photos: Path, out: Path, *engine: str) -> subprocess.Popen[str]:
    program = Path(sys.executable).parent / "saymask-worker"
    return subprocess.Popen(
        [program, "batch", photos, "--expressions", photos.parent / "texts.jsonl", "--out", out,
         "--images-per-part", "1", "--json", "--engine", *engine],
        env={**os.environ, **SETTINGS, "SAYMASK_PREPARED_DIR": str(out) + "-prepared"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def read_title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return ""


def is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    stdout, stderr = process.communicate(timeout=400)
    assert process.returncode == 0, stderr[-3000:]
    report: dict[str, Any] = json.loads(stdout)
    return report


def test_killed_in_the_middle_it_goes_on_and_both_engines_give_the_same(
    photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "ray"
    process = start(photos, out, "ray", "--actors", "2")
    await_state(lambda: len(list(out.glob("part-*"))) >= 3, "three parts", 300)
    children = psutil.Process(process.pid).children(recursive=True)
    actors = [c for c in children if "MapWorker" in read_title(c)]
    assert len(actors) == 2
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    await_state(lambda: not any(map(is_alive, actors)), "the end of Ray's actors", 60)
    before = len(list(out.glob("part-*")))
    assert 3 <= before < 8
    report = finish(start(photos, out, "ray", "--actors", "2"))
    assert (report["images"], report["failed"]) == (8, [])
    assert report["before"] == before
    assert report["rows"] == 2 * (8 - before)
    rows = read_rows(out)
    assert Counter((r["image"], r["expression"]) for r in rows) == Counter(TEXTS), (
        "none twice, none missing"
    )
    local = tmp_path / "local"
    assert finish(start(photos, local, "local"))["rows"] == 16

    def by_key(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return sorted(rows, key=lambda r: (r["image"], r["expression"]))

    assert by_key(read_rows(local)) == by_key(rows), "masks and scores are equal to the byte"
    # Ray's agents notice after a minute that their driver is gone.
    await_state(lambda: not any(map(is_alive, children)), "the end of Ray's processes", 120)


def test_rows_are_what_an_annotator_would_be_offered(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    pipeline = build_pipeline(load_worker_settings(prepared_dir=tmp_path / "prepared"))
    texts = write_texts(
        tmp_path / "two.jsonl", [("00.png", "the cat"), ("05.png", "the ear on the left")]
    )
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


def test_an_actor_that_cannot_start_says_why(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows"
    PartFolder(str(out)).begin({"model_version": "another"})
    process = start(photos, out, "ray")
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 2
    assert "belongs to another run" in stderr


def test_odd_names_concern_themselves_only(photos: Path, tmp_path: Path) -> None:
    """A name that is not UTF-8, resource forks, another suffix, and brackets in the target."""
    for number in range(1, 8):
        (photos / f"{number:02}.png").unlink()
    with Image.open(photos / "00.png") as image:
        image.rotate(5).save(photos / "01.jfif", "JPEG")
    with open(os.fsencode(photos) + b"/caf\xe9.png", "wb") as file:
        file.write((photos / "00.png").read_bytes())
    (photos / "._00.png").write_bytes(b"resource fork")
    table = tmp_path / "texts.csv"
    lines = ["\ufeffImage;Expression", "00.png;the cat, left", "01.jfif;ear", ";"]
    table.write_bytes("\r\n".join(lines).encode())
    failed = ["caf\\xe9.png: its name is not UTF-8. Rename the file."]
    given = ("--expressions", str(table))
    proposed = ("--propose", "--confidence", "0")
    for name, options, wanted in (("given [v1]", given, []), ("proposed [v1]", proposed, failed)):
        out = tmp_path / name
        for before in (0, 2):
            status, report = run_batch(photos, out, *options)
            assert (status, report["before"], report["failed"]) == (
                int(bool(wanted)),
                before,
                wanted,
            )
        assert {row["image"] for row in read_rows(out)} == {"00.png", "01.jfif"}
    rows = read_rows(tmp_path / "given [v1]")
    assert {r["expression"] for r in rows} == {"the cat, left", "ear"}


def run_batch(photos: Path, out: Path, *options: str) -> tuple[int, dict[str, Any]]:
    """Exit status and report."""
    done = subprocess.run(
        [Path(sys.executable).parent / "saymask-worker", "batch", photos, "--out", out, "--json",
         *options],
        env={**os.environ, **SETTINGS, "SAYMASK_PREPARED_DIR": str(photos) + "-prepared"},
        capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.stdout, done.stderr[-3000:]
    return done.returncode, json.loads(done.stdout)


def test_propose_goes_on_past_a_name_that_is_not_utf8(photos: Path, tmp_path: Path) -> None:
    for number in range(1, 8):
        (photos / f"{number:02}.png").unlink()
    with open(os.fsencode(photos) + b"/caf\xe9.png", "wb") as file:
        file.write((photos / "00.png").read_bytes())
    for before in (0, 1):
        done = subprocess.run(
            [Path(sys.executable).parent / "saymask-worker", "propose", photos, "--out",
             os.fsencode(tmp_path) + b"/out \xe9", "--json"],
            env={**os.environ, **SETTINGS, "SAYMASK_PREPARED_DIR": str(tmp_path / "prepared")},
            capture_output=True, text=True, timeout=400,
        )  # fmt: skip
        assert done.returncode == 1, done.stderr[-3000:]
        report = json.loads(done.stdout)
        assert (report["photos"], report["before"]) == (2, before)
        assert report["failed"] == ["caf\\xe9.png: its name is not UTF-8. Rename the file."]
