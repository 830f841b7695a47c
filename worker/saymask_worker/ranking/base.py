"""What the pipeline asks of a method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from saymask_worker.images.types import (
    DecodedImage,
    Floats,
    PreparedImage,
    Proposals,
    Scores,
    TextFeatures,
    VisualFeatures,
)
from saymask_worker.language import ParsedExpression


class Method(Protocol):
    """Ranks the proposals of an image against an expression.

    Attributes:
        supports_first_look: whether proposals can be encoded in a fraction of the time.
        has_confidence: whether scores are calibrated, and have weights that can be fitted.
        needs_all_pixels: whether images larger than SAM's frame must not be reduced.
    """

    supports_first_look: bool
    has_confidence: bool
    needs_all_pixels: bool

    def encode_proposals(self, image: DecodedImage, proposals: Proposals) -> VisualFeatures:
        """Encode N proposals of an image; N is at least 1."""
        ...

    def encode_text(self, expression: ParsedExpression) -> TextFeatures:
        """Encode everything about an expression that the scores need."""
        ...

    def score(
        self, prepared: PreparedImage, text: TextFeatures, expression: ParsedExpression
    ) -> Scores:
        """Score every proposal of a prepared image against an expression."""
        ...

    def compute_probabilities(
        self, scores: Scores, prepared: PreparedImage, chosen: Sequence[int]
    ) -> Floats | None:
        """Return the probability, 0 to 1, of each chosen proposal; None where unknown.

        Args:
            scores: of all proposals.
            prepared: the image.
            chosen: indices of proposals, best first.
        """
        ...
