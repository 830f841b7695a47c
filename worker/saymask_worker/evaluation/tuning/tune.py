"""``saymask-worker tune``: weights, confidence and threshold, checked on photos not fitted to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from saymask.datasets import Dataset
from saymask.errors import ConfigError, DatasetError, counted
from saymask.intervals import Interval, bootstrap_difference
from saymask.left_out import LeftOut, OnProgress
from saymask_worker.config.pipeline import MethodName
from saymask_worker.config.scoring import ScoringConfig
from saymask_worker.evaluation.metrics import HIT_IOU
from saymask_worker.evaluation.tuning.decisions import (
    Decision,
    Ranked,
    rank_decisions,
    read_decisions,
)
from saymask_worker.evaluation.tuning.fit import Observation, apply_factors, fit_factors, observe
from saymask_worker.pipeline.pipeline import Pipeline
from saymask_worker.ranking import find_method
from saymask_worker.ranking.confidence import Curve, fit_curve

_FOLDS = 5
_BINS = 10
MIN_NO_REFERENT = 10
# Share of the expressions with a referent that stay answered, as in gRefCOCO's comparisons.
_ANSWERED_SHARE = 0.9
_CURVE_DIGITS = 3


@dataclass(frozen=True)
class Tuning:
    """The result of tuning.

    Attributes:
        scoring: to be used from now on; the weights are the old ones unless ``is_sure``.
        factors: by which each term would count more.
        gain: in the mean IoU of rank 1 on photos that were not fitted to, with its 95 % interval.
        gain_right: the same in the share of rank 1 above IoU .5.
        is_sure: whether the gain in IoU is positive beyond its interval.
        calibration_error: of the confidence, before and after; both on photos not fitted to.
        no_referent: the threshold's N-acc and T-acc, or None where too few such decisions are
            recorded to choose one.
        decisions: with a mask, and without a referent.
        failed: why others were left out.
    """

    scoring: ScoringConfig
    factors: dict[str, float]
    gain: Interval
    gain_right: Interval
    is_sure: bool
    calibration_error: tuple[float, float]
    no_referent: tuple[float, float] | None
    decisions: tuple[int, int]
    images: int
    failed: tuple[str, ...]


def require_tunable(method: MethodName) -> None:
    """Check that a method has weights to fit.

    Raises:
        ConfigError: it has none.
    """
    if not find_method(method).has_confidence:
        raise ConfigError(
            f"The method {method} has no weights to fit.", "Set SAYMASK_METHOD=corrected."
        )


def tune(pipeline: Pipeline, dataset: Dataset, progress: OnProgress) -> Tuning:
    """Fit the scoring of a pipeline's encoder to a dataset of decisions.

    Weights are fitted on four fifths of the photos and measured on the rest, five times; only if
    they gain there beyond the interval are they fitted to all and taken.

    Args:
        pipeline: with the scoring in use.
        dataset: decisions.
        progress: called with the number of finished photos and of all.

    Raises:
        DatasetError: there are too few decisions.
    """
    left_out = LeftOut()
    decisions = read_decisions(pipeline, dataset, progress, left_out)
    if not decisions:
        raise DatasetError(
            f"Of {counted(len(dataset.images), 'photo')} none gives a decision.",
            *left_out.lines[:1],
        )
    scoring = pipeline.config.scoring
    before = rank_decisions(pipeline, decisions, scoring)
    folds = _choose_folds(decisions)
    after: list[Ranked | None] = list(before)
    for fold in range(_FOLDS):
        kept = [i for i in range(len(decisions)) if folds[i] != fold]
        left = [i for i in range(len(decisions)) if folds[i] == fold]
        factors = fit_factors(_observe_all(decisions, before, kept))
        fitted = apply_factors(scoring, factors)
        ranked = rank_decisions(pipeline, [decisions[i] for i in left], fitted)
        for index, row in zip(left, ranked, strict=True):
            after[index] = row
    gain, gain_right = _compare(decisions, before, after)
    is_sure = gain.low > 0
    factors = fit_factors(_observe_all(decisions, before, range(len(decisions))))
    chosen = apply_factors(scoring, factors) if is_sure else scoring
    # Leads on photos not fitted to: those of the final weights on their own photos are too good.
    leads = after if is_sure else before
    confidence, error = _fit_confidence(decisions, before, leads, folds, scoring)
    chosen = confidence.apply_to(chosen)
    threshold, accuracies = _choose_threshold(decisions, leads, confidence.presence, scoring)
    return Tuning(
        scoring=replace(chosen, no_referent_below=threshold),
        factors={name: round(factor, 3) for name, factor in factors.items()},
        gain=gain,
        gain_right=gain_right,
        is_sure=is_sure,
        calibration_error=error,
        no_referent=accuracies,
        decisions=(
            sum(d.ious is not None for d in decisions), sum(d.ious is None for d in decisions),
        ),
        images=len(dataset.images) - len(left_out),
        failed=(*dataset.left_out, *left_out.lines),
    )  # fmt: skip


def compute_calibration_error(
    probabilities: NDArray[np.float64], is_right: NDArray[np.bool_]
) -> float:
    """Return the expected calibration error over ten equal bins (Naeini et al., AAAI 2015)."""
    bins = np.minimum((probabilities * _BINS).astype(int), _BINS - 1)
    counts = np.bincount(bins, minlength=_BINS)
    gaps = np.bincount(bins, weights=probabilities - is_right, minlength=_BINS)
    return float(np.abs(gaps).sum() / max(counts.sum(), 1))


def _choose_folds(decisions: Sequence[Decision]) -> NDArray[np.intp]:
    """A fold for each decision; those of one photo have the same."""
    images = sorted({decision.image for decision in decisions})
    order = np.random.default_rng(0).permutation(len(images))
    fold_of = {image: int(order[position]) % _FOLDS for position, image in enumerate(images)}
    return np.array([fold_of[decision.image] for decision in decisions])


def _observe_all(
    decisions: Sequence[Decision], ranked: Sequence[Ranked | None], indices: Sequence[int]
) -> list[Observation]:
    observations = []
    for index in indices:
        row, ious = ranked[index], decisions[index].ious
        if row is not None and ious is not None and (ious > HIT_IOU).any():
            observations.append(observe(row.scores.terms, ious > HIT_IOU))
    return observations


def _compare(
    decisions: Sequence[Decision], before: Sequence[Ranked | None], after: Sequence[Ranked | None]
) -> tuple[Interval, Interval]:
    """The gain in IoU, and in the share of right answers, of decisions with a mask."""
    rows = [
        (new.iou, old.iou, decision.image)
        for decision, old, new in zip(decisions, before, after, strict=True)
        if decision.ious is not None and old is not None and new is not None
    ]
    new_ious, old_ious, images = (np.array(column) for column in zip(*rows, strict=True))
    is_new, is_old = (np.asarray(x > HIT_IOU, dtype=float) for x in (new_ious, old_ious))
    return (
        bootstrap_difference(new_ious, old_ious, images),
        bootstrap_difference(is_new, is_old, images),
    )


@dataclass(frozen=True)
class _Confidence:
    """How the confidence follows from a lead and from the noun's log-odds."""

    lead: Curve
    presence: Curve

    @staticmethod
    def of(scoring: ScoringConfig) -> _Confidence:
        return _Confidence(
            Curve(scoring.lead_offset, scoring.lead_slope),
            Curve(scoring.presence_offset, scoring.presence_slope),
        )

    def predict(self, row: Ranked) -> float:
        present = 1.0 if row.scores.presence is None else self.presence.apply(row.scores.presence)
        return self.lead.apply(row.lead) * present

    def apply_to(self, scoring: ScoringConfig) -> ScoringConfig:
        return replace(
            scoring,
            lead_offset=round(self.lead.offset, _CURVE_DIGITS),
            lead_slope=round(self.lead.slope, _CURVE_DIGITS),
            presence_offset=round(self.presence.offset, _CURVE_DIGITS),
            presence_slope=round(self.presence.slope, _CURVE_DIGITS),
        )


