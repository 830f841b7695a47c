"""The whole way from a photo and an expression to ranked masks."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from backend.contract import MAX_K, Candidate, CocoRle, SegmentResult, Timings
from backend.errors import ConfigError, InvalidRequest
from backend.masks import compute_box_xywh, encode_coco_rle
from worker import faithful
from worker.cache import PreparedCache
from worker.config import PipelineConfig, WorkerSettings
from worker.encoders.base import Encoder
from worker.encoders.build import choose_encoder, load_encoder
from worker.encoders.crops import crop_proposals, resize_token_masks, resize_whole
from worker.everyday import PARTS_AND_STUFF, THINGS
from worker.images import decode_photo
from worker.language import LanguageParser, ParsedExpression, clean_expression
from worker.proposals.base import Proposer
from worker.proposals.clicks import ClickSegmenter, EmbeddedPhoto
from worker.proposals.exact import ExactProposer
from worker.proposals.given import GivenProposer
from worker.proposals.sam import SamProposer, load_sam
from worker.refine import to_original_size
from worker.scoring import (
    compute_confidence,
    compute_geometry,
    compute_scores,
    normalise_rows,
)
from worker.stages import (
    Floats,
    Photo,
    PreparedImage,
    Prompt,
    Proposals,
    Scores,
    TextFeatures,
    VisualFeatures,
)
from worker.weights import WeightStore, default_cache_dir, find_checkpoint

log = logging.getLogger(__name__)

_PHRASE_TEMPLATE = "a photo of a {}"
_WARM_UP_SIDE_PX = 64


@dataclass(frozen=True)
class PreparationTimings:
    decode_ms: float = 0.0
    proposals_ms: float = 0.0
    visual_features_ms: float = 0.0


class Pipeline:
    """Prepares photos and segments expressions. One instance per process; not for threads.

    Args:
        proposer, encoder, parser: loaded models.
        config: what they were built with; it names the results.
        cache: where prepared photos are kept, or None.
        photo_max_megapixels: larger photos are refused.
        clicks: answers clicks and boxes; None where masks are given and there is no model.
    """

    def __init__(
        self,
        proposer: Proposer,
        encoder: Encoder,
        parser: LanguageParser,
        config: PipelineConfig,
        cache: PreparedCache | None,
        photo_max_megapixels: float,
        device: str = "cpu",
        clicks: ClickSegmenter | None = None,
    ) -> None:
        self.proposer = proposer
        self._clicks = clicks
        self.encoder = encoder
        self._parser = parser
        self.config = config
        self.cache = cache
        self._max_megapixels = photo_max_megapixels
        self.device = device

    @property
    def model_version(self) -> str:
        """Names everything a result depends on."""
        names = f"{self.encoder.name}-{self.proposer.name}-{self.config.method}"
        weights = f"{self.proposer.fingerprint}-{self.encoder.weights_hash}"
        return f"saymask-{names}-{self.config.fingerprint()}-{weights}"

    def with_config(self, config: PipelineConfig, proposer: Proposer | None = None) -> Pipeline:
        """The same models under another configuration or with other proposals, without a cache."""
        return Pipeline(
            proposer or self.proposer, self.encoder, self._parser, config, None,
            self._max_megapixels, self.device, self._clicks,
        )  # fmt: skip

    def warm_up(self) -> None:
        """Do once what is slow the first time, so that the first expression is as quick as the
        next; on a GPU also a photo, whose kernels are chosen then."""
        for expression in ("the red thing", "left"):
            self._encode_text(self._parse(expression))
        if self.device.startswith("cuda"):
            pixels = np.full((_WARM_UP_SIDE_PX, _WARM_UP_SIDE_PX, 3), 127, dtype=np.uint8)
            pixels[16:48, 16:48] = (200, 40, 40)
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            self.with_config(self.config).prepare(buffer.getvalue())

    def prepare(
        self, data: bytes, name: str | None = None
    ) -> tuple[PreparedImage, PreparationTimings]:
        """Everything about a photo that does not depend on an expression.

        Args:
            data: the encoded photo.
            name: of its file, without suffix, for proposals given by name.

        Returns:
            The prepared photo, and the milliseconds it took. It is kept in the cache.

        Raises:
            PhotoUnreadable, PhotoTooLarge.
        """
        clock = _Clock()
        photo = replace(decode_photo(data, self._max_megapixels), name=name)
        decode_ms = clock.lap_ms()
        proposals = self.proposer.propose(photo)
        proposals_ms = clock.lap_ms()
        # As the cache keeps them: a photo answers alike before and after.
        features = _to_half(self._encode_proposals(photo, proposals))
        prepared = PreparedImage(
            sha256=photo.sha256,
            proposals=proposals,
            geometry=compute_geometry(proposals.masks),
            features=features,
            notices=photo.notices,
        )
        if self.cache is not None:
            self.cache.store(prepared)
        return prepared, PreparationTimings(decode_ms, proposals_ms, clock.lap_ms())

    def load_prepared(self, sha256: str) -> PreparedImage | None:
        """The photo whose bytes have this hash, if it was prepared before in the same way."""
        return self.cache.load(sha256) if self.cache is not None else None

    def _encode_proposals(self, photo: Photo, proposals: Proposals) -> VisualFeatures:
        """Global-context and local-context features, by the configured method."""
        visual = self.encoder.visual
        if len(proposals) == 0:
            width = self.encoder.text.encode(["nothing"]).shape[1]
            none = np.zeros((0, width), dtype=np.float32)
            return VisualFeatures(none, none)
        if self.config.method == "faithful":
            masks = np.stack([to_original_size(m, photo.size_hw) for m in proposals.masks])
            boxes = faithful.compute_extents_xyxy(masks)
            return faithful.encode_proposals(visual, photo.pixels, masks, boxes)
        pixels = resize_to_work(photo, proposals.masks.shape[1:])
        size_px, config = visual.image_size_px, self.config.features
        crops = crop_proposals(pixels, proposals.masks, config, size_px=size_px, device=self.device)
        whole = resize_whole(pixels, config, size_px=size_px, device=self.device)
        tokens = resize_token_masks(proposals.masks, visual.grid_side, config)
        masking = config.token_masking if visual.is_vit else "multiply"
        return VisualFeatures(
            global_context=visual.encode_global(whole, tokens, masking).cpu().numpy(),
            local_context=visual.encode_images(crops).cpu().numpy(),
        )

    def segment(
        self,
        prepared: PreparedImage,
        expression: str,
        k: int,
        *,
        preparation: PreparationTimings | None,
    ) -> SegmentResult:
        """Rank a prepared photo's proposals against an expression; the best ``k`` are candidates.

        Args:
            preparation: what preparing took; None when the photo came from the cache.

        Raises:
            InvalidExpression: blank, or without any word.
            InvalidRequest: ``k`` is out of range.
        """
        if not 1 <= k <= MAX_K:
            raise InvalidRequest(f"k must be from 1 to {MAX_K}, got {k}.")
        clock = _Clock()
        cleaned = clean_expression(expression)
        parsed = self._parse(cleaned)
        language_ms = clock.lap_ms()
        text = self._encode_text(parsed)
        text_ms = clock.lap_ms()
        scores = self._score(prepared, text, parsed)
        scoring_ms = clock.lap_ms()
        candidates = tuple(
            self._to_candidate(prepared.proposals, int(index), rank, float(scores.total[index]))
            for rank, index in enumerate(scores.order[:k], start=1)
        )
        return SegmentResult(
            photo_sha256=prepared.sha256,
            expression=cleaned,
            size_hw=prepared.proposals.size_hw,
            candidates=candidates,
            confidence=self._confidence(scores, prepared),
            head_noun_phrase=parsed.head_noun_phrase,
            notices=(*prepared.notices, *self._notices(parsed, prepared)),
            proposals_count=len(prepared.proposals),
            model_version=self.model_version,
            from_cache=preparation is None,
            timings=Timings(
                **(asdict(preparation) if preparation else {}),
                language_ms=language_ms,
                text_features_ms=text_ms,
                scoring_ms=scoring_ms,
                refine_ms=clock.lap_ms(),
            ),
        )

    def _confidence(self, scores: Scores, prepared: PreparedImage) -> float | None:
        """Of the published method's scores nothing is known."""
        if self.config.method == "faithful":
            return None
        sure = compute_confidence(scores, prepared.geometry)
        return None if sure is None else round(sure, 4)

    def embed(self, data: bytes) -> EmbeddedPhoto:
        """What answering clicks on a photo needs; seconds on a CPU, once per photo.

        Raises:
            PhotoUnreadable, PhotoTooLarge.
            ConfigError: there is no segment-anything model here.
        """
        return self._require_clicks().embed(decode_photo(data, self._max_megapixels))

    def refine(
        self, photo: EmbeddedPhoto, expression: str, prompt: Prompt, k: int, *, from_cache: bool
    ) -> SegmentResult:
        """Masks for clicks or a box; at most ``k``, the most fitting first. Their score is
        the decoder's own estimate of the mask.

        Raises:
            InvalidRequest: nothing was clicked, or outside the photo.
        """
        _check_prompt(prompt, photo.size_hw)
        clock = _Clock()
        found = self._require_clicks().answer(photo, prompt)[:k]
        candidates = tuple(
            Candidate(
                rank=rank,
                score=round(one.predicted_iou, 6),
                mask=CocoRle.model_validate(encode_coco_rle(one.mask)),
                box_xywh=compute_box_xywh(one.mask),
                predicted_iou=round(one.predicted_iou, 4),
                stability_score=round(one.stability, 4),
            )
            for rank, one in enumerate(found, start=1)
        )
        return SegmentResult(
            photo_sha256=photo.sha256,
            expression=expression,
            size_hw=photo.size_hw,
            candidates=candidates,
            head_noun_phrase=self._parse(expression).head_noun_phrase if expression else None,
            proposals_count=len(candidates),
            model_version=self.model_version,
            from_cache=from_cache,
            timings=Timings(refine_ms=clock.lap_ms()),
        )

    def _require_clicks(self) -> ClickSegmenter:
        if self._clicks is None:
            raise ConfigError(
                "This worker has no segment-anything model to ask with clicks.",
                "Set SAYMASK_PROPOSALS to another generator than given.",
            )
        return self._clicks

    def rank(self, prepared: PreparedImage, expression: str) -> tuple[ParsedExpression, Scores]:
        """Score every proposal of a prepared photo; what ``segment`` takes its candidates from.

        Raises:
            InvalidExpression: blank, or without any word.
        """
        parsed = self._parse(clean_expression(expression))
        return parsed, self._score(prepared, self._encode_text(parsed), parsed)

    def encode_sentence(self, expression: str) -> Floats:
        """The whole expression alone, (D,), not normalised."""
        row: Floats = self.encoder.text.encode([self._parse(clean_expression(expression)).text])[0]
        return row

    def _parse(self, cleaned: str) -> ParsedExpression:
        parsed = self._parser.parse(cleaned)
        if self.config.noun_phrase == "published":
            phrase = self._parser.find_published_noun_phrase(parsed.text)
            return replace(parsed, head_noun_phrase=phrase, appearance=phrase)
        return parsed

    def _score(
        self, prepared: PreparedImage, text: TextFeatures, parsed: ParsedExpression
    ) -> Scores:
        if self.config.method == "faithful":
            return faithful.compute_scores(
                prepared.features,
                text.sentence,
                text.phrase,
                self.config.scoring.visual_global_weight,
                is_vit=self.encoder.visual.is_vit,
            )
        return compute_scores(prepared, text, parsed, self.config.scoring)

    def _encode_text(self, parsed: ParsedExpression) -> TextFeatures:
        """Sentence, noun phrase and anchor; without any noun, what things look like instead."""
        if self.config.method == "faithful":
            published = self._parser.find_published_noun_phrase(parsed.text)
            sentence, noun_phrase = self.encoder.text.encode([parsed.text, published])
            return TextFeatures(sentence, noun_phrase, None)
        phrase = parsed.appearance or parsed.head_noun_phrase or parsed.text
        anchor = parsed.relation.anchor if parsed.relation else None
        unnamed = parsed.appearance is None and parsed.singles_out
        # All in one batch: what follows finds them in the encoder's memory.
        self.encoder.text.encode([parsed.text, *_in_template(n for n in (phrase, anchor) if n)])
        return TextFeatures(
            sentence=self._encode_texts([parsed.text])[0],
            phrase=self._encode_nouns([phrase])[0],
            anchor=self._encode_nouns([anchor])[0] if anchor is not None else None,
            things=self._encode_nouns(THINGS) if unnamed else None,
            stuff=self._encode_nouns(PARTS_AND_STUFF) if unnamed else None,
        )

    def _encode_nouns(self, nouns: Sequence[str]) -> Floats:
        """Each bare and in a template, averaged: (n, D)."""
        rows = self._encode_texts(_in_template(nouns))
        return np.asarray(rows.reshape(len(nouns), 2, -1).mean(axis=1), dtype=np.float32)

    def _encode_texts(self, texts: Sequence[str]) -> Floats:
        rows = self.encoder.text.encode(texts)
        return normalise_rows(rows) if self.config.scoring.normalise_first else rows

    def _notices(self, parsed: ParsedExpression, prepared: PreparedImage) -> list[str]:
        notices = []
        if self.encoder.text.truncated(parsed.text):
            notices.append("The expression is longer than the model reads; its end was ignored.")
        if parsed.head_noun_phrase is None:
            notices.append("No noun names the object; say what it is for a better answer.")
        if len(prepared.proposals) == 0:
            notices.append("No object was found in the photo.")
        return notices

    @staticmethod
    def _to_candidate(proposals: Proposals, index: int, rank: int, score: float) -> Candidate:
        mask = to_original_size(proposals.masks[index], proposals.size_hw)
        return Candidate(
            rank=rank,
            score=round(score, 6),
            mask=CocoRle.model_validate(encode_coco_rle(mask)),
            box_xywh=compute_box_xywh(mask),
            predicted_iou=round(float(proposals.predicted_iou[index]), 4),
            stability_score=round(float(proposals.stability_score[index]), 4),
        )


