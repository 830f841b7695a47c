"""The rules that turn a submission into one decision per expression: pure, without database.

Label Studio never reports that a candidate was rejected or ignored, only which regions were
submitted. So a decision compares those, mask by mask, with the candidates that were offered for
the same task and expression; Label Studio's ``origin`` counts only where the candidate is not ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from saymask.errors import counted
from saymask.runs import RunMask, unite
from saymask_backend.records.types import (
    Offer,
    OfferedCandidate,
    Provenance,
    Submission,
    SubmittedRegion,
    find_first_region_id,
    to_key,
)

Outcome = Literal[
    "accepted", "edited", "relabelled", "drawn_after_rejection", "drawn", "no_referent",
    "ambiguous", "skipped", "no_mask", "rejected",
]  # fmt: skip
OUTCOME_LABELS: dict[str, str] = {
    "accepted": "accepted unchanged",
    "edited": "accepted and edited",
    "relabelled": "accepted and relabelled",
    "drawn_after_rejection": "drawn by hand after rejection",
    "drawn": "drawn without suggestions",
    "no_referent": "no referent",
    "ambiguous": "ambiguous",
    "skipped": "skipped",
    "no_mask": "without mask or verdict",
    "rejected": "proposed and rejected",
}
# A dab is the small round spot that an active brush leaves when the mark under a candidate is
# clicked. Its largest share of the image's area, least filled share of its box, and largest
# aspect ratio:
_DAB_MAX_AREA_SHARE = 0.01
_DAB_MIN_FILL = 0.6
_DAB_MAX_ASPECT = 1.6
# How far below a candidate its mark may be, as a share of the image's height, and how far beside
# it, as a share of the width.
_MARK_MAX_BELOW = 0.15
_MARK_MARGIN = 0.05


@dataclass(frozen=True)
class Decision:
    """The decision about one expression; the columns of a record.

    Attributes:
        expression: the region's own text, else the typed one.
        typed_expression: the one the candidates were ranked against, or None.
        offer: the answered request for it, or None.
        candidate: the accepted candidate of the best rank, or None.
        mask: the final mask, or None; ``parts``: its regions, where there are several.
        image_sha256: of the image, if any request of the task read it.
        iou: of the accepted candidates with the final mask; ``first_iou``: of rank 1.
        dabs: stray spots of the brush that were left out of the mask.
        seconds: this expression's share of the time spent on the annotation.
    """

    expression: str
    outcome: Outcome
    typed_expression: str | None = None
    offer: Offer | None = None
    candidate: OfferedCandidate | None = None
    mask: RunMask | None = None
    parts: tuple[RunMask, ...] = ()
    image_sha256: str | None = None
    iou: float | None = None
    first_iou: float | None = None
    region_ids: tuple[str, ...] = ()
    dabs: int = 0
    seconds: float | None = None
    notes: tuple[str, ...] = ()
    provenance: Provenance = "typed"


def decide(
    submission: Submission,
    offers: Sequence[Offer],
    label_for_rank: Callable[[int], str],
    last_request_id: int | None = None,
) -> list[Decision]:
    """Return one decision per expression of a submission; at least one.

    Args:
        submission: one state of an annotation.
        offers: answered requests of the submission's task, oldest first.
        label_for_rank: the label with which a candidate of that rank was offered.
        last_request_id: the newest request that may have been answered before the submission;
            None for all. Label Studio's clock and ours are not compared.
    """
    sha256 = next((o.image_sha256 for o in reversed(offers) if o.image_sha256), None)
    rules = _Rules(submission, tuple(offers), label_for_rank, last_request_id)
    decisions = rules.decide_skip() if submission.skipped else rules.decide_groups()
    return [replace(decision, image_sha256=sha256) for decision in decisions]


@dataclass
class _Group:
    """The regions submitted for one expression."""

    expression: str
    regions: list[SubmittedRegion]

    @property
    def mask(self) -> RunMask | None:
        return _unite([region.mask for region in self.regions])

    @property
    def parts(self) -> tuple[RunMask, ...]:
        """The masks of several regions; none where there is only one."""
        masks = tuple(region.mask for region in self.regions if region.mask)
        return masks if len(masks) > 1 else ()

    @property
    def region_ids(self) -> tuple[str, ...]:
        return tuple(region.region_id for region in self.regions)


@dataclass(frozen=True)
class _Accepted:
    """A submitted region that began as one of our candidates."""

    region: SubmittedRegion
    offer: Offer
    candidate: OfferedCandidate


class _Rules:
    """The rules applied to one submission."""

    def __init__(
        self,
        submission: Submission,
        offers: tuple[Offer, ...],
        label_for_rank: Callable[[int], str],
        last_request_id: int | None,
    ) -> None:
        self._submission = submission
        self._offers = offers
        self._label_for_rank = label_for_rank
        self._origins = _find_origins(submission.regions, offers)
        self._earlier = [
            o for o in offers if last_request_id is None or o.request_id <= last_request_id
        ]
        self._proposals = self._find_proposals()
        self._typed = self._find_typed()

    def decide_skip(self) -> list[Decision]:
        """A skipped task: one decision, about what was typed last; else all proposals rejected."""
        submission, typed = self._submission, self._typed or ""
        keys = {to_key(offer.expression) for offer in self._proposals}
        if self._proposals and to_key(typed) in {"", *keys}:
            share = _divide(submission.seconds, len(self._proposals))
            return _add_notes(
                [_reject(offer, share) for offer in self._proposals], 0, submission.ignored
            )
        decision = Decision(
            typed,
            "skipped",
            typed_expression=typed or None,
            offer=self._find_offer(typed),
            region_ids=tuple(r.region_id for r in submission.regions),
            seconds=submission.seconds,
            notes=submission.ignored,
        )
        return [decision]

    def decide_groups(self) -> list[Decision]:
        """Every expression with its regions; what concerns the whole annotation is noted first."""
        regions = [r for r in self._submission.regions if not self._is_dab(r)]
        dabs = len(self._submission.regions) - len(regions)
        groups = self._group_regions(regions)
        rejected = self._find_rejected(groups)
        share = _divide(self._submission.seconds, len(groups) + len(rejected))
        decisions = [self._decide_group(key, group, share) for key, group in groups.items()]
        decisions += [_reject(offer, share) for offer in rejected]
        return _add_notes(decisions, dabs, self._submission.ignored)

    def _find_typed(self) -> str | None:
        """The expression for the whole image; where it is needed but missing, the last asked."""
        submission = self._submission
        needed = submission.skipped or submission.verdict or not submission.regions
        if submission.expression is not None or not needed:
            return submission.expression
        asked = [offer for offer in self._earlier if not offer.is_proposed]
        if not asked and self._proposals and not submission.verdict:
            return None
        return (asked or self._earlier)[-1].expression if self._earlier else ""

    def _find_proposals(self) -> list[Offer]:
        """What was proposed last for the task; earlier proposals were replaced by these."""
        proposed = [offer for offer in self._earlier if offer.is_proposed]
        return [o for o in proposed if o.model_version == proposed[-1].model_version]

    def _find_rejected(self, groups: dict[str, _Group]) -> list[Offer]:
        """The proposals of which neither the region nor the expression was submitted."""
        submitted = {region.region_id for region in self._submission.regions}
        return [
            offer
            for offer in self._proposals
            if to_key(offer.expression) not in groups
            and not submitted & {candidate.region_id for candidate in offer.candidates}
        ]

    def _find_offer(self, expression: str) -> Offer | None:
        key = to_key(expression)
        return next((o for o in reversed(self._earlier) if to_key(o.expression) == key), None)

    def _group_regions(self, regions: list[SubmittedRegion]) -> dict[str, _Group]:
        groups: dict[str, _Group] = {}
        # Typed, accepted, and then reworded at the region: nothing is left to decide about the
        # first wording.
        if self._typed is not None and (
            self._submission.verdict or to_key(self._typed) not in self._answered_keys()
        ):
            groups[to_key(self._typed)] = _Group(self._typed, [])
        for region in regions:
            expression = region.expression or self._asked_for(region) or self._typed or ""
            groups.setdefault(to_key(expression), _Group(expression, [])).regions.append(region)
        return groups

    def _answered_keys(self) -> set[str]:
        asked = (self._asked_for(region) for region in self._submission.regions)
        return {to_key(expression) for expression in asked if expression is not None}

    def _asked_for(self, region: SubmittedRegion) -> str | None:
        """The expression for which the region was offered, or None."""
        match = self._origins.get(region.region_id)
        return match[0].expression if match else None

    def _decide_group(self, key: str, group: _Group, seconds: float | None) -> Decision:
        accepted = self._find_accepted(group.regions)
        offer = accepted[0].offer if accepted else self._find_offer(group.expression)
        mask = group.mask
        offered = _unite([a.candidate.mask for a in accepted])
        notes: list[str] = []
        is_typed = self._typed is not None and to_key(self._typed) == key
        if is_typed and self._submission.verdict is not None:
            outcome = _judge_verdict(self._submission.verdict, mask, notes)
        elif accepted and mask is not None:
            outcome = self._judge_accepted(accepted, offered, mask)
        else:
            outcome = _judge_drawn(group.regions, offer, mask, notes)
        first = offer.find_rank(1) if offer else None
        return Decision(
            expression=group.expression,
            outcome=outcome,
            typed_expression=offer.expression if offer else self._submission.expression,
            offer=offer,
            candidate=accepted[0].candidate if accepted else None,
            mask=mask,
            parts=group.parts,
            iou=_compare(offered, mask, notes),
            first_iou=_compare(first.mask if first else None, mask, notes),
            region_ids=group.region_ids,
            seconds=seconds,
            notes=tuple(dict.fromkeys(notes)),
            provenance=_find_provenance(offer, group.expression, group.regions),
        )

    def _find_accepted(self, regions: list[SubmittedRegion]) -> list[_Accepted]:
        """Regions that began as our candidates, best rank first."""
        accepted = [
            _Accepted(region, *self._origins[region.region_id])
            for region in regions
            if region.region_id in self._origins
        ]
        return sorted(accepted, key=lambda a: a.candidate.rank)

    def _judge_accepted(
        self, accepted: list[_Accepted], offered: RunMask | None, mask: RunMask
    ) -> Outcome:
        if offered is None or not offered.equals(mask):
            return "edited"
        is_relabelled = any(self._is_relabelled(a) for a in accepted)
        return "relabelled" if is_relabelled else "accepted"

    def _is_relabelled(self, accepted: _Accepted) -> bool:
        """Whether the label is another than the editor gave.

        A region that showed one candidate after another may have any rank's label: see
        ``_find_shown``.
        """
        offer, candidate, region = accepted.offer, accepted.candidate, accepted.region
        is_shared = region.region_id != candidate.region_id
        ranks = [c.rank for c in offer.candidates] if is_shared else [candidate.rank]
        return region.label not in (None, *map(self._label_for_rank, ranks))

    def _is_dab(self, region: SubmittedRegion) -> bool:
        """Whether a region is a spot that the brush left where a candidate's mark was clicked."""
        if region.region_id in self._origins or region.origin != "manual":
            return False
        if not region.mask:
            return True
        boxes = (c.box_xywh for offer in self._offers for c in offer.candidates)
        return _is_small_and_round(region.mask) and any(
            _is_at_mark(region.mask, box) for box in boxes
        )


