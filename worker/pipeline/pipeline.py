"""The stages in their order: decode, propose, encode, parse, score, top k, original size."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TypeVar

import torch
from cachetools import LRUCache

from saymask.contract import MAX_K, SegmentResult, Timings
from saymask.errors import ConfigError, DeviceMemoryExhausted, InvalidRequest, SaymaskError
from worker.config import PipelineConfig, to_first_look
from worker.encoders.base import Encoder
from worker.encoders.vocabulary import EncodedNouns
from worker.language import LanguageParser, ParsedExpression, clean_expression
from worker.methods import build_method
from worker.pipeline.cache import PreparedCache
from worker.pipeline.candidates import (
    Ranking,
    build_clicked,
    rank_proposals,
    rank_with_offers,
)
from worker.pipeline.clicks import check_prompt
from worker.pipeline.images import decode_image, draw_example
from worker.pipeline.notices import build_notices
from worker.pipeline.preparation import Preparation
from worker.pipeline.suggestions import compare_proposals, select_distinct
from worker.pipeline.timing import PreparationTimings, Stopwatch
from worker.proposals.base import Proposer
from worker.proposals.clicks import ClickSegmenter, EmbeddedImage
from worker.sources.base import CandidateSource
from worker.sources.offers import Offers, collect_offers
from worker.stages import DecodedImage, Floats, PreparedImage, Scores, VisualPrompt

log = logging.getLogger(__name__)

Result = TypeVar("Result")

_WARM_UP_EXPRESSIONS = ("the red thing", "left")
# Of open tasks, for the sources that look at pixels.
_MAX_DECODED_IMAGES = 2
_CONFIDENCE_DIGITS = 4

ReadImage = Callable[[], bytes]


class Pipeline:
    """Prepares images and segments expressions. One instance per process; not thread-safe.

    Args:
        proposer: generates masks.
        encoder: image and text towers.
        parser: takes expressions apart.
        vocabulary: what an image can show, in the encoder's space.
        config: what they were built with; it names the results.
        cache: where prepared images are kept, or None.
        max_megapixels: larger images are refused.
        device: of the models.
        clicks: answers clicks and boxes; None where masks are given and there is no model.
        sources: of candidates, beside the proposals.
        strict_sources: a source that fails is an error, instead of a notice.
        quick_proposer: generates the masks of a first look; None for no first looks.
    """

    def __init__(
        self,
        proposer: Proposer,
        encoder: Encoder,
        parser: LanguageParser,
        vocabulary: EncodedNouns,
        config: PipelineConfig,
        cache: PreparedCache | None,
        max_megapixels: float,
        device: str = "cpu",
        clicks: ClickSegmenter | None = None,
        sources: Sequence[CandidateSource] = (),
        *,
        strict_sources: bool = False,
        quick_proposer: Proposer | None = None,
    ) -> None:
        self.proposer = proposer
        self.encoder = encoder
        self.config = config
        self.cache = cache
        self.device = device
        self._parser = parser
        self._max_megapixels = max_megapixels
        self._clicks = clicks
        self._vocabulary = vocabulary
        self._sources = tuple(sources)
        self._strict_sources = strict_sources
        self._decoded: LRUCache[str, DecodedImage] = LRUCache(_MAX_DECODED_IMAGES)
        self._method = build_method(config, encoder, parser, vocabulary)
        self._preparation = Preparation(proposer, self._method, encoder, max_megapixels)
        self._quick_proposer = quick_proposer
        self._first_look: Preparation | None = None
        if quick_proposer is not None:
            quick = build_method(to_first_look(config), encoder, parser, vocabulary)
            self._first_look = Preparation(
                quick_proposer, quick, encoder, max_megapixels, is_first_look=True
            )

    @property
    def model_version(self) -> str:
        """Names everything a result depends on."""
        names = f"{self.encoder.name}-{self.proposer.name}-{self.config.method}"
        weights = f"{self.proposer.fingerprint}-{self.encoder.weights_hash}"
        sources = "".join(f"-{source.name}.{source.fingerprint}" for source in self._active_sources)
        return f"saymask-{names}-{self.config.fingerprint()}-{weights}{sources}"

    def _name_version(self, prepared: PreparedImage) -> str:
        if not prepared.is_first_look:
            return self.model_version
        return f"{self.model_version}-first.{to_first_look(self.config).preparation_fingerprint()}"

    @property
    def encoder_description(self) -> str:
        """The encoder in one line, for people."""
        return self.encoder.description

    @property
    def _active_sources(self) -> tuple[CandidateSource, ...]:
        return tuple(source for source in self._sources if source.fingerprint)

    def with_sources(self, sources: Sequence[CandidateSource], *, strict: bool) -> Pipeline:
        """Return a pipeline of the same models and cache with other sources.

        Args:
            sources: beside the proposals.
            strict: a source that fails is an error.
        """
        return Pipeline(
            self.proposer, self.encoder, self._parser, self._vocabulary, self.config, self.cache,
            self._max_megapixels, self.device, self._clicks, sources, strict_sources=strict,
            quick_proposer=self._quick_proposer,
        )  # fmt: skip

    def with_config(self, config: PipelineConfig, proposer: Proposer | None = None) -> Pipeline:
        """Return one of the same models with another configuration, without cache and sources."""
        return Pipeline(
            proposer or self.proposer, self.encoder, self._parser, self._vocabulary, config, None,
            self._max_megapixels, self.device, self._clicks,
        )  # fmt: skip

    def as_first_look(self) -> Pipeline:
        """Return one whose preparation is this one's first look; ConfigError if it has none."""
        if self._quick_proposer is None:
            raise ConfigError(
                "These settings allow no first look.",
                "It needs SAYMASK_METHOD=corrected and a segment-anything model, not exact.",
            )
        return self.with_config(to_first_look(self.config), self._quick_proposer)

    def warm_up(self) -> None:
        """Do what is slow the first time, so that the first expression is as fast as the next.

        On a GPU an image is prepared too, whose kernels are chosen then.
        """
        for expression in _WARM_UP_EXPRESSIONS:
            self._method.encode_text(self._parse(expression))
        if self.device.startswith("cuda"):
            self.with_config(self.config).prepare(draw_example())

    def prepare(
        self, data: bytes, name: str | None = None
    ) -> tuple[PreparedImage, PreparationTimings]:
        """Compute everything about an image that does not depend on an expression.

        Args:
            data: the encoded image.
            name: of its file, without suffix, for proposals given by name.

        Returns:
            The prepared image, which is kept in the cache, and the milliseconds it took.

        Raises:
            ImageUnreadable, ImageTooLarge.
            DeviceMemoryExhausted: the device has no room even for the smallest batches.
        """
        prepared, timings = self._with_smaller_batches(
            lambda: self._preparation.prepare(data, name)
        )
        if self.cache is not None:
            self.cache.store(prepared)
        return prepared, timings

    def look_first(self, data: bytes) -> tuple[PreparedImage, PreparationTimings] | None:
        """Prepare an image in a fraction of the time, for a first answer; None where that is off.

        Fewer points are asked, and no proposal is encoded by itself. Never kept in the cache.
        Raises what ``prepare`` does.
        """
        first_look = self._first_look
        if first_look is None:
            return None
        return self._with_smaller_batches(lambda: first_look.prepare(data, None))

    def load_prepared(self, sha256: str) -> PreparedImage | None:
        """Return the image whose bytes have this hash, if it was prepared in the same way."""
        return self.cache.load(sha256) if self.cache is not None else None

    def segment(
        self,
        prepared: PreparedImage,
        expression: str,
        k: int,
        *,
        preparation: PreparationTimings | None,
        read_image: ReadImage | None = None,
    ) -> SegmentResult:
        """Rank a prepared image's proposals against an expression; the best ``k`` are candidates.

        Args:
            prepared: of ``prepare`` or ``load_prepared``.
            expression: as typed.
            k: number of candidates.
            preparation: timings of preparing; None when the image came from the cache.
            read_image: returns the encoded image to sources that look at its pixels; with None
                only proposals are ranked.

        Raises:
            InvalidExpression: blank, or without any word.
            InvalidRequest: ``k`` is out of range.
        """
        if not 1 <= k <= MAX_K:
            raise InvalidRequest(f"k must be from 1 to {MAX_K}, got {k}.")
        stopwatch = Stopwatch()
        cleaned = clean_expression(expression)
        parsed = self._parse(cleaned)
        language_ms = stopwatch.lap_ms()
        text = self._with_smaller_batches(lambda: self._method.encode_text(parsed))
        text_features_ms = stopwatch.lap_ms()
        scores = self._method.score(prepared, text, parsed)
        scoring_ms = stopwatch.lap_ms()
        offers = self._ask_sources(prepared.sha256, cleaned, read_image)
        sources_ms = stopwatch.lap_ms()
        ranking = self._rank_candidates(prepared, scores, offers, k)
        confidence = ranking.confidence
        notices = [
            *prepared.notices,
            *build_notices(parsed, prepared, is_cut=self.encoder.text.is_truncated(parsed.text)),
        ]
        if confidence is not None and confidence < self.config.scoring.no_referent_below:
            notices.append("Perhaps nothing in the photo is meant.")
        return SegmentResult(
            image_sha256=prepared.sha256,
            expression=cleaned,
            size_hw=prepared.proposals.size_hw,
            candidates=ranking.candidates,
            confidence=None if confidence is None else round(confidence, _CONFIDENCE_DIGITS),
            head_noun_phrase=parsed.head_noun_phrase,
            notices=(*notices, *(offers.notices if offers else ())),
            proposals_count=len(prepared.proposals),
            model_version=self._name_version(prepared),
            is_first_look=prepared.is_first_look,
            from_cache=preparation is None,
            timings=Timings(
                **(asdict(preparation) if preparation else {}),
                language_ms=language_ms,
                text_features_ms=text_features_ms,
                scoring_ms=scoring_ms,
                sources_ms=sources_ms,
                refine_ms=stopwatch.lap_ms(),
            ),
        )

    def embed(self, data: bytes) -> EmbeddedImage:
        """Compute what answering clicks on an image needs; seconds on a CPU, once per image.

        Raises:
            ImageUnreadable, ImageTooLarge.
            ConfigError: there is no segment-anything model here.
        """
        clicks, image = self._require_clicks(), decode_image(data, self._max_megapixels)
        return self._with_smaller_batches(lambda: clicks.embed(image))

    def refine(
        self, image: EmbeddedImage, expression: str, prompt: VisualPrompt, k: int, *,
        from_cache: bool,
    ) -> SegmentResult:  # fmt: skip
        """Return at most ``k`` masks for clicks or a box, the most fitting first.

        Their score is the decoder's own estimate of the mask.

        Raises:
            InvalidRequest: nothing was clicked, or outside the image.
        """
        check_prompt(prompt, image.size_hw)
        stopwatch = Stopwatch()
        clicks = self._require_clicks()
        answers = self._with_smaller_batches(lambda: clicks.answer(image, prompt))[:k]
        candidates = build_clicked(answers)
        return SegmentResult(
            image_sha256=image.sha256,
            expression=expression,
            size_hw=image.size_hw,
            candidates=candidates,
            head_noun_phrase=self._parse(expression).head_noun_phrase if expression else None,
            proposals_count=len(candidates),
            model_version=self.model_version,
            from_cache=from_cache,
            timings=Timings(refine_ms=stopwatch.lap_ms()),
        )

    def rank(self, prepared: PreparedImage, expression: str) -> tuple[ParsedExpression, Scores]:
        """Score every proposal of a prepared image, without building candidates.

        Raises:
            InvalidExpression: blank, or without any word.
        """
        parsed = self._parse(clean_expression(expression))
        return parsed, self._method.score(prepared, self._method.encode_text(parsed), parsed)

    def encode_sentence(self, expression: str) -> Floats:
        """Encode the whole expression alone: (D,), not normalised."""
        row: Floats = self.encoder.text.encode([self._parse(clean_expression(expression)).text])[0]
        return row

    def _ask_sources(
        self, sha256: str, expression: str, read_image: ReadImage | None
    ) -> Offers | None:
        """What other sources offer; None where there is none to ask."""
        sources = self._active_sources
        if not sources or read_image is None:
            return None
        image = self._decoded.get(sha256)
        if image is None:
            try:
                image = decode_image(read_image(), self._max_megapixels)
            except SaymaskError as error:
                log.warning("no source but proposals: %s", error)
                return Offers(notices=(f"Only proposals were ranked: {error.cause}",))
            self._decoded[sha256] = image
        config, strict = self.config.sources, self._strict_sources
        return self._with_smaller_batches(
            lambda: collect_offers(sources, image, expression, config, strict=strict)
        )

    def _rank_candidates(
        self, prepared: PreparedImage, scores: Scores, offers: Offers | None, k: int
    ) -> Ranking:
        distinct = self.choose_offered(prepared, scores, max(k, self.config.sources.considered))
        probabilities = self._method.compute_probabilities(scores, prepared, distinct)
        if offers is None or probabilities is None:
            return rank_proposals(prepared.proposals, scores, probabilities, distinct[:k])
        return rank_with_offers(
            prepared.proposals, distinct, probabilities, offers.masks, k, self.config.sources,
            self.config.suggestions,
        )  # fmt: skip

    def choose_offered(self, prepared: PreparedImage, scores: Scores, k: int) -> list[int]:
        """Return the indices of the k best proposals that a person can tell apart."""
        is_same = compare_proposals(prepared.proposals, prepared.geometry, self.config.suggestions)
        return select_distinct(map(int, scores.order), is_same, k)

    def _with_smaller_batches(self, work: Callable[[], Result]) -> Result:
        """Do something on the device, with smaller batches while its memory does not suffice."""
        while True:
            try:
                return work()
            except torch.OutOfMemoryError as error:
                self._shrink_batches(error)

    def _shrink_batches(self, error: torch.OutOfMemoryError) -> None:
        """Halve all batches.

        Raises:
            DeviceMemoryExhausted: they are as small as can be.
        """
        torch.cuda.empty_cache()
        quick = self._quick_proposer
        are_smaller = (
            self.proposer.shrink_batch(),
            quick is not None and quick.shrink_batch(),
            self.encoder.visual.shrink_batch(),
        )
        if not any(are_smaller):
            raise DeviceMemoryExhausted(
                f"The memory of {self.device} does not suffice for one prompt and one crop at a"
                f" time: {error}.",
                "Stop other programs on it, take smaller models, or set SAYMASK_DEVICE=cpu.",
            ) from error
        log.warning("the memory of %s is full: trying again with smaller batches", self.device)

    def _parse(self, cleaned: str) -> ParsedExpression:
        return self._parser.parse(cleaned, self.config.noun_phrase)

    def _require_clicks(self) -> ClickSegmenter:
        if self._clicks is None:
            raise ConfigError(
                "This worker has no segment-anything model, so it cannot answer clicks.",
                "Set SAYMASK_PROPOSALS to another generator than given.",
            )
        return self._clicks
