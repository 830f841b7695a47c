"""What the pipeline asks of anything that makes proposals."""

from __future__ import annotations

from typing import Protocol

from worker.stages import Photo, Proposals


class Proposer(Protocol):
    """Makes class-agnostic masks.

    Attributes:
        name: as in settings and model versions, for example ``mobile-sam``.
        fingerprint: short hash of the weights or files the masks come from; part of every cache
            key and model version.
    """

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    def propose(self, photo: Photo) -> Proposals: ...


class LastPhotoProposer:
    """Remembers the proposals of the last photo, for whoever asks several times in a row."""

    def __init__(self, proposer: Proposer) -> None:
        self._proposer = proposer
        self._last: tuple[str, Proposals] | None = None

    @property
    def name(self) -> str:
        return self._proposer.name

    @property
    def fingerprint(self) -> str:
        return self._proposer.fingerprint

    def propose(self, photo: Photo) -> Proposals:
        if self._last is None or self._last[0] != photo.sha256:
            self._last = (photo.sha256, self._proposer.propose(photo))
        return self._last[1]