def _find_origins(
    regions: Sequence[SubmittedRegion], offers: Sequence[Offer]
) -> dict[str, tuple[Offer, OfferedCandidate]]:
    """The candidates as which regions began, by the region's id."""
    by_id = {c.region_id: (offer, c) for offer in offers for c in offer.candidates}
    origins = {}
    for region in regions:
        first_id = find_first_region_id(region.region_id)
        shared = [o for o in reversed(offers) if o.region_id == first_id and o.candidates]
        origin = by_id.get(region.region_id) or _find_shown(region, shared)
        if origin is not None:
            origins[region.region_id] = origin
    return origins


def _find_shown(
    region: SubmittedRegion, offers: Sequence[Offer]
) -> tuple[Offer, OfferedCandidate] | None:
    """The candidate in a region that showed one after another; ``offers`` newest first.

    That of the same mask, else the most similar one that was shown. The region's label does not
    tell: the editor gives a suggestion the label of the region that is selected.
    """
    pairs = [(offer, c) for offer in offers for c in offer.candidates]
    same = next((pair for pair in pairs if pair[1].mask.equals(region.mask)), None)
    if same is not None or not pairs:
        return same
    seen = [(offer, c) for offer, c in pairs if c.rank in offer.shown] or pairs
    sized = [(o, c) for o, c in seen if c.mask.size_hw == region.mask.size_hw]
    return max(sized, key=lambda p: p[1].mask.compute_iou(region.mask), default=seen[0])


