"""The source ``endpoint``: a chat server names the box, the worker's segment-anything fills it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from saymask.errors import ConfigError
from saymask_worker.config.settings import EndpointConfig
from saymask_worker.images.types import DecodedImage, VisualPrompt
from saymask_worker.masks.clicks import ClickSegmenter, EmbeddedImage
from saymask_worker.masks.endpoint.boxes import SentImage, ask_box, shrink
from saymask_worker.masks.endpoint.client import ChatClient
from saymask_worker.masks.sources.base import CandidateSource, SourceContext, SourceMask

# Of a model that has not been measured: as probable as not.
_UNMEASURED = 0.5
_FINGERPRINT_CHARS = 8


@dataclass(eq=False)
class _Seen:
    """One image as the server gets it, and as segment-anything does once there is a box."""

    sent: SentImage
    embedded: EmbeddedImage | None = None


class EndpointSource:
    """Offers the one object that a model on a chat server finds.

    Args:
        config: the server, its model and how that writes boxes.
        clicks: fills boxes.
        probability: that the model's object is the referent, 0 to 1, as measured.
        client: asks the server.
    """

    name = "endpoint"

    def __init__(
        self,
        config: EndpointConfig,
        clicks: ClickSegmenter,
        probability: float = _UNMEASURED,
        client: ChatClient | None = None,
    ) -> None:
        self._config, self._clicks, self._probability = config, clicks, probability
        self._client = client or ChatClient(config)
        values = f"{config.model} {config.coordinates} {probability}"
        self.fingerprint = hashlib.sha256(values.encode()).hexdigest()[:_FINGERPRINT_CHARS]

    def segment(self, image: DecodedImage, expression: str) -> Sequence[SourceMask]:
        """Return the mask of the model's object; none where it finds nothing.

        Raises:
            EndpointError: the server gives no usable answer.
        """
        seen: _Seen | None = image.derived.get(self)
        if seen is None:
            seen = image.derived[self] = _Seen(shrink(image))
        box = ask_box(self._client, seen.sent, expression, self._config.coordinates)
        if box is None:
            return []
        if seen.embedded is None:
            seen.embedded = self._clicks.embed(image)
        height, width = image.size_hw
        box_xyxy = box[0] * width, box[1] * height, box[2] * width, box[3] * height
        masks = self._clicks.answer(seen.embedded, VisualPrompt((), (), box_xyxy, None))
        return [SourceMask(masks[0].mask, self._probability)] if masks else []


def build_endpoint_source(context: SourceContext) -> CandidateSource:
    """Build the source ``endpoint`` or ``endpoint:PROBABILITY``.

    Raises:
        ConfigError: address or model is not set, or there is no model that fills boxes.
        ValueError: the argument is no probability.
    """
    probability = float(context.argument) if context.argument else _UNMEASURED
    if not (math.isfinite(probability) and 0 < probability < 1):
        raise ValueError("expected a number between 0 and 1, the share of its boxes that are right")
    if context.clicks is None:
        raise ConfigError(
            "The source endpoint finds boxes, and there is no model that fills them.",
            "Set SAYMASK_PROPOSALS to another generator than given.",
        )
    return EndpointSource(require_endpoint(context.endpoint), context.clicks, probability)


def require_endpoint(config: EndpointConfig | None) -> EndpointConfig:
    """Return the settings of the chat server; ConfigError where there are none."""
    if config is None:
        raise ConfigError(
            "No chat server is set.", "Set SAYMASK_ENDPOINT_URL and SAYMASK_ENDPOINT_MODEL."
        )
    return config
