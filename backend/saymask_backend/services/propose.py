"""Proposing expressions with their masks for the tasks of a project, for people to confirm."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from pydantic import ValidationError

from saymask.contract import (
    Describer,
    ProposedPair,
    ProposeRequest,
    ProposeResult,
    SegmentResult,
    Timings,
)
from saymask.errors import counted
from saymask.left_out import LeftOut, OnProgress
from saymask_backend.label_studio.client import LabelStudioClient
from saymask_backend.label_studio.label_config import LabelConfig
from saymask_backend.label_studio.notices import PROPOSED_NOTICE
from saymask_backend.label_studio.predict_request import PredictTask, parse_task
from saymask_backend.label_studio.predictions import to_task_prediction
from saymask_backend.label_studio.schema import Body, Id, TaskBody
from saymask_backend.queue.job_queue import JobQueue
from saymask_backend.queue.pending import Call
from saymask_backend.records.requests import NewRequest, RequestStore
from saymask_backend.records.types import ProjectKey
from saymask_backend.services.project_tasks import (
    FIELDS,
    TASK_TIMEOUT_S,
    has_foreign,
    map_concurrently,
    store_prediction,
)
from saymask_backend.services.segment import shorten_reference
from saymask_backend.services.upload_image import ImageUploader

PROPOSED_SUFFIX = "-proposed."
SOURCE_FIELD = "saymask_proposed"
"""In the data of tasks with one expression each: a ``Source``."""

# The tab of the Data Manager that shows what waits to be confirmed.
_VIEW = "Proposed"
_WAITING = [
    {"filter": f"filter:tasks:{name}", "operator": operator, "type": "Number", "value": 0}
    for name, operator in (
        ("total_predictions", "greater"), ("total_annotations", "equal"),
        ("cancelled_annotations", "equal"),
    )
]  # fmt: skip


@dataclass(frozen=True)
class ProposeOptions:
    """Options of a run.

    Attributes:
        per_image: the most expressions for an image.
        confidence_min: expressions of less confidence are left out.
        seed: for the choice among usual wordings.
        one_per_task: a new task for every expression, instead of all in the image's own.
        describer: what writes the expressions.
    """

    per_image: int
    confidence_min: float
    seed: int = 0
    one_per_task: bool = False
    describer: Describer = "rules"

    @property
    def fingerprint(self) -> str:
        """A short hash: other options give other proposals."""
        values = list(asdict(self).values())
        return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:6]


@dataclass(frozen=True)
class ProposeReport:
    """The numbers of a run, or of a dry run.

    Attributes:
        photos: that were examined; ``expressions`` proposed for them, ``tasks`` that hold these.
        empty: photos for which no expression was confident enough.
        annotated: skipped tasks, with annotations.
        up_to_date: skipped tasks, with these proposals, expressions or other predictions.
        url: where the proposals wait in Label Studio; empty where nothing was stored.
        failed: why photos got none through a fault.
    """

    photos: int
    expressions: int
    tasks: int
    empty: int
    annotated: int
    up_to_date: int
    failed: tuple[str, ...]
    url: str = ""


def propose(
    client: LabelStudioClient,
    queue: JobQueue,
    images: ImageUploader,
    requests: RequestStore,
    project_id: int,
    expression_fields: Sequence[str],
    options: ProposeOptions,
    progress: OnProgress,
    *,
    dry_run: bool = False,
) -> ProposeReport:
    """Store proposals for every task without annotations; repeating it continues.

    A dry run proposes and counts, but stores nothing.

    Raises:
        LabelStudioError, InvalidLabelConfig, QueueError.
    """
    project = client.get_project(project_id)
    config = project.read_label_config()
    version = f"{queue.get_model_version()}{PROPOSED_SUFFIX}{options.fingerprint}"
    failed = LeftOut()
    bodies = list(client.iterate_tasks(project_id, failed, FIELDS))
    proposed = requests.load_proposed_versions(project.key)
    open_tasks, counts = choose_tasks(bodies, config, expression_fields, version, proposed, failed)
    created = _find_created(bodies, version, proposed)
    writer = _Writer(client, requests, project.key, config, options, version, created)

    def ask(task: PredictTask) -> ProposeResult:
        request = ProposeRequest(
            image_sha256=images.upload(task),
            count=options.per_image,
            confidence_min=options.confidence_min,
            seed=options.seed,
            describer=options.describer,
        )
        return queue.propose(request, Call(), TASK_TIMEOUT_S)

    def finish(task: PredictTask, result: ProposeResult) -> None:
        pairs = len(result.pairs)
        if pairs and not dry_run:
            writer.store(task, result)
        tasks = pairs if options.one_per_task else min(pairs, 1)
        counts.update(photos=1, empty=int(pairs == 0), expressions=pairs, tasks=tasks)

    map_concurrently(open_tasks, ask, finish, failed, progress)
    names = ("photos", "expressions", "tasks", "empty", "annotated", "up_to_date")
    url = "" if dry_run else show_waiting(client, project_id)
    return ProposeReport(**{n: counts[n] for n in names}, failed=failed.lines, url=url)


def show_waiting(client: LabelStudioClient, project_id: int) -> str:
    """Return the address of the tab with all proposals; the tab is created if it is missing."""
    view = client.ensure_view(project_id, _VIEW, _WAITING)
    return f"{client.base_url}/projects/{project_id}/data?tab={view}"


class Source(Body):
    """The origin of a task with one expression.

    Attributes:
        task: with the image.
        place: of the expression's object among those of the image.
        version: of the proposals.
        is_last: whether all of the image's tasks have been created.
        accepted: what a false expression was made of; empty for others.
    """

    task: Id
    place: int = 0
    version: str
    is_last: bool = False
    accepted: str = ""


def choose_tasks(
    bodies: Sequence[TaskBody],
    config: LabelConfig,
    expression_fields: Sequence[str],
    version: str,
    proposed: Mapping[int, str],
    failed: LeftOut,
) -> tuple[list[PredictTask], Counter[str]]:
    """Return the tasks to propose for, and how many need nothing and why.

    ``version`` is that of the new proposals, ``proposed`` that of the last ones by task;
    ``failed`` gets the tasks that have a fault.
    """
    counts: Counter[str] = Counter()
    done = {body.id for body in bodies if is_done(body, version, proposed)}
    sources = [read_source(body) for body in bodies if body.id in done]
    done |= {source.task for source in sources if source is not None and source.is_last}
    open_tasks = []
    for body in bodies:
        if read_source(body) is not None:
            continue
        task = parse_task(body, config, expression_fields)
        if task.fault is not None:
            failed.add(f"task {body.id}", task.fault)
        elif body.total_annotations:
            counts["annotated"] += 1
        elif body.id in done or has_foreign(task) or task.expressions:
            counts["up_to_date"] += 1
        else:
            open_tasks.append(task)
    return open_tasks, counts


def read_source(body: TaskBody) -> Source | None:
    """Read a task's origin from its data; None for a task that people made."""
    try:
        return Source.model_validate(body.data.get(SOURCE_FIELD))
    except ValidationError:
        return None


