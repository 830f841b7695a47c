"""Proposed expressions in records: confirmed, edited, reworded, rejected; and who counts them."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pyarrow import parquet

from saymask.datasets import load_coco
from saymask.left_out import LeftOut
from saymask.masks import encode_coco_rle
from saymask_backend.export.plan import select_outcomes
from saymask_backend.label_studio.api_schema import ProjectBody
from saymask_backend.label_studio.label_config import (
    default_label_config,
    load_label_config,
)
from saymask_backend.label_studio.schema import TaskBody
from saymask_backend.records.statistics import compute_quality
from saymask_backend.records.stores import Stores
from saymask_backend.records.types import RecordFilter, RecordView
from saymask_backend.records.verifications import Verification, summarise
from saymask_backend.services.import_dataset import import_dataset
from saymask_backend.services.propose import choose_tasks
from saymask_backend.services.propose_false import group_photos
from tests.backend.exports import box, export, plan, record
from tests.backend.submissions import A, B, C, process
from tests.factories import annotation, brush, event, offer, square, typed, verdict


def propose(stores: Stores, task_id: int, *expressions: str, version: str = "v-proposed.1") -> list:
    """One proposal per expression, each with a mask of its own; returns their region ids."""
    masks = dict(zip(expressions, (A, B, C), strict=False))
    return [
        offer(stores, task_id, text, [mask], kind="proposed", model_version=version)[0]
        for text, mask in masks.items()
    ]


def fates(records: list[RecordView]) -> list[tuple[str, str, str]]:
    return [(r.expression, r.outcome, r.provenance) for r in records]


def test_what_is_submitted_as_it_was_is_confirmed(stores: Stores) -> None:
    cat, dog = propose(stores, 1, "the cat", "the dog")
    result = [
        *brush(cat, A, "top-1", "prediction", "the cat"),
        *brush(dog, B, "top-1", "prediction", "the dog"),
    ]
    records = process(stores, event(1, annotation(5, result, lead_time=4.0)))
    assert fates(records) == [
        ("the cat", "accepted", "proposed"), ("the dog", "accepted", "proposed"),
    ]  # fmt: skip
    assert [record.seconds for record in records] == [2.0, 2.0]


def test_confirmed_in_a_task_of_its_own(stores: Stores) -> None:
    """The label stream shows the expression in the image's field too."""
    (cat,) = propose(stores, 1, "the cat")
    result = [typed("the cat"), *brush(cat, A, "top-1", "prediction", "the cat")]
    records = process(stores, event(1, annotation(5, result)))
    assert fates(records) == [("the cat", "accepted", "proposed")]


def test_reworded_edited_and_rejected_stay_apart(stores: Stores) -> None:
    cat, dog, _bird = propose(stores, 1, "the cat", "the dog", "the bird")
    result = [
        *brush(cat, A, "top-1", "prediction", "the striped cat"),
        *brush(dog, square(24, side=6), "top-1", "prediction-changed", "The dog"),
    ]
    records = process(stores, event(1, annotation(5, result, lead_time=9.0)))
    assert fates(records) == [
        ("the striped cat", "accepted", "reworded"), ("The dog", "edited", "proposed"),
        ("the bird", "rejected", "proposed"),
    ]  # fmt: skip
    assert records[0].typed_expression == "the cat"
    assert records[2].coco_rle is None
    quality = compute_quality(records)
    assert quality.proposals == {"edited": 1, "reworded": 1, "rejected": 1}
    assert quality.judged == 0, "nobody looked for a mask among suggestions"


def test_all_rejected_by_an_empty_annotation_or_by_skipping(stores: Stores) -> None:
    propose(stores, 1, "the cat", "the dog")
    propose(stores, 2, "the bird")
    records = process(
        stores,
        event(1, annotation(5, [])),
        event(2, annotation(6, [typed("the bird")], was_cancelled=True)),
    )
    assert fates(records) == [
        ("the cat", "rejected", "proposed"), ("the dog", "rejected", "proposed"),
        ("the bird", "rejected", "proposed"),
    ]  # fmt: skip


