"""Quality and cost, computed from records and requests: pure functions, denominators stated."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from operator import attrgetter
from typing import Any, Literal

import numpy as np

from saymask.runs import read_coco_runs
from saymask_backend.records.decisions import OUTCOME_LABELS
from saymask_backend.records.types import ProjectKey, RecordView, to_key

GroupBy = Literal["annotator", "day", "model", "source", "provenance"]

# Seconds for a polygon mask of one object by hand: the figure saymask measures itself by.
POLYGON_SECONDS = 80.0
IOU_EDGES = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
# NumPy's last bin includes its upper edge; rounding may exceed 1.
_HISTOGRAM_EDGES = (*IOU_EDGES[:-1], 1.0 + 1e-9)
AGREEMENT_IOU = 0.5

PROPOSAL_FATES = ("confirmed", "edited", "reworded", "rejected", "other")
_PROPOSED = ("proposed", "reworded")
_ACCEPTED = ("accepted", "edited", "relabelled")
_DRAWN = ("drawn_after_rejection", "drawn")
# Outcomes in which a mask was looked for among suggestions: the denominator of acceptance.
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
        judged: records of typed and given expressions where candidates were offered and a mask was
            given: accepted, edited, relabelled or drawn after rejection.
        acceptance_at: for n, the share of ``judged`` whose accepted candidate has rank n or better
            without a click.
        edit_rate: edited among accepted, edited and relabelled.
        drawn_rate: drawn by hand among all records with a mask.
        iou_accepted: of the accepted candidate with the final mask, below 1 where it was edited.
        iou_first: of the candidate of rank 1 with the final mask.
        iou_histogram: of ``iou_first``, between the edges ``IOU_EDGES``.
        seconds: per record, where Label Studio reports it.
        per_hour: records per hour of annotation.
        against_polygons: ``POLYGON_SECONDS`` over the median.
        dabs: stray spots of the brush that were left out.
        refined: accepted candidates that clicks led to; ``clicks`` all of those.
        sources: accepted candidates per source.
        proposals: outcomes of proposed expressions: confirmed, edited (the mask), reworded,
            rejected, or other (ambiguous, without a mask, no referent where there was one).
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
    sources: dict[str, int]
    proposals: dict[str, int]


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
        """Whether masks hardly overlap, or only some of the annotators gave a mask."""
        has_mask = {outcome in (*_ACCEPTED, *_DRAWN) for outcome in self.outcomes}
        return len(has_mask) > 1 or (self.iou is not None and self.iou < AGREEMENT_IOU)


def compute_quality(records: Sequence[RecordView]) -> Quality:
    """Compute the figures of some records; masks are not needed."""
    outcomes = Counter(_collect(records, "outcome"))
    asked = [r for r in records if r.provenance not in _PROPOSED]
    judged = [r for r in asked if r.outcome in _JUDGED and r.offered]
    # Accepted at once, without clicks.
    ranks = Counter(r.rank for r in judged if r.rank is not None and not r.clicks)
    deepest = max((r.offered for r in judged), default=0)
    accepted = sum(map(outcomes.__getitem__, _ACCEPTED))
    drawn = sum(map(outcomes.__getitem__, _DRAWN))
    seconds = _collect(records, "seconds")
    seconds_spread = compute_spread(seconds)
    median_s = seconds_spread.median
    first_ious = _collect(records, "first_iou")
    fates = Counter(_find_fate(r) for r in records if r.provenance in _PROPOSED)
    return Quality(
        samples=len(records),
        outcomes={name: outcomes[name] for name in OUTCOME_LABELS if outcomes[name]},
        judged=len(judged),
        acceptance_at={
            name: _share(sum(n for rank, n in ranks.items() if rank <= limit), len(judged))
            for name, limit in (("1", 1), ("3", 3), ("k", deepest))
        },
        ranks=dict(sorted(ranks.items())),
        edit_rate=_share(outcomes["edited"], accepted),
        drawn_rate=_share(drawn, accepted + drawn),
        iou_accepted=compute_spread(_collect(records, "iou")),
        iou_first=compute_spread(first_ious),
        iou_histogram=tuple(np.histogram(first_ious, _HISTOGRAM_EDGES)[0].tolist()),
        seconds=seconds_spread,
        per_hour=round(len(seconds) / sum(seconds) * 3600, 1) if sum(seconds) else None,
        against_polygons=round(POLYGON_SECONDS / median_s, 2) if median_s else None,
        dabs=sum(_collect(records, "dabs")),
        refined=sum(r.clicks > 0 for r in judged),
        clicks=sum(_collect(judged, "clicks")),
        sources=dict(sorted(Counter(_collect(judged, "source")).items())),
        proposals={name: fates[name] for name in PROPOSAL_FATES if fates[name]},
    )


def _find_fate(record: RecordView) -> str:
    if record.outcome == "rejected":
        return "rejected"
    if record.provenance == "reworded":
        return "reworded"
    if record.outcome == "no_referent" and not record.offered:
        return "confirmed"
    fates = {"accepted": "confirmed", "relabelled": "confirmed", "edited": "edited"}
    return fates.get(record.outcome, "other")


def group_quality(records: Iterable[RecordView], by: GroupBy) -> dict[str, Quality]:
    """Compute figures per annotator, UTC day, model version, accepted source or provenance."""
    keys: dict[GroupBy, Callable[[RecordView], str]] = {
        "annotator": lambda r: r.annotator or "unknown",
        "day": lambda r: r.decided_at.date().isoformat(),
        "model": lambda r: r.model_version or "none",
        "source": lambda r: r.source or "none accepted",
        "provenance": lambda r: r.provenance,
    }
    groups: dict[str, list[RecordView]] = defaultdict(list)
    for record in records:
        groups[keys[by](record)].append(record)
    return {key: compute_quality(group) for key, group in sorted(groups.items())}


def find_shared(records: Iterable[RecordView]) -> list[list[RecordView]]:
    """Group the records of one task and expression that at least two annotators decided."""
    groups: dict[tuple[ProjectKey, int, str], list[RecordView]] = defaultdict(list)
    for record in records:
        groups[record.project, record.task_id, to_key(record.expression)].append(record)
    return [g for g in groups.values() if len({record.annotator for record in g}) > 1]


def compare_annotators(shared: Sequence[RecordView]) -> Disagreement:
    """Compare one group of ``find_shared``, loaded with masks."""
    masks = [read_coco_runs(r.coco_rle) for r in shared if r.coco_rle is not None]
    pairs = [a.compute_iou(b) for a, b in combinations(masks, 2) if a.size_hw == b.size_hw]
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
    """Compute median and 90th percentile, linear between neighbours."""
    if not values:
        return Spread(0, None, None)
    median, p90 = np.percentile(values, [50, 90])
    return Spread(len(values), round(float(median), 4), round(float(p90), 4))


def _collect(records: Iterable[RecordView], name: str) -> list[Any]:
    """One field of all records, where it is known."""
    values = map(attrgetter(name), records)
    return [value for value in values if value is not None]


def _share(part: int, total: int) -> float | None:
    return round(part / total, 4) if total else None
