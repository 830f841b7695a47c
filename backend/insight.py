"""What ``saymask stats`` prints and the status page shows, gathered from store and ledger."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from backend.records.ledger import EventProblem, Ledger, RecordFilter, RecordView
from backend.records.statistics import (
    Disagreement,
    GroupBy,
    Quality,
    compare_annotators,
    compute_quality,
    find_shared,
    group_quality,
)
from backend.records.store import Store

_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Insight:
    """Quality and cost of a project, or of all.

    Attributes:
        groups: per annotator, day or model, when asked for.
        shared: how many expressions several annotators decided; ``disagreements`` are those on
            which they differ.
        latency_ms: percentiles of the answers to typed expressions.
        failures: errors of the last day by code.
        events: webhooks by what became of them; ``problems`` the newest not understood.
    """

    chosen: RecordFilter
    quality: Quality
    groups: dict[str, Quality]
    shared: int
    disagreements: tuple[Disagreement, ...]
    latency_ms: dict[str, float]
    failures: dict[str, int]
    events: dict[str, int]
    problems: tuple[EventProblem, ...]
    projects: tuple[int, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        values = asdict(self)
        values.pop("projects")
        values["quality"]["iou_histogram"] = list(self.quality.iou_histogram)
        values["disagreements"] = [asdict(d) for d in self.disagreements]
        return values


def gather(
    store: Store, ledger: Ledger, chosen: RecordFilter, by: GroupBy | None = None
) -> Insight:
    """Read and compute everything."""
    records = ledger.figures(chosen)
    groups = find_shared(records)
    compared = [compare_annotators(_with_masks(ledger, group)) for group in groups]
    latencies = store.latencies_ms(chosen.project_id, chosen.since)
    return Insight(
        chosen=chosen,
        quality=compute_quality(records),
        groups=group_quality(records, by) if by else {},
        shared=len(groups),
        disagreements=tuple(d for d in compared if d.disagrees),
        latency_ms={
            name: round(float(np.percentile(latencies, share)), 1)
            for name, share in (("p50", 50), ("p90", 90), ("p99", 99))
            if latencies
        },
        failures=dict(store.failures_since(datetime.now(UTC) - _DAY, chosen.project_id)),
        events=ledger.count_events(),
        problems=tuple(ledger.problems()),
        projects=tuple(ledger.projects()),
    )


def _with_masks(ledger: Ledger, group: list[RecordView]) -> list[RecordView]:
    found = (ledger.record(record.id) for record in group)
    return [record for record in found if record is not None]
