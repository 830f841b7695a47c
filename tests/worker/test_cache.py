"""The cache of prepared images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.worker.scenes import prepared_image
from worker.pipeline.cache import PreparedCache


def test_cache_gives_back_what_it_got(tmp_path: Path) -> None:
    cache = PreparedCache(tmp_path, "key", 10**9)
    image = prepared_image()
    assert cache.load(image.sha256) is None
    cache.store(image)
    back = cache.load(image.sha256)
    assert back is not None
    assert np.array_equal(back.proposals.masks, image.proposals.masks)
    assert np.allclose(back.features.local_context, image.features.local_context, atol=1e-3)
    assert back.notices == ("note",)
    assert (cache.hits, cache.misses) == (1, 1)
    assert PreparedCache(tmp_path, "other", 10**9).load(image.sha256) is None


def test_cache_rebuilds_damaged_entries_and_keeps_its_bound(tmp_path: Path) -> None:
    cache = PreparedCache(tmp_path, "key", 10**9)
    image = prepared_image()
    cache.store(image)
    (path,) = tmp_path.glob("*/*.npz")
    size = path.stat().st_size
    for damage in (b"", path.read_bytes()[: size // 2], b"x" * size):
        path.write_bytes(damage)
        assert cache.load(image.sha256) is None
        cache.store(image)
    small = PreparedCache(tmp_path, "key", int(size * 2.5))
    for name in "bcdef":
        small.store(replace(image, sha256=name * 64))
    assert small.usage()[0] == 2
    assert small.load("f" * 64) is not None
