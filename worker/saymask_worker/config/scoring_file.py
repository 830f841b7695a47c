"""Scoring weights in a file: written by ``saymask-worker tune``, named by ``SAYMASK_SCORING``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from saymask.errors import ConfigError
from saymask.private_files import replace_atomically
from saymask_worker.config.scoring import ScoringConfig

_CURE = "Fit the weights anew: saymask-worker tune --data EXPORT_DIR --out FILE"


def write_scoring(
    path: Path, scoring: ScoringConfig, weights_hash: str, provenance: Mapping[str, Any]
) -> None:
    """Write weights with the encoder that they were fitted to, and how.

    Raises:
        ConfigError: the file cannot be written.
    """
    content = {"encoder": weights_hash, "scoring": asdict(scoring), "fitted": dict(provenance)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_atomically(path) as part:
            part.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error}.", "Name another file.") from error


def load_scoring(path: Path, weights_hash: str) -> ScoringConfig:
    """Read weights that were fitted to an encoder.

    Raises:
        ConfigError: the file is damaged, or of another encoder or version.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
        encoder, values = content["encoder"], dict(content["scoring"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"SAYMASK_SCORING={path} cannot be read: {error}.", _CURE) from error
    if encoder != weights_hash:
        raise ConfigError(
            f"The weights in {path} were fitted to another encoder ({encoder}); this one is"
            f" {weights_hash}.",
            f"Unset SAYMASK_SCORING, or choose that SAYMASK_ENCODER. {_CURE}",
        )
    expected = {field.name: type(field.default) for field in fields(ScoringConfig)}
    wrong = [
        name
        for name, value in values.items()
        if name not in expected or not _has_type(value, expected[name])
    ]
    if wrong:
        raise ConfigError(
            f"{path} holds {', '.join(sorted(wrong))}, which this version does not know or takes in"
            " another type.",
            _CURE,
        )
    return ScoringConfig(**values)


def _has_type(value: object, expected: type) -> bool:
    """Whether a value of JSON suits a field: numbers are told from truth values."""
    if expected is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return type(value) is expected
