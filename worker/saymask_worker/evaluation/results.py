"""From answers to results: the metrics of every method, and two runs compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from saymask.errors import DatasetError
from saymask.intervals import (
    Counts,
    Interval,
    Values,
    bootstrap_difference,
    bootstrap_mean,
    bootstrap_ratio,
)
from saymask_worker.evaluation.answers import (
    TOP,
    ExpressionAnswers,
    ImageAnswers,
    load_answers,
)
from saymask_worker.evaluation.metrics import (
    KINDS,
    PRECISION_AT,
    Pixels,
    compute_expression_ious,
    compute_no_target_accuracy,
    compute_oiou,
    compute_summary,
)

RECALL_AT = (1, 3, 5)
RECALL_IOU = (0.5, 0.7, 0.8)


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, populate_by_name=True, serialize_by_alias=True)


class MethodResult(_Table):
    """One method. Shares in 0..1; an IoU hits when it is above its threshold.

    Attributes:
        miou_skipping: mIoU without images that have no proposal, as the published code reports.
        precision: X to share of first answers above (``>``) IoU X.
        precision_or_equal: the same with ``>=``.
        recall: ``"k@X"`` to the share of expressions with a mask above IoU X in the first k.
        mc_accuracy: share of first answers on an object of the target's category; None when
            unknown.
        cc_oiou: oIoU over just those.
        n_accuracy: share of no-target expressions left unanswered.
        t_accuracy: share of the others answered.
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
    """The result of a run.

    Attributes:
        provenance: what was run on what.
        failed: why other images of the dataset are not among them.
        oracle: IoU threshold to the share of expressions for which a proposal is above it;
            ``mean`` to the mean of the best IoU.
        methods: in the order they were asked for.
    """

    provenance: dict[str, Any]
    images: int = Field(alias="photos")
    expressions: int
    images_without_proposals: int = Field(alias="photos_without_proposals")
    oracle: dict[str, Interval]
    methods: tuple[MethodResult, ...]
    failed: tuple[str, ...] = ()


def build_results(
    answered_images: Sequence[ImageAnswers],
    provenance: dict[str, Any],
    failed: tuple[str, ...] = (),
) -> Results:
    """Summarise a run."""
    table = AnswerTable(answered_images)
    names = list(answered_images[0].expressions[0].answers)
    first = table.hits(names[0], 1, 0.5)
    oracle = {
        f"{x:g}": bootstrap_mean((table.oracle > x).astype(float), table.images) for x in RECALL_IOU
    }
    oracle["mean"] = bootstrap_mean(table.oracle, table.images)
    return Results(
        provenance=provenance,
        images=len(answered_images),
        expressions=len(table.images),
        images_without_proposals=sum(image.proposals == 0 for image in answered_images),
        oracle=oracle,
        methods=tuple(_summarise(table, name, first) for name in names),
        failed=failed,
    )


class AnswerTable:
    """The answered_images of a run as columns, one row per expression."""

    def __init__(self, answered_images: Sequence[ImageAnswers]) -> None:
        self.rows = [(i, e) for i in answered_images for e in i.expressions]
        images = [number for number, i in enumerate(answered_images) for _ in i.expressions]
        self.images: Counts = np.asarray(images, dtype=np.int64)
        self.ids = [e.id for _, e in self.rows]
        self.oracle: Values = np.asarray([e.oracle_iou for _, e in self.rows])
        self.target: Counts = np.asarray([e.target_px for _, e in self.rows], dtype=np.int64)
        self.has_proposals = np.asarray([i.proposals > 0 for i, _ in self.rows], dtype=bool)

    def pixels(self, name: str) -> Pixels:
        """Return the pixels of each first answer.

        An expression without an answer has the target as its union.
        """
        pairs = [
            e.answers[name].top[0] if e.answers[name].top else (0, e.target_px)
            for _, e in self.rows
        ]
        counts = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
        return Pixels(counts[:, 0], counts[:, 1], self.target)

    def hits(self, name: str, k: int, iou: float) -> Values:
        """Return 1 where one of the first k masks is above the IoU; NaN where nothing is meant."""
        values = [
            float(any(shared > iou * union for shared, union in e.answers[name].top[: min(k, TOP)]))
            for _, e in self.rows
        ]
        return np.where(self.target > 0, np.asarray(values), np.nan)

    def column(self, name: str, attribute: str) -> list[Any]:
        """Return an attribute of every answer of a method."""
        return [getattr(e.answers[name], attribute) for _, e in self.rows]


