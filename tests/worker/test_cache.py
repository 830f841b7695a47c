"""The cache of prepared images, also on a full disk and with several users."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from saymask.contract import Timings
from saymask.errors import PreparedNotKept
from saymask_worker.pipeline import cache as cache_module
from saymask_worker.pipeline.cache import PreparedCache
from saymask_worker.pipeline.pipeline import Pipeline
from tests.users import FIRST, GROUP, SECOND, acting_as, needs_root
from tests.worker.scenes import prepared_image

SHA256 = prepared_image().sha256


@pytest.fixture(params=[0, 0o077], ids=["open", "closed"])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def list_modes(root: Path) -> dict[str, str]:
    paths = [root, *sorted(root.rglob("*"))]
    return {path.suffix or path.name: f"{path.stat().st_mode & 0o7777:o}" for path in paths}


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


def test_prepared_images_are_their_owner_s(tmp_path: Path, umask: None) -> None:
    cache = PreparedCache(tmp_path / "new" / "prepared", "key", 10**9)
    cache.store(prepared_image())
    expected = {"new": "700", "prepared": "700", "key": "700", ".npz": "600"}
    assert list_modes(tmp_path / "new") == expected


@needs_root
def test_a_group_shares_prepared_images(shared: Path, umask: None) -> None:
    root = shared / "prepared"
    root.mkdir()
    os.chown(root, 0, GROUP)
    root.chmod(0o2770)
    image = prepared_image()
    with acting_as(FIRST, GROUP):
        PreparedCache(root, "key", 10**9).store(image)
    assert list_modes(root) == {"prepared": "2770", "key": "2770", ".npz": "660"}
    assert (root / "key" / f"{SHA256}.npz").stat().st_gid == GROUP
    with acting_as(SECOND, GROUP):
        cache = PreparedCache(root, "key", 3 * (root / "key" / f"{SHA256}.npz").stat().st_size // 2)
        assert cache.load(SHA256) is not None
        cache.store(replace(image, sha256="b" * 64))
        assert cache.usage()[0] == 1, "the first user's is evicted"


@needs_root
@pytest.mark.parametrize("mode", [0o700, 0o755])
@pytest.mark.parametrize("damage", [False, True])
def test_another_user_s_prepared_image_stops_nobody(
    shared: Path, caplog: pytest.LogCaptureFixture, mode: int, damage: bool
) -> None:
    root = shared / "prepared"
    root.mkdir()
    root.chmod(mode)
    PreparedCache(root, "key", 10**9).store(prepared_image())
    if damage:
        (root / "key" / f"{SHA256}.npz").write_bytes(b"x")
    with acting_as(FIRST, GROUP):
        cache = PreparedCache(root, "key", 10)
        for _ in range(3):
            assert (cache.load(SHA256) is not None) == (mode == 0o755 and not damage)
        with pytest.raises(PreparedNotKept) as caught:
            cache.store(prepared_image())
        assert cache.usage()[0] == (mode == 0o755), "what a heartbeat tells"
    assert "SAYMASK_PREPARED_DIR" in caught.value.cure
    told = [r for r in caplog.records if "are not shared" in r.message]
    assert len(told) == (mode == 0o700 or damage)


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    cache = PreparedCache(tmp_path, "key", 10**9)
    monkeypatch.setattr(cache_module.np, "savez_compressed", fill)
    with pytest.raises(PreparedNotKept, match="No space left") as caught:
        cache.store(prepared_image())
    assert "Make room" in caught.value.cure
    assert list(tmp_path.rglob("*.npz")) == []


def test_an_entry_without_room_is_told(tmp_path: Path) -> None:
    with pytest.raises(PreparedNotKept) as caught:
        PreparedCache(tmp_path, "key", 10).store(prepared_image())
    assert "SAYMASK_CACHE_MAX_MB" in caught.value.cure


def test_preparing_says_what_was_not_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    pipeline: Any = SimpleNamespace(
        cache=PreparedCache(tmp_path / "file" / "prepared", "key", 10**9),
        _batches=SimpleNamespace(run=lambda work: work()),
        _preparation=SimpleNamespace(prepare=lambda _data, _name: (prepared_image(), Timings())),
    )
    prepared, _ = Pipeline.prepare(pipeline, b"")
    assert prepared.not_kept is not None
    assert "could not be kept" in prepared.not_kept[0]
    pipeline.cache = PreparedCache(tmp_path / "folder", "key", 10**9)
    assert Pipeline.prepare(pipeline, b"")[0].not_kept is None