def _check_prompt(prompt: Prompt, size_hw: tuple[int, int]) -> None:
    if not prompt.points_xy and prompt.box_xyxy is None:
        raise InvalidRequest("Neither a click nor a box.", "Click on what you mean.")
    height, width = size_hw
    corners = prompt.box_xyxy or ()
    xs = [x for x, _ in prompt.points_xy] + list(corners[0::2])
    ys = [y for _, y in prompt.points_xy] + list(corners[1::2])
    if not all(0 <= x <= width for x in xs) or not all(0 <= y <= height for y in ys):
        raise InvalidRequest(f"A click lies outside the photo of {width} x {height} pixels.")
    if prompt.start is not None and prompt.start.shape != size_hw:
        raise InvalidRequest(
            f"The mask to start from is {prompt.start.shape}, the photo {size_hw}."
        )


def _in_template(nouns: Iterable[str]) -> list[str]:
    """Each noun bare, then in a sentence."""
    return [text for noun in nouns for text in (noun, _PHRASE_TEMPLATE.format(noun))]


def _to_half(features: VisualFeatures) -> VisualFeatures:
    """Features rounded to half precision, still float32."""
    return VisualFeatures(
        features.global_context.astype(np.float16).astype(np.float32),
        features.local_context.astype(np.float16).astype(np.float32),
    )


