"""What a kept mask costs an annotator: seconds, clicks and keys, by mouse and by keyboard.

A real Label Studio in a real Chromium; no time to think is counted. The right suggestion is the
first that meets the true mask at IoU 0.5 or more, else the first. Needs the tests' packages, and in
SAYMASK_LABEL_STUDIO_PROGRAM the Label Studio.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from benchmarks.measure import Cells, Table, percentile
from saymask.datasets import DatasetImage, Expression, load_dataset
from saymask.runs import read_coco_runs
from tests.browser.editor import Editor, open_editor
from tests.stack.running import Running, running, tasks_of

EXPRESSIONS = 40
_RIGHT_IOU = 0.5
_SETTINGS = {"SAYMASK_SYNC_EVERY_S": "0", "SAYMASK_ENCODER": "starter"}
_WAYS = {
    "mouse, separate suggestions together": ("together", False),
    "mouse, one suggestion at a time": ("one", False),
    "keyboard, one suggestion at a time": ("one", True),
}


def measure(dataset: Path | None) -> Table:
    """Compare three ways to keep a mask for each of forty expressions.

    Args:
        dataset: folder in RefCOCO's layout; its split ``val`` is used.

    Raises:
        ValueError: no folder was given.
    """
    if dataset is None:
        raise ValueError("confirming needs --dataset FOLDER, in RefCOCO's layout with a split val")
    images = load_dataset("refcoco", dataset, "val").images
    chosen: list[tuple[DatasetImage, tuple[Expression, ...]]] = []
    left = EXPRESSIONS
    for image in images:
        chosen.append((image, image.expressions[:left]))
        left -= len(chosen[-1][1])
        if not left:
            break
    rows = []
    with tempfile.TemporaryDirectory() as scratch, running(Path(scratch), _SETTINGS) as stack:
        for number, (way, (suggestions, by_keyboard)) in enumerate(_WAYS.items()):
            project = _connect(stack, way, suggestions, [image.path for image, _ in chosen])
            with open_editor(stack, Path(scratch) / f"profile-{number}") as editor:
                day = _Day(stack, editor, project, by_keyboard=by_keyboard)
                rows.append({"way": way, **day.annotate([texts for _, texts in chosen])})
    return Table(f"Keeping {EXPRESSIONS} masks on {len(chosen)} photos", rows)


def _connect(stack: Running, title: str, suggestions: str, photos: list[Path]) -> int:
    """A project with these photos, prepared."""
    options = ("--backend-url", stack.backend_url, "--suggestions", suggestions)
    stack.saymask("connect", "--create", title, *options)
    with closing(stack.client()) as client:
        project, _ = client.find_or_create_project(title)
        client.import_images(project, photos)
    stack.saymask("prepare", "--project", str(project))
    return project


class _Day:
    """One annotator in one project."""

    def __init__(self, stack: Running, editor: Editor, project: int, *, by_keyboard: bool) -> None:
        self._stack = stack
        self._editor = editor
        self._project = project
        self._by_keyboard = by_keyboard

    def annotate(self, photos: list[tuple[Expression, ...]]) -> Cells:
        """Seconds and actions per mask; opening a task and switching modes once are not counted."""
        editor = self._editor
        with closing(self._stack.client()) as client:
            tasks = [int(task["id"]) for task in tasks_of(client, self._project)]
        seconds: list[float] = []
        actions = picked = 0
        for index, (task, expressions) in enumerate(zip(tasks, photos, strict=True)):
            editor.open(self._project, task)
            if self._by_keyboard and index == 0:
                editor.auto_accept()
            editor.actions = 0
            if self._by_keyboard:
                editor.page.locator(".saymask-expression input").first.click()
                editor.actions += 1
            for expression in expressions:
                started = time.monotonic()
                picked += self._keep(task, expression)
                seconds.append(time.monotonic() - started)
            (editor.submit_by_keyboard if self._by_keyboard else editor.submit)()
            actions += editor.actions
        return {
            "seconds a mask, median": statistics.median(seconds),
            "seconds, 90 %": percentile(seconds, 0.9),
            "clicks and keys a mask": actions / len(seconds),
            "of another rank than 1": picked,
        }

    def _keep(self, task: int, expression: Expression) -> bool:
        """Type an expression and keep the right suggestion; whether it was not the first."""
        say: Callable[[str], float] = self._editor.enter if self._by_keyboard else self._editor.type
        say(expression.text)
        rank = self._find_right_rank(task, expression)
        if not self._by_keyboard:
            self._editor.accept(rank)
        elif rank > 1:
            say(str(rank))
        return rank > 1

    def _find_right_rank(self, task: int, expression: Expression) -> int:
        truth = read_coco_runs(expression.target)
        with closing(self._stack.open_stores()) as stores:
            request = next(r for r in stores.requests.list_recent() if r.task_id == task)
            offer = stores.requests.load_offer(request.id)
        candidates = offer.candidates if offer else ()
        right = (c.rank for c in candidates if c.mask.compute_iou(truth) >= _RIGHT_IOU)
        return next(right, 1)
