"""Every setting of the backend, once: default, unit, help.

Read from ``SAYMASK_...`` environment variables, then from the settings file of a local
installation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import platformdirs
from pydantic import Field, SecretStr, field_validator
from pydantic_settings import NoDecode

from saymask.contract import MAX_K
from saymask.redaction import Key, Secret, SecretAddress, check_http_address, clean_line
from saymask.settings import SharedSettings, read_settings

LABEL_STUDIO_PREDICT_TIMEOUT_S = 100
DEFAULT_BACKGROUND_GRACE_S = 60.0


class Settings(SharedSettings):
    """Settings of the backend; each is the environment variable ``SAYMASK_<NAME>``."""

    host: str = Field("127.0.0.1", description="Address the backend listens on.")
    port: int = Field(9090, ge=1, le=65535, description="Port the backend listens on.")
    data_dir: Path = Field(
        Path(platformdirs.user_data_dir("saymask")),
        description="Directory of the SQLite database and of exported photos.",
    )
    models_dir: Path | None = Field(
        None,
        description="Folder of the models trained from records, the same for backend and worker;"
        " for the backend, empty means `models` in the data directory.",
    )
    database_url: SecretAddress = Field(
        "", description="SQLAlchemy URL; empty means SQLite in the data directory."
    )
    label_studio_url: str = Field(
        "", description="Address of Label Studio, for photos stored there, sync and exports."
    )
    label_studio_public_url: str = Field(
        "",
        description="Address under which people open Label Studio, if it is another one; photos"
        " that tasks keep under it are read from SAYMASK_LABEL_STUDIO_URL.",
    )
    label_studio_api_key: Key = Field(
        SecretStr(""), description="Personal access token or legacy token of a Label Studio user."
    )
    k: int = Field(3, ge=1, le=MAX_K, description="Candidates offered per expression.")
    deadline_s: float = Field(
        90.0,
        gt=0,
        lt=LABEL_STUDIO_PREDICT_TIMEOUT_S,
        description="Longest wait for the worker, seconds; Label Studio gives up at 100.",
    )
    background_grace_s: float = Field(
        DEFAULT_BACKGROUND_GRACE_S,
        gt=0,
        description="How long a photo to prepare, or a batch, waits for a background worker to"
        " appear, seconds; more where one is started on demand.",
    )
    photo_max_mb: float = Field(
        60.0, gt=0, description="Largest photo file that is fetched, megabytes."
    )
    photo_private_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Hosts with private addresses that photos may come from, comma separated."
        " Label Studio's own host always may.",
    )
    basic_auth_user: str = Field(
        "",
        description="User with whom Label Studio and people log in. Needed, with password and"
        " webhook secret, unless the backend listens on this machine alone.",
    )
    basic_auth_password: Secret = Field(
        SecretStr(""), description="Password that goes with the user."
    )
    webhook_secret: Secret = Field(
        SecretStr(""), description="/webhook demands it in the header X-Saymask-Secret."
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Names under which the backend may be called without credentials, comma"
        " separated; addresses and localhost always may.",
    )
    sync_every_s: float = Field(
        300.0,
        ge=0,
        description="How often annotations are compared with Label Studio's, seconds; 0 is never."
        " Needs SAYMASK_LABEL_STUDIO_URL and _API_KEY.",
    )
    expression_fields: Annotated[tuple[str, ...], NoDecode] = Field(
        ("expression", "expressions"),
        description="Fields of the task data that hold an expression or a list of them, comma"
        " separated; such tasks get predictions before anyone opens them.",
    )

    @field_validator("photo_private_hosts", "allowed_hosts", mode="before")
    @classmethod
    def _split_hosts(cls, value: object) -> object:
        return _split(value.lower()) if isinstance(value, str) else value

    @field_validator("expression_fields", mode="before")
    @classmethod
    def _split_fields(cls, value: object) -> object:
        return _split(value) if isinstance(value, str) else value

    @field_validator("label_studio_url", "label_studio_public_url")
    @classmethod
    def _check_address(cls, value: str) -> str:
        return check_http_address(value) if value.strip() else ""

    @field_validator("basic_auth_user")
    @classmethod
    def _check_user(cls, value: str) -> str:
        user = clean_line(value)
        if ":" in user:
            raise ValueError("must not contain a colon")
        return user

    @property
    def effective_models_dir(self) -> Path:
        """Folder of the models trained from records."""
        return self.models_dir or self.data_dir / "models"

    @property
    def image_dir(self) -> Path:
        """Folder of the fetched photos."""
        return self.data_dir / "photos"

    @property
    def has_label_studio(self) -> bool:
        """Whether address and key of a Label Studio are known."""
        return bool(self.label_studio_url and self.label_studio_api_key.get_secret_value())

    @property
    def login(self) -> tuple[str, str] | None:
        """User and password for calls to the backend, or None."""
        password = self.basic_auth_password.get_secret_value()
        return (self.basic_auth_user, password) if self.basic_auth_user else None

    @property
    def effective_database_url(self) -> str:
        """The database's SQLAlchemy URL; by default SQLite in the data directory."""
        return self.database_url or f"sqlite:///{self.data_dir / 'saymask.db'}"


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def load_settings(**overrides: Any) -> Settings:
    """Read the backend's settings; see ``saymask.settings.read_settings``."""
    return read_settings(Settings, **overrides)
