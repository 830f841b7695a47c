"""Which split an image belongs to: by its content alone, so that no later export moves it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from saymask.errors import InvalidRequest
from saymask_backend.export.model import SPLITS, Split


@dataclass(frozen=True)
class SplitRule:
    """Shares of train, val and test, adding up to 1; another seed assigns images anew."""

    shares: tuple[float, float, float]
    seed: int

    def choose(self, sha256: str) -> Split:
        """Return the split of an image, from its content hash."""
        digest = hashlib.sha256(f"{self.seed}:{sha256}".encode()).hexdigest()
        place = int(digest[:13], 16) / 16**13
        for split, share in zip(SPLITS, self.shares, strict=True):
            place -= share
            if place < 0:
                return split
        # Rounding at the very end of the last share.
        return next(
            s for s, share in reversed(list(zip(SPLITS, self.shares, strict=True))) if share
        )


def parse_split(text: str, seed: int) -> SplitRule:
    """Parse ``80/10/10`` (train, val, test), any numbers that are not negative.

    Raises:
        InvalidRequest: not three numbers, one is negative, or all are zero.
    """
    try:
        parts = [float(part) for part in text.split("/")]
    except ValueError:
        parts = []
    total = sum(parts)
    if len(parts) != len(SPLITS) or min(parts) < 0 or not 0 < total < float("inf"):
        raise InvalidRequest(
            f"{text!r} is not a split.", "Write shares of train, val and test: --split 80/10/10."
        )
    return SplitRule((parts[0] / total, parts[1] / total, parts[2] / total), seed)