def is_done(body: TaskBody, version: str, proposed: Mapping[int, str]) -> bool:
    """Return whether a task has its proposals; an interrupted run stored the offer alone."""
    return proposed.get(body.id) == version and bool(body.predictions_model_versions)


def _find_created(
    bodies: Sequence[TaskBody], version: str, proposed: Mapping[int, str]
) -> dict[tuple[int, int], tuple[int, bool]]:
    """The tasks that an interrupted run created, by source and position, and which are done."""
    sources = ((body, read_source(body)) for body in bodies)
    return {
        (source.task, source.place): (body.id, is_done(body, version, proposed))
        for body, source in sources
        if source is not None and source.version == version
    }


@dataclass(frozen=True)
class _Writer:
    """Stores proposals: first as requests, then as predictions, so that every region is known."""

    client: LabelStudioClient
    requests: RequestStore
    project: ProjectKey
    config: LabelConfig
    options: ProposeOptions
    version: str
    created: Mapping[tuple[int, int], tuple[int, bool]]

    def store(self, task: PredictTask, result: ProposeResult) -> None:
        """Store the proposals for one image."""
        if not self.options.one_per_task:
            self._replace(task, result, result.pairs)
            return
        for position, pair in enumerate(result.pairs):
            task_id, is_done = self.created.get((task.task_id, position), (None, False))
            if task_id is None:
                is_last = position == len(result.pairs) - 1
                task_id = self._create_task(task, position, is_last=is_last)
            if not is_done:
                first = pair.candidate.model_copy(update={"rank": 1})
                own = pair.model_copy(update={"candidate": first})
                self._replace(PredictTask(task_id, task.image), result, (own,))

    def _create_task(self, task: PredictTask, position: int, *, is_last: bool) -> int:
        source = Source(task=task.task_id, place=position, version=self.version, is_last=is_last)
        data = {self.config.image_key: task.image, SOURCE_FIELD: source.model_dump()}
        return self.client.create_task(self.project.id, data).id

    def _replace(
        self, task: PredictTask, result: ProposeResult, pairs: Sequence[ProposedPair]
    ) -> None:
        """Store the requests and the prediction that shows them, in place of earlier ones."""
        answers = [
            (store_offer(self.requests, self.project, task, answer), answer)
            for answer in (to_segment_result(result, pair, self.version) for pair in pairs)
        ]
        details = [_describe_origin(pair) for pair in pairs]
        prediction = to_task_prediction(answers, self.config, PROPOSED_NOTICE, details)
        # The label stream shows predictions of the workers' own model version only.
        store_prediction(self.client, task, {**prediction, "model_version": result.model_version})


