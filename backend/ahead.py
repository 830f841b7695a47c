"""Work done before an annotator comes: photos prepared, predictions made for a whole project."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

from backend.contract import PrepareRequest
from backend.dispatch import Dispatcher
from backend.errors import QueueError, SaymaskError, WorkerUnavailable
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.project_tasks import read_label_config, read_tasks
from backend.label_studio.tasks import PredictTask, load_task
from backend.services import PhotoShelf, Services

log = logging.getLogger(__name__)

# So many photos are fetched and queued while a worker is busy with others.
_IN_FLIGHT = 4
_TASK_WAIT_S = 600.0
_POLL_S = 0.1
# A worker that was just started loads its models first.
_WORKER_GRACE_S = 60.0
_OURS = "saymask-"
_FIELDS = "id,data,predictions_model_versions,total_annotations"

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class PreannotateReport:
    """What was done, or would be.

    Attributes:
        made: tasks that got predictions; ``expressions`` in them.
        without: tasks without an expression in their data; ``annotated``: work is done there;
            ``current``: the prediction is of this model version, or was imported.
        failed: why tasks got none.
    """

    made: int
    expressions: int
    without: int
    annotated: int
    current: int
    failed: tuple[str, ...]


@dataclass(frozen=True)
class PrepareReport:
    """Photos prepared, and why some were not."""

    prepared: int
    failed: tuple[str, ...]


@dataclass(frozen=True)
class _Open:
    """A task to be predicted."""

    task: PredictTask
    has_ours: bool


def preannotate(
    client: LabelStudioClient,
    services: Services,
    project_id: int,
    expression_fields: Sequence[str],
    progress: Progress,
    *,
    dry_run: bool = False,
) -> PreannotateReport:
    """Give every task whose data holds expressions a prediction of the current model version.
    Stopped at any time, the next call goes on with what is missing.

    Raises:
        LabelStudioError: a call failed. InvalidLabelConfig: the project is not made for saymask.
        QueueError: no worker answers.
    """
    config = read_label_config(client, project_id)
    version = services.model_version()
    wanted: list[_Open] = []
    without = annotated = current = 0
    for raw, _ in read_tasks(client, project_id, include=_FIELDS):
        task = load_task(raw, config, expression_fields)
        versions = str(raw.get("predictions_model_versions") or "").split(",")
        names = {name.strip() for name in versions if name.strip()}
        ours = {name for name in names if name.startswith(_OURS)}
        if not task.expressions:
            without += 1
        elif raw.get("total_annotations"):
            annotated += 1
        elif version in names or names - ours:
            current += 1
        else:
            wanted.append(_Open(task, bool(ours)))
    expressions = sum(len(one.task.expressions) for one in wanted)
    if dry_run:
        return PreannotateReport(len(wanted), expressions, without, annotated, current, ())
    made = said = 0
    failed: list[str] = []

    def work(one: _Open) -> dict[str, Any] | None:
        until = time.monotonic() + _TASK_WAIT_S
        return services.predict_ahead(project_id, one.task, config, until)

    with ThreadPoolExecutor(_IN_FLIGHT) as pool:
        waiting: deque[Any] = deque()
        rest = iter(wanted)
        for done in range(len(wanted)):
            waiting.extend(
                (one, pool.submit(work, one)) for one in islice(rest, _IN_FLIGHT - len(waiting))
            )
            one, future = waiting.popleft()
            try:
                prediction = future.result()
            except QueueError:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
            except SaymaskError as error:
                failed.append(f"task {one.task.task_id}: {error}")
            else:
                _store(client, one, prediction)
                made += 1
                said += len(one.task.expressions)
            progress(done + 1, len(wanted))
    return PreannotateReport(made, said, without, annotated, current, tuple(failed))


def _store(client: LabelStudioClient, one: _Open, prediction: dict[str, Any] | None) -> None:
    """The new one first, so that no moment is without; then what it replaces."""
    old = []
    if one.has_ours:
        found = client.request("GET", "/api/predictions", params={"task": one.task.task_id})
        old = [p["id"] for p in found if str(p.get("model_version", "")).startswith(_OURS)]
    client.request(
        "POST", "/api/predictions", json={"task": one.task.task_id, **(prediction or {})}
    )
    for number in old:
        client.request("DELETE", f"/api/predictions/{number}/")


def prepare_project(
    client: LabelStudioClient,
    dispatcher: Dispatcher,
    photos: PhotoShelf,
    project_id: int,
    progress: Progress,
) -> PrepareReport:
    """Have every photo of a project prepared, behind whatever annotators ask for. Photos that are
    prepared already cost milliseconds, so a second call goes on where the first stopped.

    Raises:
        LabelStudioError, InvalidLabelConfig, QueueError.
    """
    config = read_label_config(client, project_id)
    tasks = [load_task(raw, config) for raw, _ in read_tasks(client, project_id, include=_FIELDS)]
    waiting: deque[tuple[PredictTask, str]] = deque()
    failed: list[str] = []
    rest = iter(tasks)
    prepared = handled = 0
    seen = time.monotonic()
    while handled < len(tasks):
        for task in islice(rest, _IN_FLIGHT - len(waiting)):
            try:
                request = PrepareRequest(photo_sha256=photos.provide(task))
                waiting.append((task, dispatcher.prepare(request)))
            except QueueError:
                raise
            except SaymaskError as error:
                failed.append(f"task {task.task_id}: {error}")
                handled += 1
        if waiting:
            task, job_id = waiting[0]
            reply = dispatcher.read_prepared(job_id)
            if reply is None:
                if dispatcher.has_worker(background=True):
                    seen = time.monotonic()
                elif time.monotonic() - seen > _WORKER_GRACE_S:
                    raise WorkerUnavailable(
                        "No worker prepares photos.", "Start one: saymask-worker run"
                    )
                time.sleep(_POLL_S)
                continue
            waiting.popleft()
            handled += 1
            if reply.failure is None:
                prepared += 1
            else:
                failed.append(f"task {task.task_id}: {reply.failure.cause}")
        progress(handled, len(tasks))
    return PrepareReport(prepared, tuple(failed))
