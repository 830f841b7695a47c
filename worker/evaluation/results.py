"""From outcomes to tables: every method with its metrics, intervals and errors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from worker.evaluation.errors import KINDS
from worker.evaluation.metrics import (
    PRECISION_AT,
    Counts,
    Interval,
    Pixels,
    Values,
    bootstrap_difference,
    bootstrap_mean,
    bootstrap_ratio,
    compute_ious,
    compute_no_target_accuracy,
    compute_oiou,
    compute_summary,
)
from worker.evaluation.outcomes import TOP, PhotoOutcome

RECALL_AT = (1, 3, 5)
RECALL_IOU = (0.5, 0.7, 0.8)


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True)


class MethodResult(_Table):
    """One method. Shares in 0..1; an IoU hits when it is above its threshold.

    Attributes:
        oiou, miou: over all expressions.
        miou_skipping: mIoU without photos that have no proposal, as the published code reports.
        precision: X to share of first answers above (``>``) IoU X.
        precision_or_equal: the same with ``>=``.
        recall: ``"k@X"`` to the share of expressions with a mask above IoU X in the first k.
        mc_accuracy: share of first answers on an object of the target's category; None when
            unknown. ``cc_oiou``: oIoU over just those.
        n_accuracy, t_accuracy: of no-target expressions left unanswered, of others answered.
        errors: share of expressions by kind of error.
        difference: paired difference of ``recall 1@0.5`` to the first method.
        by_kind: kind of expression to its count and share of first answers right.
    """

    name: str
    oiou: Interval
    miou: Interval
    miou_skipping: float
    precision: dict[str, float]
    precision_or_equal: dict[str, float]
    recall: dict[str, Interval]
    mc_accuracy: Interval | None
    cc_oiou: float | None
    n_accuracy: float | None
    t_accuracy: float | None
    errors: dict[str, float]
    difference: Interval
    by_kind: dict[str, tuple[int, float]]


class Results(_Table):
    """Everything a run found.

    Attributes:
        provenance: what was run on what.
        oracle: IoU threshold to the share of expressions for which a proposal is above it;
            ``mean`` to the mean of the best IoU.
    """

    provenance: dict[str, Any]
    photos: int
    expressions: int
    photos_without_proposals: int
    oracle: dict[str, Interval]
    methods: tuple[MethodResult, ...]


def build_results(outcomes: Sequence[PhotoOutcome], provenance: dict[str, Any]) -> Results:
    """Sum a run up. ``outcomes`` come in the order of the data set."""
    table = OutcomeTable(outcomes)
    names = list(outcomes[0].expressions[0].answers)
    first = table.hits(names[0], 1, 0.5)
    oracle = {
        f"{x:g}": bootstrap_mean((table.oracle > x).astype(float), table.photos) for x in RECALL_IOU
    }
    oracle["mean"] = bootstrap_mean(table.oracle, table.photos)
    return Results(
        provenance=provenance,
        photos=len(outcomes),
        expressions=len(table.photos),
        photos_without_proposals=sum(outcome.proposals == 0 for outcome in outcomes),
        oracle=oracle,
        methods=tuple(_summarise(table, name, first) for name in names),
    )


class OutcomeTable:
    """The outcomes of a run as columns, one row per expression."""

    def __init__(self, outcomes: Sequence[PhotoOutcome]) -> None:
        self.rows = [(o, e) for o in outcomes for e in o.expressions]
        photos = [index for index, o in enumerate(outcomes) for _ in o.expressions]
        self.photos: Counts = np.asarray(photos, dtype=np.int64)
        self.ids = [e.id for _, e in self.rows]
        self.oracle: Values = np.asarray([e.oracle_iou for _, e in self.rows])
        self.target: Counts = np.asarray([e.target_px for _, e in self.rows], dtype=np.int64)
        self.has_proposals = np.asarray([o.proposals > 0 for o, _ in self.rows], dtype=bool)

    def pixels(self, name: str) -> Pixels:
        """Of each first answer; an expression without an answer has the target as its union."""
        pairs = [
            e.answers[name].top[0] if e.answers[name].top else (0, e.target_px)
            for _, e in self.rows
        ]
        counts = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
        return Pixels(counts[:, 0], counts[:, 1], self.target)

    def hits(self, name: str, k: int, iou: float) -> Values:
        """1 where one of the first k masks is above the IoU; NaN where nothing is meant."""
        values = [
            float(any(i > iou * u for i, u in e.answers[name].top[: min(k, TOP)]))
            for _, e in self.rows
        ]
        return np.where(self.target > 0, np.asarray(values), np.nan)

    def column(self, name: str, attribute: str) -> list[Any]:
        """An attribute of every answer of a method."""
        return [getattr(e.answers[name], attribute) for _, e in self.rows]


def _summarise(table: OutcomeTable, name: str, first: Values) -> MethodResult:
    pixels, photos = table.pixels(name), table.photos
    ious = compute_ious(pixels, "one")
    strict = compute_summary(pixels, strict=True)
    loose = compute_summary(pixels, strict=False)
    answered = np.asarray([bool(top) for top in table.column(name, "top")], dtype=bool)
    n_accuracy, t_accuracy = compute_no_target_accuracy(table.target > 0, answered)
    if n_accuracy is None:
        t_accuracy = None  # without no-target expressions it says nothing
    kept = table.has_proposals
    hits = table.hits(name, 1, 0.5)
    kinds = Counter(table.column(name, "kind"))
    return MethodResult(
        name=name,
        oiou=bootstrap_ratio(pixels.intersection.astype(float), pixels.union.astype(float), photos),
        miou=bootstrap_mean(ious, photos),
        miou_skipping=float(ious[kept].mean()) if kept.any() else 0.0,
        precision={f"{x:g}": strict.precision[x] for x in PRECISION_AT},
        precision_or_equal={f"{x:g}": loose.precision[x] for x in PRECISION_AT},
        recall={
            f"{k}@{x:g}": bootstrap_mean(table.hits(name, k, x), photos)
            for k in RECALL_AT
            for x in RECALL_IOU
        },
        **_category_scores(table, name, pixels),
        n_accuracy=n_accuracy,
        t_accuracy=t_accuracy,
        errors={kind: kinds[kind] / len(ious) for kind in KINDS if kinds[kind]},
        difference=bootstrap_difference(hits, first, photos),
        by_kind=_split_by_kind(table, hits),
    )


def _category_scores(table: OutcomeTable, name: str, pixels: Pixels) -> dict[str, Any]:
    same = table.column(name, "same_category")
    known = np.asarray([value is not None for value in same], dtype=bool) & (table.target > 0)
    if not known.any():
        return {"mc_accuracy": None, "cc_oiou": None}
    values = np.asarray([float(bool(value)) for value in same])
    right = known & (values > 0)
    chosen = Pixels(pixels.intersection[right], pixels.union[right], pixels.target[right])
    return {
        "mc_accuracy": bootstrap_mean(np.where(known, values, np.nan), table.photos),
        "cc_oiou": compute_oiou(chosen, "one"),
    }


def _split_by_kind(table: OutcomeTable, hits: Values) -> dict[str, tuple[int, float]]:
    found: dict[str, list[float]] = {}
    for (_, expression), hit in zip(table.rows, hits, strict=True):
        if expression.kind is not None and not np.isnan(hit):
            found.setdefault(expression.kind, []).append(float(hit))
    return {kind: (len(group), float(np.mean(group))) for kind, group in sorted(found.items())}
