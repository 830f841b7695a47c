"""Sources by name: those of saymask and of other packages, through entry points."""

from __future__ import annotations

import logging
from dataclasses import replace
from importlib.metadata import entry_points

from saymask.contract import PROPOSALS_SOURCE
from saymask.errors import ConfigError
from saymask_worker.masks.sources.base import BuildSource, Source, SourceContext

log = logging.getLogger(__name__)

ENTRY_POINTS = "saymask.sources"
_MAX_NAME_CHARS = 64


def load_sources(setting: str, context: SourceContext) -> tuple[Source, ...]:
    """Build the sources of candidates other than the proposals.

    Args:
        setting: ``proposals``, then others as ``NAME`` or ``NAME:ARGUMENT``, comma separated.
        context: what each is built with, but for its own argument.

    Raises:
        ConfigError: the list is wrong, or a source cannot be loaded.
        WeightsError: a source's weights are missing.
    """
    names = [name.strip() for name in setting.split(",") if name.strip()]
    if PROPOSALS_SOURCE not in names:
        raise ConfigError(
            f"SAYMASK_SOURCES={setting!r} lacks {PROPOSALS_SOURCE}.",
            f"Write it first, then the others: SAYMASK_SOURCES={PROPOSALS_SOURCE},cris:FOLDER",
        )
    sources = []
    for name in names:
        if name != PROPOSALS_SOURCE:
            kind, _, argument = name.partition(":")
            sources.append(_check_name(_build(kind, replace(context, argument=argument))))
            log.info("source %s", name)
    return tuple(sources)


def _build(kind: str, context: SourceContext) -> Source:
    builder = _load_builder(kind)
    try:
        return builder(context)
    except ValueError as error:
        raise ConfigError(
            f"The source {kind} cannot be built with {context.argument!r}: {error}.",
            "Correct it in SAYMASK_SOURCES.",
        ) from error


def _check_name(source: Source) -> Source:
    if not 0 < len(source.name) <= _MAX_NAME_CHARS or source.name == PROPOSALS_SOURCE:
        raise ConfigError(
            f"A source calls itself {source.name!r}; expected 1 to {_MAX_NAME_CHARS} characters,"
            f" other than {PROPOSALS_SOURCE}.",
            "Leave it out of SAYMASK_SOURCES, or correct its name.",
        )
    return source


def _load_builder(kind: str) -> BuildSource:
    known = {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}
    if kind not in known:
        raise ConfigError(
            f"SAYMASK_SOURCES names {kind!r}, which no installed package offers.",
            f"Known are {', '.join(sorted([PROPOSALS_SOURCE, *known]))}; a package offers one"
            f" through an entry point of the group {ENTRY_POINTS}.",
        )
    try:
        builder: BuildSource = known[kind].load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"The source {kind} ({known[kind].value}) cannot be imported: {error}.",
            "Install the package that offers it again.",
        ) from error
    return builder
