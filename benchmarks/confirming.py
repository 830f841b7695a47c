"""Forty proposed samples confirmed in Label Studio's label stream, against typing the same forty.

No time to think is counted in either. Needs Chromium and the tests' packages; ``make bench`` names
the Label Studio.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from backend.label_studio.client import LabelStudioClient
from benchmarks.measure import Row, percentile
from benchmarks.session import SETTINGS, make_photos
from tests.browser.editor import Editor, open_editor
from tests.stack.running import Running, running

SAMPLES = 40
_TITLES = ("Confirming", "Typing")


@dataclass
class _Effort:
    """What samples took: seconds of each, clicks and special keys, and letters typed."""

    seconds: list[float]
    actions: int
    letters: int

    def describe(self) -> str:
        median, p90 = statistics.median(self.seconds), percentile(self.seconds, 0.9)
        count = len(self.seconds)
        return (
            f"{median:.2f} s (90 % {p90:.2f} s), {self.actions / count:.1f} clicks and keys,"
            f" {self.letters / count:.0f} letters"
        )


def _connect(stack: Running, client: LabelStudioClient, title: str, photos: list[Path]) -> int:
    stack.saymask("connect", "--create", title, "--backend-url", stack.backend_url)
    project, _ = client.find_or_create_project(title)
    client.import_images(project, photos)
    stack.saymask("prepare", "--project", str(project), "--json")
    return project


def _confirm(editor: Editor, tab: str) -> tuple[_Effort, list[str]]:
    editor.label_as_displayed(tab)
    editor.actions = 0
    seconds, texts = [], []
    for _ in range(SAMPLES):
        texts.append(str(editor.state["regions"][0]["text"]))
        seconds.append(editor.press_for_next("Control+Enter"))
    return _Effort(seconds, editor.actions, 0), texts


def _type(editor: Editor, project: int, work: list[tuple[int, str]]) -> _Effort:
    """Open, type, accept the first, submit."""
    seconds, actions = [], 0
    for task, text in work:
        # Opening the task is not counted.
        editor.open(project, task)
        editor.actions = 0
        started = time.monotonic()
        editor.type(text)
        editor.accept(1)
        editor.press("Control+Enter")
        editor.page.wait_for_selector('button:has-text("Update")', timeout=30_000)
        seconds.append(time.monotonic() - started)
        actions += editor.actions
    return _Effort(seconds, actions, sum(len(text) for _, text in work))


def compare() -> list[Row]:
    """Medians over the same forty expressions."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with running(folder, SETTINGS) as stack:
            with closing(stack.client()) as client:
                photos = make_photos(folder)
                own = _connect(stack, client, _TITLES[0], photos)
                report = stack.saymask(
                    "propose", "--project", str(own), "--one-per-task", "--per-image", "4",
                    "--confidence", "0.05", "--json",
                )  # fmt: skip
                if report["tasks"] <= SAMPLES:
                    raise RuntimeError(f"only {report['tasks']} expressions were proposed")
                other = _connect(stack, client, _TITLES[1], photos)
                # A task of its own for every sample.
                client.import_images(other, photos)
                tasks = sorted(task.id for task in client.iterate_tasks(other))
                with open_editor(stack, folder / "profile") as editor:
                    confirmed, texts = _confirm(editor, report["url"])
                    work = list(zip(tasks, texts, strict=True))
                    typed = _type(editor, other, work)
            quality = stack.saymask("stats", "--project", str(own), "--json")["quality"]
    count = quality["proposals"].get("confirmed", 0)
    a, b = statistics.median(typed.seconds), statistics.median(confirmed.seconds)
    return [
        Row(
            f"a sample without time to think, {SAMPLES} each in a browser: typed, accepted and"
            f" submitted / proposed and confirmed ({count} records)",
            typed.describe(), confirmed.describe(), f"{a / b:.1f}x", "B 4 s",
        )
    ]  # fmt: skip
