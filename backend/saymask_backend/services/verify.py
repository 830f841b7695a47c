"""Blind verification: people who see only image and expression click the object."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from saymask.errors import InvalidAnnotation, InvalidRequest
from saymask.left_out import LeftOut, OnProgress
from saymask.runs import RunMask, read_coco_runs
from saymask_backend.export.plan import OUTCOMES_WITH_MASK
from saymask_backend.label_studio.annotations import VerifyAnswer, read_answer
from saymask_backend.label_studio.api_schema import ProjectBody
from saymask_backend.label_studio.client import LabelStudioClient
from saymask_backend.label_studio.label_config import load_verify_config
from saymask_backend.label_studio.schema import AnnotationBody, TaskBody, validate
from saymask_backend.records.stores import Stores
from saymask_backend.records.types import RecordFilter, RecordView
from saymask_backend.records.verifications import (
    Verdict,
    Verification,
    VerificationSummary,
    summarise,
)

_RECORD_FIELD = "saymask_record"
# Masks that overlap more are the same object.
_SAME_OBJECT_IOU = 0.5


@dataclass(frozen=True)
class DrawReport:
    """A sample: ``added`` of the project's ``records`` with a mask, and why others ``failed``.

    ``project_id`` is the project in which people verify.
    """

    project_id: int
    records: int
    added: int
    failed: tuple[str, ...]


@dataclass(frozen=True)
class ReadReport:
    """The answers so far.

    Attributes:
        annotations: all of them.
        unanswered: of these, skipped or without a click or a choice.
        outdated: of these, about records that were changed or deleted since.
        problems: why others, or whole tasks, could not be read.
        summary: of all that is known about the project's records, None where nothing is.
    """

    annotations: int
    unanswered: int
    outdated: int
    problems: tuple[str, ...]
    summary: VerificationSummary | None


class Verifier:
    """Has records verified in a project of their own, as a user who may create projects."""

    def __init__(self, client: LabelStudioClient, stores: Stores) -> None:
        self._client = client
        self._stores = stores

    def draw(self, project_id: int, count: int, seed: int, progress: OnProgress) -> DrawReport:
        """Add a random sample of a project's records with a mask to those to be verified.

        Records that are there already are not drawn again.

        Raises:
            InvalidRequest: the project has no record that could be drawn, or another
                project has the title.
            LabelStudioError: a call failed; what was added stays.
        """
        records = self._load_records(project_id)
        if not records:
            raise InvalidRequest(
                f"Project {project_id} has no record with a mask.",
                "Annotate first; see: saymask records list",
            )
        own_id = self._find_or_create_project(project_id)
        failed = LeftOut()
        present = {_read_record_id(task) for task in self._client.iterate_tasks(own_id, failed)}
        remaining = [record for record in records if record.id not in present]
        drawn = random.Random(seed).sample(remaining, min(count, len(remaining)))
        added = 0
        for done, record in enumerate(drawn, start=1):
            data = {"image": record.image, "expression": record.expression}
            with failed.guard(f"record {record.id}"):
                self._client.create_task(own_id, {**data, _RECORD_FIELD: record.id})
                added += 1
            progress(done, len(drawn))
        return DrawReport(own_id, len(records), added, failed.lines)

    def read(self, project_id: int, progress: OnProgress) -> ReadReport:
        """Read the answers so far; they replace those that were read before.

        Raises:
            LabelStudioError: a call failed; what was read before stays.
        """
        mark = self._build_mark(project_id)
        found = (p.id for p in self._client.list_projects() if _has_mark(p, mark))
        own_id = min(found, default=None)
        counts: Counter[str] = Counter()
        problems = LeftOut()
        if own_id is not None:
            verifications = []
            records = {record.id: record for record in self._load_records(project_id)}
            tasks = list(self._client.iterate_tasks(own_id, problems, include=None))
            for done, task in enumerate(tasks, start=1):
                for annotation in task.annotations:
                    counts["annotations"] += 1
                    with problems.guard(f"task {task.id}"):
                        outcome = self._judge(annotation, task, own_id, records)
                        if isinstance(outcome, Verification):
                            verifications.append(outcome)
                        else:
                            counts[outcome] += 1
                progress(done, len(tasks))
            self._stores.verifications.replace(own_id, verifications)
        summary = summarise(self._stores.verifications.load(project_id))
        names = ("annotations", "unanswered", "outdated")
        numbers = {name: counts[name] for name in names}
        return ReadReport(**numbers, problems=problems.lines, summary=summary)

    def _judge(
        self,
        annotation: dict[str, Any],
        task: TaskBody,
        own_id: int,
        records: dict[int, RecordView],
    ) -> Verification | Literal["unanswered", "outdated"]:
        """One person's verdict on one record; or why there is none."""
        record = records.get(_read_record_id(task))
        if record is None:
            return "outdated"
        body = validate(
            AnnotationBody.model_validate, annotation, InvalidAnnotation, "The annotation"
        )
        neighbours = (r for r in records.values() if r is not record and _is_same_image(r, record))
        mask = read_coco_runs(record.coco_rle or {})
        others = [read_coco_runs(r.coco_rle) for r in neighbours if r.coco_rle is not None]
        # The photo may have been replaced by one of another size between two records.
        others = [other for other in others if other.size_hw == mask.size_hw]
        verdict = None if body.was_cancelled else judge(read_answer(body), mask, others)
        if verdict is None:
            return "unanswered"
        return Verification(record.id, own_id, body.id, body.completed_by, verdict, body.updated_at)

    def _load_records(self, project_id: int) -> list[RecordView]:
        wanted = RecordFilter(project_id=project_id, outcomes=OUTCOMES_WITH_MASK)
        return list(self._stores.records.iterate_records(wanted))

    def _find_or_create_project(self, project_id: int) -> int:
        """The project in which the records of another are verified by this installation."""
        title, mark = f"Verification of project {project_id}", self._build_mark(project_id)
        projects = self._client.list_projects()
        strangers = [p.id for p in projects if p.title == title]
        if strangers and not any(_has_mark(project, mark) for project in projects):
            raise InvalidRequest(
                f"Project {strangers[0]} is called {title!r}, and this installation of saymask did"
                " not make it.",
                f"Rename it in Label Studio; or, if it is yours, add {mark} to its description.",
            )
        own_id, _ = self._client.find_or_create_project(
            title,
            load_verify_config(),
            f"Click the one object that each expression means. {mark}",
            is_wanted=lambda project: _has_mark(project, mark),
        )
        return own_id

    def _build_mark(self, project_id: int) -> str:
        """What the project's description holds: others may have projects of the same title."""
        return f"[saymask {self._stores.verifications.name_database()}/{project_id}]"


