"""The default method: Global-Local CLIP with its defects corrected (``docs/method.md``)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from saymask.masks import Masks
from saymask_worker.config.pipeline import PipelineConfig
from saymask_worker.encoders.base import Encoder
from saymask_worker.encoders.crops import crop_proposals, resize_token_masks, resize_whole
from saymask_worker.encoders.dense import encode_regions
from saymask_worker.encoders.vocabulary import EncodedNouns
from saymask_worker.images.patch_map import PlacesMap, build_places_map
from saymask_worker.images.resize import resize_to_work
from saymask_worker.images.types import (
    DecodedImage,
    Floats,
    PreparedImage,
    Proposals,
    Scores,
    TextFeatures,
    VisualFeatures,
    normalise_rows,
)
from saymask_worker.language import LanguageParser, ParsedExpression
from saymask_worker.ranking.appearance import (
    DescribedImage,
    Description,
    compute_log_thing,
    compute_noun_logits,
    describe,
)
from saymask_worker.ranking.closer_look import CloserLook
from saymask_worker.ranking.confidence import compute_probabilities
from saymask_worker.ranking.crop_budget import choose_cropped, predict_crops
from saymask_worker.ranking.terms import compute_scores


class Corrected:
    """Global-Local CLIP with each correction as an option of its own."""

    supports_first_look = True
    has_confidence = True
    needs_all_pixels = False

    def __init__(
        self,
        config: PipelineConfig,
        encoder: Encoder,
        parser: LanguageParser,
        vocabulary: EncodedNouns,
    ) -> None:
        del parser  # this method's noun phrase is in the parsed expression
        self._features = config.features
        self._scoring = config.scoring
        self._encoder = encoder
        self._vocabulary = vocabulary
        self._closer_look = CloserLook(
            self._encode_context, self._encode_crops, config.first_look, config.features.crop_ridge
        )

    def encode_proposals(self, image: DecodedImage, proposals: Proposals) -> VisualFeatures:
        """Encode each proposal in its context, as a region and as a crop, at working size.

        Crops beyond the budget are predicted, see ``saymask_worker.ranking.crop_budget``.
        """
        config, masks = self._features, proposals.masks
        pixels = resize_to_work(image, masks.shape[1:])
        if config.views == "regions":
            places, region = self._encode_regions(pixels, masks)
            return VisualFeatures.from_regions(region, places)
        global_context = self._encode_context(pixels, masks)
        if not config.places:
            return VisualFeatures(global_context, self._encode_crops(pixels, masks))
        places, region = self._encode_regions(pixels, masks)
        cropped = choose_cropped(proposals, self._compute_log_thing(region), config)
        crops = self._encode_crops(pixels, masks[cropped])
        local_context = predict_crops(region, crops, cropped, config.crop_ridge)
        return VisualFeatures(global_context, local_context, region, places)

    def _compute_log_thing(self, region: Floats) -> Floats:
        """Log-probability (N,) of showing a thing, by the regions' tokens (N, D) alone."""
        logits = compute_noun_logits(normalise_rows(region), self._vocabulary, self._scoring)
        return compute_log_thing(logits, self._vocabulary, self._scoring)

    def _encode_context(self, pixels: NDArray[np.uint8], masks: Masks) -> Floats:
        """The whole image as seen through each proposal (N, D)."""
        visual, config = self._encoder.visual, self._features
        size_px, device = visual.image_size_px, visual.device
        whole = resize_whole(pixels, config, size_px=size_px, device=device)
        tokens = resize_token_masks(masks, visual.grid_side, config)
        masking = config.token_masking if visual.is_vit else "multiply"
        context: Floats = visual.encode_global(whole, tokens, masking).cpu().numpy()
        return context

    def _encode_crops(self, pixels: NDArray[np.uint8], masks: Masks) -> Floats:
        """The masked crop of each proposal (N, D)."""
        visual = self._encoder.visual
        crops = crop_proposals(
            pixels, masks, self._features, size_px=visual.image_size_px, device=visual.device
        )
        features: Floats = visual.encode_images(crops).cpu().numpy()
        return features

    def _encode_regions(self, pixels: NDArray[np.uint8], masks: Masks) -> tuple[PlacesMap, Floats]:
        places, regions = encode_regions(
            self._encoder.visual, pixels, masks, self._features.region_tiles
        )
        return build_places_map(places), regions

    def encode_text(self, expression: ParsedExpression) -> TextFeatures:
        """Encode sentence, noun phrase, anchors and what the referent has not."""
        phrase = expression.appearance or expression.head_noun_phrase or expression.text
        anchors = [
            name
            for relation in expression.relations
            for name in (relation.anchor, relation.second)
            if name is not None
        ]
        excluded = [expression.excluded] if expression.excluded else []
        # All in one batch; the calls below find them in the encoder's memory.
        nouns = [phrase, *anchors, *excluded]
        self._encoder.text.encode([expression.sentence, *self._in_template(nouns)])
        return TextFeatures(
            sentence=self._encode_texts([expression.sentence])[0],
            phrase=self._encode_nouns([phrase])[0],
            anchors=self._encode_nouns(anchors) if anchors else None,
            excluded=self._encode_nouns(excluded)[0] if excluded else None,
        )

    def score(
        self, prepared: PreparedImage, text: TextFeatures, expression: ParsedExpression
    ) -> Scores:
        """Return the sum of all terms for every proposal."""
        if prepared.pixels is not None:
            return self._closer_look.rank(
                prepared, lambda image: self._score(image, text, expression)
            )
        return self._score(prepared, text, expression)

    def _score(
        self, prepared: PreparedImage, text: TextFeatures, expression: ParsedExpression
    ) -> Scores:
        description: Description | None = prepared.derived.get(self)
        if description is None:
            description = describe(prepared.features, self._vocabulary, self._scoring)
            prepared.derived[self] = description
        described = DescribedImage(prepared, self._vocabulary, description)
        return compute_scores(described, text, expression, self._scoring)

    def compute_probabilities(
        self, scores: Scores, prepared: PreparedImage, chosen: Sequence[int]
    ) -> Floats | None:
        """Return the calibrated probability of each chosen proposal."""
        return compute_probabilities(scores, prepared.geometry, self._scoring, chosen)

    def _encode_nouns(self, nouns: Sequence[str]) -> Floats:
        """Each noun bare and in a template, averaged: (n, D)."""
        rows = self._encode_texts(self._in_template(nouns))
        return np.asarray(rows.reshape(len(nouns), 2, -1).mean(axis=1), dtype=np.float32)

    def _encode_texts(self, texts: Sequence[str]) -> Floats:
        rows = self._encoder.text.encode(texts)
        return normalise_rows(rows) if self._scoring.normalise_first else rows

    def _in_template(self, nouns: Iterable[str]) -> list[str]:
        """Each noun bare, then in a sentence."""
        template = self._scoring.noun_template
        return [text for noun in nouns for text in (noun, template.format(noun))]
