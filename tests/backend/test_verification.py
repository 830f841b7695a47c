"""Blind verification: what a click says, and what follows for the labels."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from sqlalchemy import update

from saymask.errors import InvalidRequest
from saymask_backend.label_studio.annotations import VerifyAnswer, read_answer
from saymask_backend.label_studio.client import LabelStudioClient
from saymask_backend.label_studio.label_config import load_verify_config
from saymask_backend.label_studio.schema import AnnotationBody
from saymask_backend.records.database import StoreError
from saymask_backend.records.stores import Stores
from saymask_backend.records.tables import VerificationRow
from saymask_backend.records.types import RecordFilter
from saymask_backend.records.verifications import Verdict, Verification, compute_wilson, summarise
from saymask_backend.services.report import Reporter
from saymask_backend.services.verify import Verifier, judge
from tests.backend.http import KEY
from tests.backend.label_studio import LabelStudioServer
from tests.backend.submissions import process
from tests.factories import HEIGHT, WIDTH, annotation, brush, event, offer, square, to_runs

NOW = datetime(2026, 11, 27, 9, tzinfo=UTC)
CAT, DOG = square(4), square(24)
ON_CAT, ON_DOG, NOWHERE = (10 / WIDTH, 10 / HEIGHT), (30 / WIDTH, 10 / HEIGHT), (0.99, 0.99)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (VerifyAnswer((ON_CAT,), None), "confirmed"),
        (VerifyAnswer((ON_DOG,), None), "elsewhere"),
        (VerifyAnswer((NOWHERE,), None), "elsewhere"),
        (VerifyAnswer(((1.0, 1.0),), None), "elsewhere"),
        (VerifyAnswer((ON_CAT, ON_DOG), None), "several"),
        (VerifyAnswer((ON_CAT,), "several"), "several"),
        (VerifyAnswer((), "none"), "none"),
        (VerifyAnswer((), None), None),
    ],
)
def test_one_click_in_the_mask_confirms_it(answer: VerifyAnswer, expected: Verdict | None) -> None:
    assert judge(answer, to_runs(CAT), [to_runs(DOG)]) == expected


def test_a_click_on_another_object_in_front_does_not_confirm() -> None:
    collar = square(8, 8, 4)
    on_collar = VerifyAnswer(((10 / WIDTH, 10 / HEIGHT),), None)
    assert judge(on_collar, to_runs(CAT), [to_runs(collar)]) == "elsewhere"
    assert judge(on_collar, to_runs(CAT), [to_runs(CAT)]) == "confirmed", (
        "the same object under another name"
    )


def click(x: float, y: float) -> dict[str, Any]:
    return {
        "id": "c", "type": "keypointlabels", "from_name": "click", "to_name": "image",
        "original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0, "origin": "manual",
        "value": {"x": x, "y": y, "width": 0.3, "keypointlabels": ["meant"]},
    }  # fmt: skip


def choice(name: str) -> dict[str, Any]:
    return {
        "id": "v", "type": "choices", "from_name": "verdict", "to_name": "image",
        "origin": "manual", "value": {"choices": [name]},
    }  # fmt: skip


def test_answers_are_read_from_annotations() -> None:
    def read(*entries: dict[str, Any]) -> VerifyAnswer:
        return read_answer(AnnotationBody.model_validate(annotation(5, list(entries))))

    assert read(click(25.0, 50.0)) == VerifyAnswer(((0.25, 0.5),), None)
    assert read(choice("nothing fits")) == VerifyAnswer((), "none")
    assert read() == VerifyAnswer((), None)
    assert 'value="$expression"' in load_verify_config()


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [(0, 20, 0.0, 0.1611), (2, 20, 0.0279, 0.3010), (10, 20, 0.2993, 0.7007), (20, 20, 0.8389, 1)],
)
def test_wilson_s_interval_against_published_values(
    hits: int, count: int, low: float, high: float
) -> None:
    """Of Newcombe, "Two-sided confidence intervals for the single proportion", 1998, method 3."""
    assert compute_wilson(hits, count) == pytest.approx((low, high), abs=1e-4)


def say(record_id: int, verifier: str, verdict: Verdict) -> Verification:
    number = abs(hash((record_id, verifier))) % 10_000_000
    return Verification(record_id, 9, number, verifier, verdict, NOW)


def test_the_label_error_rate_and_how_verifiers_agree() -> None:
    said = [
        say(1, "a", "confirmed"), say(1, "b", "confirmed"), say(2, "a", "confirmed"),
        say(2, "b", "elsewhere"), say(3, "a", "none"), say(4, "a", "confirmed"),
    ]  # fmt: skip
    summary = summarise(said)
    assert summary is not None
    assert (summary.records, summary.confirmed, summary.error_rate) == (4, 2, 0.5)
    assert (summary.pairs, summary.agreement) == (2, 0.5)
    assert summary.verdicts == {"confirmed": 4, "elsewhere": 1, "none": 1}
    assert "Label error rate 50.0 %" in summary.describe()
    assert summarise([]) is None


@pytest.fixture
def recorded(stores: Stores) -> Stores:
    (cat,) = offer(stores, 1, "the cat", [CAT])
    (dog,) = offer(stores, 2, "the dog", [DOG])
    process(
        stores,
        event(1, annotation(5, brush(cat, CAT, "top-1", "prediction", "the cat"))),
        event(2, annotation(6, brush(dog, DOG, "top-1", "prediction", "the dog"))),
    )
    return stores


@pytest.fixture
def verifier(recorded: Stores, studio: LabelStudioServer) -> Iterator[Verifier]:
    with closing(LabelStudioClient(studio.url, KEY)) as client:
        yield Verifier(client, recorded)


TITLE = "Verification of project 7"


def test_a_stranger_s_project_of_the_title_is_left_alone(
    verifier: Verifier, studio: LabelStudioServer
) -> None:
    stranger = studio.add("projects", title=TITLE)
    with pytest.raises(InvalidRequest, match=f"Project {stranger} is called") as refused:
        verifier.draw(7, 2, 0, lambda *_: None)
    assert studio.objects["tasks"] == {}
    assert verifier.read(7, lambda *_: None).annotations == 0
    # Its description is what makes it ours, as the message says.
    mark = re.search(r"\[saymask .*\]", refused.value.cure)
    assert mark is not None
    studio.objects["projects"][stranger]["description"] = f"Mine. {mark[0]}"
    assert verifier.draw(7, 2, 0, lambda *_: None).project_id == stranger


def test_the_project_is_found_by_its_mark(
    verifier: Verifier, recorded: Stores, studio: LabelStudioServer, tmp_path: Path
) -> None:
    own = verifier.draw(7, 1, 0, lambda *_: None).project_id
    studio.objects["projects"][own]["title"] = "Renamed"
    drawn = verifier.draw(7, 5, 0, lambda *_: None)
    assert (drawn.project_id, drawn.added) == (own, 1)
    assert len({task["data"]["saymask_record"] for task in studio.objects["tasks"].values()}) == 2
    # Another installation, with records of its own about a project of the same number.
    with closing(Stores(f"sqlite:///{tmp_path / 'other.db'}")) as other:
        other.migrate()
        process(other, event(1, annotation(5, brush("own", CAT, "referent", "manual", "a cat"))))
        with closing(LabelStudioClient(studio.url, KEY)) as client:
            theirs = Verifier(client, other).draw(7, 1, 0, lambda *_: None)
    assert theirs.project_id != own


def test_two_who_draw_for_the_first_time_at_once_share_a_project(
    recorded: Stores, studio: LabelStudioServer
) -> None:
    studio.meet("POST", "/api/projects", 2)

    def draw() -> int:
        with closing(LabelStudioClient(studio.url, KEY)) as client:
            return Verifier(client, recorded).draw(7, 1, 0, lambda *_: None).project_id

    with ThreadPoolExecutor(2) as pool:
        first, second = [future.result(30) for future in [pool.submit(draw) for _ in range(2)]]
    assert studio.meetings == {}
    assert first == second
    assert sorted(studio.objects["projects"]) == [1, first]


def test_odd_tasks_and_annotations_are_told(verifier: Verifier, studio: LabelStudioServer) -> None:
    own = verifier.draw(7, 2, 0, lambda *_: None).project_id
    first, second = studio.objects["tasks"].values()
    confirmed = annotation(1, [click(25, 25)])
    first["annotations"] = [confirmed, annotation(2, [], was_cancelled=True), {"id": 3}]
    second["annotations"] = [annotation(4, [choice("nothing fits")])]
    studio.add_task({"saymask_record": ["x"]}, own, total=1)
    studio.add("tasks", project=own, odd={"id": "x"})
    studio.objects["tasks"][3]["annotations"] = [annotation(5, [])]
    report = verifier.read(7, lambda *_: None)
    assert (report.annotations, report.unanswered, report.outdated) == (5, 1, 1)
    names = [line.partition(":")[0] for line in report.problems]
    assert names == ["task x", "task 1"]
    assert report.summary is not None
    assert report.summary.records == 2


def test_one_command_at_a_time(recorded: Stores, studio: LabelStudioServer, tmp_path: Path) -> None:
    """A second one waits for the first, sees what it did, and continues from there."""
    lock = FileLock(tmp_path / "project-7.lock")
    environment = {
        "SAYMASK_DATA_DIR": str(tmp_path), "SAYMASK_LABEL_STUDIO_URL": studio.url,
        "SAYMASK_LABEL_STUDIO_API_KEY": KEY,
        "SAYMASK_DATABASE_URL": recorded.database.engine.url.render_as_string(False),
    }  # fmt: skip
    command = [Path(sys.executable).parent / "saymask", "verify", "--project", "7"]
    with lock:
        second = subprocess.Popen(
            [*command, "--sample", "5", "--json"], text=True, env={**os.environ, **environment},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert second.stderr is not None
        assert "Waiting for another command about project 7" in second.stderr.readline()
        with closing(LabelStudioClient(studio.url, KEY)) as client:
            Verifier(client, recorded).draw(7, 1, 0, lambda *_: None)
    output, _ = second.communicate(timeout=60)
    assert second.returncode == 0
    assert json.loads(output)["added"] == 1
    drawn = [task["data"]["saymask_record"] for task in studio.objects["tasks"].values()]
    assert len(drawn) == len(set(drawn)) == 2


def test_only_confirmed_records_are_verified(recorded: Stores) -> None:
    cat, dog = recorded.records.iterate_records(RecordFilter())
    verified = RecordFilter(is_verified=True)
    assert list(recorded.records.iterate_records(verified)) == []
    recorded.verifications.replace(9, [say(cat.id, "a", "confirmed"), say(dog.id, "a", "none")])
    assert [r.id for r in recorded.records.iterate_records(verified)] == [cat.id]
    report = Reporter(recorded).build_report(RecordFilter(project_id=7))
    assert report.verification is not None
    assert report.verification.error_rate == 0.5
    # Read again: the second reading replaces the first, and one who denies it decides.
    said = [say(cat.id, "a", "confirmed"), say(cat.id, "b", "several")]
    recorded.verifications.replace(9, said)
    assert list(recorded.records.iterate_records(verified)) == []
    assert recorded.verifications.load(7) == said
    assert recorded.verifications.load(8) == []


def test_verdicts_survive_backup_and_restore(recorded: Stores, tmp_path: Path) -> None:
    from saymask_backend.records.backup import restore_backup, write_backup

    record = next(iter(recorded.records.iterate_records(RecordFilter())))
    recorded.verifications.replace(9, [say(record.id, "a", "confirmed")])
    write_backup(recorded.database, tmp_path / "b.zip", lambda *_: None)
    other = Stores(f"sqlite:///{tmp_path / 'other.db'}")
    restore_backup(other.database, tmp_path / "b.zip", lambda *_: None)
    assert other.verifications.load() == recorded.verifications.load()
    other.close()


def test_an_unknown_verdict_is_an_error_in_words(stores: Stores) -> None:
    process(stores, event(1, annotation(5, brush("own", CAT, "referent", "manual", "the cat"))))
    (record,) = stores.records.iterate_records(RecordFilter())
    stores.verifications.replace(9, [Verification(record.id, 9, 1, None, "confirmed", NOW)])
    assert [item.verdict for item in stores.verifications.load()] == ["confirmed"]
    with stores.database.session() as session, session.begin():
        session.execute(update(VerificationRow).values(verdict="perhaps"))
    with pytest.raises(StoreError, match="unknown verdict 'perhaps'"):
        stores.verifications.load()
