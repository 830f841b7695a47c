"""Building what several entry points need from the settings."""

from __future__ import annotations

from saymask.errors import ConfigError
from saymask_backend.config import Settings
from saymask_backend.label_studio.client import LabelStudioClient
from saymask_backend.label_studio.images import ImageFetcher

_PHOTO_TIMEOUT_S = 20.0


def build_fetcher(settings: Settings) -> ImageFetcher:
    """Build the fetcher of images, with the limits of the settings."""
    return ImageFetcher(
        base_url=settings.label_studio_url,
        public_url=settings.label_studio_public_url,
        api_key=settings.label_studio_api_key.get_secret_value(),
        private_hosts=settings.photo_private_hosts,
        max_bytes=int(settings.photo_max_mb * 1e6),
        timeout_s=_PHOTO_TIMEOUT_S,
    )


def build_client(settings: Settings) -> LabelStudioClient:
    """Build a client of the Label Studio that the settings name.

    Raises:
        ConfigError: address or key are not set.
    """
    if not settings.has_label_studio:
        raise ConfigError(
            "Label Studio's address and key are not set.",
            "Set SAYMASK_LABEL_STUDIO_URL and SAYMASK_LABEL_STUDIO_API_KEY, or run the command in"
            " the folder in which `make up` was started.",
        )
    key = settings.label_studio_api_key.get_secret_value()
    return LabelStudioClient(
        settings.label_studio_url, key, public_url=settings.label_studio_public_url
    )
