"""What an admin does after the annotators' day: prepare, doctor, connect, fields of their own."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from tests.backend.test_label_config import OWN_FIELDS, build_config
from tests.browser.editor import Editor
from tests.stack.running import Running, connect, records_of, tasks_of

pytestmark = [pytest.mark.stack, pytest.mark.browser]


def test_prepare_and_doctor(stack: Running) -> None:
    report = stack.saymask("prepare", "--project", "1", "--json", status=1)
    assert report["prepared"] >= 6
    assert len(report["failed"]) == 1, "the photo that is gone"
    assert "Is the photo still there?" in report["failed"][0]
    checks = stack.saymask("doctor", "--json")
    assert {check["state"] for check in checks} == {"ok"}, checks


def test_connect_makes_a_project_work_and_says_what_does_not(stack: Running) -> None:
    first = stack.saymask("connect", "--create", "Fresh photos", "--json")
    states = {check["name"]: check["state"] for check in first}
    assert states["project"] == states["attachment"] == "changed"
    assert states["test event"] == "ok"
    assert states["test expression"] == "unknown", "there is no task yet"
    again = stack.saymask("connect", "--create", "Fresh photos", "--json")
    assert {c["state"] for c in again} == {"ok", "unknown"}, again
    with closing(stack.client()) as client:
        found = client.request("GET", "/api/projects", params={"page_size": 100})["results"]
        number = next(p["id"] for p in found if p["title"] == "Fresh photos")
        (hook,) = client.request("GET", "/api/webhooks", params={"project": number})
        client.request("DELETE", f"/api/webhooks/{hook['id']}/")
        broken = stack.saymask("doctor", "--project", str(number), "--json", status=1)
        problems = {check["name"] for check in broken if check["state"] == "problem"}
        assert problems == {f"project {number}: webhook", f"project {number}: test event"}
        for check in broken:
            assert check["cure"] or check["state"] != "problem", "every problem has a cure"
        mended = stack.saymask("connect", "--project", str(number), "--json")
        assert {c["name"] for c in mended if c["state"] == "changed"} == {"webhook"}
        plain = client.request("POST", "/api/projects", json={"title": "Not ours"})
        written = stack.saymask("connect", "--project", str(plain["id"]), "--json")
        assert {c["name"]: c["state"] for c in written}["labelling config"] == "changed"
    wrong = stack.saymask("connect", "--project", "1", "--api-key", "0" * 40, "--json", status=1)
    assert {c["name"]: c["state"] for c in wrong}["API key"] == "problem"


def test_aliases_and_fields_of_each_region_change_nothing(
    stack: Running, editor: Editor, samples: dict[str, Path]
) -> None:
    config = build_config(*OWN_FIELDS.values()).replace(
        '<Label value="top-1"', '<Label value="top-1" alias="best"'
    )
    with closing(stack.client()) as client:
        project, _ = client.find_or_create_project("Own fields", config, "")
        connect(client, project, stack)
        client.import_images(project, [samples["astronaut"]])
        (task,) = (t["id"] for t in tasks_of(client, project))
    editor.open(project, task)
    editor.auto_annotation()
    editor.type("the helmet")
    editor.accept_all()
    editor.select_region()
    editor.choose("visible")
    editor.picture("own-fields")
    editor.submit()
    with closing(stack.client()) as client:
        (sent,) = (t["annotations"][0]["result"] for t in tasks_of(client, project))
    assert {entry["from_name"] for entry in sent} >= {"expression", "mask", "occlusion"}
    labels = [e["value"]["brushlabels"] for e in sent if e["type"] == "brushlabels"]
    assert ["best"] in labels, "Label Studio sends the alias"
    assert ["top-1"] not in labels
    (record,) = records_of(stack, task, 1)
    assert (record.outcome, record.rank, record.expression) == ("accepted", 1, "the helmet")
    assert record.notes == ["1 of type choices left out"]