def _reject(offer: Offer, seconds: float | None) -> Decision:
    return Decision(
        offer.expression,
        "rejected",
        typed_expression=offer.expression,
        offer=offer,
        seconds=seconds,
        provenance="proposed",
    )


def _divide(seconds: float | None, count: int) -> float | None:
    return seconds / count if seconds is not None and count else None


def _find_provenance(
    offer: Offer | None, expression: str, regions: Sequence[SubmittedRegion]
) -> Provenance:
    """The origin of a submitted expression, from the offer for its regions if there was one."""
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


def _judge_drawn(
    regions: list[SubmittedRegion], offer: Offer | None, mask: RunMask | None, notes: list[str]
) -> Outcome:
    """The outcome where no candidate of ours was accepted."""
    if mask is None:
        return "no_mask"
    if any(r.origin != "manual" for r in regions):
        notes.append("the candidate is not one of ours; Label Studio says whether it was changed")
        return "accepted" if all(r.origin == "prediction" for r in regions) else "edited"
    return "drawn_after_rejection" if offer and offer.candidates else "drawn"


def _judge_verdict(verdict: str, mask: RunMask | None, notes: list[str]) -> Outcome:
    if mask is not None:
        notes.append(f"{verdict!r} was chosen though a mask was given")
    return "no_referent" if verdict == "no referent" else "ambiguous"


