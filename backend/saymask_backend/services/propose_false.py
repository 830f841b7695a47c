"""Proposing false expressions: accepted ones with one word changed, for people to confirm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from saymask.contract import (
    FalseExpression,
    ProposeRequest,
    ProposeResult,
    SegmentResult,
    Timings,
)
from saymask.errors import ConfigError, InvalidLabelConfig
from saymask.left_out import LeftOut, OnProgress
from saymask_backend.export.plan import OUTCOMES_WITH_MASK
from saymask_backend.label_studio.client import LabelStudioClient
from saymask_backend.label_studio.label_config import LabelConfig
from saymask_backend.label_studio.notices import FALSE_NOTICE
from saymask_backend.label_studio.predict_request import PredictTask, parse_task
from saymask_backend.label_studio.predictions import build_notice, build_typed, build_verdict
from saymask_backend.label_studio.schema import TaskBody
from saymask_backend.queue.job_queue import JobQueue
from saymask_backend.queue.pending import Call
from saymask_backend.records.requests import RequestStore
from saymask_backend.records.stores import Stores
from saymask_backend.records.types import ProjectKey, RecordFilter, RecordView, to_key
from saymask_backend.services.project_tasks import (
    FIELDS,
    TASK_TIMEOUT_S,
    map_concurrently,
    store_prediction,
)
from saymask_backend.services.propose import (
    PROPOSED_SUFFIX,
    SOURCE_FIELD,
    ProposeOptions,
    ProposeReport,
    Source,
    is_done,
    read_source,
    show_waiting,
    store_offer,
)
from saymask_backend.services.upload_image import ImageUploader

_SUFFIX = f"{PROPOSED_SUFFIX}false"


@dataclass(frozen=True)
class Photo:
    """A photo that people described.

    Attributes:
        task: the first one with this photo.
        accepted: every expression with a mask, once, those first of which no false one was made.
        open: how many these are.
        made: key of an accepted expression to the task of the false one made of it. Where nobody
            has decided, a task without a prediction of the workers' version is filled again.
    """

    task: PredictTask
    accepted: tuple[str, ...]
    open: int
    made: Mapping[str, TaskBody]


def propose_false(
    client: LabelStudioClient,
    queue: JobQueue,
    images: ImageUploader,
    stores: Stores,
    project_id: int,
    options: ProposeOptions,
    progress: OnProgress,
    *,
    dry_run: bool = False,
) -> ProposeReport:
    """Create a task for each false expression; at most one is made of each accepted expression.

    A dry run proposes and counts, but stores nothing.

    Raises:
        InvalidLabelConfig: the project has no choice for "no referent".
        LabelStudioError, QueueError.
    """
    project = client.get_project(project_id)
    config = project.read_label_config()
    if config.verdict is None:
        raise InvalidLabelConfig(
            "The labelling interface has no choice that says 'no referent'.",
            "Add the Choices of saymask's own labelling interface; see: saymask connect",
        )
    failed = LeftOut()
    bodies = list(client.iterate_tasks(project_id, failed, FIELDS))
    records = stores.records.load_figures(
        RecordFilter(project_id=project_id, outcomes=OUTCOMES_WITH_MASK)
    )
    records = [record for record in records if record.project == project.key]
    version = f"{queue.get_model_version()}{_SUFFIX}"
    proposed = stores.requests.load_proposed_versions(project.key)
    photos = group_photos(bodies, records, version, proposed, config, failed)
    waiting = {photo.task.task_id: photo for photo in photos if _count_missing(photo, options)}
    counts = Counter(up_to_date=len(photos) - len(waiting))
    writer = _Writer(client, stores.requests, project.key, config)

    def ask(task: PredictTask) -> ProposeResult:
        photo = waiting[task.task_id]
        request = ProposeRequest(
            image_sha256=images.upload(task),
            count=_count_missing(photo, options),
            confidence_min=options.confidence_min,
            seed=options.seed,
            accepted=photo.accepted,
        )
        return queue.propose(request, Call(), TASK_TIMEOUT_S)

    def finish(task: PredictTask, result: ProposeResult) -> None:
        if result.false is None:
            raise ConfigError(
                "The workers are of a version that makes no false expressions.",
                "Update the workers to the version of this command.",
            )
        photo = waiting[task.task_id]
        missing = photo.accepted[: photo.open]
        chosen = [false for false in result.false if false.accepted in missing]
        for false in chosen if not dry_run else ():
            writer.store(photo, false, result)
        found = len(chosen)
        counts.update(photos=1, empty=int(not found), expressions=found, tasks=found)

    map_concurrently([photo.task for photo in waiting.values()], ask, finish, failed, progress)
    names = ("photos", "expressions", "tasks", "empty", "annotated", "up_to_date")
    url = "" if dry_run else show_waiting(client, project_id)
    return ProposeReport(**{n: counts[n] for n in names}, failed=failed.lines, url=url)


def _count_missing(photo: Photo, options: ProposeOptions) -> int:
    """How many more false expressions a photo may have."""
    done = len(photo.accepted) - photo.open
    return max(0, min(photo.open, options.per_image - done))


def group_photos(
    bodies: Sequence[TaskBody],
    records: Sequence[RecordView],
    version: str,
    proposed: Mapping[int, str],
    config: LabelConfig,
    failed: LeftOut,
) -> list[Photo]:
    """Return the photos of which records with a mask exist, as far as they have a task.

    Args:
        bodies: the project's tasks.
        records: of the project, with a mask.
        version: of new proposals.
        proposed: version of the last ones, by task.
        config: of the project.
        failed: gets the tasks that have a fault.
    """
    by_id = {body.id: body for body in bodies}
    grouped: dict[str, list[RecordView]] = {}
    for record in sorted(records, key=lambda r: r.task_id):
        if record.task_id in by_id and record.expression:
            photo = record.image_sha256 or f"task {record.task_id}"
            grouped.setdefault(photo, []).append(record)
    sources = [(body, source) for body in bodies if (source := read_source(body)) is not None]
    photos = []
    for group in grouped.values():
        tasks = {record.task_id for record in group}
        own = [(b, s) for b, s in sources if s.accepted and s.task in tasks]
        made = {to_key(s.accepted): b for b, s in own}
        done = {k for k, b in made.items() if b.total_annotations or is_done(b, version, proposed)}
        texts = list({to_key(r.expression): r.expression for r in group}.items())
        ordered = sorted(texts, key=lambda item: item[0] in done)
        task = parse_task(by_id[group[0].task_id], config)
        if task.fault is not None:
            failed.add(f"task {task.task_id}", task.fault)
            continue
        is_open = sum(key not in done for key, _ in texts)
        photos.append(Photo(task, tuple(text for _, text in ordered), is_open, made))
    return photos


@dataclass(frozen=True)
class _Writer:
    """Creates a task for each false expression: its request, then the prediction with a verdict."""

    client: LabelStudioClient
    requests: RequestStore
    project: ProjectKey
    config: LabelConfig

    def store(self, photo: Photo, false: FalseExpression, result: ProposeResult) -> None:
        """Store one; a task that an interrupted run created is used."""
        version = f"{result.model_version}{_SUFFIX}"
        body = photo.made.get(to_key(false.accepted))
        if body is None:
            source = Source(task=photo.task.task_id, version=version, accepted=false.accepted)
            data = {self.config.image_key: photo.task.image, SOURCE_FIELD: source.model_dump()}
            body = self.client.create_task(self.project.id, data)
        task = parse_task(body, self.config)
        answer = SegmentResult(
            image_sha256=result.image_sha256,
            expression=false.expression,
            size_hw=result.size_hw,
            candidates=(),
            head_noun_phrase=None,
            proposals_count=0,
            model_version=version,
            from_cache=result.from_cache,
            timings=Timings(),
        )
        store_offer(self.requests, self.project, task, answer)
        prediction = {
            "result": [
                build_typed(self.config, [false.expression]),
                build_verdict(self.config, "no referent"),
                *build_notice(self.config, FALSE_NOTICE),
            ],
            "score": 0.0,
            "model_version": result.model_version,
        }
        store_prediction(self.client, task, prediction)
