"""Verdicts of second annotators who see only image and expression, and click."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import combinations
from math import sqrt
from typing import Literal, get_args

from sqlalchemy import delete, select

from saymask.errors import counted
from saymask_backend.records.database import Database, StoreError
from saymask_backend.records.tables import AnnotationVersion, RecordRow, VerificationRow

Verdict = Literal["confirmed", "elsewhere", "none", "several"]
"""Clicked in the recorded mask or elsewhere; found nothing, or several, that could be meant."""
_VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
_NAME_DIGITS = 12
# Of the 95 % interval.
_Z = 1.959964


@dataclass(frozen=True)
class Verification:
    """One verdict on one record.

    Attributes:
        project_id, annotation_id: of the annotation in Label Studio that holds the verdict.
        verifier: Label Studio's user id, or None.
    """

    record_id: int
    project_id: int
    annotation_id: int
    verifier: str | None
    verdict: Verdict
    decided_at: datetime


@dataclass(frozen=True)
class VerificationSummary:
    """How often second annotators disagreed with a record.

    Attributes:
        confirmed: how many of these had no other verdict.
        error_rate: share of the other records; ``low`` and ``high`` bound its 95 % interval
            (Wilson 1927).
        verdicts: how often each was given.
        pairs: pairs of annotators who saw the same record; ``agreement`` is the share of pairs
            with equal verdicts, None without any.
    """

    records: int
    confirmed: int
    error_rate: float
    low: float
    high: float
    verdicts: dict[str, int]
    pairs: int
    agreement: float | None

    def describe(self) -> str:
        """Return one sentence for people."""
        text = (
            f"Label error rate {100 * self.error_rate:.1f} % [{100 * self.low:.1f},"
            f" {100 * self.high:.1f}]: a second person did not confirm"
            f" {self.records - self.confirmed} of {counted(self.records, 'verified record')}."
        )
        if self.agreement is None:
            return text
        pairs = counted(self.pairs, "pair")
        return f"{text} Two persons agreed on {100 * self.agreement:.0f} % of {pairs}."


class VerificationStore:
    """Verdicts of second annotators. Each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def name_database(self) -> str:
        """Return a name that no other database of records has; empty before the first record.

        It follows from when the first annotation was seen, which never changes.
        """
        first = self._database.scalars(
            select(AnnotationVersion).order_by(AnnotationVersion.id).limit(1)
        )
        if not first:
            return ""
        content = f"{first[0].annotation_id} {first[0].content_hash} {first[0].seen_at.isoformat()}"
        return hashlib.sha256(content.encode()).hexdigest()[:_NAME_DIGITS]

    def replace(self, project_id: int, verifications: Sequence[Verification]) -> None:
        """Replace the verdicts of one verification project."""
        with self._database.session() as session, session.begin():
            session.execute(delete(VerificationRow).where(VerificationRow.project_id == project_id))
            session.add_all(VerificationRow(**asdict(item)) for item in verifications)

    def load(self, project_id: int | None = None) -> list[Verification]:
        """Return the verdicts on records of one project, or of all."""
        query = select(VerificationRow).order_by(VerificationRow.id)
        if project_id is not None:
            query = query.join(RecordRow, VerificationRow.record_id == RecordRow.id)
            query = query.where(RecordRow.project_id == project_id)
        return [_to_verification(row) for row in self._database.scalars(query)]


def _to_verification(row: VerificationRow) -> Verification:
    for verdict in _VERDICTS:
        if verdict == row.verdict:
            return Verification(
                row.record_id, row.project_id, row.annotation_id, row.verifier, verdict,
                row.decided_at,
            )  # fmt: skip
    raise StoreError(
        f"Verification {row.id} has the unknown verdict {row.verdict!r}.",
        "Update saymask to the version that wrote it.",
    )


def summarise(verifications: Iterable[Verification]) -> VerificationSummary | None:
    """Compute the label error rate; None where nothing was verified."""
    by_record: dict[int, list[Verification]] = defaultdict(list)
    for item in verifications:
        by_record[item.record_id].append(item)
    if not by_record:
        return None
    verdicts = [item.verdict for group in by_record.values() for item in group]
    confirmed = sum(
        all(item.verdict == "confirmed" for item in group) for group in by_record.values()
    )
    pairs = [
        first.verdict == second.verdict
        for group in by_record.values()
        for first, second in combinations(group, 2)
        if first.verifier != second.verifier
    ]
    count = len(by_record)
    low, high = compute_wilson(count - confirmed, count)
    return VerificationSummary(
        records=count,
        confirmed=confirmed,
        error_rate=round((count - confirmed) / count, 4),
        low=round(low, 4),
        high=round(high, 4),
        verdicts={name: verdicts.count(name) for name in _VERDICTS if name in verdicts},
        pairs=len(pairs),
        agreement=round(sum(pairs) / len(pairs), 4) if pairs else None,
    )


def compute_wilson(hits: int, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (E. B. Wilson, 1927); count must not be 0."""
    share = hits / count
    middle = share + _Z**2 / (2 * count)
    spread = _Z * sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    scale = 1 + _Z**2 / count
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)