def _is_small_and_round(mask: RunMask) -> bool:
    area, (height, width) = mask.area, mask.size_hw
    _, _, w, h = mask.box_xywh
    is_round = area >= _DAB_MIN_FILL * w * h and max(w, h) <= _DAB_MAX_ASPECT * min(w, h)
    return is_round and area <= _DAB_MAX_AREA_SHARE * height * width


def _is_at_mark(mask: RunMask, candidate_xywh: tuple[int, int, int, int]) -> bool:
    """Whether a small mask lies where the mark below a candidate is."""
    height, width = mask.size_hw
    x, y, w, h = mask.box_xywh
    left, top, box_w, box_h = candidate_xywh
    center_x, below = x + w / 2, y + h / 2 - (top + box_h)
    margin = _MARK_MARGIN * width
    beside = left - margin <= center_x <= left + box_w + margin
    return beside and -h <= below <= _MARK_MAX_BELOW * height


def _add_notes(decisions: list[Decision], dabs: int, ignored: tuple[str, ...]) -> list[Decision]:
    """Add what concerns the whole annotation to its first decision."""
    if not decisions or not (dabs or ignored):
        return decisions
    note = (f"{counted(dabs, 'stray dab')} of the brush left out",) if dabs else ()
    first = replace(decisions[0], dabs=dabs, notes=(*decisions[0].notes, *note, *ignored))
    return [first, *decisions[1:]]


def _unite(masks: list[RunMask]) -> RunMask | None:
    """The union, None when it is empty. All masks of one image have one size, see Submission."""
    united = unite(masks) if masks else None
    return united or None


def _compare(a: RunMask | None, b: RunMask | None, notes: list[str]) -> float | None:
    if a is None or b is None:
        return None
    if a.size_hw != b.size_hw:
        notes.append(f"the image's size changed: offered {a.size_hw}, final {b.size_hw} (H, W)")
        return None
    return a.compute_iou(b)
