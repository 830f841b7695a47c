"""A log that a run continues from, wherever the run before it was killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from saymask.errors import DatasetError
from saymask_worker.images.jsonl_log import ResumableLog

RUN = {"model_version": "v1", "sides": (1, 2)}


class Line(BaseModel):
    name: str


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.worker.test_jsonl_log import RUN, Line
from saymask_worker.images.jsonl_log import ResumableLog

path, written = Path(sys.argv[1]), int(sys.argv[2])

def write_and_die(self, data):
    with self.open("wb") as file:
        file.write(data[:written])
    os.kill(os.getpid(), signal.SIGKILL)

Path.write_bytes = write_and_die
ResumableLog(path, Line, RUN)
"""


@pytest.mark.parametrize("written", [0, 1, 20])
def test_a_run_that_is_killed_in_the_first_line_is_begun_again(
    tmp_path: Path, written: int
) -> None:
    path = tmp_path / "out" / "log.jsonl"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path), str(written)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert path.stat().st_size == written
    log = ResumableLog(path, Line, RUN)
    log.append(Line(name="a"))
    assert ResumableLog(path, Line, RUN).read() == [Line(name="a")]


def test_a_line_that_was_cut_off_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    ResumableLog(path, Line, RUN).append(Line(name="a"))
    with path.open("a") as file:
        file.write('{"name": "b')
    log = ResumableLog(path, Line, RUN)
    assert log.read() == [Line(name="a")]
    for name in ("b", "c"):
        log.append(Line(name=name))
    assert [line.name for line in ResumableLog(path, Line, RUN).read()] == ["a", "b", "c"]


@pytest.mark.parametrize("content", ["my notes", '["a"]\n', '{"model_ver'])
def test_a_file_of_something_else_stays_as_it_is(tmp_path: Path, content: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(content)
    with pytest.raises(DatasetError, match="holds something else"):
        ResumableLog(path, Line, {"other": 1})
    assert path.read_text() == content