def judge(answer: VerifyAnswer, mask: RunMask, others: Sequence[RunMask]) -> Verdict | None:
    """Return the verdict of a person who saw image and expression alone; None without an answer.

    ``mask`` is recorded for the expression, ``others`` for the image's other expressions.
    """
    if answer.choice is not None:
        return answer.choice
    if not answer.clicks_xy:
        return None
    if len(answer.clicks_xy) > 1:
        return "several"
    (click,) = answer.clicks_xy
    rivals = (other for other in others if mask.compute_iou(other) < _SAME_OBJECT_IOU)
    is_elsewhere = not _holds(mask, click) or any(_holds(rival, click) for rival in rivals)
    return "elsewhere" if is_elsewhere else "confirmed"


def _holds(mask: RunMask, click_xy: tuple[float, float]) -> bool:
    height, width = mask.size_hw
    x = min(int(click_xy[0] * width), width - 1)
    y = min(int(click_xy[1] * height), height - 1)
    return mask.holds(x, y)


def _is_same_image(first: RecordView, second: RecordView) -> bool:
    if first.image_sha256 and second.image_sha256:
        return first.image_sha256 == second.image_sha256
    return first.image == second.image


def _has_mark(project: ProjectBody, mark: str) -> bool:
    return mark in (project.description or "")


def _read_record_id(task: TaskBody) -> int:
    """The record that a task is about; 0 where people changed its data."""
    record_id = task.data.get(_RECORD_FIELD)
    return record_id if type(record_id) is int else 0