def store_offer(
    requests: RequestStore, project: ProjectKey, task: PredictTask, answer: SegmentResult
) -> int:
    """Store a proposal for a task as a request for which nobody waited; returns its id."""
    request_id = requests.add_request(
        NewRequest(
            project=project,
            task_id=task.task_id,
            expression=answer.expression,
            k=1,
            image=shorten_reference(task.image),
            kind="proposed",
        )
    )
    requests.save_answer(request_id, answer, latency_ms=0.0)
    return request_id


def _describe_origin(pair: ProposedPair) -> str:
    """What a region's details say: who wrote the expression, and its other wordings."""
    origin = f"proposed by {pair.described_by}" if pair.described_by else "proposed"
    return "; also: ".join([origin, *filter(None, ["; ".join(pair.expressions[1:])])])


def to_segment_result(
    result: ProposeResult, pair: ProposedPair, model_version: str
) -> SegmentResult:
    """Return a proposed pair as if its expression had been asked."""
    return SegmentResult(
        image_sha256=result.image_sha256,
        expression=pair.expressions[0],
        size_hw=result.size_hw,
        # Where a task has several, each has another rank, and so another colour.
        candidates=(pair.candidate,),
        confidence=pair.confidence,
        head_noun_phrase=pair.noun,
        proposals_count=len(result.pairs),
        model_version=model_version,
        from_cache=result.from_cache,
        timings=Timings(),
    )


def describe(report: ProposeReport, *, dry_run: bool) -> str:
    """Return one line for people."""
    verb = "to be proposed" if dry_run else "proposed"
    return (
        f"{counted(report.expressions, 'expression')} {verb} in {counted(report.tasks, 'task')};"
        f" {counted(report.photos, 'photo')} examined, none confident enough in"
        f" {report.empty}; skipped: {report.annotated} annotated,"
        f" {report.up_to_date} with predictions"
    )