def test_what_is_typed_beside_proposals_is_typed(stores: Stores) -> None:
    (cat,) = propose(stores, 1, "the cat")
    (dog,) = offer(stores, 1, "the dog", [B])
    result = [
        typed("the dog"),
        *brush(cat, A, "top-1", "prediction", "the cat"),
        *brush(dog, B, "top-1", "prediction", "the dog"),
    ]
    records = process(stores, event(1, annotation(5, result)))
    assert {(r.expression, r.provenance) for r in records} == {
        ("the cat", "proposed"), ("the dog", "typed"),
    }  # fmt: skip


def test_proposals_that_were_replaced_are_not_rejected(stores: Stores) -> None:
    propose(stores, 1, "the cat", version="v1-proposed.1")
    (dog,) = propose(stores, 1, "the dog", version="v2-proposed.1")
    result = brush(dog, A, "top-1", "prediction", "the dog")
    records = process(stores, event(1, annotation(5, result)))
    assert fates(records) == [("the dog", "accepted", "proposed")]


def test_false_expressions_are_confirmed_or_rejected(stores: Stores, tmp_path: Path) -> None:
    for task_id in (1, 2, 3):
        offer(stores, task_id, "the right cup", [], kind="proposed", model_version="v-proposed")
    shown = [typed("the right cup"), verdict("no referent")]
    drawn = [typed("the right cup"), *brush("own", A, "referent", "manual", "the right cup")]
    records = process(
        stores,
        event(1, annotation(5, shown)),
        event(2, annotation(6, shown, was_cancelled=True)),
        event(3, annotation(7, drawn)),
    )
    assert fates(records) == [
        ("the right cup", "no_referent", "proposed"), ("the right cup", "rejected", "proposed"),
        ("the right cup", "drawn", "proposed"),
    ]  # fmt: skip
    assert compute_quality(records).proposals == {"confirmed": 1, "rejected": 1, "other": 1}
    exported = record(1, 1, "", None)
    photo = {"image": exported.image, "image_sha256": exported.image_sha256}
    export([replace(records[0], **photo)], plan("grefcoco", tmp_path / "out"))
    (path,) = (tmp_path / "out").glob("grefs(*).json")
    (ref,) = json.loads(path.read_text("utf-8"))
    assert (ref["no_target"], ref["ann_id"]) == (True, [-1])
    (sentence,) = ref["sentences"]
    assert (sentence["raw"], sentence["provenance"]) == ("the right cup", "proposed")


def test_a_verdict_about_a_proposal(stores: Stores) -> None:
    propose(stores, 1, "the cat")
    records = process(stores, event(1, annotation(5, [typed("the cat"), verdict("ambiguous")])))
    assert fates(records) == [("the cat", "ambiguous", "proposed")]
    assert compute_quality(records).proposals == {"other": 1}


def test_expressions_of_the_task_are_given_unless_they_are_changed(stores: Stores) -> None:
    (cat,) = offer(stores, 1, "the cat", [A], kind="ahead")
    (dog,) = offer(stores, 2, "the dog", [A], kind="ahead")
    records = process(
        stores,
        event(1, annotation(5, brush(cat, A, "top-1", "prediction", "the cat"))),
        event(2, annotation(6, brush(dog, A, "top-1", "prediction", "the puppy"))),
    )
    assert fates(records) == [
        ("the cat", "accepted", "given"), ("the puppy", "accepted", "typed"),
    ]  # fmt: skip


def test_imported_proposals_are_no_words_of_people(stores: Stores, folder: Path) -> None:
    client = ImportedTasks()
    import_dataset(client, 7, load_coco(folder), lambda _done, _total: None)  # type: ignore[arg-type]
    (made,) = client.bodies
    result = made["predictions"][0]["result"]
    body = event(1, annotation(5, result))
    body["task"]["data"] |= made["data"]
    records = process(stores, body)
    assert {r.expression: r.provenance for r in records} == {
        "the cat": "proposed", "kitty": "given", "a cat": "given",
    }  # fmt: skip
    (image,) = load_coco(folder).images
    assert [(e.text, e.is_proposed) for e in image.expressions] == [
        ("the cat", True), ("kitty", False), ("a cat", False),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["sp3xK9_qLm", "im12_0_0", "sm1_1", "own"])
