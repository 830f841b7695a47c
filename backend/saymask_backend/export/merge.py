"""From the records of one image to referents: conflicts settled by rule, equal objects joined."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal

import numpy as np

from saymask.runs import RunMask, find_agreed, read_coco_runs
from saymask_backend.export.model import Referent, Sentence
from saymask_backend.records.types import RecordView, to_key

MergeRule = Literal["latest", "majority", "all"]

# Masks of one image that overlap at least this much are one object.
SAME_REFERENT_IOU = 0.9
NO_REFERENT = "no_referent"
DEFAULT_CATEGORY = "object"


@dataclass(frozen=True)
class Conflicts:
    """How often several annotators decided one expression of an image, and how they agreed.

    ``ious`` is the mean over pairs of their masks, one per expression with at least two masks.
    """

    shared: int
    contradictions: int
    ious: tuple[float, ...]


@dataclass(frozen=True)
class _Settled:
    """One decision for one expression."""

    record: RecordView
    mask: RunMask | None
    parts: tuple[dict[str, Any], ...]
    record_ids: tuple[int, ...]
    annotators: tuple[str, ...]


def merge_records(
    records: Iterable[RecordView], rule: MergeRule, categories: Mapping[str, str]
) -> tuple[tuple[Referent, ...], Conflicts]:
    """Return the referents of one image, in a stable order, and how annotators agreed.

    Args:
        records: all records of one image; masks of one size.
        rule: with several annotators, ``latest`` takes the newest decision, ``majority`` the
            pixels (and the existence) more than half agree on, the newest where that is empty;
            ``all`` keeps every one.
        categories: head noun to category.
    """
    groups: dict[str, list[RecordView]] = defaultdict(list)
    for record in records:
        groups[to_key(record.expression)].append(record)
    settled: list[_Settled] = []
    shared = contradictions = 0
    ious: list[float] = []
    for key in sorted(groups):
        group = sorted(groups[key], key=lambda r: (r.decided_at, r.id))
        if len({record.annotator for record in group}) > 1:
            shared += 1
            contradictions += len({record.coco_rle is None for record in group}) > 1
            pairs = [a.compute_iou(b) for a, b in combinations(_read_masks(group), 2)]
            if pairs:
                ious.append(float(np.mean(pairs)))
        settled += _settle(group, rule)
    return _join(settled, categories), Conflicts(shared, contradictions, tuple(ious))


def _read_masks(records: list[RecordView]) -> list[RunMask]:
    return [read_coco_runs(r.coco_rle) for r in records if r.coco_rle is not None]


def _settle(group: list[RecordView], rule: MergeRule) -> list[_Settled]:
    if rule == "all" or len(group) == 1:
        return [_take(record, [record]) for record in group]
    newest = _take(group[-1], group)
    return [newest if rule == "latest" else _vote(group, newest)]


def _vote(group: list[RecordView], newest: _Settled) -> _Settled:
    """The pixels, and the existence, that more than half of the decisions agree on."""
    masks = _read_masks(group)
    if 2 * len(masks) == len(group):
        return newest
    if 2 * len(masks) < len(group):
        without_mask = [r for r in group if r.coco_rle is None]
        return _take(without_mask[-1], group)
    voted = find_agreed(masks, len(masks) // 2 + 1)
    return replace(newest, mask=voted, parts=()) if voted else newest


def _take(record: RecordView, group: list[RecordView]) -> _Settled:
    return _Settled(
        record=record,
        mask=read_coco_runs(record.coco_rle) if record.coco_rle is not None else None,
        parts=tuple(record.parts),
        record_ids=tuple(sorted(r.id for r in group)),
        annotators=tuple(sorted({r.annotator or "unknown" for r in group})),
    )


def _join(settled: list[_Settled], categories: Mapping[str, str]) -> tuple[Referent, ...]:
    """Decisions on the same object become one referent with several sentences."""
    clusters: list[list[_Settled]] = []
    for decision in sorted(settled, key=lambda c: (-c.record.decided_at.timestamp(), c.record.id)):
        cluster = next((c for c in clusters if _is_same(c[0], decision)), None)
        if cluster is None:
            clusters.append([decision])
        else:
            cluster.append(decision)
    return tuple(_to_referent(cluster, categories) for cluster in clusters)


def _is_same(a: _Settled, b: _Settled) -> bool:
    if a.mask is None or b.mask is None:
        # Expressions without a referent have nothing in common but that.
        return False
    return a.mask.compute_iou(b.mask) >= SAME_REFERENT_IOU


def _to_referent(cluster: list[_Settled], categories: Mapping[str, str]) -> Referent:
    newest = cluster[0]
    nouns = [noun for noun in (to_noun(c.record.head_noun_phrase) for c in cluster) if noun]
    # The noun most of the sentences use; of equals the newest.
    noun = max(nouns, key=nouns.count) if nouns else None
    sentences: dict[str, Sentence] = {}
    for decision in reversed(cluster):
        key = to_key(decision.record.expression)
        sentences[key] = _to_sentence(decision, sentences.get(key))
    return Referent(
        coco_rle=newest.mask.to_coco_rle() if newest.mask is not None else None,
        parts=newest.parts,
        category=to_category(noun, categories),
        sentences=tuple(sentences[key] for key in sorted(sentences)),
    )


def _to_sentence(decision: _Settled, earlier: Sentence | None) -> Sentence:
    """Include those who gave the same expression for the same object before."""
    record = decision.record
    ids = set(decision.record_ids) | set(earlier.record_ids if earlier else ())
    annotators = set(decision.annotators) | set(earlier.annotators if earlier else ())
    return Sentence(
        raw=record.expression,
        record_ids=tuple(sorted(ids)),
        annotators=tuple(sorted(annotators)),
        outcome=record.outcome,
        rank=record.rank,
        iou=record.iou,
        seconds=record.seconds,
        decided_at=record.decided_at,
        model_version=record.model_version,
        provenance=record.provenance,
    )


def to_category(noun: str | None, categories: Mapping[str, str]) -> str:
    """Return the category of a head noun; of none it is ``object``."""
    name = noun or DEFAULT_CATEGORY
    return categories.get(name, name)


def to_noun(head_noun_phrase: str | None) -> str | None:
    """Return the last word of an English noun phrase, in lower case."""
    words = (head_noun_phrase or "").lower().split()
    return words[-1] if words else None
