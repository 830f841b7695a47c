"""Where an expression comes from: typed, given with its task, or proposed by saymask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from saymask_backend.records.offers import Offer
from saymask_backend.records.submission import SubmittedRegion

Provenance = Literal["typed", "given", "proposed", "reworded"]
PROVENANCE_LABELS: dict[Provenance, str] = {
    "typed": "typed by the annotator",
    "given": "given in the task's data",
    "proposed": "proposed, and decided as it was",
    "reworded": "proposed, and reworded by the annotator",
}


def to_key(expression: str) -> str:
    """Return a key that is equal for expressions which differ in blanks and capitals only."""
    return " ".join(expression.split()).casefold()


def find_provenance(
    offer: Offer | None, expression: str, regions: Sequence[SubmittedRegion]
) -> Provenance:
    """Return where a submitted expression comes from.

    Args:
        offer: what was asked or proposed for its regions, or None.
        expression: as it was submitted.
        regions: submitted for it.
    """
    if offer is None:
        # Imported with the task; whether the words were changed is not known.
        if any(region.is_proposed for region in regions):
            return "proposed"
        return "given" if any(region.origin != "manual" for region in regions) else "typed"
    if offer.kind not in ("ahead", "proposed"):
        return "typed"
    is_kept = to_key(expression) == to_key(offer.expression)
    if offer.is_proposed:
        return "proposed" if is_kept else "reworded"
    return "given" if is_kept else "typed"
