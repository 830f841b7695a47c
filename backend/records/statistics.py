"""Quality and cost, computed from records and requests: pure arithmetic, every denominator said."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from backend.masks import compute_iou, decode_coco_rle
from backend.records.ledger import RecordView
from backend.records.outcomes import OUTCOME_WORDS, to_key

GroupBy = Literal["annotator", "day", "model"]

# What a polygon mask of one object takes by hand (80 s: the figure saymask measures itself by).
POLYGON_SECONDS = 80.0
IOU_EDGES = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
AGREEMENT_IOU = 0.5

_ACCEPTED = ("accepted", "edited", "relabelled")
_DRAWN = ("drawn_after_rejection", "drawn")
# Outcomes in which a mask was looked for among suggestions; the ground for acceptance.
_JUDGED = (*_ACCEPTED, "drawn_after_rejection")


@dataclass(frozen=True)
class Spread:
    """Median and 90th percentile of ``count`` values; None without any."""

    count: int
    median: float | None
    p90: float | None


@dataclass(frozen=True)
class Quality:
    """Figures of one group of records.

    Attributes:
        samples: records, whatever their outcome.
        outcomes: how many of each.
        judged: records where candidates were offered and a mask was given: accepted, edited,
            relabelled or drawn after rejection.
        acceptance_at: for n, the share of ``judged`` whose accepted candidate has rank n or better
            without a click.
        ranks: accepted candidates per rank.
        edit_rate: edited among accepted, edited and relabelled.
        drawn_rate: drawn by hand among all records with a mask.
        iou_accepted: of the accepted candidate with the final mask, below 1 where it was edited.
        iou_first: of the candidate of rank 1 with the final mask: what automatic work is worth.
        iou_histogram: of ``iou_first``, between the edges ``IOU_EDGES``.
        seconds: per record, where Label Studio knows it.
        per_hour: records an hour of annotation.
        against_polygons: ``POLYGON_SECONDS`` over the median.
        dabs: strays of the brush that were left out.
        refined: accepted candidates that clicks led to; ``clicks`` all of those.
    """

    samples: int
    outcomes: dict[str, int]
    judged: int
    acceptance_at: dict[str, float | None]
    ranks: dict[int, int]
    edit_rate: float | None
    drawn_rate: float | None
    iou_accepted: Spread
    iou_first: Spread
    iou_histogram: tuple[int, ...]
    seconds: Spread
    per_hour: float | None
    against_polygons: float | None
    dabs: int
    refined: int
    clicks: int


@dataclass(frozen=True)
class Disagreement:
    """One expression of one task that several annotators decided.

    ``iou`` is the mean over pairs of masks, None where fewer than two gave one.
    """

    project_id: int
    task_id: int
    expression: str
    annotators: int
    outcomes: tuple[str, ...]
    iou: float | None

    @property
    def disagrees(self) -> bool:
        """Masks that hardly overlap, or one says there is nothing and another gives a mask."""
        has_mask = {outcome in (*_ACCEPTED, *_DRAWN) for outcome in self.outcomes}
        return len(has_mask) > 1 or (self.iou is not None and self.iou < AGREEMENT_IOU)


def compute_quality(records: Sequence[RecordView]) -> Quality:
    """Figures of some records, masks not needed."""
    outcomes = Counter(record.outcome for record in records)
    judged = [r for r in records if r.outcome in _JUDGED and r.offered]
    accepted = [r for r in judged if r.rank is not None and not r.clicks]
    ranks = Counter(r.rank for r in accepted if r.rank is not None)
    deepest = max((r.offered for r in judged), default=0)
    names = {"1": 1, "3": 3, "k": deepest}
    taken = sum(outcomes[name] for name in _ACCEPTED)
    drawn = sum(outcomes[name] for name in _DRAWN)
    seconds = [r.seconds for r in records if r.seconds is not None]
    spent = compute_spread(seconds)
    total_s = sum(seconds)
    first = [r.first_iou for r in records if r.first_iou is not None]
    histogram = np.histogram(first, bins=[*IOU_EDGES[:-1], 1.0 + 1e-9])[0]
    return Quality(
        samples=len(records),
        outcomes={name: outcomes[name] for name in OUTCOME_WORDS if outcomes[name]},
        judged=len(judged),
        acceptance_at={
            name: _share(sum(r.rank <= n for r in accepted if r.rank is not None), len(judged))
            for name, n in names.items()
        },
        ranks=dict(sorted(ranks.items())),
        edit_rate=_share(outcomes["edited"], taken),
        drawn_rate=_share(drawn, taken + drawn),
        iou_accepted=compute_spread([r.iou for r in records if r.iou is not None]),
        iou_first=compute_spread(first),
        iou_histogram=tuple(int(count) for count in histogram),
        seconds=spent,
        per_hour=round(len(seconds) / total_s * 3600, 1) if total_s else None,
        against_polygons=round(POLYGON_SECONDS / spent.median, 2) if spent.median else None,
        dabs=sum(r.dabs for r in records),
        refined=sum(r.clicks > 0 for r in judged),
        clicks=sum(r.clicks for r in judged),
    )


def group_quality(records: Iterable[RecordView], by: GroupBy) -> dict[str, Quality]:
    """Figures per annotator, UTC day or model version."""
    keys: dict[GroupBy, Callable[[RecordView], str]] = {
        "annotator": lambda r: r.annotator or "unknown",
        "day": lambda r: r.decided_at.date().isoformat(),
        "model": lambda r: r.model_version or "none",
    }
    groups: dict[str, list[RecordView]] = defaultdict(list)
    for record in records:
        groups[keys[by](record)].append(record)
    return {key: compute_quality(group) for key, group in sorted(groups.items())}


def find_shared(records: Iterable[RecordView]) -> list[list[RecordView]]:
    """Records of one task and expression by at least two annotators."""
    groups: dict[tuple[int, int, str], list[RecordView]] = defaultdict(list)
    for record in records:
        groups[record.project_id, record.task_id, to_key(record.expression)].append(record)
    return [g for g in groups.values() if len({record.annotator for record in g}) > 1]


def compare_annotators(shared: Sequence[RecordView]) -> Disagreement:
    """One group of ``find_shared``, read with masks."""
    masks = [decode_coco_rle(r.coco_rle) for r in shared if r.coco_rle is not None]
    pairs = [compute_iou(a, b) for a, b in combinations(masks, 2) if a.shape == b.shape]
    first = shared[0]
    return Disagreement(
        project_id=first.project_id,
        task_id=first.task_id,
        expression=first.expression,
        annotators=len({record.annotator for record in shared}),
        outcomes=tuple(record.outcome for record in shared),
        iou=round(float(np.mean(pairs)), 4) if pairs else None,
    )


def compute_spread(values: Sequence[float]) -> Spread:
    """Median and 90th percentile, linear between neighbours."""
    if not values:
        return Spread(0, None, None)
    median, p90 = np.percentile(values, [50, 90])
    return Spread(len(values), round(float(median), 4), round(float(p90), 4))


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None