def test_an_id_alone_says_nothing(stores: Stores, name: str) -> None:
    """The editor makes ids at random; one in 4,096 begins with any two letters."""
    drawn = [typed("the cat"), *brush(name, A, "referent", "manual", "the cat")]
    (record,) = process(stores, event(1, annotation(5, drawn)))
    assert (record.outcome, record.provenance) == ("drawn", "typed")


def test_tasks_are_chosen_that_have_nothing_yet() -> None:
    def body(task_id: int, versions: str = "", total: int = 0, **data: Any) -> TaskBody:
        return TaskBody(
            id=task_id, data={"image": f"/data/{task_id}.png", **data}, total_annotations=total,
            predictions_model_versions=versions,
        )  # fmt: skip

    def made(source: int, place: int, *, is_last: bool, version: str = "v2") -> dict[str, Any]:
        return {"task": source, "place": place, "version": version, "is_last": is_last}

    bodies = [
        body(1), body(2, "saymask-m"), body(3, "saymask-m"), body(4, "saymask-m"), body(5, "other"),
        body(6, total=1), body(7, expression="the cat"), body(8), body(9), body(10),
        body(20, "saymask-m", saymask_proposed=made(8, 0, is_last=False)),
        body(21, "saymask-m", saymask_proposed=made(9, 0, is_last=True)),
        body(22, saymask_proposed=made(10, 0, is_last=True)),
    ]  # fmt: skip
    proposed = {2: "v1", 3: "v2", 1: "v2", 20: "v2", 21: "v2", 22: "v2"}
    config = load_label_config(default_label_config())
    chosen, counts = choose_tasks(bodies, config, ["expression"], "v2", proposed, LeftOut())
    assert {task.task_id: bool(task.versions) for task in chosen} == {
        1: False,  # the offer was stored, and then the run ended
        2: True,  # proposed by an earlier version
        4: True,  # an empty prediction, from opening the task
        8: False,  # one of several tasks was made
        10: False,  # the task was made, without its prediction
    }
    assert counts == {"annotated": 1, "up_to_date": 4}


def test_false_expressions_are_made_again_unless_they_are_decided_or_current() -> None:
    def false(task_id: int, accepted: str, total: int = 0, versions: str = "m") -> TaskBody:
        source = {"task": 1, "version": "v1", "accepted": accepted}
        return TaskBody(
            id=task_id, data={"image": "/data/1.png", "saymask_proposed": source},
            total_annotations=total, predictions_model_versions=versions,
        )  # fmt: skip

    bodies = [
        TaskBody(id=1, data={"image": "/data/1.png"}), TaskBody(id=2, data={"text": "no photo"}),
        false(3, "The current"), false(4, "the old"), false(5, "the decided", total=1),
        false(6, "the interrupted", versions=""),
    ]  # fmt: skip
    said = ("the decided", "the old", "the current", "the interrupted", "the new", "The new")
    records = [record(n, 1, text, A) for n, text in enumerate(said)]
    records += [record(7, 2, "of a task without a photo", A), record(8, 9, "of none", A)]
    proposed = {3: "v2", 4: "v1", 5: "v1", 6: "v2"}
    failed = LeftOut()
    config = load_label_config(default_label_config())
    (photo,) = group_photos(bodies, records, "v2", proposed, config, failed)
    assert (photo.task.task_id, photo.open) == (1, 3)
    assert photo.accepted[:3] == ("the old", "the interrupted", "The new")
    assert set(photo.accepted[3:]) == {"the decided", "the current"}
    assert [line.partition(":")[0] for line in failed.lines] == ["task 2"]


