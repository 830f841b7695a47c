"""Two finished runs against each other, expression by expression."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from saymask.errors import DatasetError
from saymask.intervals import Interval, bootstrap_difference
from saymask_worker.evaluation.answers import ImageAnswers, load_answers
from saymask_worker.evaluation.metrics import compute_expression_ious
from saymask_worker.evaluation.results import AnswerTable


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

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return asdict(self)


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
    # Datasets that share images number their sentences anew: the words belong to the key.
    return {(i.image, e.id, e.text) for i in images for e in i.expressions}


def _keep(images: list[ImageAnswers], ids: set[tuple[str, str, str]]) -> list[ImageAnswers]:
    kept = [
        image.model_copy(
            update={
                "expressions": tuple(
                    sorted(
                        (e for e in image.expressions if (image.image, e.id, e.text) in ids),
                        key=lambda expression: expression.id,
                    )
                )
            }
        )
        for image in images
    ]
    return [image for image in kept if image.expressions]