def _fit_confidence(
    decisions: Sequence[Decision],
    before: Sequence[Ranked | None],
    leads: Sequence[Ranked | None],
    folds: NDArray[np.intp],
    scoring: ScoringConfig,
) -> tuple[_Confidence, tuple[float, float]]:
    """The curves of the confidence, and the error of the old and of new ones."""
    old = _Confidence.of(scoring)
    rows = [(d, row) for d, row in zip(decisions, leads, strict=True) if row is not None]
    fold = folds[[index for index, row in enumerate(leads) if row is not None]]
    predicted = np.zeros(len(rows))
    for held_out in range(_FOLDS):
        fitted = _fit_curves([r for r, f in zip(rows, fold, strict=True) if f != held_out], old)
        for index in np.flatnonzero(fold == held_out):
            predicted[index] = fitted.predict(rows[index][1])
    old_rows = [row for row in before if row is not None]
    error_before = compute_calibration_error(
        np.array([old.predict(row) for row in old_rows]),
        np.array([row.iou > HIT_IOU for row in old_rows]),
    )
    is_right = np.array([row.iou > HIT_IOU for _, row in rows])
    error_after = compute_calibration_error(predicted, is_right)
    return _fit_curves(rows, old), (round(error_before, 4), round(error_after, 4))


def _fit_curves(rows: Sequence[tuple[Decision, Ranked]], old: _Confidence) -> _Confidence:
    """The lead's curve from decisions with a mask; the presence's where both kinds are recorded."""
    meant = [row for decision, row in rows if decision.ious is not None]
    lead = fit_curve([row.lead for row in meant], [row.iou > HIT_IOU for row in meant])
    known = [
        (d.ious is not None, row.scores.presence)
        for d, row in rows
        if row.scores.presence is not None
    ]
    if sum(not is_meant for is_meant, _ in known) < MIN_NO_REFERENT:
        return _Confidence(lead, old.presence)
    presence = fit_curve([value for _, value in known], [is_meant for is_meant, _ in known])
    return _Confidence(lead, presence)


def _choose_threshold(
    decisions: Sequence[Decision],
    leads: Sequence[Ranked | None],
    presence: Curve,
    scoring: ScoringConfig,
) -> tuple[float, tuple[float, float] | None]:
    """The probability below which probably nothing is meant, and its N-acc and T-acc."""
    known = [
        (decision.ious is not None, presence.apply(row.scores.presence))
        for decision, row in zip(decisions, leads, strict=True)
        if row is not None and row.scores.presence is not None
    ]
    meant = np.array([probability for is_meant, probability in known if is_meant])
    nothing = np.array([probability for is_meant, probability in known if not is_meant])
    if len(nothing) < MIN_NO_REFERENT or len(meant) == 0:
        return scoring.no_referent_below, None
    threshold = float(np.quantile(meant, 1 - _ANSWERED_SHARE))
    accuracies = float((nothing < threshold).mean()), float((meant >= threshold).mean())
    return round(threshold, 4), accuracies
