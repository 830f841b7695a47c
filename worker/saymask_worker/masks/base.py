"""What the pipeline asks of anything that generates proposals."""

from __future__ import annotations

from typing import Protocol

from saymask_worker.images.types import DecodedImage, Proposals


class Proposer(Protocol):
    """Generates class-agnostic masks."""

    @property
    def name(self) -> str:
        """As in settings and model versions, for example ``mobile-sam``."""
        ...

    @property
    def fingerprint(self) -> str:
        """Short hash of the weights or files the masks come from.

        It is part of every cache key and model version.
        """
        ...

    def propose(self, image: DecodedImage) -> Proposals:
        """Generate the masks of an image."""
        ...

    def halve_batch(self) -> bool:
        """See ``saymask_worker.weights.device.Batched``."""
        ...


class LastImageProposer:
    """Keeps the proposals of the last image, for several configurations in a row."""

    def __init__(self, proposer: Proposer) -> None:
        self._proposer = proposer
        self._last: tuple[str, Proposals] | None = None

    @property
    def name(self) -> str:
        """Name of the wrapped proposer."""
        return self._proposer.name

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the wrapped proposer."""
        return self._proposer.fingerprint

    def halve_batch(self) -> bool:
        """See ``Proposer.halve_batch``."""
        return self._proposer.halve_batch()

    def propose(self, image: DecodedImage) -> Proposals:
        """Generate the masks of an image, unless it is the last one."""
        if self._last is None or self._last[0] != image.sha256:
            self._last = (image.sha256, self._proposer.propose(image))
        return self._last[1]