def resize_to_work(photo: Photo, work_hw: tuple[int, ...]) -> NDArray[np.uint8]:
    """The photo's pixels at the proposals' working size, antialiased."""
    if photo.size_hw == tuple(work_hw):
        return photo.pixels
    image = torch.from_numpy(np.array(photo.pixels)).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(
        image, tuple(work_hw), mode="bilinear", antialias=True
    )
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())


class _Clock:
    """Laps in milliseconds."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap_ms(self) -> float:
        now = time.perf_counter()
        lap, self._last = now - self._last, now
        return round(lap * 1000, 2)


def choose_device(setting: str) -> str:
    """``auto`` is the first GPU, else the CPU."""
    if setting != "auto":
        try:
            torch.empty(1, device=setting)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(
                f"The device {setting!r} cannot be used: {reason}", "Set SAYMASK_DEVICE=auto."
            ) from error
        return setting
    return "cuda" if torch.cuda.is_available() else "cpu"


def choose_precision(setting: str, device: str) -> torch.dtype:
    """bfloat16 where the hardware multiplies it natively; elsewhere it is slower than float32."""
    if setting != "auto":
        return torch.bfloat16 if setting == "bfloat16" else torch.float32
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    capable = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if capable else torch.float32


def build_pipeline(settings: WorkerSettings) -> Pipeline:
    """Load every model the settings ask for. Seconds, once per process.

    Raises:
        WeightsError, ConfigError.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = choose_device(settings.device)
    dtype = choose_precision(settings.precision, device)
    on_gpu = device.startswith("cuda")
    cache_dir = settings.cache_dir or default_cache_dir()
    store = WeightStore(cache_dir)
    name, reason = choose_encoder(settings.encoder)
    log.info("encoder %s: %s", name, reason)
    encoder = load_encoder(name, store, device, dtype, batch=128 if on_gpu else 16)
    config = settings.pipeline_config(encoder.scoring)
    proposer, clicks = _build_proposer(settings, config, store, device, dtype)
    key = "-".join(
        (config.preparation_fingerprint(), proposer.fingerprint, encoder.weights_hash,
         str(dtype)[6:])
    )  # fmt: skip
    cache = PreparedCache(
        settings.prepared_dir or cache_dir / "prepared", key, int(settings.cache_max_mb * 1e6)
    )
    log.info("%s, %s on %s, %s", encoder.description, settings.proposals, device, dtype)
    return Pipeline(
        proposer,
        encoder,
        LanguageParser(settings.spacy_model),
        config,
        cache,
        settings.photo_max_megapixels,
        device,
        clicks,
    )


def _build_proposer(
    settings: WorkerSettings,
    config: PipelineConfig,
    store: WeightStore,
    device: str,
    dtype: torch.dtype,
) -> tuple[Proposer, ClickSegmenter | None]:
    if settings.proposals == "given":
        if settings.proposals_dir is None:
            raise ConfigError(
                "SAYMASK_PROPOSALS=given needs a folder of masks.", "Set SAYMASK_PROPOSALS_DIR."
            )
        return GivenProposer(settings.proposals_dir, settings.max_proposals), None
    sam = load_sam(settings.proposals, store.require(settings.proposals))
    fingerprint = find_checkpoint(settings.proposals).sha256[:8]
    # On a CPU small batches keep the decoder's activations in cache.
    batch = 64 if device.startswith("cuda") else 4
    if config.proposals.exact:
        exact = ExactProposer(sam, config.proposals, device, batch, fingerprint)
        return exact, ClickSegmenter(sam, torch.float32)
    proposer = SamProposer(sam, config.proposals, device, dtype, batch, fingerprint)
    return proposer, ClickSegmenter(sam, dtype)
