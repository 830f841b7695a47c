"""Answers of Label Studio's API as pydantic models."""

from __future__ import annotations

from pydantic import Field

from saymask.errors import InvalidLabelConfig
from saymask_backend.label_studio.label_config import LabelConfig, load_label_config
from saymask_backend.label_studio.schema import (
    Body,
    Numbered,
    OptionalDict,
    Text,
    UtcTime,
)
from saymask_backend.records.types import ProjectKey, to_project_key


class ReleaseBody(Body):
    """The version of Label Studio."""

    release: str = "unknown"


class UserBody(Body):
    """The user whose key is used."""

    email: str | None = None
    username: str | None = None


class ProjectBody(Numbered):
    """A project of the API."""

    title: Text = ""
    description: Text | None = None
    label_config: Text | None = None
    # Null in the answer that creates a project.
    task_number: int | None = None
    total_annotations_number: int | None = 0
    model_version: str | None = None
    show_collab_predictions: bool | None = None
    evaluate_predictions_automatically: bool | None = None
    created_at: UtcTime | None = None

    @property
    def key(self) -> ProjectKey:
        """The project with its installation."""
        return to_project_key(self.id, self.created_at)

    def read_label_config(self) -> LabelConfig:
        """Return the labelling config.

        Raises:
            InvalidLabelConfig: the project is not set up for saymask.
        """
        if not self.label_config:
            raise InvalidLabelConfig(
                f"Project {self.id} has no labelling config.",
                f"Set it up: saymask connect --project {self.id}",
            )
        return load_label_config(self.label_config)


class MlBackendBody(Numbered):
    """An ML backend attached to a project; ``state`` ``CO`` means connected."""

    url: str
    title: str | None = None
    state: str | None = None
    error_message: str | None = None
    is_interactive: bool | None = None
    auth_method: str | None = None
    basic_auth_user: str | None = None


class WebhookBody(Numbered):
    """A webhook registered for a project."""

    url: str
    headers: OptionalDict = Field(default_factory=dict)
    is_active: bool | None = None
    send_payload: bool | None = None
    send_for_all_actions: bool | None = None


class PredictionBody(Numbered):
    """A stored prediction."""

    model_version: str | None = None


class ViewBody(Numbered):
    """A tab of the Data Manager."""

    data: OptionalDict = Field(default_factory=dict)
