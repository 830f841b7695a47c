"""The worker's settings, once: default, unit, help."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

from pydantic import Field, SecretStr, field_validator

from saymask.contract import Queues
from saymask.errors import ConfigError
from saymask.redaction import Key, check_http_address, hide_from_now_on
from saymask.settings import SharedSettings, read_settings
from saymask_worker.config.pipeline import (
    Generator,
    MethodName,
    PipelineConfig,
    ProposalsConfig,
    to_method,
)
from saymask_worker.config.scoring import ScoringConfig

# Read by the model hub's own library, whose errors we pass on.
_HUB_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")

Coordinates = Literal["thousand", "pixels", "unit"]


@dataclass(frozen=True)
class EndpointConfig:
    """An OpenAI-compatible chat server that is asked about images.

    Attributes:
        url: without ``/chat/completions``.
        model: its name there.
        key: sent as a bearer token; empty for none.
        coordinates: in which the model writes boxes: 0 to 1000 of width and height, pixels of the
            image it was sent, or 0 to 1 of width and height.
    """

    url: str
    model: str
    key: str = field(default="", repr=False)
    coordinates: Coordinates = "thousand"


class WorkerSettings(SharedSettings):
    """Settings of the worker; each is the environment variable ``SAYMASK_<NAME>``."""

    queues: Queues = Field(
        "all",
        description="What a worker takes: `interactive` (typed expressions, those about"
        " prepared photos first), `background` (photos to prepare, at low priority), `all` of"
        " these, or `training` alone, at the lowest.",
    )
    idle_unload_s: float = Field(
        0.0,
        ge=0,
        description="Seconds without a job after which the models leave the memory; the next job"
        " loads them again. 0 keeps them.",
    )
    cache_dir: Path | None = Field(
        None, description="Weights and prepared photos; empty means the user's cache directory."
    )
    prepared_dir: Path | None = Field(
        None,
        description="Prepared photos, if elsewhere than in the cache directory. Machines that"
        " mount one directory share what each has prepared.",
    )
    cache_max_mb: float = Field(
        1000.0, gt=0, description="Room for prepared photos, megabytes; the oldest go first."
    )
    open_photos_max_mb: float | None = Field(
        None,
        gt=0,
        description="Memory for the photos that are worked on, megabytes, on the device too; those"
        " not used for longest go first. Empty means a sixteenth of the machine's or container's"
        " memory, from 300 to 2000.",
    )
    encoder: str = Field(
        "auto",
        description="`auto`, which is `starter`; an open_clip pair such as `ViT-B-16/openai`; or a"
        " model and a file of yours, `ViT-B-16//path/to/weights.pt`.",
    )
    method: MethodName = Field(
        "corrected",
        description="`corrected`, or `faithful`: the published method step by step.",
    )
    proposals: str = Field(
        "mobile-sam",
        description="Proposal generator: `mobile-sam`, `sam-vit-b`, `sam-vit-l`, `sam-vit-h` or"
        " `sam3`; or `given:FOLDER`, a folder of `<photo's sha256>.json`, each a list of COCO RLE"
        " masks.",
    )
    points_per_side: int = Field(
        20,
        ge=2,
        le=64,
        description="Side of the grid of points; those that differ most become prompts. More finds"
        " smaller things, slower.",
    )
    first_look: Literal["auto", "on", "off"] = Field(
        "auto",
        description="A quick first answer to an expression about a photo that is not prepared yet:"
        " `auto` gives one on a CPU, where preparing takes seconds.",
    )
    device: str = Field("auto", description="`auto`, `cpu`, `cuda` or `cuda:<n>`.")
    nouns: Path | None = Field(
        None,
        description="A file of nouns that photos show, under the headings [things], [stuff] and"
        " [parts]; empty means the 1,448 that come with the worker.",
    )
    sources: str = Field(
        "proposals,trained",
        description="Where candidates come from, comma separated: `proposals`, always, and others"
        " (docs/sources.md).",
    )
    endpoint_url: str = Field(
        "",
        description="OpenAI-compatible chat server, up to `/v1`; only `endpoint` in SAYMASK_SOURCES"
        " or in a command sends photos there.",
    )
    endpoint_model: str = Field("", description="Name of the model on that server.")
    endpoint_key: Key = Field(SecretStr(""), description="Key of that server.")
    endpoint_coordinates: Coordinates = Field(
        "thousand",
        description="How that model writes boxes: `thousand` (0 to 1000), `pixels` (of what it is"
        " sent) or `unit` (0 to 1).",
    )
    models_dir: Path | None = Field(
        None,
        description="Folder of the models trained from records, the same for backend and worker;"
        " for the worker, empty means there are none.",
    )
    scoring: Path | None = Field(
        None,
        description="A file of `saymask-worker tune`: scoring weights fitted to decisions; empty"
        " means the encoder's own.",
    )

    @field_validator("proposals")
    @classmethod
    def _check_proposals(cls, value: str) -> str:
        generator, _, folder = value.partition(":")
        if generator not in get_args(Generator) or (generator == "given") != bool(folder):
            names = ", ".join(name for name in get_args(Generator) if name != "given")
            raise ValueError(f"use {names} or given:FOLDER")
        return value

    @field_validator("endpoint_url")
    @classmethod
    def _check_address(cls, value: str) -> str:
        return check_http_address(value) if value.strip() else ""

    @property
    def endpoint(self) -> EndpointConfig | None:
        """The chat server; None where address or model is not set."""
        if not self.endpoint_url or not self.endpoint_model.strip():
            return None
        key = self.endpoint_key.get_secret_value()
        model = self.endpoint_model.strip()
        return EndpointConfig(self.endpoint_url, model, key, self.endpoint_coordinates)

    @property
    def generator(self) -> Generator:
        """The kind of ``proposals``, without the folder."""
        return cast(Generator, self.proposals.partition(":")[0])

    @property
    def encoder_name(self) -> str:
        """The encoder to load: ``auto`` is the starter, for which the score was made.

        It never depends on what the machine has or reaches.
        """
        return "starter" if self.encoder == "auto" else self.encoder

    def pipeline_config(self, scoring: ScoringConfig) -> PipelineConfig:
        """Return the configuration, with the encoder's own scoring.

        The faithful method has its own scoring.
        """
        config = PipelineConfig(
            proposals=ProposalsConfig(
                generator=self.generator, points_per_side=self.points_per_side
            ),
            scoring=scoring,
        )
        return to_method(config, self.method)


def load_worker_settings(**overrides: Any) -> WorkerSettings:
    """Read the environment, then the settings file of a local installation, if there is one.

    Args:
        overrides: settings by name, before anything else.

    Raises:
        ConfigError: a value is wrong, or there is no such setting; names it.
    """
    unknown = sorted(set(overrides) - set(WorkerSettings.model_fields))
    if unknown:
        raise ConfigError(
            f"There is no setting {', '.join(unknown)}.",
            f"Those of the worker are {', '.join(WorkerSettings.model_fields)}.",
        )
    for name in _HUB_TOKENS:
        hide_from_now_on(os.environ.get(name, ""))
    return read_settings(WorkerSettings, **overrides)
