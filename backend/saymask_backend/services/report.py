"""Quality and cost of a project: what ``saymask stats`` prints and the status page shows."""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from cachetools import LRUCache

from saymask_backend.records.events import EventProblem
from saymask_backend.records.statistics import (
    Disagreement,
    GroupBy,
    Quality,
    compare_annotators,
    compute_quality,
    find_shared,
    group_quality,
)
from saymask_backend.records.stores import Stores
from saymask_backend.records.types import RecordFilter, RecordView
from saymask_backend.records.verifications import VerificationSummary, summarise

_DAY = timedelta(days=1)
_MAX_COMPARED = 50_000
_PERCENTILES = {"p50": 50, "p90": 90, "p99": 99}


@dataclass(frozen=True)
class QualityReport:
    """Quality and cost of a project, or of all.

    Attributes:
        groups: per annotator, day, model or source, when asked for.
        shared: number of expressions that several annotators decided; ``disagreements`` are those
            on which they differ.
        sources: by source, to how many requests it ``offered`` a candidate, and how many of its
            candidates were ``accepted``.
        latency_ms: percentiles of the answers to typed expressions.
        failures: errors of the last day by code.
        events: webhooks by state; ``problems`` are the newest that cannot be interpreted.
        verification: verdicts of second annotators on the project's records; None without any.
    """

    record_filter: RecordFilter
    quality: Quality
    groups: dict[str, Quality]
    shared: int
    disagreements: tuple[Disagreement, ...]
    sources: dict[str, dict[str, int]]
    latency_ms: dict[str, float]
    failures: dict[str, int]
    events: dict[str, int]
    problems: tuple[EventProblem, ...]
    projects: tuple[int, ...]
    verification: VerificationSummary | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the report for JSON."""
        values = asdict(self)
        values.pop("projects")
        return {"chosen": values.pop("record_filter"), **values}


class Reporter:
    """Builds reports. Records never change, so comparisons are cached."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._compared: LRUCache[tuple[int, ...], Disagreement] = LRUCache(_MAX_COMPARED)
        self._lock = threading.Lock()

    def build_report(self, record_filter: RecordFilter, by: GroupBy | None = None) -> QualityReport:
        """Read and compute everything."""
        stores = self._stores
        records = stores.records.load_figures(record_filter)
        groups = find_shared(records)
        compared = [self._compare(group) for group in groups]
        latencies = stores.requests.list_latencies_ms(record_filter.project_id, record_filter.since)
        offering = stores.requests.count_offering(record_filter.project_id, record_filter.since)
        quality = compute_quality(records)
        since = datetime.now(UTC) - _DAY
        return QualityReport(
            record_filter=record_filter,
            quality=quality,
            groups=group_quality(records, by) if by else {},
            shared=len(groups),
            disagreements=tuple(d for d in compared if d.disagrees),
            sources={
                name: {"offered": count, "accepted": quality.sources.get(name, 0)}
                for name, count in offering.items()
            },
            latency_ms={
                name: round(float(np.percentile(latencies, share)), 1)
                for name, share in _PERCENTILES.items()
                if latencies
            },
            failures=dict(stores.requests.count_failures(since, record_filter.project_id)),
            events=stores.events.count_events_by_state(),
            problems=tuple(stores.events.list_problems()),
            projects=tuple(stores.list_projects()),
            verification=summarise(stores.verifications.load(record_filter.project_id)),
        )

    def _compare(self, group: list[RecordView]) -> Disagreement:
        """Compare one group; one at a time, so that several views wait for one computation."""
        key = tuple(record.id for record in group)
        with self._lock:
            compared = self._compared.get(key)
            if compared is None:
                loaded = (self._stores.records.load_record(record_id) for record_id in key)
                compared = compare_annotators([record for record in loaded if record is not None])
                self._compared[key] = compared
            return compared
