"""The supported models of the hub, and their files on this machine.

Nothing is fetched unless a user asks for it by name and accepts its licence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from saymask.errors import WeightsError
from saymask.private_files import make_folder_inside, replace_atomically
from saymask.redaction import explain
from saymask_worker.weights.checkpoints import hash_file
from saymask_worker.weights.store import default_cache_dir, explain_files

_FINGERPRINT_CHARS = 8
# Weights as safetensors, never as pickles, and the files of tokenizers and processors.
_WANTED = ("*.json", "*.txt", "*.safetensors")
_CONFIG = "config.json"


@dataclass(frozen=True)
class HubModel:
    """A model of the hub.

    Attributes:
        name: as in settings and commands.
        what: the model, in one line.
        is_gated: access requires accepting its owners' terms on its page.
    """

    name: str
    repository: str
    what: str
    licence: str
    is_gated: bool = False


SAM3 = HubModel(
    "sam3", "facebook/sam3", "every instance of a noun phrase, with its mask", "SAM License",
    is_gated=True,
)  # fmt: skip
GROUNDING_DINO = HubModel(
    "grounding-dino", "IDEA-Research/grounding-dino-base", "boxes for a noun phrase", "Apache-2.0"
)
FLORENCE2 = HubModel(
    "florence-2", "florence-community/Florence-2-large-ft", "one mask for an expression", "MIT"
)
HUB_MODELS = {model.name: model for model in (SAM3, GROUNDING_DINO, FLORENCE2)}

Fetch = Callable[[str, Path], None]
"""Puts the files of a repository into a folder; raises what huggingface_hub raises."""


def fetch_snapshot(repository: str, folder: Path) -> None:
    """Fetch the newest files of a repository."""
    from huggingface_hub import snapshot_download

    snapshot_download(repository, local_dir=folder, allow_patterns=list(_WANTED))


class HubStore:
    """The models of the hub on this machine: a folder each, as the hub has it.

    Args:
        cache_dir: None for the default.
        fetch: how a repository is fetched.
    """

    def __init__(self, cache_dir: Path | None = None, fetch: Fetch = fetch_snapshot) -> None:
        self.directory = (cache_dir or default_cache_dir()) / "hub"
        self._fetch = fetch

    def path(self, model: HubModel) -> Path:
        """Return the folder of a model's files, whether or not they are there."""
        return self.directory / model.name

    def is_present(self, model: HubModel) -> bool:
        """Return whether a model was pulled.

        Raises:
            WeightsError: another user keeps the folder.
        """
        return _is_complete(self.path(model))

    def require(self, model: HubModel, argument: str = "") -> Path:
        """Return the folder with a model's files.

        Args:
            model: of the hub.
            argument: another folder; empty for the one that was pulled.

        Raises:
            WeightsError: the files are not there; says where they go, and how they get there.
        """
        folder = Path(argument).expanduser() if argument else self.path(model)
        if not _is_complete(folder):
            raise WeightsError(
                f"The weights of {model.name} are not in {folder}: it needs {_CONFIG} and"
                " *.safetensors.",
                _describe_pulling(model, folder),
            )
        return folder

    def pull(self, model: HubModel, accepted_licence: str | None) -> Path:
        """Fetch a model unless it is present; returns its folder.

        Args:
            model: of the hub.
            accepted_licence: the licence that the user has read and accepts.

        Raises:
            WeightsError: the licence was not accepted, access is not granted, or the hub does not
                answer.
        """
        target = self.path(model)
        if self.is_present(model):
            return target
        if accepted_licence != model.licence:
            raise WeightsError(
                f"The weights of {model.name} are under the {model.licence}, which you must accept"
                " before they are fetched.",
                f"Read it on the page of {model.repository}, then: {_pull_command(model)}",
            )
        with explain_files("kept"):
            self._pull(model, target)
        return target

    def _pull(self, model: HubModel, target: Path) -> None:
        make_folder_inside(self.directory.parent, self.directory.name)
        with replace_atomically(target) as fetched:
            self._fetch_or_explain(model, fetched)
            if not _is_complete(fetched):
                raise WeightsError(
                    f"{model.repository} holds no {_CONFIG} or no *.safetensors.",
                    f"Put such files into {target}.",
                )

    def _fetch_or_explain(self, model: HubModel, folder: Path) -> None:
        from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError

        try:
            self._fetch(model.repository, folder)
        except GatedRepoError as error:
            raise WeightsError(
                f"The owners of {model.repository} have not given you access.",
                _describe_pulling(model, self.path(model)),
            ) from error
        except (HfHubHTTPError, HFValidationError, httpx.HTTPError, OSError) as error:
            raise WeightsError(
                f"{model.repository} could not be fetched: {explain(error)}",
                f"Check the network, or put its files into {self.path(model)}.",
            ) from error


def compute_fingerprint(folder: Path) -> str:
    """Return a short hash of a model's configuration and weights."""
    digest = hashlib.sha256()
    for path in sorted([folder / _CONFIG, *folder.glob("*.safetensors")]):
        digest.update(f"{path.name} {hash_file(path)}\n".encode())
    return digest.hexdigest()[:_FINGERPRINT_CHARS]


def _is_complete(folder: Path) -> bool:
    """Whether a folder has a model.

    Raises:
        WeightsError: another user keeps it.
    """
    with explain_files("read"):
        return (folder / _CONFIG).is_file() and any(folder.glob("*.safetensors"))


def _pull_command(model: HubModel) -> str:
    return f'saymask-worker models pull {model.name} --accept-licence "{model.licence}"'


def _describe_pulling(model: HubModel, folder: Path) -> str:
    """What to do about missing files."""
    steps = f"Pull them once: {_pull_command(model)}"
    if model.is_gated:
        steps = (
            f"Accept the {model.licence} on the page of {model.repository}, put your access token"
            f" into HF_TOKEN, and pull them once: {_pull_command(model)}"
        )
    return f"{steps}. Without the hub, copy its files into {folder}."
