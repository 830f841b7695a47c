"""The stages in their order: decode, propose, encode, parse, score, top k, original size."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from saymask.contract import (
    Candidate,
    Describer,
    FalseExpression,
    ProposedPair,
    SegmentResult,
    Timings,
    check_k,
)
from saymask.errors import ConfigError, PreparedNotKept
from saymask_worker.config.pipeline import PipelineConfig, to_first_look
from saymask_worker.encoders.base import Encoder
from saymask_worker.encoders.vocabulary import EncodedNouns
from saymask_worker.images.decode import decode_image, draw_example
from saymask_worker.images.resize import resize_to_work
from saymask_worker.images.types import (
    DecodedImage,
    EncodedImage,
    Floats,
    PreparedImage,
    Scores,
    VisualPrompt,
)
from saymask_worker.language import Count, LanguageParser, ParsedExpression, clean_expression
from saymask_worker.masks.base import Proposer
from saymask_worker.masks.clicks import ClickSegmenter, EmbeddedImage, check_prompt
from saymask_worker.masks.mobile_sam import IMAGE_SIZE_PX
from saymask_worker.masks.sources.base import Source
from saymask_worker.masks.sources.offers import Offers
from saymask_worker.pipeline.cache import PreparedCache
from saymask_worker.pipeline.candidates import (
    build_offered,
    build_pair,
    rank_proposals,
    rank_with_offers,
)
from saymask_worker.pipeline.generation.colors import measure_colors
from saymask_worker.pipeline.generation.endpoint import EndpointDescriber, require_describer
from saymask_worker.pipeline.generation.negatives import Judge, propose_false
from saymask_worker.pipeline.generation.propose import propose_expressions
from saymask_worker.pipeline.notices import build_notices
from saymask_worker.pipeline.preparation import Preparation, Stopwatch
from saymask_worker.pipeline.sources import InstanceChooser, SourceSet
from saymask_worker.pipeline.suggestions import choose_distinct, choose_how_many, count_separate
from saymask_worker.ranking import Method, build_method
from saymask_worker.ranking.appearance import describe_image
from saymask_worker.ranking.confidence import compute_presence_probability
from saymask_worker.weights.device import BatchModel, RetryOnOom

log = logging.getLogger(__name__)

_WARM_UP_EXPRESSIONS = ("the red thing", "left")


@dataclass(eq=False, repr=False)
class Pipeline:
    """Prepares images and segments expressions. One instance per process; not thread-safe.

    ``dataclasses.replace`` gives one of the same models with other arguments, and without a cache,
    which belongs to one configuration and one proposer.

    Args:
        vocabulary: what an image can show, in the encoder's space.
        config: what they were built with; it names the results.
        clicks: answers clicks and boxes; None where masks are given and there is no model.
        sources: of candidates, in addition to the proposals.
        describer: writes proposed expressions where that is wanted; None for rules alone.
        strict_sources: a source that fails is an error, instead of a notice.
        first_look_proposer: generates the masks of a first look; None for no first looks.
        is_first_look: what ``prepare`` gives are first looks.
    """

    proposer: Proposer
    encoder: Encoder
    parser: LanguageParser
    vocabulary: EncodedNouns
    config: PipelineConfig
    device: str = "cpu"
    clicks: ClickSegmenter | None = None
    sources: Sequence[Source] = ()
    describer: EndpointDescriber | None = None
    _: KW_ONLY
    strict_sources: bool = False
    first_look_proposer: Proposer | None = None
    is_first_look: bool = False
    cache: PreparedCache | None = field(init=False, default=None)
    """Where prepared images are kept."""

    def __post_init__(self) -> None:
        models: list[BatchModel] = [self.proposer, self.encoder.visual]
        models += [self.first_look_proposer] if self.first_look_proposer is not None else []
        self._batches = RetryOnOom(self.device, models)
        self._method = self._build_method(self.config)
        self._sources = SourceSet(
            self.sources, InstanceChooser(self._method), self.config.sources, self.strict_sources
        )
        self._preparation = Preparation(
            self.proposer, self._method, self.encoder, self.is_first_look
        )
        self._first_look: Preparation | None = None
        if self.first_look_proposer is not None:
            quick = self._build_method(to_first_look(self.config))
            self._first_look = Preparation(
                self.first_look_proposer, quick, self.encoder, is_first_look=True
            )

    def _build_method(self, config: PipelineConfig) -> Method:
        return build_method(config, self.encoder, self.parser, self.vocabulary)

    @property
    def model_version(self) -> str:
        """Names everything a result depends on."""
        names = f"{self.encoder.name}-{self.proposer.name}-{self.config.method}"
        weights = f"{self.proposer.fingerprint}-{self.encoder.weights_hash}"
        active = self._sources.active
        sources = "".join(f"-{source.name}.{source.fingerprint}" for source in active)
        return f"saymask-{names}-{self.config.fingerprint()}-{weights}{sources}"

    def _name_version(self, prepared: PreparedImage) -> str:
        if not prepared.is_first_look:
            return self.model_version
        quick = to_first_look(self.config)
        crops = f"{quick.first_look.initial_crops}.{quick.first_look.total_crops}"
        look = f"{quick.preparation_fingerprint()}.{crops}"
        return f"{self.model_version}-first.{look}"

    @property
    def encoder_description(self) -> str:
        """The encoder in one line, for people."""
        return self.encoder.description

    def warm_up(self) -> None:
        """Do what is slow the first time, so that the first expression is as fast as the next.

        On a GPU an image is prepared too, whose kernels are chosen then.
        """
        for expression in _WARM_UP_EXPRESSIONS:
            self._method.encode_text(self.parser.parse(expression))
        if self.device.startswith("cuda"):
            self._batches.run(lambda: self._preparation.prepare(draw_example(), None))

    def prepare(self, data: bytes, name: str | None = None) -> tuple[PreparedImage, Timings]:
        """Compute everything about an image that does not depend on an expression.

        Args:
            data: the encoded image.
            name: of its file, without suffix, for proposals given by name.

        Returns:
            The prepared image, which the cache keeps or ``not_kept`` says why not, and the
            milliseconds it took.

        Raises:
            ImageUnreadable, ImageTooLarge.
            DeviceMemoryExhausted: the device has no room even for the smallest batches.
        """
        prepared, timings = self._batches.run(lambda: self._preparation.prepare(data, name))
        if self.cache is not None:
            try:
                self.cache.store(prepared)
            except PreparedNotKept as error:
                log.warning("%s", error)
                prepared = replace(prepared, not_kept=(error.cause, error.cure))
        return prepared, timings

    def look_first(self, data: bytes) -> tuple[PreparedImage, Timings] | None:
        """Prepare an image in a fraction of the time, for a first answer; None where that is off.

        Fewer points are asked, and no proposal is encoded by itself. Never kept in the cache.
        Raises what ``prepare`` does.
        """
        first_look = self._first_look
        if first_look is None:
            return None
        return self._batches.run(lambda: first_look.prepare(data, None))

    def load_prepared(self, sha256: str) -> PreparedImage | None:
        """Return the image whose bytes have this hash, if it was prepared in the same way."""
        return self.cache.load(sha256) if self.cache is not None else None

    def segment(
        self,
        prepared: PreparedImage,
        expression: str,
        k: int,
        *,
        preparation: Timings | None,
        encoded: EncodedImage | None = None,
    ) -> SegmentResult:
        """Rank a prepared image's proposals against an expression; the best ``k`` are candidates.

        Args:
            prepared: of ``prepare`` or ``load_prepared``.
            expression: as typed.
            k: number of candidates.
            preparation: timings of preparing; None when the image came from the cache.
            encoded: the same image, for sources that look at its pixels; with None only proposals
                are ranked.

        Raises:
            InvalidExpression: blank, or without any word.
            InvalidRequest: ``k`` is out of range.
        """
        check_k(k)
        stopwatch = Stopwatch(preparation or Timings())
        cleaned = clean_expression(expression)
        parsed = self.parser.parse(cleaned)
        stopwatch.lap("language_ms")
        text = self._batches.run(lambda: self._method.encode_text(parsed))
        stopwatch.lap("text_features_ms")
        scores = self._batches.run(lambda: self._method.score(prepared, text, parsed))
        stopwatch.lap("scoring_ms")
        offers = self._batches.run(lambda: self._sources.ask(prepared, cleaned, parsed, encoded))
        stopwatch.lap("sources_ms")
        separate = count_separate(prepared, scores, self.config)
        k = choose_how_many(k, parsed.count, separate)
        candidates = self._rank_candidates(prepared, scores, offers, k, parsed.count)
        presence = compute_presence_probability(scores, self.config.scoring)
        notices = build_notices(
            parsed, prepared, separate,
            is_cut=self.encoder.text.is_truncated(parsed.text),
            is_absent=presence < self.config.scoring.no_referent_below,
        )  # fmt: skip
        stopwatch.lap("refine_ms")
        return SegmentResult(
            image_sha256=prepared.sha256,
            expression=cleaned,
            size_hw=prepared.proposals.size_hw,
            candidates=candidates,
            confidence=candidates[0].confidence if candidates else None,
            head_noun_phrase=parsed.head_noun_phrase,
            notices=(*prepared.notices, *notices, *(offers.notices if offers else ())),
            proposals_count=len(prepared.proposals),
            model_version=self._name_version(prepared),
            is_first_look=prepared.is_first_look,
            from_cache=preparation is None,
            timings=stopwatch.timings,
        )

    def embed(self, data: bytes) -> EmbeddedImage:
        """Compute what answering clicks on an image needs; seconds on a CPU, once per image.

        Raises:
            ImageUnreadable, ImageTooLarge.
            ConfigError: there is no segment-anything model here.
        """
        segmenter = self._require_segmenter()
        image = decode_image(data, longer_px=IMAGE_SIZE_PX)
        return self._batches.run(lambda: segmenter.embed(image))

    def refine(
        self, image: EmbeddedImage, expression: str, prompt: VisualPrompt, k: int, *,
        from_cache: bool,
    ) -> SegmentResult:  # fmt: skip
        """Return at most ``k`` masks for clicks or a box, the most fitting first.

        Raises:
            InvalidRequest: nothing was clicked, or outside the image.
            ConfigError: there is no segment-anything model here.
        """
        stopwatch = Stopwatch(Timings())
        check_prompt(prompt, image.size_hw)
        segmenter = self._require_segmenter()
        masks = self._batches.run(lambda: segmenter.answer(image, prompt))[:k]
        candidates = tuple(
            build_offered(mask, rank, mask.probability, None)
            for rank, mask in enumerate(masks, start=1)
        )
        head_noun_phrase = self.parser.parse(expression).head_noun_phrase if expression else None
        stopwatch.lap("refine_ms")
        return SegmentResult(
            image_sha256=image.sha256,
            expression=expression,
            size_hw=image.size_hw,
            candidates=candidates,
            head_noun_phrase=head_noun_phrase,
            proposals_count=len(candidates),
            model_version=self.model_version,
            from_cache=from_cache,
            timings=stopwatch.timings,
        )

    def _require_segmenter(self) -> ClickSegmenter:
        if self.clicks is None:
            raise ConfigError(
                "This worker has no segment-anything model, so it cannot answer clicks.",
                "Set SAYMASK_PROPOSALS to another generator than given.",
            )
        return self.clicks

    def rank(self, prepared: PreparedImage, expression: str) -> tuple[ParsedExpression, Scores]:
        """Score every proposal of a prepared image, without building candidates.

        Raises:
            InvalidExpression: blank, or without any word.
        """
        parsed = self.parser.parse(clean_expression(expression))
        return parsed, self._method.score(prepared, self._method.encode_text(parsed), parsed)

    def propose(
        self,
        prepared: PreparedImage,
        data: bytes,
        count: int,
        confidence_min: float,
        seed: int,
        describer: Describer = "rules",
    ) -> tuple[ProposedPair, ...]:
        """Propose expressions for the objects of an image, each with its mask, the best first.

        Args:
            prepared: of ``prepare`` or ``load_prepared``.
            data: the encoded image, for its colours.
            count: the largest number of objects.
            confidence_min: an object of less confidence is left out.
            seed: for the choice among usual wordings.
            describer: what writes the expressions.

        Raises:
            ConfigError: the method gives no probabilities, or no chat server is set.
            EndpointError: the chat server gives no usable answer.
        """
        self._require_confidence()
        model = require_describer(self.describer) if describer == "endpoint" else None
        if len(prepared.proposals) == 0:
            return ()
        image = describe_image(prepared, self.vocabulary, self.config.scoring)
        decoded, pixels = self._read_pixels(prepared, data)
        find_first = partial(self._find_first, prepared)
        write = None if model is None else partial(model.write, decoded, prepared.proposals.masks)
        proposed = propose_expressions(image, pixels, find_first, self.config, seed, write)
        kept = [item for item in proposed if item.confidence >= confidence_min][:count]
        name = "" if model is None else model.name
        return tuple(
            build_pair(item, prepared.proposals, rank, name, self.config.sources)
            for rank, item in enumerate(kept, start=1)
        )

    def propose_false(
        self, prepared: PreparedImage, data: bytes, accepted: Sequence[str], count: int, seed: int
    ) -> tuple[FalseExpression, ...]:
        """Propose expressions that are false of an image: accepted ones with one word changed.

        Args:
            prepared: of ``prepare`` or ``load_prepared``.
            data: the encoded image, for its colours.
            accepted: what people said of it.
            count: the largest number of expressions.
            seed: for the choice of the word.

        Raises:
            ConfigError: the method gives no probabilities.
        """
        self._require_confidence()
        if len(prepared.proposals) == 0:
            return ()
        _, pixels = self._read_pixels(prepared, data)
        masks = prepared.proposals.masks
        judge = Judge(
            prepared.geometry,
            lambda text: self.parser.parse(clean_expression(text)),
            lambda text: self.rank(prepared, text)[1],
            lambda chosen: measure_colors(pixels, masks[chosen]),
            self.config,
        )
        return tuple(
            FalseExpression(expression=false.text, accepted=text)
            for text, false in propose_false(judge, accepted, count, seed)
        )

    def _require_confidence(self) -> None:
        if not self._method.has_confidence:
            raise ConfigError(
                f"The method {self.config.method} cannot tell how sure an expression is.",
                "Set SAYMASK_METHOD=corrected.",
            )

    def _read_pixels(
        self, prepared: PreparedImage, data: bytes
    ) -> tuple[DecodedImage, NDArray[np.uint8]]:
        """The image, and its pixels at the size of the proposals' masks."""
        decoded = decode_image(data, longer_px=self._preparation.longest_px)
        return decoded, resize_to_work(decoded, prepared.proposals.masks.shape[1:])

    def _find_first(self, prepared: PreparedImage, expression: str) -> tuple[int, float]:
        """The index of the proposal that ranks first, and its probability."""
        _, scores = self.rank(prepared, expression)
        first = int(scores.order[0])
        probabilities = self._method.compute_probabilities(scores, prepared, [first])
        return first, 0.0 if probabilities is None else float(probabilities[0])

    def encode_sentence(self, expression: str) -> Floats:
        """Encode the whole expression alone: (D,), not normalised."""
        row: Floats = self.encoder.text.encode(
            [self.parser.parse(clean_expression(expression)).text]
        )[0]
        return row

    def _rank_candidates(
        self,
        prepared: PreparedImage,
        scores: Scores,
        offers: Offers | None,
        k: int,
        count: Count | None,
    ) -> tuple[Candidate, ...]:
        considered = max(k, self.config.sources.considered)
        distinct = choose_distinct(prepared, scores, self.config, considered, count)
        probabilities = self._method.compute_probabilities(scores, prepared, distinct)
        # A source gives one mask for all that is meant.
        if offers is None or probabilities is None or count is not None:
            return rank_proposals(
                prepared.proposals, scores, probabilities, distinct[:k], self.config.sources
            )
        return rank_with_offers(
            prepared.proposals, distinct, probabilities, offers.masks, k, self.config.sources,
            self.config.suggestions,
        )  # fmt: skip


def open_image(
    pipeline: Pipeline, data: bytes, name: str | None = None
) -> tuple[PreparedImage, Timings | None]:
    """Return an image from the cache, without timings, or prepare it now: see ``prepare``."""
    prepared = pipeline.load_prepared(hashlib.sha256(data).hexdigest())
    return (prepared, None) if prepared is not None else pipeline.prepare(data, name)
