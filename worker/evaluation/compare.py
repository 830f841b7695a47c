"""Two finished runs against each other, expression by expression."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backend.errors import DatasetError
from worker.evaluation.metrics import Interval, bootstrap_difference, compute_ious
from worker.evaluation.outcomes import PhotoOutcome
from worker.evaluation.results import OutcomeTable
from worker.evaluation.run import load_outcomes


@dataclass(frozen=True)
class Comparison:
    """Paired differences, first minus second, over the expressions both runs answered.

    Attributes:
        first, second: ``folder:method`` that was read.
        expressions: how many both have; ``unmatched``: how many only one has.
        differences: metric to its interval.
    """

    first: str
    second: str
    expressions: int
    unmatched: int
    differences: dict[str, Interval]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def compare_runs(first: str, second: str) -> Comparison:
    """Compare two runs, each ``FOLDER`` (its first method) or ``FOLDER:METHOD``.

    Raises:
        DatasetError: a run is missing, a method was not run, or nothing is in common.
    """
    one, one_name = _load(first)
    two, two_name = _load(second)
    common = _ids(one) & _ids(two)
    unmatched = len(_ids(one) ^ _ids(two))
    if not common:
        raise DatasetError(f"{first} and {second} have no expression in common.")
    a, b = OutcomeTable(_keep(one, common)), OutcomeTable(_keep(two, common))
    differences = {
        f"{'top-1' if k == 1 else f'best {k}'} @{x:g}": bootstrap_difference(
            a.hits(one_name, k, x), b.hits(two_name, k, x), a.photos
        )
        for k in (1, 3, 5)
        for x in (0.5, 0.8)
    }
    differences["mIoU"] = bootstrap_difference(
        compute_ious(a.pixels(one_name), "one"), compute_ious(b.pixels(two_name), "one"), a.photos
    )
    differences["best possible IoU"] = bootstrap_difference(
        np.asarray(a.oracle), np.asarray(b.oracle), a.photos
    )
    return Comparison(
        f"{first} ({one_name})", f"{second} ({two_name})", len(common), unmatched, differences
    )


def _load(run: str) -> tuple[list[PhotoOutcome], str]:
    folder, _, name = run.partition(":")
    provenance, outcomes = load_outcomes(Path(folder))
    methods = provenance["methods"]
    if name and name not in methods:
        raise DatasetError(f"{folder} has no method {name!r}.", f"It has: {', '.join(methods)}.")
    return outcomes, name or methods[0]


def _ids(outcomes: list[PhotoOutcome]) -> set[tuple[str, str, str]]:
    # Sets that share photos number their sentences anew: the words belong to the key.
    return {(o.photo, e.id, e.text) for o in outcomes for e in o.expressions}


def _keep(outcomes: list[PhotoOutcome], ids: set[tuple[str, str, str]]) -> list[PhotoOutcome]:
    kept = [
        outcome.model_copy(
            update={
                "expressions": tuple(
                    sorted(
                        (e for e in outcome.expressions if (outcome.photo, e.id, e.text) in ids),
                        key=lambda expression: expression.id,
                    )
                )
            }
        )
        for outcome in outcomes
    ]
    return [outcome for outcome in kept if outcome.expressions]
