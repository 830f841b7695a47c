"""From one image to what each variant answered, and how far that is from the truth."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from saymask.datasets.model import DatasetImage, Expression
from saymask.errors import DatasetError, InvalidExpression, SaymaskError
from saymask.masks import Mask, Masks, compute_ious, decode_coco_rle, encode_coco_rle
from saymask_worker.evaluation.answers import TOP, Answer, ExpressionAnswers, ImageAnswers
from saymask_worker.evaluation.metrics import (
    ErrorKind,
    classify_answer,
    count_pixels,
    find_category,
)
from saymask_worker.evaluation.variants import Variant
from saymask_worker.images.decode import decode_image
from saymask_worker.images.resize import to_original_size
from saymask_worker.images.types import DecodedImage, Floats, PreparedImage, Proposals
from saymask_worker.masks.base import LastImageProposer
from saymask_worker.masks.given import to_proposals
from saymask_worker.pipeline.pipeline import Pipeline
from saymask_worker.pipeline.suggestions import choose_distinct

log = logging.getLogger(__name__)

Segment = Callable[[NDArray[np.uint8], str], Mask]
"""A trained model: from an image (H, W, 3) and a sentence to a mask (H, W); it may be empty."""


class TruthProposer:
    """Returns the annotated objects of the image it was last given: only ranking can fail then."""

    name = "truth"
    fingerprint = "truth"

    def __init__(self) -> None:
        self._masks: list[Mask] = []

    def set_image(self, image: DatasetImage) -> None:
        """Take the masks of the image that comes next."""
        self._masks = [decode_coco_rle(instance.mask) for instance in image.instances]

    def propose(self, image: DecodedImage) -> Proposals:
        """Return the annotated objects."""
        return to_proposals(self._masks, [1.0] * len(self._masks), image.size_hw)

    def halve_batch(self) -> bool:
        """Return False: nothing is computed in batches."""
        return False


@dataclass(frozen=True)
class Evaluator:
    """Models and variants of one process.

    Attributes:
        pipeline: built with the settings in use.
        variants: what to compare; pictures are made of the first.
        no_target_below: an answer with a lower score is withheld; None withholds none.
        truth: when set, it replaces the pipeline's proposer.
        models: trained models by name, which answer with one mask.
    """

    pipeline: Pipeline
    variants: Sequence[Variant]
    no_target_below: float | None
    truth: TruthProposer | None
    models: Mapping[str, Segment] = field(default_factory=dict)

    def evaluate(self, image: DatasetImage) -> ImageAnswers:
        """Return every variant's answer to every expression of one image; or its failure.

        Raises:
            SaymaskError: it concerns all images.
        """
        name = image.path.name
        try:
            return self._evaluate(image)
        except SaymaskError as error:
            if error.concerns_all:
                raise
            return ImageAnswers(image=name, proposals=0, expressions=(), failure=f"{name}: {error}")

    def _evaluate(self, image: DatasetImage) -> ImageAnswers:
        if self.truth is not None:
            self.truth.set_image(image)
        try:
            data = image.path.read_bytes()
        except OSError as error:
            raise DatasetError(f"It cannot be read: {error.strerror}.") from error
        proposals, ranked = self._rank_all(image, data)
        masks = [to_original_size(mask, image.size_hw) for mask in proposals]
        stacked = np.stack(masks) if masks else np.zeros((0, *image.size_hw), dtype=bool)
        instances = [(i.category, decode_coco_rle(i.mask)) for i in image.instances]
        pixels = decode_image(data).pixels if self.models else None
        answers = []
        for expression in image.expressions:
            truth = _Truth.of(expression, instances, stacked)
            own = {
                name: _judge_model(segment(pixels, expression.text), truth)
                for name, segment in self.models.items()
                if pixels is not None
            }
            answers.append(
                ExpressionAnswers(
                    id=expression.id,
                    text=expression.text,
                    kind=expression.kind,
                    target_px=int(truth.target.sum()),
                    oracle_iou=truth.oracle_iou,
                    answers=self._judge_variants(ranked[expression.id], stacked, truth) | own,
                )
            )
        return ImageAnswers(
            image=image.path.name, proposals=len(proposals), expressions=tuple(answers)
        )

    def _rank_all(
        self, image: DatasetImage, data: bytes
    ) -> tuple[Masks, dict[str, dict[str, _Ranked]]]:
        """Return proposals (N, h, w), and by expression how each variant ranks them."""
        prepared: dict[str, PreparedImage] = {}
        ranked: dict[str, dict[str, _Ranked]] = {e.id: {} for e in image.expressions}
        proposer = LastImageProposer(self.truth or self.pipeline.proposer)
        for variant in self.variants:
            key = variant.config.preparation_fingerprint()
            pipeline = replace(self.pipeline, config=variant.config, proposer=proposer)
            if key not in prepared:
                prepared[key], _ = pipeline.prepare(data, image.path.stem)
            for expression in image.expressions:
                ranked[expression.id][variant.name] = _rank(
                    variant, pipeline, prepared[key], expression
                )
        return next(iter(prepared.values())).proposals.masks, ranked

    def _judge_variants(
        self, ranked: dict[str, _Ranked], masks: Masks, truth: _Truth
    ) -> dict[str, Answer]:
        answers = {}
        for variant in self.variants:
            row = ranked[variant.name]
            # An answer may be withheld as "no target"; baselines always answer.
            if (
                self.no_target_below is not None
                and variant.baseline is None
                and row.total.max(initial=-np.inf) < self.no_target_below
            ):
                row = _NOTHING
            answers[variant.name] = _judge(row, masks, truth, variant is self.variants[0])
        return answers


@dataclass(frozen=True)
class _Ranked:
    """Scores (N,) of all proposals, and the indices of those that are offered, best first."""

    total: Floats
    offered: tuple[int, ...]


_NOTHING = _Ranked(np.zeros(0, dtype=np.float32), ())


@dataclass(frozen=True)
class _Truth:
    """What the dataset says about one expression, and how well a proposal can meet it."""

    target: Mask
    category: str | None
    instances: list[tuple[str, Mask]]
    oracle_iou: float

    @staticmethod
    def of(expression: Expression, instances: list[tuple[str, Mask]], proposals: Masks) -> _Truth:
        target = decode_coco_rle(expression.target)
        oracle_iou = float(compute_ious(target, proposals).max(initial=0.0))
        return _Truth(target, expression.category if instances else None, instances, oracle_iou)

    def classify(self, answer: Mask | None) -> ErrorKind:
        return classify_answer(answer, self.target, self.category, self.instances, self.oracle_iou)

    def has_category(self, answer: Mask | None) -> bool | None:
        if self.category is None:
            return None
        return answer is not None and find_category(answer, self.instances) == self.category


def _rank(
    variant: Variant, pipeline: Pipeline, prepared: PreparedImage, expression: Expression
) -> _Ranked:
    """Rank the proposals; nothing for an expression that cannot be scored."""
    if len(prepared.proposals) == 0:
        return _NOTHING
    try:
        if variant.baseline is not None:
            sentence = pipeline.encode_sentence(expression.text)
            total = variant.baseline(prepared, sentence, expression.id)
            return _Ranked(total, tuple(np.argsort(-total, kind="stable")[:TOP].tolist()))
        _, scores = pipeline.rank(prepared, expression.text)
    except InvalidExpression as error:
        # It counts as unanswered: nothing of the dataset is left out.
        log.warning("expression %s: %s", expression.id, error)
        return _NOTHING
    return _Ranked(scores.total, tuple(choose_distinct(prepared, scores, pipeline.config, TOP)))


def _judge_model(mask: Mask, truth: _Truth) -> Answer:
    ranked = _Ranked(np.ones(1, dtype=np.float32), (0,)) if mask.any() else _NOTHING
    return _judge(ranked, mask[None], truth, keeps_masks=False)


def _judge(ranked: _Ranked, masks: Masks, truth: _Truth, keeps_masks: bool) -> Answer:
    total = ranked.total
    order = np.argsort(-total, kind="stable")
    if len(order) == 0:
        kind, same_category = truth.classify(None), truth.has_category(None)
        return Answer(top=(), kind=kind, same_category=same_category, score=0.0, gap=1.0)
    first, runner_up = order[0], _find_runner_up(masks, order)
    kept = [first] if runner_up is None else [first, runner_up]
    return Answer(
        top=tuple(count_pixels(masks[i], truth.target) for i in ranked.offered),
        kind=truth.classify(masks[first]),
        same_category=truth.has_category(masks[first]),
        score=float(total[first]),
        gap=1.0 if runner_up is None else float(total[first] - total[runner_up]),
        masks=tuple(encode_coco_rle(masks[i]) for i in kept) if keeps_masks else (),
    )


def _find_runner_up(masks: Masks, order: NDArray[np.intp]) -> int | None:
    """The best ranked mask that is not much the same as the first."""
    for index in order[1:]:
        if compute_ious(masks[order[0]], masks[index : index + 1])[0] <= 0.5:
            return int(index)
    return None
