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
from tests.conftest import Valkey
from tests.worker.test_pipeline import build
from worker.serving.jobs import JobHandler
from worker.serving.sessions import ImageSessions
from worker.stages import DecodedImage, PreparedImage

pytestmark = [pytest.mark.slow, pytest.mark.integration]

PHOTOS = 4
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
    return sum(isinstance(held, PreparedImage | DecodedImage) for held in gc.get_objects())


@pytest.mark.parametrize("accepts_first_look", [True, False])
def test_many_photos_leave_nothing_behind(
    valkey: Valkey,
    samples: dict[str, Path],
    tmp_path: Path,
    without_search_for_circles: None,
    accepts_first_look: bool,
) -> None:
    pipeline = build(tmp_path, points_per_side=4, max_proposals=12)
    image = Image.open(samples["chelsea"]).convert("RGB")
    before = count_images()
    with redis.Redis.from_url(valkey.url) as connection:
        # Room for some of these photos, but not for all.
        handler = JobHandler(pipeline, connection, "living", ImageSessions(12_000_000))
        held = []
        for number in range(PHOTOS):
            sha256 = put_photo(connection, image, number)
            for expression in EXPRESSIONS:
                message = {"photo_sha256": sha256, "expression": expression, "k": 3}
                reply = handler.segment(message | {"accepts_first_look": accepts_first_look})
                assert reply["failure"] is None
                assert reply["segment"]["is_first_look"] == accepts_first_look
            assert handler.prepare({"photo_sha256": sha256})["failure"] is None
            held.append(count_images() - before)
    assert max(held) < PHOTOS, held
    assert held[0] > 0
