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
from saymask.contract import MAX_K, SegmentResult, Timings, normalise_expression
from saymask.drawing import draw_candidates
from saymask.errors import ImageUnreachable, InvalidRequest
from saymask_worker.config.settings import load_worker_settings

if TYPE_CHECKING:
    from saymask_worker.images.types import PreparedImage
    from saymask_worker.pipeline.explanation import Explanation
    from saymask_worker.pipeline.pipeline import Pipeline


ExpressionArgument = Annotated[
    str,
    typer.Argument(
        help="What you mean, in words.", metavar="EXPRESSION", parser=normalise_expression
    ),
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
    pipeline, prepared, timings, data = _prepare_photo(photo, k)
    from saymask_worker.images.decode import decode_image
    from saymask_worker.images.types import EncodedImage

    with show_step("segmenting"):
        result = pipeline.segment(
            prepared, expression, k, preparation=timings, encoded=EncodedImage(lambda: data)
        )
    _print_result(result)
    if masks is not None:
        with explain_writing(masks):
            masks.write_text(result.model_dump_json(indent=2), encoding="utf-8")
    if overlay is not None:
        pixels = decode_image(data).pixels
        picture = draw_candidates(pixels, result.candidates, result.expression)
        with explain_writing(overlay):
            picture.save(overlay)


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
    pipeline, prepared, _, data = _prepare_photo(photo, k)
    from saymask_worker.images.decode import decode_image
    from saymask_worker.pipeline.explanation import explain as explain_ranking

    explanation = explain_ranking(pipeline, prepared, expression, k)
    if as_json:
        print_json(explanation.to_json())
    else:
        _print_explanation(explanation)
    if overlay is not None:
        pixels = decode_image(data).pixels
        picture = draw_candidates(pixels, explanation.candidates, explanation.parsed.text)
        with explain_writing(overlay):
            picture.save(overlay)


def _prepare_photo(photo: Path, k: int) -> tuple[Pipeline, PreparedImage, Timings | None, bytes]:
    """Load the models, and a photo from the cache or anew."""
    if not 1 <= k <= MAX_K:
        raise InvalidRequest(f"-k must be from 1 to {MAX_K}, got {k}.")
    try:
        data = photo.read_bytes()
    except OSError as error:
        raise ImageUnreachable(f"{photo} cannot be read: {error.strerror}.") from error
    with show_step("loading models"):
        # With PyTorch, which takes seconds itself.
        from saymask_worker.pipeline.build import build_pipeline
        from saymask_worker.pipeline.pipeline import open_image

        pipeline = build_pipeline(load_worker_settings())
    with show_step("preparing the photo"):
        prepared, timings = open_image(pipeline, data)
    return pipeline, prepared, timings, data


def _print_explanation(explanation: Explanation) -> None:
    from saymask_worker.pipeline.explanation import list_parse

    parse = build_table("read", "as", title=explanation.parsed.text)
    for name, value in list_parse(explanation.parsed):
        parse.add_row(name, escape(value))
    console.print(parse)
    ranks = [f"{candidate.rank}" for candidate in explanation.candidates]
    terms = build_table("term, in nats", numbers=ranks, title="candidates")
    for name in explanation.terms[0] if explanation.terms else ():
        terms.add_row(name, *(f"{values[name]:+.2f}" for values in explanation.terms))
    total = (f"{candidate.score:.2f}" for candidate in explanation.candidates)
    terms.add_row("score", *total, style="bold")
    console.print(terms)
    if explanation.confidence is not None:
        console.print(f"probability that rank 1 is right: {explanation.confidence:.2f}")


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
