"""Blind verification: who sees image and expression alone clicks what is meant."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from backend.export.plan import OUTCOMES_WITH_MASK
from backend.label_studio.client import LabelStudioClient
from backend.label_studio.schema import AnnotationBody, TaskBody, validate
from backend.label_studio.verify_config import VerifyAnswer, load_verify_config, read_answer
from backend.records.stores import Stores
from backend.records.verifications import Verdict, Verification, VerificationSummary, summarise
from backend.records.views import RecordFilter, RecordView
from saymask.errors import InvalidAnnotation, InvalidRequest
from saymask.runs import RunMask, read_coco_runs

_RECORD_FIELD = "saymask_record"
# Masks that overlap more are the same object.
_SAME_OBJECT_IOU = 0.5

Progress = Callable[[int, int], None]
"""Called with the number of finished items and of all."""


@dataclass(frozen=True)
class DrawReport:
    """A sample that was drawn: ``added`` of the project's ``records`` with a mask.

    ``project_id`` is the project in which people verify.
    """

    project_id: int
    records: int
    added: int


@dataclass(frozen=True)
class ReadReport:
    """What was read: the number of ``annotations``, and why some say nothing.

    ``summary`` is of all that is known about the project's records, None where nothing is.
    """

    annotations: int
    problems: tuple[str, ...]
    summary: VerificationSummary | None


class Verifier:
    """Has records verified in a project of their own.

    Args:
        client: logged in as a user who may create projects.
        stores: of the records.
    """

    def __init__(self, client: LabelStudioClient, stores: Stores) -> None:
        self._client = client
        self._stores = stores

    def draw(self, project_id: int, count: int, seed: int, progress: Progress) -> DrawReport:
        """Add a random sample of a project's records with a mask to those to be verified.

        Records that are there already are not drawn again.

        Raises:
            InvalidRequest: the project has no record that could be drawn.
            LabelStudioError: a call failed; what was added stays.
        """
        records = self._load_records(project_id)
        if not records:
            raise InvalidRequest(
                f"Project {project_id} has no record with a mask.",
                "Annotate first; see: saymask records list",
            )
        title = _to_title(project_id)
        own_id, _ = self._client.find_or_create_project(
            title, load_verify_config(), "Click the one object that each expression means."
        )
        present = {task.data.get(_RECORD_FIELD) for task in self._client.iterate_tasks(own_id)}
        remaining = [record for record in records if record.id not in present]
        drawn = random.Random(seed).sample(remaining, min(count, len(remaining)))
        for done, record in enumerate(drawn, start=1):
            data = {
                "image": record.image,
                "expression": record.expression,
                _RECORD_FIELD: record.id,
            }
            self._client.create_task(own_id, data)
            progress(done, len(drawn))
        return DrawReport(own_id, len(records), len(drawn))

    def read(self, project_id: int, progress: Progress) -> ReadReport:
        """Read what people said so far; it replaces what was read before.

        Raises:
            LabelStudioError: a call failed; what was read before stays.
        """
        own_id = self._find_project(project_id)
        count, problems = 0, list[str]()
        if own_id is not None:
            verifications = []
            records = {record.id: record for record in self._load_records(project_id)}
            tasks = list(self._client.iterate_tasks(own_id, include=None))
            for done, task in enumerate(tasks, start=1):
                for annotation in task.annotations:
                    count += 1
                    outcome = self._judge(annotation, task, own_id, records)
                    if isinstance(outcome, str):
                        problems.append(f"task {task.id}: {outcome}")
                    else:
                        verifications.append(outcome)
                progress(done, len(tasks))
            self._stores.verifications.replace(own_id, verifications)
        summary = summarise(self._stores.verifications.load(project_id))
        return ReadReport(count, tuple(problems), summary)

    def _judge(
        self,
        annotation: dict[str, Any],
        task: TaskBody,
        own_id: int,
        records: dict[int, RecordView],
    ) -> Verification | str:
        """One person's verdict on one record; or why there is none."""
        record = records.get(task.data.get(_RECORD_FIELD, 0))
        if record is None:
            return "its record was changed or deleted since."
        try:
            body = validate(
                AnnotationBody.model_validate, annotation, InvalidAnnotation, "The annotation"
            )
        except InvalidAnnotation as error:
            return str(error)
        neighbours = (r for r in records.values() if r is not record and _is_same_image(r, record))
        mask = read_coco_runs(record.coco_rle or {})
        others = [read_coco_runs(r.coco_rle) for r in neighbours if r.coco_rle is not None]
        # The photo may have been replaced by one of another size between two records.
        others = [other for other in others if other.size_hw == mask.size_hw]
        verdict = None if body.was_cancelled else judge(read_answer(body), mask, others)
        if verdict is None:
            return "neither a click nor a choice."
        return Verification(record.id, own_id, body.id, body.completed_by, verdict, body.updated_at)

    def _load_records(self, project_id: int) -> list[RecordView]:
        wanted = RecordFilter(project_id=project_id, outcomes=OUTCOMES_WITH_MASK)
        return list(self._stores.records.iterate_records(wanted))

    def _find_project(self, project_id: int) -> int | None:
        title = _to_title(project_id)
        return next((p.id for p in self._client.list_projects() if p.title == title), None)


def judge(answer: VerifyAnswer, mask: RunMask, others: Sequence[RunMask]) -> Verdict | None:
    """Return the verdict on a recorded mask; None where nothing was answered.

    Args:
        answer: of a person who saw image and expression alone.
        mask: recorded for the expression.
        others: masks of the image's other records.
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


def _to_title(project_id: int) -> str:
    return f"Verification of project {project_id}"
