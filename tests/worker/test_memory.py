"""A worker's memory with real models: nothing of an image stays when its session ends."""

from __future__ import annotations

import gc
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from PIL import Image

from saymask.contract import IMAGE_KEY
from saymask_worker.images.types import DecodedImage, PreparedImage
from saymask_worker.serving.jobs import JobHandler
from saymask_worker.serving.loaded_pipeline import LoadedPipeline
from saymask_worker.serving.sessions import ImageSessions, count_bytes
from tests.conftest import Valkey
from tests.worker.test_pipeline import build

pytestmark = [pytest.mark.slow, pytest.mark.integration]

PHOTOS = 5
EXPRESSIONS = ("the cat", "the left eye", "the largest ear", "the nose next to the eye", "left")


@pytest.fixture
def without_search_for_circles() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def put_photo(connection: redis.Redis, image: Image.Image, number: int) -> str:
    """Store another photo for each number; returns its hash."""
    file = io.BytesIO()
    image.crop((number, 0, image.width, image.height - number)).save(file, "JPEG")
    sha256 = hashlib.sha256(file.getvalue()).hexdigest()
    connection.set(IMAGE_KEY.format(sha256=sha256), file.getvalue())
    return sha256


def count_images() -> int:
    return sum(type(held) in (PreparedImage, DecodedImage) for held in gc.get_objects())


@pytest.mark.parametrize("accepts_first_look", [True, False])
def test_many_photos_leave_nothing_behind(
    valkey: Valkey,
    samples: dict[str, Path],
    tmp_path: Path,
    without_search_for_circles: None,
    accepts_first_look: bool,
) -> None:
    pipeline = build(tmp_path, points_per_side=4)
    loaded = LoadedPipeline(lambda: pipeline, 0, lambda: None)
    image = Image.open(samples["chelsea"]).convert("RGB")
    with redis.Redis.from_url(valkey.url) as connection:

        def work(sessions: ImageSessions, number: int) -> str:
            handler = JobHandler(loaded, connection, "living", sessions)
            sha256 = put_photo(connection, image, number)
            for expression in EXPRESSIONS:
                message: dict[str, object] = {
                    "photo_sha256": sha256, "expression": expression, "k": 3,
                }  # fmt: skip
                message |= {"accepts_first_look": accepts_first_look, "prepares": True}
                reply = handler.segment(message)
                assert reply["failure"] is None
                assert reply["segment"]["is_first_look"] == accepts_first_look
            assert handler.prepare({"photo_sha256": sha256})["failure"] is None
            return sha256

        roomy = ImageSessions(10**9)
        with roomy.open(work(roomy, 0), bytes) as session:
            room = int(2.5 * count_bytes(session))
        del session
        roomy.clear()
        before, held = count_images(), []
        sessions = ImageSessions(room)
        for number in range(1, PHOTOS):
            work(sessions, number)
            held.append(count_images() - before)
    assert held == [1, 2, 2, 2]
