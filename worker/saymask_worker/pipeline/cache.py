"""Prepared images on disk, keyed by content and configuration, bounded by bytes.

An entry holds packed masks, qualities, features in half precision, and the places of the image as
a low-rank map of eight-bit numbers: about 0.15 MB per sample image. It is written to a temporary
file and renamed, so readers see complete entries only; a damaged one is removed and computed again.

Users of one machine may share a directory: what is written there has the directory's own rights,
and an entry that only another user may read counts as missing.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import time
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saymask.errors import InvalidMask, PreparedNotKept
from saymask.masks import decode_coco_rle, encode_coco_rle
from saymask.private_files import (
    UNFINISHED_PREFIX,
    make_folder_inside,
    make_private_folder,
    replace_atomically,
    share_like,
)
from saymask_worker.images.geometry import compute_geometry
from saymask_worker.images.patch_map import PatchMap, quantise, restore_rows
from saymask_worker.images.types import PreparedImage, Proposals, VisualFeatures

log = logging.getLogger(__name__)

# Name in an entry, by name in the code.
_PER_PROPOSAL = {
    "predicted_iou": "predicted_iou",
    "stability_score": "stability_score",
    "vote_share": "consensus",
    "granularity": "level",
}
_HALF_PRECISION = ("global_context", "local_context")
_USAGE_TTL_S = 10.0
_UNFINISHED_TTL_S = 3600
_SHARING_CURE = (
    "Let one group own SAYMASK_PREPARED_DIR and all that is in it (mode 2770), or give each user a"
    " directory of their own."
)
# What reading a damaged archive of arrays was seen to raise.
_DAMAGE_ERRORS = (
    OSError, ValueError, LookupError, TypeError, EOFError, RuntimeError, NotImplementedError,
    zlib.error, zipfile.BadZipFile, InvalidMask,
)  # fmt: skip


class PreparedCache:
    """A directory of prepared images.

    Args:
        directory: may be shared by several workers; created for its owner alone.
        key: fingerprint of everything a prepared image depends on.
        max_bytes: the least recently used entries are deleted when the directory grows beyond.
    """

    def __init__(self, directory: Path, key: str, max_bytes: int) -> None:
        self._root = directory
        self._directory = directory / key
        self._max_bytes = max_bytes
        self.hits = 0
        self.misses = 0
        self._usage: tuple[float, tuple[int, float]] | None = None
        self._has_told = False

    def load(self, sha256: str) -> PreparedImage | None:
        """Return the prepared image, or None."""
        path = self._path(sha256)
        try:
            prepared = _read(path, sha256)
        except FileNotFoundError:
            pass
        except PermissionError as error:
            self._tell_once(error)
        except _DAMAGE_ERRORS as error:
            log.warning(
                "cache entry %s is damaged (%s), preparing the image again", path.name, error
            )
            self._remove(path)
        else:
            self.hits += 1
            # Another worker just evicted it, or another user wrote it.
            with contextlib.suppress(OSError):
                os.utime(path)
            return prepared
        self.misses += 1
        return None

    def store(self, prepared: PreparedImage) -> None:
        """Keep a prepared image.

        Raises:
            PreparedNotKept: the disk is full, the directory may not be written, or the entry has
                no room in it. The image itself is good.
        """
        path = self._path(prepared.sha256)
        try:
            make_private_folder(self._root)
            make_folder_inside(self._root, self._directory.name)
            with replace_atomically(path, part_folder=self._root, keeps_mode=False) as part:
                with part.open("wb") as file:
                    np.savez_compressed(file, allow_pickle=False, **_to_arrays(prepared))
                share_like(part, self._root)
        except OSError as error:
            raise PreparedNotKept(
                f"The photo was prepared, but could not be kept: {error}.", _explain(error)
            ) from error
        self._evict()
        self._remove_unfinished()
        self._usage = None
        if not path.exists():
            raise PreparedNotKept(
                "The photo was prepared, but has no room in the cache.",
                "Raise SAYMASK_CACHE_MAX_MB.",
            )

    def usage(self) -> tuple[int, float]:
        """Return the number of entries and megabytes, all configurations together.

        They are up to ten seconds old: a heartbeat asks often, and the directory may be large.
        """
        if self._usage is None or time.monotonic() - self._usage[0] > _USAGE_TTL_S:
            sizes = [size for _, size, _ in self._entries()]
            self._usage = (time.monotonic(), (len(sizes), sum(sizes) / 1e6))
        return self._usage[1]

    def _path(self, sha256: str) -> Path:
        return self._directory / f"{sha256}.npz"

    def _entries(self) -> list[tuple[float, int, Path]]:
        entries = []
        for path in self._root.glob("*/*.npz"):
            with contextlib.suppress(OSError):  # evicted meanwhile, or another user's
                state = path.stat()
                entries.append((state.st_mtime, state.st_size, path))
        return sorted(entries, key=lambda entry: entry[0])

    def _remove_unfinished(self) -> None:
        """Remove what workers that were killed while they wrote left behind."""
        for path in self._root.glob(f"{UNFINISHED_PREFIX}*"):
            with contextlib.suppress(OSError):  # just finished, or another user's
                if time.time() - path.stat().st_mtime > _UNFINISHED_TTL_S:
                    shutil.rmtree(path)

    def _evict(self) -> None:
        entries = self._entries()
        total = sum(size for _, size, _ in entries)
        for _, size, path in entries:
            if total <= self._max_bytes:
                return
            if self._remove(path):
                total -= size

    def _remove(self, path: Path) -> bool:
        """Remove an entry; False where it belongs to another user."""
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            self._tell_once(error)
            return False
        return True

    def _tell_once(self, error: OSError) -> None:
        """Name the fault and its cure; it concerns most entries, so once is enough."""
        if not self._has_told:
            log.warning("prepared photos are not shared: %s. %s", error, _SHARING_CURE)
        self._has_told = True


def _explain(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return _SHARING_CURE
    return "Make room on that disk, or set SAYMASK_PREPARED_DIR or a lower SAYMASK_CACHE_MAX_MB."


def _to_arrays(prepared: PreparedImage) -> dict[str, NDArray[Any]]:
    proposals = prepared.proposals
    meta = {
        # Transposed: their rows lie one after the other in memory, as the code's columns do.
        "transposed_masks": [encode_coco_rle(mask.T) for mask in proposals.masks],
        "work_hw": list(proposals.masks.shape[1:]),
        "size_hw": list(proposals.size_hw),
        "notices": list(prepared.notices),
    }
    return {
        "meta": np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8),
        **{stored: proposals.columns[name] for name, stored in _PER_PROPOSAL.items()},
        **_pack_features(prepared.features),
    }


def _read(path: Path, sha256: str) -> PreparedImage:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        meta = json.loads(arrays["meta"].tobytes())
        masks = [decode_coco_rle(mask).T for mask in meta["transposed_masks"]]
        height, width = meta["work_hw"]
        stacked = np.stack(masks) if masks else np.zeros((0, height, width), dtype=bool)
        proposals = Proposals(
            masks=stacked,
            **{name: arrays[stored] for name, stored in _PER_PROPOSAL.items()},
            size_hw=(meta["size_hw"][0], meta["size_hw"][1]),
        )
        features = _unpack_features(arrays)
    return PreparedImage(
        sha256=sha256,
        proposals=proposals,
        geometry=compute_geometry(stacked),
        features=features,
        notices=tuple(meta["notices"]),
    )


def _pack_features(features: VisualFeatures) -> dict[str, NDArray[Any]]:
    packed: dict[str, NDArray[Any]] = {
        name: getattr(features, name).astype(np.float16) for name in _HALF_PRECISION
    }
    if features.region is not None:
        packed["region"], packed["region_scale"] = quantise(features.region)
    if features.places is not None:
        packed |= features.places.to_arrays()
    return packed


def _unpack_features(arrays: Any) -> VisualFeatures:
    """Read what the method encoded: the published one has neither region nor places."""
    has_region = "region" in arrays
    return VisualFeatures(
        **{name: arrays[name].astype(np.float32) for name in _HALF_PRECISION},
        region=restore_rows(arrays["region"], arrays["region_scale"]) if has_region else None,
        places=PatchMap.from_arrays(arrays),
    )
