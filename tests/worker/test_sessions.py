"""What a process keeps of an image: once, within its room, and no longer."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from saymask_worker.config.pipeline import PipelineConfig
from saymask_worker.images.types import PreparedImage
from saymask_worker.masks.sources.base import SourceMask
from saymask_worker.pipeline.sources import InstanceChooser
from saymask_worker.ranking.global_local_clip import GlobalLocalClip
from saymask_worker.serving import sessions
from saymask_worker.serving.sessions import ImageSessions, choose_max_bytes, count_bytes
from tests.worker.scenes import described, parsed, prepared_image, scene
from tests.worker.test_instances import IMAGE, ByPlace, Instances, box
from tests.worker.test_lazy_crops import Eye
from tests.worker.test_lazy_crops import score as score_by_crops


def build_method() -> GlobalLocalClip:
    """The real one, for the made-up image's two-dimensional features."""
    encoder: Any = SimpleNamespace()
    return GlobalLocalClip(PipelineConfig(), encoder, described().vocabulary)


def build_look() -> PreparedImage:
    image = prepared_image()
    pixels = np.zeros((*image.proposals.masks.shape[1:], 3), np.uint8)
    features = replace(image.features, region=image.features.local_context)
    return replace(image, features=features, is_first_look=True, pixels=pixels)


@pytest.fixture
def without_search_for_circles() -> Iterator[None]:
    """Memory must come back at once, not when Python next searches for circles."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_a_scored_image_is_freed(without_search_for_circles: None) -> None:
    method, image = build_method(), prepared_image()
    for expression in (parsed(), parsed(sides=("left",))):
        method.score(image, scene()[2], expression)
    assert method in image.derived
    ends = [weakref.ref(image), weakref.ref(image.derived[method])]
    del image
    assert [end() for end in ends] == [None, None]


def test_a_first_look_is_freed_with_its_crops(without_search_for_circles: None) -> None:
    eye, look = Eye(), build_look()
    lazy = eye.lazy_crops(3, 3)
    lazy.rank(look, score_by_crops)
    ends = [weakref.ref(look), weakref.ref(look.derived[lazy])]
    del look
    assert [end() for end in ends] == [None, None]


def test_the_instances_of_an_image_are_freed_with_it(without_search_for_circles: None) -> None:
    source = Instances([SourceMask(box(20), 0.9), SourceMask(box(150), 0.5)])
    chooser, image, decoded = InstanceChooser(ByPlace()), prepared_image(), replace(IMAGE)
    chooser.choose(source, decoded, image, parsed(appearance="red box"))
    one_phrase = count_bytes((image, decoded))
    chooser.choose(source, decoded, image, parsed(appearance="blue box"))
    assert count_bytes((image, decoded)) == one_phrase, "joined copies of one phrase only"
    ends = [weakref.ref(image), weakref.ref(decoded)]
    del image, decoded
    assert [end() for end in ends] == [None, None]


def test_what_a_model_derived_ends_with_the_model() -> None:
    method, image = build_method(), prepared_image()
    method.score(image, scene()[2], parsed())
    del method
    gc.collect()
    assert len(image.derived) == 0


def test_sessions_are_bounded_by_bytes_and_freed(without_search_for_circles: None) -> None:
    kept = ImageSessions(int(2.5 * count_bytes(prepared_image())))
    ends: dict[str, Any] = {}
    for name in "abac":
        with kept.open(name, bytes) as session:
            if session.prepared is None:
                session.prepared = prepared_image()
                ends[name] = weakref.ref(session.prepared)
    del session
    assert {name for name, end in ends.items() if end() is not None} == {"a", "c"}
    # What grows while it is used displaces others, and leaves when it has no room alone.
    for copies, is_left in ((1, False), (3, True)):
        with kept.open("c", bytes) as session:
            assert session.prepared is ends["c"]()
            size = copies * count_bytes(prepared_image())
            session.prepared.derived[kept] = np.zeros(size, np.uint8)
        del session
        assert ends["a"]() is None
        assert (ends["c"]() is None) == is_left


def test_sessions_can_be_cleared(without_search_for_circles: None) -> None:
    kept = ImageSessions(10**6)
    with kept.open("a", bytes) as session:
        session.prepared = prepared_image()
    end = weakref.ref(session.prepared)
    del session
    assert end() is not None
    kept.clear()
    assert end() is None


def test_a_session_outlives_a_job_that_fails() -> None:
    kept = ImageSessions(10**6)

    def fail() -> None:
        with kept.open("a", bytes) as session:
            session.prepared = prepared_image()
            raise ValueError("later")

    with pytest.raises(ValueError, match="later"):
        fail()
    with kept.open("a", bytes) as session:
        assert session.prepared is not None


def test_every_buffer_counts_once() -> None:
    array = np.zeros((10, 100), np.uint8)
    tensor = torch.zeros(50, dtype=torch.float32)
    assert count_bytes(array) == 1000
    assert count_bytes((array, [array[2:3]], {"a": tensor[:5]})) == 1000 + 200
    image = prepared_image()
    before = count_bytes(image)
    image.derived[test_every_buffer_counts_once] = {"x": (array, tensor)}
    assert count_bytes(image) == before + 1200


def test_the_room_follows_the_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(sessions, "_CONTAINER_LIMITS", (limit,))
    monkeypatch.setattr(
        sessions.psutil, "virtual_memory", lambda: SimpleNamespace(total=64 * 10**9)
    )
    assert choose_max_bytes(None) == 2 * 10**9
    limit.write_text("max\n")
    assert choose_max_bytes(None) == 2 * 10**9
    limit.write_text("16000000000\n")
    assert choose_max_bytes(None) == 10**9
    limit.write_text("1000000000\n")
    assert choose_max_bytes(None) == 3 * 10**8
    assert choose_max_bytes(42) == 42 * 10**6
