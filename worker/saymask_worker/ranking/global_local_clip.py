"""The default method: Global-Local CLIP with its defects corrected (``docs/method.md``)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from saymask.masks import Masks
from saymask_worker.config.pipeline import PipelineConfig
from saymask_worker.encoders.base import Encoder
from saymask_worker.encoders.crops import crop_proposals, resize_token_masks, resize_whole
from saymask_worker.encoders.dense import encode_regions
from saymask_worker.encoders.vocabulary import NOUN_TEMPLATE, EncodedNouns
from saymask_worker.images.patch_map import build_patch_map
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
    to_float32,
)
from saymask_worker.language import ParsedExpression
from saymask_worker.language.nouns import find_noun
from saymask_worker.ranking.appearance import (
    Description,
    add_image,
    compute_log_thing,
    compute_noun_logits,
    describe,
)
from saymask_worker.ranking.confidence import compute_probabilities
from saymask_worker.ranking.crop_budget import choose_cropped, predict_crops
from saymask_worker.ranking.lazy_crops import LazyCrops
from saymask_worker.ranking.terms import compute_scores


class GlobalLocalClip:
    """Global-Local CLIP, corrected, with terms for what expressions say outright."""

    supports_first_look = True
    has_confidence = True
    needs_all_pixels = False

    def __init__(self, config: PipelineConfig, encoder: Encoder, vocabulary: EncodedNouns) -> None:
        self._features = config.features
        self._scoring = config.scoring
        self._encoder = encoder
        self._vocabulary = vocabulary
        self._names = frozenset(vocabulary.names)
        self._lazy_crops = LazyCrops(
            self._encode_context, self._encode_crops, config.first_look, config.features.crop_ridge
        )

    def encode_proposals(self, image: DecodedImage, proposals: Proposals) -> VisualFeatures:
        """Encode N >= 1 proposals in context, as regions and as crops, at working size.

        Crops beyond the budget are predicted, see ``saymask_worker.ranking.crop_budget``.
        """
        config, masks = self._features, proposals.masks
        pixels = resize_to_work(image, masks.shape[1:])
        grid, region = encode_regions(self._encoder.visual, pixels, masks, config.region_tiles)
        places = build_patch_map(grid)
        if config.crops_max == 0:
            return VisualFeatures.from_regions(region, places)
        global_context = self._encode_context(pixels, masks)
        cropped = choose_cropped(proposals, self._compute_log_thing(region), config)
        crops = self._encode_crops(pixels, masks[cropped])
        local_context = predict_crops(region, crops, cropped, config.crop_ridge)
        return VisualFeatures(global_context, local_context, region, places)

    def _compute_log_thing(self, region: Floats) -> Floats:
        """Log-probability (N,) of showing a thing, by the region tokens (N, D) alone."""
        logits = compute_noun_logits(normalise_rows(region), self._vocabulary, self._scoring)
        return compute_log_thing(logits, self._vocabulary, self._scoring)

    def _encode_context(self, pixels: NDArray[np.uint8], masks: Masks) -> Floats:
        """The whole image as seen through each proposal (N, D)."""
        visual = self._encoder.visual
        whole = resize_whole(pixels, size_px=visual.image_size_px, device=visual.device)
        tokens = resize_token_masks(masks, visual.grid_side, self._features.token_floor)
        context: Floats = visual.encode_global(whole, tokens, "attention").cpu().numpy()
        return context

    def _encode_crops(self, pixels: NDArray[np.uint8], masks: Masks) -> Floats:
        """The masked crop of each proposal (N, D)."""
        visual, margin = self._encoder.visual, self._features.crop_margin
        crops = crop_proposals(
            pixels, masks, margin, size_px=visual.image_size_px, device=visual.device
        )
        features: Floats = visual.encode_images(crops).cpu().numpy()
        return features

    def encode_text(self, expression: ParsedExpression) -> TextFeatures:
        """Encode the sentence, and each noun phrase both bare and in a template, averaged."""
        phrase = expression.appearance or expression.head_noun_phrase or expression.text
        anchors = [
            name
            for relation in expression.relations
            for name in (relation.anchor, relation.second)
            if name is not None
        ]
        noun = find_noun(phrase, self._names) if expression.appearance else phrase
        nouns = [phrase, noun, *anchors, *([expression.excluded] if expression.excluded else [])]
        in_template = [text for noun in nouns for text in (noun, NOUN_TEMPLATE.format(noun))]
        texts = normalise_rows(self._encoder.text.encode([expression.sentence, *in_template]))
        rows = to_float32(texts[1:].reshape(len(nouns), 2, -1).mean(axis=1))
        return TextFeatures(
            sentence=texts[0],
            phrase=rows[0],
            noun=rows[1],
            anchors=rows[2 : len(anchors) + 2] if anchors else None,
            excluded=rows[-1] if expression.excluded else None,
        )

    def score(
        self, prepared: PreparedImage, text: TextFeatures, expression: ParsedExpression
    ) -> Scores:
        """Return the sum of all terms for every proposal."""

        def rank(image: PreparedImage) -> Scores:
            described = add_image(self._describe(image), image, self._vocabulary)
            return compute_scores(described, text, expression, self._scoring)

        return rank(prepared) if prepared.pixels is None else self._lazy_crops.rank(prepared, rank)

    def _describe(self, image: PreparedImage) -> Description:
        description: Description | None = image.derived.get(self)
        if description is None:
            description = describe(image.features, self._vocabulary, self._scoring)
            image.derived[self] = description
        return description

    def compute_probabilities(
        self, scores: Scores, prepared: PreparedImage, chosen: Sequence[int]
    ) -> Floats | None:
        """Return the calibrated probability, 0 to 1, of each chosen proposal, best first."""
        return compute_probabilities(scores, prepared.geometry, self._scoring, chosen)
