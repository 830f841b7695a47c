"""Lists of Label Studio's API, read to their end; and what is to exist there once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from saymask.left_out import LeftOut
from saymask_backend.label_studio.auth import LabelStudioError
from saymask_backend.label_studio.client import LabelStudioClient
from saymask_backend.label_studio.connect import TITLE, ConnectOptions, Connector
from saymask_backend.label_studio.rest import NotFound
from tests.backend.http import KEY
from tests.backend.label_studio import LabelStudioServer

# A full page is 100; where the server allows fewer, it is 30.
COUNTS = (0, 1, 30, 31, 90, 100, 101, 200, 300)


@pytest.fixture
def client(studio: LabelStudioServer) -> Iterator[LabelStudioClient]:
    with closing(LabelStudioClient(studio.url, KEY)) as client:
        yield client


def list_tasks(client: LabelStudioClient) -> list[int]:
    left_out = LeftOut()
    found = [task.id for task in client.iterate_tasks(1, left_out)]
    assert not left_out
    return found


def ids_of(name: str) -> Callable[[LabelStudioClient], list[int]]:
    arguments = () if name == "list_projects" else (1,)
    return lambda client: [one.id for one in getattr(client, name)(*arguments)]


KINDS: dict[str, tuple[Callable[[LabelStudioClient], list[int]], dict[str, object]]] = {
    "projects": (ids_of("list_projects"), {"title": "One"}),
    "tasks": (list_tasks, {"project": 1, "data": {"image": "/data/a.png"}, "annotations": []}),
    "ml": (ids_of("list_ml_backends"), {"project": 1, "url": "http://backend"}),
    "webhooks": (ids_of("list_webhooks"), {"project": 1, "url": "http://backend/webhook"}),
    "predictions": (ids_of("list_predictions"), {"task": 1, "model_version": "m"}),
}


@pytest.mark.parametrize("page_max", [10_000, 30])
@pytest.mark.parametrize("kind", KINDS)
def test_every_list_is_read_to_its_end(
    client: LabelStudioClient, studio: LabelStudioServer, kind: str, page_max: int
) -> None:
    read, values = KINDS[kind]
    studio.page_max = page_max
    for count in COUNTS:
        studio.objects[kind].clear()
        made = [studio.add(kind, **values) for _ in range(count)]
        assert sorted(read(client)) == made, count


def test_the_tab_of_a_title_is_found_among_many(
    client: LabelStudioClient, studio: LabelStudioServer
) -> None:
    titles = [f"Tab {number}" for number in range(150)]
    views = {title: studio.add("views", project=1, data={"title": title}) for title in titles}
    assert client.ensure_view(1, "Tab 149", []) == views["Tab 149"]
    new = client.ensure_view(1, "Proposed", [])
    assert new not in views.values()
    assert client.ensure_view(1, "Proposed", []) == new


def test_a_list_that_changes_while_it_is_read_shows_nothing_twice(
    client: LabelStudioClient, studio: LabelStudioServer
) -> None:
    made = [studio.add_task({}) for _ in range(60)]
    studio.page_max = 20
    pages = client.iterate_task_pages(1)
    items = next(pages).items
    # Another task before the rest pushes the last of the first page onto the second.
    studio.objects["tasks"][0] = {"id": 0, "project": 1, "data": {}, "annotations": []}
    items += [item for page in pages for item in page.items]
    assert [item["id"] for item in items] == made


def test_a_list_that_becomes_shorter_while_it_is_read_ends(
    client: LabelStudioClient, studio: LabelStudioServer
) -> None:
    for _ in range(60):
        studio.add_task({})
    studio.page_max = 20
    pages = client.iterate_task_pages(1)
    first = next(pages)
    assert first.total == 60
    for number in range(15, 61):
        del studio.objects["tasks"][number]
    assert list(pages) == [], "what comes after the last page is not found"


def test_a_missing_project_is_no_end_of_a_list(
    client: LabelStudioClient, studio: LabelStudioServer
) -> None:
    with pytest.raises(NotFound):
        list(client.iterate_pages("/api/nothing"))
    with pytest.raises(LabelStudioError, match="not a list"):
        list(client.iterate_pages("/api/projects/1"))


def test_the_next_tasks_are_as_many_as_asked_for(
    client: LabelStudioClient, studio: LabelStudioServer
) -> None:
    for _ in range(5):
        studio.add_task({"image": "/data/a.png"})
    assert [task.id for task in client.list_tasks_after(1, 2, 2)] == [3, 4]
    assert client.list_tasks_after(1, 5, 2) == []


def test_an_odd_object_hides_no_other(client: LabelStudioClient, studio: LabelStudioServer) -> None:
    studio.add("projects", title="Odd", label_config=7)
    studio.add("webhooks", project=1, url=None)
    hook = studio.add("webhooks", project=1, url="http://backend/webhook")
    assert [project.id for project in client.list_projects()] == [1]
    assert [webhook.id for webhook in client.list_webhooks(1)] == [hook]


def at_once(studio: LabelStudioServer, work: Callable[[LabelStudioClient], object]) -> list[object]:
    """The same done by two clients, each in a thread of its own."""
    with ThreadPoolExecutor(2) as pool:
        clients = [LabelStudioClient(studio.url, KEY) for _ in range(2)]
        futures = [pool.submit(work, client) for client in clients]
        results = [future.result(30) for future in futures]
        for client in clients:
            client.close()
    return results


def test_two_who_create_a_project_at_once_end_with_one(studio: LabelStudioServer) -> None:
    """Both looked before either creates."""
    studio.meet("POST", "/api/projects", 2)
    results = at_once(studio, lambda client: client.find_or_create_project("New"))
    assert studio.meetings == {}
    assert sorted(results) == [(2, False), (2, True)]
    assert sorted(studio.objects["projects"]) == [1, 2]


def test_of_several_projects_of_a_title_the_oldest_counts(
    client: LabelStudioClient, studio: LabelStudioServer
) -> None:
    first, _second = (studio.add("projects", title="Mine") for _ in range(2))
    assert client.find_or_create_project("Mine") == (first, False)


def test_two_who_connect_at_once_attach_one_backend(studio: LabelStudioServer) -> None:
    options = ConnectOptions("http://backend", user="", password="", secret="", may_change=True)
    studio.meet("POST", "/api/ml", 2)
    results = at_once(studio, lambda client: Connector(client, options).attach(1))
    assert studio.meetings == {}
    states = [check.state for checks in results for check in checks]  # type: ignore[attr-defined]
    assert "problem" not in states
    assert [one["url"] for one in studio.objects["ml"].values()] == ["http://backend"]
    assert [one["url"] for one in studio.objects["webhooks"].values()] == ["http://backend/webhook"]
    assert studio.objects["projects"][1]["model_version"] == TITLE


def test_what_was_registered_twice_is_told_and_mended(
    client: LabelStudioClient, studio: LabelStudioServer
) -> None:
    for _ in range(2):
        studio.add("ml", project=1, url="http://backend", title=TITLE, is_interactive=True)
        studio.add("webhooks", project=1, url="http://backend/webhook")

    def look(*, may_change: bool) -> dict[str, str]:
        options = ConnectOptions("http://backend", "", "", "", may_change)
        return {check.name: check.text for check in Connector(client, options).attach(1)}

    told = look(may_change=False)
    assert "attached 2 times" in told["attachment"]
    assert "registered 2 times" in told["webhook"]
    look(may_change=True)
    assert list(studio.objects["webhooks"]) == [1]
    assert "registered" in look(may_change=False)["webhook"]
