"""What the pipeline asks of anything that generates proposals."""

from __future__ import annotations

from typing import Protocol

from saymask_worker.images.types import DecodedImage, Proposals


class Proposer(Protocol):
    """Generates class-agnostic masks.

    Attributes:
        name: as in settings and model versions, for example ``mobile-sam``.
        fingerprint: short hash of the weights or files the masks come from; part of every cache key
            and model version.
    """

    name: str
    fingerprint: str

    def propose(self, image: DecodedImage) -> Proposals:
        """Generate the masks of an image."""
        ...

    def halve_batch(self) -> bool:
        """See ``saymask_worker.weights.device.Batched``."""
        ...


class LastImageProposer:
    """Keeps the proposals of the last image, for several configurations in a row."""

    def __init__(self, proposer: Proposer) -> None:
        self.name, self.fingerprint = proposer.name, proposer.fingerprint
        self.halve_batch = proposer.halve_batch
        self._proposer = proposer
        self._last: tuple[str, Proposals] | None = None

    def propose(self, image: DecodedImage) -> Proposals:
        """Generate the masks of an image, unless it is the last one."""
        if self._last is None or self._last[0] != image.sha256:
            self._last = (image.sha256, self._proposer.propose(image))
        return self._last[1]