def _summarise(table: AnswerTable, name: str, first: Values) -> MethodResult:
    pixels, images = table.pixels(name), table.images
    ious = compute_expression_ious(pixels, "one")
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
        oiou=bootstrap_ratio(pixels.intersection.astype(float), pixels.union.astype(float), images),
        miou=bootstrap_mean(ious, images),
        miou_skipping=float(ious[kept].mean()) if kept.any() else 0.0,
        precision={f"{x:g}": strict.precision[x] for x in PRECISION_AT},
        precision_or_equal={f"{x:g}": loose.precision[x] for x in PRECISION_AT},
        recall={
            f"{k}@{x:g}": bootstrap_mean(table.hits(name, k, x), images)
            for k in RECALL_AT
            for x in RECALL_IOU
        },
        **_category_scores(table, name, pixels),
        n_accuracy=n_accuracy,
        t_accuracy=t_accuracy,
        errors={kind: kinds[kind] / len(ious) for kind in KINDS if kinds[kind]},
        difference=bootstrap_difference(hits, first, images),
        by_kind=_split_by_kind(table, hits),
    )


def _category_scores(table: AnswerTable, name: str, pixels: Pixels) -> dict[str, Any]:
    same = table.column(name, "same_category")
    has_category = np.asarray([value is not None for value in same], dtype=bool) & (
        table.target > 0
    )
    if not has_category.any():
        return {"mc_accuracy": None, "cc_oiou": None}
    values = np.asarray([float(bool(value)) for value in same])
    right = has_category & (values > 0)
    right_pixels = Pixels(pixels.intersection[right], pixels.union[right], pixels.target[right])
    return {
        "mc_accuracy": bootstrap_mean(np.where(has_category, values, np.nan), table.images),
        "cc_oiou": compute_oiou(right_pixels, "one"),
    }


def _split_by_kind(table: AnswerTable, hits: Values) -> dict[str, tuple[int, float]]:
    hits_by_kind: dict[str, list[float]] = {}
    for (_, expression), hit in zip(table.rows, hits, strict=True):
        if expression.kind is not None and not np.isnan(hit):
            hits_by_kind.setdefault(expression.kind, []).append(float(hit))
    return {
        kind: (len(group), float(np.mean(group))) for kind, group in sorted(hits_by_kind.items())
    }


@dataclass(frozen=True)
class Comparison:
    """Paired differences, first minus second, over the expressions both runs answered.

    Attributes:
        first: ``folder:method`` that was read.
        second: the other.
        expressions: how many both answered.
        unmatched: how many only one answered.
        differences: metric to its interval.
    """

    first: str
    second: str
    expressions: int
    unmatched: int
    differences: dict[str, Interval]


def compare_runs(first: str, second: str) -> Comparison:
    """Compare two runs, each ``FOLDER`` (its first method) or ``FOLDER:METHOD``.

    Raises:
        DatasetError: a run is missing, a method was not run, or nothing is in common.
    """
    first_images, first_name = _load(first)
    second_images, second_name = _load(second)
    common = _ids(first_images) & _ids(second_images)
    unmatched = len(_ids(first_images) ^ _ids(second_images))
    if not common:
        raise DatasetError(f"{first} and {second} have no expression in common.")
    a, b = AnswerTable(_keep(first_images, common)), AnswerTable(_keep(second_images, common))
    differences = {
        f"{'top-1' if k == 1 else f'best {k}'} @{x:g}": bootstrap_difference(
            a.hits(first_name, k, x), b.hits(second_name, k, x), a.images
        )
        for k in (1, 3, 5)
        for x in (0.5, 0.8)
    }
    differences["mIoU"] = bootstrap_difference(
        compute_expression_ious(a.pixels(first_name), "one"),
        compute_expression_ious(b.pixels(second_name), "one"),
        a.images,
    )
    differences["best possible IoU"] = bootstrap_difference(
        np.asarray(a.oracle), np.asarray(b.oracle), a.images
    )
    return Comparison(
        f"{first} ({first_name})", f"{second} ({second_name})", len(common), unmatched, differences
    )


def _load(run: str) -> tuple[list[ImageAnswers], str]:
    folder, _, name = run.partition(":")
    provenance, images = load_answers(Path(folder))
    methods = provenance["methods"]
    if name and name not in methods:
        raise DatasetError(f"{folder} has no method {name!r}.", f"It has: {', '.join(methods)}.")
    return images, name or methods[0]


def _ids(images: list[ImageAnswers]) -> set[tuple[str, str, str]]:
    return {_key(image, expression) for image in images for expression in image.expressions}


def _key(image: ImageAnswers, expression: ExpressionAnswers) -> tuple[str, str, str]:
    # Datasets that share images number their sentences anew: the words belong to the key.
    return image.image, expression.id, expression.text


def _keep(images: list[ImageAnswers], ids: set[tuple[str, str, str]]) -> list[ImageAnswers]:
    kept = []
    for image in images:
        common = sorted((e for e in image.expressions if _key(image, e) in ids), key=lambda e: e.id)
        if common:
            kept.append(image.model_copy(update={"expressions": tuple(common)}))
    return kept
