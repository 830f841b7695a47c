"""What an evaluation is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class EvaluationRequest:
    """What to evaluate.

    Attributes:
        dataset: see ``load_dataset``, like the four that follow.
        root: folder of the dataset.
        split: for example ``val``.
        split_by: who made the splits, or None.
        limit: only so many images, or None.
        methods: names or groups of variants, comma separated.
        truth_proposals: take the annotated objects as proposals.
        no_target_below: answers with a lower score are withheld; None withholds none.
        models: trained models beside the methods, each ``cris:FOLDER``.
        first_sentence: only the first sentence about each referent.
        first_look: images are only looked at, as before they are prepared.
    """

    dataset: str
    root: Path
    split: str
    split_by: str | None
    limit: int | None
    methods: str
    truth_proposals: bool
    no_target_below: float | None
    models: tuple[str, ...] = ()
    first_sentence: bool = False
    first_look: bool = False
