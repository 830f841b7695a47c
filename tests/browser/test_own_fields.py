"""A project's own labels and fields beside ours, in the real editor: recorded as accepted."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from tests.backend.test_label_config import OWN_FIELDS, build_config
from tests.browser.editor import Editor
from tests.stack.running import Running, connect, records_of, tasks_of

pytestmark = [pytest.mark.stack, pytest.mark.browser]


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
    assert sorted(labels) == [["best"], ["top-2"], ["top-3"]], "Label Studio sends the alias"
    (record,) = records_of(stack, task, 1)
    assert (record.outcome, record.rank, record.expression) == ("accepted", 1, "the helmet")
    assert record.notes == ["1 of type choices left out"]
