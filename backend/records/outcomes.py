"""What a submission decides about each expression: pure rules, no database.

Label Studio never says that a candidate was rejected or ignored, only which regions were handed
in. So a decision compares those with the candidates that were offered for the same task and
expression, mask by mask; Label Studio's ``origin`` counts only where the candidate is not ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

import numpy as np

from backend.masks import Mask, compute_area, compute_box_xywh, compute_iou
from backend.submission import Submission, SubmittedRegion

Outcome = Literal[
    "accepted", "edited", "relabelled", "drawn_after_rejection", "drawn", "no_referent",
    "ambiguous", "skipped", "no_mask",
]  # fmt: skip
OUTCOME_WORDS: dict[Outcome, str] = {
    "accepted": "accepted unchanged",
    "edited": "accepted and edited",
    "relabelled": "accepted and relabelled",
    "drawn_after_rejection": "drawn by hand after rejection",
    "drawn": "drawn without suggestions",
    "no_referent": "no referent",
    "ambiguous": "ambiguous",
    "skipped": "skipped",
    "no_mask": "without mask or verdict",
}
# A dab is what the brush leaves when it was active while a mark under a candidate was clicked:
# small, round, and where that mark is.
_DAB_MAX_SHARE = 0.01
_DAB_MIN_FILL = 0.6
_DAB_MAX_ASPECT = 1.6
_MARK_BELOW = 0.15
_MARK_MARGIN = 0.05


@dataclass(frozen=True)
class OfferedCandidate:
    """A candidate as it was offered; ``mask`` is (H, W) bool."""

    candidate_id: int
    region_id: str
    rank: int
    score: float
    mask: Mask


@dataclass(frozen=True)
class Offer:
    """One answered request of the submission's task; ``clicks`` is 0 where it was typed."""

    request_id: int
    created_at: datetime
    expression: str
    photo_sha256: str | None
    size_hw: tuple[int, int] | None
    head_noun_phrase: str | None
    model_version: str | None
    latency_ms: float | None
    clicks: int
    candidates: tuple[OfferedCandidate, ...]


@dataclass(frozen=True)
class Decision:
    """What was decided about one expression; the columns of a record.

    Attributes:
        expression: as it stands at the region, else as typed.
        typed_expression: what the candidates were asked with, or None.
        offer: the request that was answered for it, or None.
        candidate: the accepted candidate of the best rank, or None.
        mask: the final mask, or None; ``parts``: its regions, where there are several.
        photo_sha256: of the photo, if any request of the task read it.
        iou: of the accepted candidates with the final mask; ``first_iou``: of rank 1.
        dabs: strays of the brush, left out of the mask.
        seconds: this expression's share of the time spent on the annotation.
    """

    expression: str
    outcome: Outcome
    typed_expression: str | None = None
    offer: Offer | None = None
    candidate: OfferedCandidate | None = None
    mask: Mask | None = None
    parts: tuple[Mask, ...] = ()
    photo_sha256: str | None = None
    iou: float | None = None
    first_iou: float | None = None
    region_ids: tuple[str, ...] = ()
    dabs: int = 0
    seconds: float | None = None
    notes: tuple[str, ...] = ()


def to_key(expression: str) -> str:
    """Equal for expressions that differ in blanks and capitals only."""
    return " ".join(expression.split()).casefold()


def decide(
    submission: Submission, offers: tuple[Offer, ...], label_for_rank: Callable[[int], str]
) -> list[Decision]:
    """One decision per expression of a submission; at least one.

    Args:
        offers: answered requests of the submission's task, oldest first.
        label_for_rank: the label a candidate of that rank was offered with.
    """
    sha256 = next((o.photo_sha256 for o in reversed(offers) if o.photo_sha256), None)
    decisions = _decide(submission, offers, label_for_rank)
    return [replace(decision, photo_sha256=sha256) for decision in decisions]


def _decide(
    submission: Submission, offers: tuple[Offer, ...], label_for_rank: Callable[[int], str]
) -> list[Decision]:
    known = {c.region_id: (offer, c) for offer in offers for c in offer.candidates}
    earlier = [offer for offer in offers if offer.created_at <= submission.updated_at]
    typed = submission.expression
    if typed is None and (submission.skipped or submission.verdict or not submission.regions):
        typed = earlier[-1].expression if earlier else ""
    if submission.skipped:
        offer = _find_offer(earlier, typed or "")
        return [
            Decision(
                typed or "", "skipped", typed_expression=typed or None, offer=offer,
                region_ids=tuple(r.region_id for r in submission.regions),
                seconds=submission.seconds, notes=submission.not_understood,
            )
        ]  # fmt: skip
    dabs = [r for r in submission.regions if r.region_id not in known and _is_dab(r, offers)]
    groups: dict[str, tuple[str, list[SubmittedRegion]]] = {}
    answered = {to_key(known[r.region_id][0].expression) for r in submission.regions
                if r.region_id in known}  # fmt: skip
    # Typed, accepted, and then worded better at the region: nothing is left to say of the first
    # wording.
    if typed is not None and (submission.verdict or to_key(typed) not in answered):
        groups[to_key(typed)] = (typed, [])
    for region in submission.regions:
        if region in dabs:
            continue
        asked = known[region.region_id][0].expression if region.region_id in known else None
        expression = region.expression or asked or typed or ""
        groups.setdefault(to_key(expression), (expression, []))[1].append(region)
    share = submission.seconds / len(groups) if submission.seconds is not None and groups else None
    rules = _Rules(submission, known, earlier, label_for_rank)
    decisions = [
        rules.decide_one(
            expression, regions, share, submission.verdict if _is(typed, key) else None
        )
        for key, (expression, regions) in groups.items()
    ]
    return _report_dabs(decisions, len(dabs), submission.not_understood)


