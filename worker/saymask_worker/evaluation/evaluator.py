"""From one image to what each variant answered, and how far that is from the truth."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from saymask.datasets.model import DatasetImage, Expression
from saymask.errors import DatasetError, InvalidExpression, SaymaskError
from saymask.masks import Mask, Masks, compute_ious, decode_coco_rle, encode_coco_rle
from saymask_worker.evaluation.answers import TOP, Answer, ExpressionAnswers, ImageAnswers
from saymask_worker.evaluation.baselines import BASELINES, BaselineInputs
from saymask_worker.evaluation.error_kinds import ErrorKind, classify_answer, find_category
from saymask_worker.evaluation.metrics import count_pixels
from saymask_worker.evaluation.truth import TruthProposer
from saymask_worker.evaluation.variants import Variant, with_every_crop
from saymask_worker.images.decode import decode_image
from saymask_worker.images.resize import resize_to_work, to_original_size
from saymask_worker.images.types import Floats, PreparedImage
from saymask_worker.masks.base import LastImageProposer
from saymask_worker.pipeline.pipeline import Pipeline
from saymask_worker.pipeline.suggestions import choose_distinct

log = logging.getLogger(__name__)


class TrainedModel(Protocol):
    """A model that needs no proposals."""

    def segment(self, pixels: NDArray[np.uint8], sentence: str) -> Mask:
        """Return the mask (H, W) of a sentence in an image (H, W, 3); it may be empty."""
        ...


@dataclass(frozen=True)
class Evaluator:
    """Models and variants of one process.

    Attributes:
        pipeline: built with the settings in use.
        variants: what to compare; pictures are made of the first.
        no_target_below: an answer with a lower score is withheld; None withholds none.
        truth: when set, it replaces the pipeline's proposer.
        models: trained models by name, which answer with one mask of their own.
    """

    pipeline: Pipeline
    variants: Sequence[Variant]
    no_target_below: float | None
    truth: TruthProposer | None
    models: Mapping[str, TrainedModel] = field(default_factory=dict)

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
        scored = self._score(image, data)
        proposals = scored.proposals
        masks = [to_original_size(mask, image.size_hw) for mask in proposals]
        stacked = np.stack(masks) if masks else np.zeros((0, *image.size_hw), dtype=bool)
        instances = [(i.category, decode_coco_rle(i.mask)) for i in image.instances]
        own_masks = self._ask_models(image, data)
        return ImageAnswers(
            image=image.path.name,
            proposals=len(proposals),
            expressions=tuple(
                self._judge(
                    expression,
                    scored.ranked[expression.id],
                    stacked,
                    instances,
                    own_masks[expression.id],
                )
                for expression in image.expressions
            ),
        )

    def _score(self, image: DatasetImage, data: bytes) -> _ScoredImage:
        """Score all proposals by every variant, for every expression."""
        prepared: dict[str, PreparedImage] = {}
        ranked: dict[str, dict[str, _Ranked]] = {e.id: {} for e in image.expressions}
        inputs: BaselineInputs | None = None
        proposer = LastImageProposer(self.truth or self.pipeline.proposer)
        for variant in self.variants:
            config = variant.config or with_every_crop(self.pipeline.config)
            key = config.preparation_fingerprint()
            pipeline = replace(self.pipeline, config=config, proposer=proposer, cache=None)
            if key not in prepared:
                prepared[key], _ = pipeline.prepare(data, image.path.stem)
            if variant.config is None and inputs is None:
                inputs = self._build_baseline_inputs(data, prepared[key])
            for expression in image.expressions:
                ranked[expression.id][variant.name] = _rank(
                    variant, pipeline, prepared[key], inputs, expression
                )
        first = next(iter(prepared.values()))
        return _ScoredImage(first.proposals.masks, ranked)

    def _ask_models(self, image: DatasetImage, data: bytes) -> dict[str, dict[str, Mask]]:
        """The mask of every trained model, by expression."""
        if not self.models:
            return {expression.id: {} for expression in image.expressions}
        pixels = decode_image(data).pixels
        return {
            expression.id: {
                name: model.segment(pixels, expression.text) for name, model in self.models.items()
            }
            for expression in image.expressions
        }

    def _build_baseline_inputs(self, data: bytes, prepared: PreparedImage) -> BaselineInputs:
        decoded = decode_image(data)
        pixels = resize_to_work(decoded, prepared.proposals.masks.shape[1:])
        return BaselineInputs(self.pipeline.encoder.visual, pixels, prepared)

    def _judge(
        self,
        expression: Expression,
        ranked: dict[str, _Ranked],
        masks: Masks,
        instances: list[tuple[str, Mask]],
        own_masks: dict[str, Mask],
    ) -> ExpressionAnswers:
        target = decode_coco_rle(expression.target)
        oracle_iou = float(compute_ious(target, masks).max(initial=0.0))
        truth = _Truth(target, expression.category if instances else None, instances, oracle_iou)
        answers = {
            variant.name: self._judge_variant(variant, ranked[variant.name], masks, truth)
            for variant in self.variants
        }
        for name, mask in own_masks.items():
            own = Variant(name, "models", None)
            found = _Ranked(np.ones(1, dtype=np.float32), (0,)) if mask.any() else _NOTHING
            answers[name] = self._judge_variant(own, found, mask[None], truth)
        return ExpressionAnswers(
            id=expression.id,
            text=expression.text,
            kind=expression.kind,
            target_px=int(target.sum()),
            oracle_iou=oracle_iou,
            answers=answers,
        )

    def _judge_variant(
        self, variant: Variant, ranked: _Ranked, masks: Masks, truth: _Truth
    ) -> Answer:
        total = ranked.total
        order = np.argsort(-total, kind="stable")
        if len(order) == 0 or self._is_withheld(variant, float(total[order[0]])):
            return Answer(
                top=(),
                kind=truth.classify(None),
                same_category=truth.has_category(None),
                score=0.0,
                gap=1.0,
            )
        first = order[0]
        runner_up = _find_runner_up(masks, order)
        keeps_masks = variant is self.variants[0]
        return Answer(
            top=tuple(count_pixels(masks[i], truth.target) for i in ranked.offered),
            kind=truth.classify(masks[first]),
            same_category=truth.has_category(masks[first]),
            score=float(total[first]),
            gap=float(total[first] - total[runner_up]) if runner_up is not None else 1.0,
            masks=_encode_masks(masks, (first, runner_up)) if keeps_masks else (),
        )

    def _is_withheld(self, variant: Variant, score: float) -> bool:
        """Whether an answer counts as "no target"; baselines are always answered."""
        return (
            self.no_target_below is not None
            and variant.config is not None
            and score < self.no_target_below
        )


@dataclass(frozen=True)
class _Ranked:
    """Scores (N,) of all proposals, and the indices of those that are offered, best first."""

    total: Floats
    offered: tuple[int, ...]


_NOTHING = _Ranked(np.zeros(0, dtype=np.float32), ())


@dataclass(frozen=True)
class _ScoredImage:
    """Proposals (N, h, w), and how each variant ranks them for each expression."""

    proposals: Masks
    ranked: dict[str, dict[str, _Ranked]]


@dataclass(frozen=True)
class _Truth:
    """What the dataset says about one expression, and how well a proposal can meet it."""

    target: Mask
    category: str | None
    instances: list[tuple[str, Mask]]
    oracle_iou: float

    def classify(self, answer: Mask | None) -> ErrorKind:
        return classify_answer(answer, self.target, self.category, self.instances, self.oracle_iou)

    def has_category(self, answer: Mask | None) -> bool | None:
        if self.category is None:
            return None
        return answer is not None and find_category(answer, self.instances) == self.category


def _rank(
    variant: Variant,
    pipeline: Pipeline,
    prepared: PreparedImage,
    inputs: BaselineInputs | None,
    expression: Expression,
) -> _Ranked:
    """Rank the proposals; nothing for an expression that cannot be scored."""
    if len(prepared.proposals) == 0:
        return _NOTHING
    try:
        if variant.config is None and inputs is not None:
            sentence = pipeline.encode_sentence(expression.text)
            total = BASELINES[variant.name](inputs, sentence, expression.id)
            return _Ranked(total, tuple(np.argsort(-total, kind="stable")[:TOP].tolist()))
        _, scores = pipeline.rank(prepared, expression.text)
    except InvalidExpression as error:
        # It counts as unanswered: nothing of the dataset is left out.
        log.warning("expression %s: %s", expression.id, error)
        return _NOTHING
    return _Ranked(scores.total, tuple(choose_distinct(prepared, scores, pipeline.config, TOP)))


def _find_runner_up(masks: Masks, order: NDArray[np.intp]) -> int | None:
    """The best ranked mask that is not much the same as the first."""
    for index in order[1:]:
        if compute_ious(masks[order[0]], masks[index : index + 1])[0] <= 0.5:
            return int(index)
    return None


def _encode_masks(masks: Masks, indices: tuple[int | None, ...]) -> tuple[dict[str, Any], ...]:
    return tuple(encode_coco_rle(masks[i]) for i in indices if i is not None)
