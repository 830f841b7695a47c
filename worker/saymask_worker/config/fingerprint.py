"""Configurations as values: what enters a fingerprint, and what is left out of it."""

from __future__ import annotations

from dataclasses import MISSING, field, fields, is_dataclass
from typing import Any, TypeVar

Value = TypeVar("Value")
OMIT_DEFAULT = "omit_default"


def constant(default: Value) -> Value:
    """Declare a field that is left out of the fingerprint while it has its default.

    These were constants before they became fields: images that were prepared then are still found.
    """
    value: Value = field(default=default, metadata={OMIT_DEFAULT: True})
    return value


def to_values(config: Any) -> dict[str, Any]:
    """Return the fields of a configuration, nested, without constants at their default."""
    values = {}
    for item in fields(config):
        value = getattr(config, item.name)
        factory = item.default_factory
        default = item.default if factory is MISSING else factory()
        if not (item.metadata.get(OMIT_DEFAULT) and value == default):
            # Lists, as JSON has them: what was written is compared with what is read again.
            plain = list(value) if isinstance(value, tuple) else value
            values[item.name] = to_values(value) if is_dataclass(value) else plain
    return values
