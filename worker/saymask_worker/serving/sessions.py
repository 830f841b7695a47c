"""One session per image that a process works on, bounded by bytes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
from cachetools import LRUCache

from saymask.contract import SegmentResult, Timings
from saymask_worker.images.types import EncodedImage, PreparedImage, VisualPrompt

if TYPE_CHECKING:
    from saymask_worker.masks.clicks import EmbeddedImage
    from saymask_worker.serving.loaded_pipeline import ServedPipeline

_MEGA = 1_000_000
# Of a session without pixels, after reading or preparing the image failed.
_SESSION_BYTES = 5_000
# A prepared image takes about 80 MB: even a small machine keeps a few.
_DEFAULT_SHARE = 1 / 16
_DEFAULT_MIN_BYTES, _DEFAULT_MAX_BYTES = 300 * _MEGA, 2000 * _MEGA
_CONTAINER_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


@dataclass(eq=False)
class ImageSession:
    """Everything in memory about one image; it is freed as a whole.

    What models derive from the image lies on the objects here
    (``saymask_worker.images.types.Derived``).

    Attributes:
        encoded: reads its bytes, and decodes them for sources that look at pixels.
        prepared: in full, or a first look; None until there is either.
        embedded: for clicks, on the device; None until the first.
    """

    encoded: EncodedImage
    prepared: PreparedImage | None = None
    embedded: EmbeddedImage | None = None

    def segment(
        self,
        pipeline: ServedPipeline,
        prepared: PreparedImage,
        expression: str,
        k: int,
        *,
        preparation: Timings | None,
    ) -> SegmentResult:
        """Rank the prepared image's proposals and what other sources find: ``Pipeline.segment``."""
        return pipeline.segment(
            prepared, expression, k, preparation=preparation, encoded=self.encoded
        )

    def refine(
        self, pipeline: ServedPipeline, expression: str, prompt: VisualPrompt, k: int
    ) -> SegmentResult:
        """Return masks for clicks or a box: ``Pipeline.refine``; the image is embedded once."""
        is_known = self.embedded is not None
        self.embedded = self.embedded or pipeline.embed(self.encoded.read())
        return pipeline.refine(self.embedded, expression, prompt, k, from_cache=is_known)


class ImageSessions:
    """The sessions of one process; the least recently used go first.

    Args:
        max_bytes: of all images together, on the device too.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept: LRUCache[str, ImageSession] = LRUCache(max_bytes, getsizeof=_measure)
        self._lock = threading.Lock()

    @contextmanager
    def open(self, sha256: str, read: Callable[[], bytes]) -> Iterator[ImageSession]:
        """Work on an image; what its session holds at the end is kept while there is room."""
        with self._lock:
            session = self._kept.pop(sha256, None) or ImageSession(EncodedImage(read))
        try:
            yield session
        finally:
            with self._lock:
                if _measure(session) <= self._max_bytes:
                    self._kept[sha256] = session

    def clear(self) -> None:
        """Forget all images."""
        with self._lock:
            self._kept.clear()


def choose_max_bytes(max_mb: float | None) -> int:
    """Return the room for images: as set, else a sixteenth of the memory of this machine.

    That is at least 300 MB and at most 2 GB. In a container its limit is the machine's memory.
    """
    if max_mb is not None:
        return int(max_mb * _MEGA)
    room = int(_read_memory_bytes() * _DEFAULT_SHARE)
    return min(max(room, _DEFAULT_MIN_BYTES), _DEFAULT_MAX_BYTES)


def _read_memory_bytes() -> int:
    sizes = [int(psutil.virtual_memory().total)]
    for path in _CONTAINER_LIMITS:
        text = path.read_text("ascii").strip() if path.is_file() else ""
        # "max" where there is no limit.
        sizes += [int(text)] if text.isdigit() else []
    return min(sizes)


def _measure(session: ImageSession) -> int:
    return _SESSION_BYTES + count_bytes(session)


def count_bytes(value: object) -> int:
    """Return the bytes of all arrays and tensors that an object holds, each buffer once.

    A buffer of which only a part is looked at counts in full, as it is kept in full.
    """
    buffers: dict[int, int] = {}
    seen: set[int] = set()
    unseen: list[Any] = [value]
    while unseen:
        part = unseen.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, np.ndarray):
            whole = part
            while isinstance(whole.base, np.ndarray):
                whole = whole.base
            buffers[id(whole)] = whole.nbytes
        elif hasattr(part, "untyped_storage"):
            # A tensor; serving itself imports no PyTorch.
            storage = part.untyped_storage()
            buffers[storage.data_ptr()] = storage.nbytes()
        else:
            unseen += _list_parts(part)
    return sum(buffers.values())


def _list_parts(value: Any) -> list[Any]:
    """What containers and records hold; nothing for anything else."""
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, list | tuple):
        return list(value)
    # Cached properties too, which are not among the fields.
    return list(vars(value).values()) if is_dataclass(value) else []
