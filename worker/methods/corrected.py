"""The default method: Global-Local CLIP with its defects corrected (``docs/method.md``)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from saymask.masks import Masks
from worker.config import PipelineConfig
from worker.encoders.base import Encoder
from worker.encoders.crops import crop_proposals, resize_token_masks, resize_whole
from worker.encoders.dense import encode_regions
from worker.encoders.vocabulary import EncodedNouns
from worker.language import LanguageParser, ParsedExpression
from worker.methods.appearance import DescribedImage, describe_image
from worker.methods.closer_look import CloserLook
from worker.methods.confidence import compute_probabilities
from worker.methods.features import normalise_rows
from worker.methods.terms import compute_scores
from worker.places import PlacesMap, build_places_map
from worker.resize import resize_to_work
from worker.stages import (
    DecodedImage,
    Floats,
    PreparedImage,
    Proposals,
    Scores,
    TextFeatures,
    VisualFeatures,
)


class Corrected:
    """Global-Local CLIP with each correction as an option of its own."""

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
        self._closer_look = CloserLook(self._encode_views, config.first_look.closer_count)
        self._described: WeakKeyDictionary[PreparedImage, DescribedImage] = WeakKeyDictionary()

    def encode_proposals(self, image: DecodedImage, proposals: Proposals) -> VisualFeatures:
        """Encode the masked whole image and the masked crops at working size."""
        config, masks = self._features, proposals.masks
        pixels = resize_to_work(image, masks.shape[1:])
        if config.views == "regions":
            places, region = self._encode_regions(pixels, masks)
            return VisualFeatures(region, region, region, places)
        regions = self._encode_regions(pixels, masks) if config.places else (None, None)
        global_context, local_context = self._encode_views(pixels, masks)
        return VisualFeatures(global_context, local_context, regions[1], regions[0])

    def _encode_views(self, pixels: NDArray[np.uint8], masks: Masks) -> tuple[Floats, Floats]:
        """Each proposal in the context of the whole image, and its crop."""
        visual, config = self._encoder.visual, self._features
        size_px, device = visual.image_size_px, visual.device
        crops = crop_proposals(pixels, masks, config, size_px=size_px, device=device)
        whole = resize_whole(pixels, config, size_px=size_px, device=device)
        tokens = resize_token_masks(masks, visual.grid_side, config)
        masking = config.token_masking if visual.is_vit else "multiply"
        return (
            visual.encode_global(whole, tokens, masking).cpu().numpy(),
            visual.encode_images(crops).cpu().numpy(),
        )

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
        described = self._described.get(prepared)
        if described is None:
            described = describe_image(prepared, self._vocabulary, self._scoring)
            self._described[prepared] = described
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
