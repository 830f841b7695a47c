"""Requests made from our own description, and real ones with something changed: never a 500."""

from __future__ import annotations

import copy
import json
import logging
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings

from saymask_backend.records.stores import Stores
from saymask_backend.services.record import Recorder
from tests.backend.http import JSON_TYPE
from tests.conftest import DATA, load_capture
from tests.reliability.test_load import served

Build = Callable[..., TestClient]

COUNT = int(os.environ.get("FUZZ_COUNT", "2000"))
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 2**31, 2**63, -(2**63), 10**40, 0.5, -0.0, 1e308, float("nan"),
    float("inf"), "", " ", "\0", "\ud800", "🐶" * 50, "a" * 5000, "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59-23:59", "../../etc/passwd", "[/]", "{{7*7}}", "<View/>", [], [[]], {},
    {"id": {}}, [None], ["x"] * 100, {"": ""}, "http://169.254.169.254/", "data:image/png;base64,",
)  # fmt: skip


def list_paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value, but of long lists only the beginning."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, child in value.items():
            yield from list_paths(child, (*path, key))
    if isinstance(value, list):
        for index, child in enumerate(value[:6]):
            yield from list_paths(child, (*path, index))


def mutate(body: Any, chance: random.Random) -> Any:
    """Change one to three places: another value, none, one more, or a value from elsewhere."""
    body = copy.deepcopy(body)
    for _ in range(chance.randint(1, 3)):
        paths = list(list_paths(body))
        if not paths:
            return chance.choice(ODD)
        *parents, last = chance.choice(paths)
        place = body
        for part in parents:
            place = place[part]
        kind = chance.randrange(6)
        if kind == 0:
            del place[last]
        elif kind == 1 and isinstance(place, list):
            place.append(copy.deepcopy(place[last]))
        elif kind == 2:
            value = body
            for part in chance.choice(paths):
                value = value[part]
            place[last] = copy.deepcopy(value)
        else:
            place[last] = copy.deepcopy(chance.choice(ODD))
    return body


def check(answer: httpx.Response, sent: Any) -> None:
    assert answer.status_code != 500, (answer.text, json.dumps(sent)[:2000])
    if answer.status_code >= 400:
        body = answer.json()
        assert body.get("cause") or body.get("detail"), answer.text


def test_real_requests_with_something_changed(
    build_client: Build,
    start_worker: Callable[..., Any],
    app_stores: Stores,
    caplog: pytest.LogCaptureFixture,
) -> None:
    start_worker()
    client = build_client(sync_every_s=0)
    names = sorted(path.stem for path in (DATA / "captures").glob("*.json"))
    bodies = {name: load_capture(name) for name in names}
    targets = {
        name: "/webhook" if isinstance(body, dict) and "action" in body else "/predict"
        for name, body in bodies.items()
        if isinstance(body, dict) and ("action" in body or "tasks" in body)
    }
    chance = random.Random(14)
    statuses: Counter[tuple[str, int]] = Counter()
    with caplog.at_level(logging.ERROR):
        for _ in range(COUNT):
            name = chance.choice(sorted(targets))
            body = mutate(bodies[name], chance)
            # Lone surrogates and NaN come as Label Studio's own JSON encoder would send them.
            answer = client.post(targets[name], content=json.dumps(body), headers=JSON_TYPE)
            check(answer, body)
            statuses[targets[name], answer.status_code] += 1
        Recorder(app_stores).process_waiting()
    assert [r.getMessage() for r in caplog.records if r.exc_info] == []
    states = app_stores.events.count_events_by_state()
    assert "waiting" not in states
    bugs = [p.problem for p in app_stores.events.list_problems(10**6) if "is a bug" in p.problem]
    assert bugs == []
    assert statuses["/webhook", 200] > COUNT // 10, statuses
    assert statuses["/predict", 200] > COUNT // 100, statuses


@pytest.fixture
def api(build_client: Build, start_worker: Callable[..., Any]) -> Iterator[str]:
    start_worker()
    with served(build_client(sync_every_s=0)) as url:
        yield url


def test_requests_made_from_the_description(api: str) -> None:
    schema = schemathesis.openapi.from_url(f"{api}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    assert {operation.path for operation in operations} >= {"/predict", "/webhook", "/ready", "/"}
    for operation in operations:
        ask_often(operation)


def ask_often(operation: Any) -> None:
    @settings(
        max_examples=40, deadline=None, phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck), derandomize=True,
    )  # fmt: skip
    @given(case=operation.as_strategy())
    def ask(case: Any) -> None:
        answer = case.call()
        assert answer.status_code != 500, (answer.text, case)
        if answer.status_code >= 400 and operation.path != "/ready":
            assert {"cause", "detail"} & set(answer.json()), answer.text

    ask()