class ImportedTasks:
    """Label Studio's client, as far as an import uses it."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []

    def get_project(self, project: int) -> ProjectBody:
        return ProjectBody(id=project, label_config=default_label_config())

    def iterate_tasks(self, _project: int, _left_out: LeftOut) -> Iterator[TaskBody]:
        return iter(())

    def upload_image(self, _project: int, _path: Path, name: str) -> str:
        return f"/data/upload/{name}"

    def import_tasks(self, _project: int, bodies: list[dict[str, Any]]) -> None:
        self.bodies += bodies


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A COCO file with an expression that was proposed, one confirmed, and one of old exports."""
    sentences = [
        {"raw": "the cat", "provenance": "proposed"},
        {"raw": "kitty", "provenance": "proposed", "outcome": "accepted"}, {"raw": "a cat"},
    ]  # fmt: skip
    mask = encode_coco_rle(A)
    annotated = {
        "id": 1, "image_id": 1, "category_id": 1, "segmentation": mask, "iscrowd": 0,
        "expressions": sentences,
    }  # fmt: skip
    height, width = A.shape
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": height, "width": width}],
        "annotations": [annotated], "categories": [{"id": 1, "name": "cat"}],
    }  # fmt: skip
    (tmp_path / "images").mkdir()
    Image.new("RGB", (width, height)).save(tmp_path / "images" / "a.png")
    (tmp_path / "instances.json").write_text(json.dumps(content), "utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("provenances", "expected"),
    [
        ((), {"the cat", "the dog", "the bird"}), (("proposed",), {"the cat", "the dog"}),
        (("typed", "reworded"), {"the bird"}),
    ],
)  # fmt: skip
def test_records_are_chosen_by_provenance(
    stores: Stores, provenances: tuple[str, ...], expected: set[str]
) -> None:
    cat, _dog = propose(stores, 1, "the cat", "the dog")
    (bird,) = offer(stores, 1, "the bird", [C])
    result = [
        *brush(cat, A, "top-1", "prediction", "the cat"),
        *brush(bird, C, "top-1", "prediction", "the bird"),
    ]
    process(stores, event(1, annotation(5, result)))
    chosen = RecordFilter(provenances=provenances)
    assert {r.expression for r in stores.records.iterate_records(chosen)} == expected
    assert "rejected" not in select_outcomes("huggingface", ()), "is never exported"


def test_every_format_tells_the_provenance(tmp_path: Path) -> None:
    records = [
        record(1, 1, "the cat", box(4), provenance="proposed"),
        record(2, 1, "the dog", box(24), provenance="typed"),
    ]
    expected = {"the cat": "proposed", "the dog": "typed"}
    export(records, plan("coco", tmp_path / "coco"))
    found = {}
    for path in (tmp_path / "coco" / "annotations").iterdir():
        content = json.loads(path.read_text("utf-8"))
        found |= {
            e["raw"]: e["provenance"] for a in content["annotations"] for e in a["expressions"]
        }
    assert found == expected
    export(records, plan("refcoco", tmp_path / "refcoco"))
    with (tmp_path / "refcoco" / "refs(saymask).p").open("rb") as file:
        sentences = [s for ref in pickle.load(file) for s in ref["sentences"]]
    assert {s["raw"]: s["provenance"] for s in sentences} == expected
    verified = summarise([Verification(1, 9, 5, "a", "confirmed", records[0].decided_at)])
    export(records, plan("huggingface", tmp_path / "hf", verification=verified))
    rows = [row for path in (tmp_path / "hf" / "data").iterdir() for row in read_table(path)]
    assert {r["expressions"][0]: r["provenances"][0] for r in rows} == expected
    card = (tmp_path / "hf" / "README.md").read_text("utf-8")
    assert "| proposed, and decided as it was | 50.0 % |" in card
    assert "Label error rate 0.0 %" in card
    manifest = json.loads((tmp_path / "hf" / "manifest.json").read_text("utf-8"))
    assert manifest["verification"]["records"] == 1


def read_table(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    return rows
