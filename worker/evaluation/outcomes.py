"""From one photo to its outcomes: what each method answered, and how far from the truth.

An outcome is plain data: one line of JSON per photo, so that a killed run goes on where it was.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from backend.datasets.load import EvaluationPhoto, Expression, decode_mask
from backend.errors import DatasetError, InvalidExpression, PhotoError
from backend.masks import Mask, encode_coco_rle
from worker.evaluation.baselines import BASELINES, PhotoEvidence
from worker.evaluation.errors import ErrorKind, classify_answer, compute_ious, find_category
from worker.evaluation.methods import MethodUnderTest
from worker.evaluation.metrics import count_pixels
from worker.images import decode_photo
from worker.pipeline import Pipeline, resize_to_work
from worker.proposals.base import LastPhotoProposer
from worker.proposals.given import to_proposals
from worker.refine import to_original_size
from worker.stages import Floats, Photo, PreparedImage, Proposals

log = logging.getLogger(__name__)

TOP = 5
Row = dict[str, Any]


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Answer(_Line):
    """What one method said to one expression.

    Attributes:
        top: intersection and union in pixels of its best masks, best first, at most five.
        kind: why the first is wrong, or ``right``.
        same_category: whether the first lies on an object of the target's category; None when
            the data set does not say.
        score, gap: of the first mask, and how far ahead of the next that is another object.
        masks: COCO RLE of the first and of that next one; only the run's first method keeps them.
    """

    top: tuple[tuple[int, int], ...]
    kind: ErrorKind
    same_category: bool | None
    score: float
    gap: float
    masks: tuple[dict[str, Any], ...] = ()


class ExpressionOutcome(_Line):
    """One expression and every method's answer to it.

    Attributes:
        oracle_iou: the best IoU any proposal reaches.
    """

    id: str
    text: str
    kind: str | None
    target_px: int
    oracle_iou: float
    answers: dict[str, Answer]


class PhotoOutcome(_Line):
    """One photo. ``photo`` is its file name."""

    photo: str
    proposals: int
    expressions: tuple[ExpressionOutcome, ...]


class TruthProposer:
    """The annotated objects themselves: what is left are errors of ranking."""

    name = "truth"
    fingerprint = "truth"

    def __init__(self) -> None:
        self._masks: list[Mask] = []

    def show(self, photo: EvaluationPhoto) -> None:
        """Take the masks of the photo that comes next."""
        self._masks = [decode_mask(instance.mask) for instance in photo.instances]

    def propose(self, photo: Photo) -> Proposals:
        return to_proposals(self._masks, [1.0] * len(self._masks), photo.size_hw)


@dataclass(frozen=True)
class Evaluator:
    """Models and methods of one process.

    Attributes:
        pipeline: built with the settings in use.
        methods: what to compare; the first is the one pictures are made of.
        no_target_below: an answer whose score is lower is withheld; None withholds none.
        photo_max_megapixels: larger photos are refused.
        truth: when set, it takes the place of the pipeline's proposer.
    """

    pipeline: Pipeline
    methods: Sequence[MethodUnderTest]
    no_target_below: float | None
    photo_max_megapixels: float
    truth: TruthProposer | None

    def evaluate(self, photo: EvaluationPhoto) -> PhotoOutcome:
        """Every method on every expression of one photo.

        Raises:
            DatasetError: the photo cannot be read; names the file.
        """
        if self.truth is not None:
            self.truth.show(photo)
        try:
            scored = self._score(photo, photo.path.read_bytes())
        except (PhotoError, OSError) as error:
            raise DatasetError(f"{photo.path} cannot be used: {error}") from error
        proposals = scored.prepared.proposals
        masks = [to_original_size(mask, photo.size_hw) for mask in proposals.masks]
        stacked = np.stack(masks) if masks else np.zeros((0, *photo.size_hw), dtype=bool)
        instances = [(i.category, decode_mask(i.mask)) for i in photo.instances]
        outcomes = tuple(
            self._judge(expression, scored.totals[expression.id], stacked, instances)
            for expression in photo.expressions
        )
        return PhotoOutcome(photo=photo.path.name, proposals=len(proposals), expressions=outcomes)

    def _score(self, photo: EvaluationPhoto, data: bytes) -> _Scored:
        """Scores of all proposals by every method, by expression."""
        prepared: dict[str, PreparedImage] = {}
        totals: dict[str, dict[str, Floats]] = {e.id: {} for e in photo.expressions}
        evidence: PhotoEvidence | None = None
        proposer = LastPhotoProposer(self.truth or self.pipeline.proposer)
        for method in self.methods:
            config = method.config or self.pipeline.config
            key = config.preparation_fingerprint()
            pipeline = self.pipeline.with_config(config, proposer)
            if key not in prepared:
                prepared[key], _ = pipeline.prepare(data, photo.path.stem)
            if method.config is None and evidence is None:
                work = resize_to_work(
                    decode_photo(data, self.photo_max_megapixels),
                    prepared[key].proposals.masks.shape[1:],
                )
                evidence = PhotoEvidence(pipeline.encoder.visual, work, prepared[key])
            for expression in photo.expressions:
                totals[expression.id][method.name] = self._rank(
                    method, pipeline, prepared[key], evidence, expression
                )
        return _Scored(next(iter(prepared.values())), totals)

    @staticmethod
    def _rank(
        method: MethodUnderTest,
        pipeline: Pipeline,
        prepared: PreparedImage,
        evidence: PhotoEvidence | None,
        expression: Expression,
    ) -> Floats:
        """Scores of all proposals; none for an expression that cannot be scored."""
        nothing = np.zeros(0, dtype=np.float32)
        if len(prepared.proposals) == 0:
            return nothing
        try:
            if method.config is None and evidence is not None:
                sentence = pipeline.encode_sentence(expression.text)
                return BASELINES[method.name](evidence, sentence, expression.id)
            return pipeline.rank(prepared, expression.text)[1].total
        except InvalidExpression as error:
            # It counts as unanswered: nothing of the data set is left out.
            log.warning("expression %s: %s", expression.id, error)
            return nothing

    def _judge(
        self,
        expression: Expression,
        totals: dict[str, Floats],
        masks: NDArray[np.bool_],
        instances: list[tuple[str, Mask]],
    ) -> ExpressionOutcome:
        target = decode_mask(expression.target)
        ious = compute_ious(target, masks)
        oracle = float(ious.max(initial=0.0))
        answers = {}
        for index, method in enumerate(self.methods):
            total = totals[method.name]
            order = np.argsort(-total, kind="stable")
            withheld = (
                self.no_target_below is not None
                and method.config is not None
                and len(order) > 0
                and total[order[0]] < self.no_target_below
            )
            if withheld:
                order = order[:0]
            answer = masks[order[0]] if len(order) else None
            category = expression.category if instances else None
            same = None
            if category is not None:
                same = answer is not None and find_category(answer, instances) == category
            rival = _find_rival(masks, order)
            answers[method.name] = Answer(
                top=tuple(count_pixels(masks[i], target) for i in order[:TOP]),
                kind=classify_answer(answer, target, category, instances, oracle),
                same_category=same,
                score=float(total[order[0]]) if len(order) else 0.0,
                gap=float(total[order[0]] - total[rival]) if rival is not None else 1.0,
                masks=tuple(
                    encode_coco_rle(masks[i])
                    for i in (order[0], rival) if i is not None
                ) if index == 0 and len(order) else (),
            )  # fmt: skip
        return ExpressionOutcome(
            id=expression.id,
            text=expression.text,
            kind=expression.kind,
            target_px=int(target.sum()),
            oracle_iou=oracle,
            answers=answers,
        )


@dataclass(frozen=True)
class _Scored:
    prepared: PreparedImage
    totals: dict[str, dict[str, Floats]]


def _find_rival(masks: NDArray[np.bool_], order: NDArray[np.intp]) -> int | None:
    """The best ranked mask that is not much the same as the first."""
    for index in order[1:]:
        if compute_ious(masks[order[0]], masks[index : index + 1])[0] <= 0.5:
            return int(index)
    return None
