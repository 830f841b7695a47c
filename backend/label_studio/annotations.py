"""From Label Studio's annotation, in a webhook or from its API, to a submission."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from datetime import UTC, datetime
from typing import Any, cast, get_args

from backend.errors import InvalidAnnotation, InvalidMask, SaymaskError
from backend.label_studio.label_config import LabelConfig
from backend.label_studio.tasks import read_id, read_photo, to_storable
from backend.masks import decode_brush_rle
from backend.submission import Origin, Submission, SubmittedRegion, Verdict

_ORIGINS = get_args(Origin)
_VERDICTS = get_args(Verdict)


def load_submission(annotation: Any, task: Any, project_id: int, config: LabelConfig) -> Submission:
    """Check and convert one annotation with its task.

    Raises:
        InvalidAnnotation: says what is wrong.
    """
    if not isinstance(annotation, dict) or not isinstance(task, dict):
        raise InvalidAnnotation("Expected 'annotation' and 'task', two objects.")
    result = annotation.get("result")
    if not isinstance(result, list) or not all(isinstance(entry, dict) for entry in result):
        raise InvalidAnnotation("The annotation's 'result' is no list of objects.")
    try:
        reader = _ResultReader(result, config)
        return Submission(
            project_id=project_id,
            task_id=read_id(task.get("id"), "task id"),
            annotation_id=read_id(annotation.get("id"), "annotation id"),
            updated_at=_read_time(annotation.get("updated_at")),
            annotator=_read_user(annotation.get("completed_by")),
            seconds=_read_seconds(annotation.get("lead_time")),
            skipped=annotation.get("was_cancelled") is True,
            photo=read_photo(task, config),
            expression=reader.read_text(config.expression),
            verdict=reader.read_verdict(),
            regions=reader.read_regions(),
            not_understood=reader.describe_others(),
            content_hash=hash_content(annotation),
        )
    except InvalidAnnotation:
        raise
    except SaymaskError as error:
        raise InvalidAnnotation(error.cause, error.cure) from error


def hash_content(annotation: dict[str, Any]) -> str:
    """Of what the annotator said; equal for a webhook and the API."""
    said = {"result": annotation.get("result"), "skipped": annotation.get("was_cancelled") is True}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


class _ResultReader:
    """The entries of one result. A region is a brush entry and, with the same id, its text."""

    def __init__(self, result: list[dict[str, Any]], config: LabelConfig) -> None:
        self._result = result
        self._config = config

    def read_text(self, name: str | None, region_id: str | None = None) -> str | None:
        for entry in reversed(self._result):
            if entry.get("from_name") != name or entry.get("type") != "textarea":
                continue
            if region_id is not None and entry.get("id") != region_id:
                continue
            texts = _value_of(entry).get("text")
            text = texts[-1] if isinstance(texts, list) and texts else texts
            if isinstance(text, str) and text.strip():
                return to_storable(text)
        return None

    def read_verdict(self) -> Verdict | None:
        for entry in self._result:
            if entry.get("type") == "choices" and entry.get("from_name") == self._config.verdict:
                for choice in _value_of(entry).get("choices") or []:
                    if choice in _VERDICTS:
                        return cast(Verdict, choice)
        return None

    def read_regions(self) -> tuple[SubmittedRegion, ...]:
        regions = tuple(self._read_region(e) for e in self._result if self._is_mask(e))
        sizes = {region.mask.shape for region in regions}
        if len(sizes) > 1:
            raise InvalidAnnotation(f"Regions of one photo have different sizes: {sorted(sizes)}.")
        return regions

    def describe_others(self) -> tuple[str, ...]:
        config = self._config
        # Clicks and boxes are in the mask they led to.
        texts = (
            config.expression, config.region_expression, config.verdict, config.notice,
            config.click, config.box,
        )  # fmt: skip
        others = Counter(
            str(entry.get("type"))
            for entry in self._result
            if not self._is_mask(entry) and entry.get("from_name") not in texts
        )
        return tuple(f"{n} of type {kind} left out" for kind, n in sorted(others.items()))

    def _is_mask(self, entry: dict[str, Any]) -> bool:
        # A brush without any label has type "brush".
        kinds = ("brushlabels", "brush")
        return entry.get("type") in kinds and entry.get("from_name") == self._config.mask

    def _read_region(self, entry: dict[str, Any]) -> SubmittedRegion:
        region_id = entry.get("id")
        if not isinstance(region_id, str) or not region_id:
            raise InvalidAnnotation("A brush region has no id.")
        value, origin = _value_of(entry), entry.get("origin", "manual")
        size_hw = entry.get("original_height"), entry.get("original_width")
        if not all(isinstance(side, int) and 0 < side < 100_000 for side in size_hw):
            raise InvalidAnnotation(f"Region {region_id} has no size: {size_hw}.")
        try:
            mask = decode_brush_rle(value.get("rle"), cast(tuple[int, int], size_hw))  # type: ignore[arg-type]
        except InvalidMask as error:
            raise InvalidAnnotation(f"Region {region_id}: {error.cause}", error.cure) from error
        labels = value.get("brushlabels")
        return SubmittedRegion(
            region_id=to_storable(region_id),
            origin=cast(Origin, origin) if origin in _ORIGINS else "manual",
            label=str(labels[0]) if isinstance(labels, list) and labels else None,
            mask=mask,
            expression=self.read_text(self._config.region_expression, region_id),
        )


def _value_of(entry: dict[str, Any]) -> dict[str, Any]:
    value = entry.get("value")
    return value if isinstance(value, dict) else {}


def _read_time(raw: Any) -> datetime:
    try:
        moment = datetime.fromisoformat(raw)
    except (TypeError, ValueError) as error:
        raise InvalidAnnotation(f"'updated_at' is no time: {raw!r}.") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _read_user(raw: Any) -> str | None:
    """A user id, or in some answers of the API an object with one."""
    if isinstance(raw, dict):
        raw = raw.get("id")
    return to_storable(str(raw))[:200] if raw is not None else None


def _read_seconds(raw: Any) -> float | None:
    if isinstance(raw, bool) or not isinstance(raw, int | float) or not math.isfinite(raw):
        return None
    return float(raw) if raw >= 0 else None
