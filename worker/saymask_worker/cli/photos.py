"""``saymask-worker segment`` and ``explain``: one photo, without Label Studio."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from saymask.command_line import (
    JsonOption,
    build_table,
    console,
    explain_writing,
    print_json,
    print_line,
    show_step,
)
from saymask.contract import SegmentResult, check_k
from saymask.segmentation import Segmentation, load_segmenter
from saymask_worker.images.read import read_image

if TYPE_CHECKING:
    from saymask_worker.pipeline.explanation import Explanation
    from saymask_worker.serving.segmenter import Segmenter


ExpressionArgument = Annotated[
    str, typer.Argument(help="What you mean, in words.", metavar="EXPRESSION")
]


def segment(
    photo: Annotated[Path, typer.Argument(help="An image file.")],
    expression: ExpressionArgument,
    k: Annotated[int, typer.Option("-k", help="Number of candidates, 1 to 50.")] = 3,
    overlay: Annotated[Path | None, typer.Option("-o", help="Picture to write.")] = None,
    masks: Annotated[Path | None, typer.Option("--json", help="JSON file to write.")] = None,
) -> None:
    """Segment one photo without Label Studio.

    Example: saymask-worker segment cat.jpg "the cat" -k 3 -o overlay.png --json masks.json
    """
    segmenter = _load(photo, k)
    with show_step("segmenting"):
        result = segmenter.segment(photo, expression, k)
    _print_result(result.message)
    if masks is not None:
        with explain_writing(masks):
            masks.write_text(result.message.model_dump_json(indent=2), encoding="utf-8")
    _save(result, overlay)


def explain(
    photo: Annotated[Path, typer.Argument(help="An image file.")],
    expression: ExpressionArgument,
    k: Annotated[int, typer.Option("-k", help="Number of candidates, 1 to 50.")] = 5,
    overlay: Annotated[Path | None, typer.Option("-o", help="Picture to write.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show how an expression is parsed, and the terms of the best candidates' scores.

    Example: saymask-worker explain street.jpg "second car from the left" -o why.png
    """
    segmenter = _load(photo, k)
    with show_step("segmenting"):
        explanation = segmenter.explain(photo, expression, k)
    if as_json:
        print_json(explanation.to_json())
    else:
        _print_explanation(explanation)
    _save(explanation.result, overlay)


def _load(photo: Path, k: int) -> Segmenter:
    """Load the models, once the arguments are known to be right."""
    check_k(k)
    read_image(photo)
    with show_step("loading models"):
        return load_segmenter()


def _save(result: Segmentation, overlay: Path | None) -> None:
    if overlay is not None:
        picture = result.draw()
        with explain_writing(overlay):
            picture.save(overlay)


def _print_explanation(explanation: Explanation) -> None:
    from saymask_worker.pipeline.explanation import list_parse

    parse = build_table("read", "as", title=explanation.parsed.text)
    for name, value in list_parse(explanation.parsed):
        parse.add_row(name, escape(value))
    console.print(parse)
    ranks = [f"{candidate.rank}" for candidate in explanation.result.candidates]
    terms = build_table("term, in nats", numbers=ranks, title="candidates")
    for name in explanation.terms[0] if explanation.terms else ():
        terms.add_row(name, *(f"{values[name]:+.2f}" for values in explanation.terms))
    total = (f"{candidate.score:.2f}" for candidate in explanation.result.candidates)
    terms.add_row("score", *total, style="bold")
    console.print(terms)
    confidence = explanation.result.confidence
    if confidence is not None:
        console.print(f"probability that rank 1 is right: {confidence:.2f}")


def _print_result(result: SegmentResult) -> None:
    columns = ("rank", "score", "box x y w h", "predicted IoU", "source")
    table = build_table(*columns, title=result.expression)
    for candidate in result.candidates:
        box = " ".join(str(side) for side in candidate.box_xywh)
        score, quality = f"{candidate.score:.4f}", f"{candidate.predicted_iou:.3f}"
        table.add_row(str(candidate.rank), score, box, quality, candidate.source)
    console.print(table)
    stages = result.timings.model_dump()
    print_line("  ".join(f"{name[:-3]} {value:.0f} ms" for name, value in stages.items() if value))
    print_line(f"{result.model_version}; head noun phrase: {result.head_noun_phrase}")
    for notice in result.notices:
        console.print(notice, style="yellow", markup=False)
