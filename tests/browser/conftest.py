"""One saymask with a real Label Studio for all tests in a browser, and a browser for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.browser.editor import Editor, open_editor
from tests.stack.running import Running, running, tasks_of


@pytest.fixture(scope="package")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("annotating")) as opened:
        yield opened


@pytest.fixture
def editor(stack: Running, tmp_path: Path) -> Iterator[Editor]:
    with open_editor(stack, tmp_path / "profile") as opened:
        yield opened


@pytest.fixture
def new_task(stack: Running, samples: dict[str, Path]) -> Callable[..., int]:
    """A task of its own for a test."""

    def make(photo: str, **data: Any) -> int:
        with closing(stack.client()) as client:
            if data:
                reference = client.upload_image(1, samples[photo], samples[photo].name)
                client.import_tasks(1, [{"data": {"image": reference, **data}}])
            else:
                client.import_images(1, [samples[photo]])
            return int(tasks_of(client)[-1]["id"])

    return make