def _is(typed: str | None, key: str) -> bool:
    return typed is not None and to_key(typed) == key


def _find_offer(earlier: list[Offer], expression: str) -> Offer | None:
    key = to_key(expression)
    return next((offer for offer in reversed(earlier) if to_key(offer.expression) == key), None)


def _report_dabs(decisions: list[Decision], count: int, notes: tuple[str, ...]) -> list[Decision]:
    """What concerns the whole annotation stands in its first record."""
    if not decisions or not (count or notes):
        return decisions
    words = (f"{count} stray dab(s) of the brush left out",) if count else ()
    first = replace(decisions[0], dabs=count, notes=(*decisions[0].notes, *words, *notes))
    return [first, *decisions[1:]]


def _is_dab(region: SubmittedRegion, offers: tuple[Offer, ...]) -> bool:
    if region.origin != "manual":
        return False
    area, (height, width) = compute_area(region.mask), region.mask.shape
    if area == 0:
        return True
    x, y, w, h = compute_box_xywh(region.mask)
    is_round = area >= _DAB_MIN_FILL * w * h and max(w, h) <= _DAB_MAX_ASPECT * min(w, h)
    if area > _DAB_MAX_SHARE * height * width or not is_round:
        return False
    cx, cy = x + w / 2, y + h / 2
    for offer in offers:
        for candidate in offer.candidates:
            left, top, wide, high = compute_box_xywh(candidate.mask)
            margin = _MARK_MARGIN * width
            below = cy - (top + high)
            if left - margin <= cx <= left + wide + margin and -h <= below <= _MARK_BELOW * height:
                return True
    return False


@dataclass(frozen=True)
class _Rules:
    submission: Submission
    known: dict[str, tuple[Offer, OfferedCandidate]]
    earlier: list[Offer]
    label_for_rank: Callable[[int], str]

    def decide_one(
        self,
        expression: str,
        regions: list[SubmittedRegion],
        seconds: float | None,
        verdict: str | None,
    ) -> Decision:
        ours = [(r, *self.known[r.region_id]) for r in regions if r.region_id in self.known]
        ours.sort(key=lambda item: item[2].rank)
        offer = ours[0][1] if ours else _find_offer(self.earlier, expression)
        candidate = ours[0][2] if ours else None
        mask = _unite([r.mask for r in regions])
        parts = tuple(r.mask for r in regions if r.mask.any())
        notes: list[str] = []
        if verdict is not None:
            outcome: Outcome = "no_referent" if verdict == "no referent" else "ambiguous"
            if mask is not None:
                notes.append(f"{verdict!r} was chosen though a mask was given")
        else:
            outcome = self._judge(regions, ours, offer, mask, notes)
        accepted = _unite([c.mask for _, _, c in ours])
        first = next((c for c in offer.candidates if c.rank == 1), None) if offer else None
        return Decision(
            expression=expression,
            outcome=outcome,
            typed_expression=offer.expression if offer else self.submission.expression,
            offer=offer,
            candidate=candidate,
            mask=mask,
            parts=parts if len(parts) > 1 else (),
            iou=_compare(accepted, mask, notes),
            first_iou=_compare(first.mask if first else None, mask, notes),
            region_ids=tuple(r.region_id for r in regions),
            seconds=seconds,
            notes=tuple(dict.fromkeys(notes)),
        )

    def _judge(
        self,
        regions: list[SubmittedRegion],
        ours: list[tuple[SubmittedRegion, Offer, OfferedCandidate]],
        offer: Offer | None,
        mask: Mask | None,
        notes: list[str],
    ) -> Outcome:
        if mask is None:
            return "no_mask"
        if ours:
            accepted = _unite([c.mask for _, _, c in ours])
            if accepted is None or not np.array_equal(accepted, mask):
                return "edited"
            moved = any(r.label not in (None, self.label_for_rank(c.rank)) for r, _, c in ours)
            return "relabelled" if moved else "accepted"
        foreign = [r for r in regions if r.origin != "manual"]
        if foreign:
            notes.append(
                "the candidate is not one of ours; whether it was changed is Label Studio's word"
            )
            changed = any(r.origin == "prediction-changed" for r in foreign)
            return "edited" if changed or len(foreign) < len(regions) else "accepted"
        return "drawn_after_rejection" if offer and offer.candidates else "drawn"


def _unite(masks: list[Mask]) -> Mask | None:
    """The union; None when there is no pixel. Masks of one photo have one size, see Submission."""
    if not masks:
        return None
    united = np.logical_or.reduce(masks)
    return united if united.any() else None


def _compare(a: Mask | None, b: Mask | None, notes: list[str]) -> float | None:
    if a is None or b is None:
        return None
    if a.shape != b.shape:
        notes.append(f"the photo's size changed: offered {a.shape}, final {b.shape} (H, W)")
        return None
    return compute_iou(a, b)
