"""Why a proposal ranks where it does: the parse, every term, a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from saymask.segmentation import Segmentation
from saymask_worker.images.decode import read_pixels
from saymask_worker.images.types import EncodedImage, PreparedImage
from saymask_worker.language import ParsedExpression
from saymask_worker.pipeline.pipeline import Pipeline
from saymask_worker.pipeline.suggestions import choose_distinct


@dataclass(frozen=True)
class Explanation:
    """How an expression was read and what decided.

    Attributes:
        parsed: the expression taken apart.
        result: the best proposals.
        terms: for each of its candidates, the terms of its score in nats, which add up to it.
    """

    parsed: ParsedExpression
    result: Segmentation
    terms: tuple[Mapping[str, float], ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values, masks as COCO RLE."""
        return {
            "parse": asdict(self.parsed),
            "confidence": self.result.confidence,
            "proposals": [
                {**candidate.model_dump(mode="json"), "terms": terms}
                for candidate, terms in zip(self.result.message.candidates, self.terms, strict=True)
            ],
        }


def explain(
    pipeline: Pipeline, prepared: PreparedImage, encoded: EncodedImage, expression: str, k: int
) -> Explanation:
    """Rank the proposals of a prepared image, and keep every term of the k best.

    Raises:
        InvalidExpression: blank, or without any word.
    """
    parsed, scores = pipeline.rank(prepared, expression)
    result = pipeline.segment(prepared, expression, k, preparation=None)
    count = len(result.candidates)
    offered = choose_distinct(prepared, scores, pipeline.config, count, parsed.count)
    terms = tuple(
        {name: round(float(values[index]), 3) for name, values in scores.terms.items()}
        for index in offered
    )
    return Explanation(parsed, Segmentation(result, partial(read_pixels, encoded)), terms)


def list_parse(parsed: ParsedExpression) -> list[tuple[str, str]]:
    """Return what was read from an expression, as pairs of name and value; nothing left empty."""
    relations = (
        f"{r.kind.replace('_', ' ')} {r.anchor}" + (f" and {r.second}" if r.second else "")
        for r in parsed.relations
    )
    rows = {
        "language": None if parsed.is_english else "not English",
        "noun phrase": parsed.head_noun_phrase,
        "looked for": parsed.appearance,
        "sides": ", ".join(parsed.sides),
        "row": parsed.row,
        "order": str(parsed.ordinal) if parsed.ordinal else None,
        "size": parsed.size,
        "number": str(parsed.count) if parsed.count else None,
        "relations": "; ".join(relations),
        "without": parsed.excluded,
        "spelling": ", ".join(f"{fix.typed} as {fix.read}" for fix in parsed.corrections),
    }
    return [(name, value) for name, value in rows.items() if value]
