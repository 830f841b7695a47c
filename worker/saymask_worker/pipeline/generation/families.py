"""Families of nouns: what people call a thing before they look closely, and its kinds.

People name things at a basic level, "dog" and not "animal" or "terrier" (Rosch et al., "Basic
objects in natural categories", 1976), and a narrow noun is often wrong where its family is right.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from saymask_worker.images.types import Floats


@dataclass(frozen=True)
class NounFamilies:
    """The things of a vocabulary, sorted into families.

    Attributes:
        names: the T things, in the vocabulary's order.
        family: (T,) index of each thing's family.
        heads: name of each of the F families.
    """

    names: tuple[str, ...]
    family: NDArray[np.intp]
    heads: tuple[str, ...]

    def sum_probabilities(self, things: Floats) -> Floats:
        """Sum the probabilities (N, T) of things over their families: (N, F)."""
        sums = np.zeros((len(things), len(self.heads)), dtype=np.float32)
        np.add.at(sums.T, self.family, things.T)
        return sums


@lru_cache(maxsize=4)
def build_families(things: tuple[str, ...]) -> NounFamilies:
    """Sort the things of a vocabulary into families; one without a family is its own."""
    general = read_kinds()
    heads = dict.fromkeys(general.get(name, name) for name in things)
    index = {head: position for position, head in enumerate(heads)}
    family = np.array([index[general.get(name, name)] for name in things], dtype=np.intp)
    return NounFamilies(things, family, tuple(heads))


def read_kinds() -> dict[str, str]:
    """Return narrow nouns with the name of their family."""
    text = (files("saymask_worker") / "data" / "families.txt").read_text("utf-8")
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    general: dict[str, str] = {}
    head = ""
    for line in lines:
        members = line
        if line and not line.startswith(" "):
            head, _, members = line.partition(":")
        general.update((kind, head) for part in members.split(",") if (kind := part.strip()))
    return general
