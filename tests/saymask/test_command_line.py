"""What both command lines print where, and with which exit status they end."""

from __future__ import annotations

import errno
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
from rich.console import Console

from saymask.command_line import (
    build_app,
    explain_writing,
    finish,
    parse_one_of,
    print_problems,
    run_command_line,
    show_progress,
    show_step,
)
from saymask.errors import DatasetError, InvalidRequest, counted
from saymask.redaction import hide_from_now_on

Capture = pytest.CaptureFixture[str]


@dataclass(frozen=True)
class Report:
    photos: int
    failed: tuple[str, ...] = ()


def end(report: Report, *, as_json: bool) -> int:
    with pytest.raises(typer.Exit) as ended:
        finish(report, f"{report.photos} photos", as_json=as_json, failed=report.failed)
    return ended.value.exit_code


def test_an_answer_is_on_stdout_and_what_failed_on_stderr(capsys: Capture) -> None:
    assert end(Report(2), as_json=False) == 0
    assert capsys.readouterr() == ("2 photos\n", "")
    odd = Report(2, ("[a].png: damaged", "b\udce9.png: missing"))
    assert end(odd, as_json=False) == 1
    assert capsys.readouterr() == (
        "2 photos\n", "failed: [a].png: damaged\nfailed: b\\xe9.png: missing\n",
    )  # fmt: skip
    assert end(Report(2, ("a: b",)), as_json=True) == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"photos": 2, "failed": ["a: b"]}
    assert printed.err == ""


def test_long_lines_are_not_wrapped_and_many_are_counted(capsys: Capture) -> None:
    print_problems("failed", ["x" * 200] * 25)
    lines = capsys.readouterr().err.splitlines()
    assert (len(lines), lines[0], lines[-1]) == (21, "failed: " + "x" * 200, "and 5 more")


def test_errors_are_cause_and_cure_and_bugs_a_trace_without_secrets(capsys: Capture) -> None:
    def fail() -> None:
        raise DatasetError("The set [x] is damaged.", "Fetch it again.")

    with pytest.raises(SystemExit, match="2"):
        run_command_line(fail)
    assert capsys.readouterr() == ("", "error: The set [x] is damaged.\nFetch it again.\n")
    hide_from_now_on("a-secret-of-a-test")

    def crash() -> None:
        raise RuntimeError("it says a-secret-of-a-test")

    with pytest.raises(SystemExit, match="1"):
        run_command_line(crash)
    printed = capsys.readouterr()
    assert "RuntimeError: it says" in printed.err
    assert "a-secret-of-a-test" not in printed.err + printed.out


def test_a_full_disk_is_an_error_in_words(capsys: Capture) -> None:
    def fill() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "a/[part]")

    with pytest.raises(SystemExit, match="2"):
        run_command_line(fill)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: a/[part] cannot be written: ")
    assert printed.err.endswith("Make room on that disk, or name a folder on another one.\n")


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "x.png"
    with (
        pytest.raises(InvalidRequest, match=r"x\.png cannot be written"),
        explain_writing(path),
    ):
        path.write_bytes(b"")


def test_a_repeatable_option_has_choices() -> None:
    parse = parse_one_of(("a", "b"))
    assert parse("a") == "a"
    with pytest.raises(typer.BadParameter, match="'c' is not one of 'a', 'b'"):
        parse("c")


def test_an_app_without_a_command_shows_its_help(capsys: Capture) -> None:
    app = build_app("What it is for.")
    app.command()(lambda: None)
    app.command("other")(lambda: None)
    with pytest.raises(SystemExit):
        app([])
    printed = capsys.readouterr()
    assert "What it is for." in printed.out + printed.err


def test_a_number_agrees_with_its_noun() -> None:
    assert [counted(number, "photo") for number in (0, 1, 2)] == ["0 photos", "1 photo", "2 photos"]


def test_what_takes_a_while_is_told_where_no_terminal_shows_it(capsys: Capture) -> None:
    with show_step("loading models"):
        assert capsys.readouterr() == ("", "loading models ...\n")


def test_a_progress_bar_shows_count_and_figures() -> None:
    target = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=100)
    with show_progress("waiting", target=target) as update:
        update(0, None)
        update(2, 3, "loss 0.5", "training")
    shown = target.file.getvalue()
    assert re.search(r"training .* 2/3 loss 0\.5", shown), shown
