"""The backend over HTTP, as the backend's own tests have it."""

from tests.backend.conftest import app_stores, build_client, photos

__all__ = ["app_stores", "build_client", "photos"]
