"""Tables for people: Markdown for a page, HTML with pictures of what went right and wrong."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

import numpy as np
from jinja2 import Environment

from saymask.datasets.model import Dataset, DatasetImage
from saymask.drawing import REFERENT_COLOR, color_of_rank, draw_mask, to_data_url
from saymask.errors import counted
from saymask.intervals import Interval
from saymask.masks import decode_coco_rle
from saymask_worker.evaluation.answers import ExpressionAnswers, ImageAnswers
from saymask_worker.evaluation.metrics import HIT_IOU
from saymask_worker.evaluation.results import MethodResult, Results
from saymask_worker.images.decode import decode_image

MARKDOWN_FILE = "table.md"
HTML_FILE = "report.html"

_PICTURES = 12
_PICTURE_PX = 420
# Of the first answer and of the next that is another object, as the report's legend says.
_STYLES = ((color_of_rank(1), 0.45), (color_of_rank(3), 0.0))


def to_markdown(results: Results) -> str:
    """Return the tables of a run as Markdown."""
    provenance = results.provenance
    lines = [
        f"# {provenance['dataset']}, split {provenance['split']}",
        "",
        f"{counted(results.images, 'photo')}, {counted(results.expressions, 'expression')};"
        f" {provenance['model_version']}; proposals {provenance['proposals']};"
        f" {provenance['device']}. Intervals are 95 % bootstrap over photos.",
        "",
        f"Photos without a proposal: {results.images_without_proposals} (their expressions count as"
        " IoU 0). A proposal above IoU .5 / .7 / .8 exists for"
        f" {results.oracle['0.5']} / {results.oracle['0.7']} / {results.oracle['0.8']};"
        f" mean best IoU {results.oracle['mean']}.",
        "",
        *to_table(_MAIN, [_main_cells(method) for method in results.methods]),
        "",
        "Why the first mask is wrong, share of all expressions:",
        "",
    ]
    kinds = sorted({kind for method in results.methods for kind in method.errors})
    cells = [
        [method.name, *(f"{method.errors.get(kind, 0):.3f}" for kind in kinds)]
        for method in results.methods
    ]
    lines += to_table(["method", *kinds], cells)
    if groups := results.methods[0].by_kind:
        names = [f"{kind} ({count})" for kind, (count, _) in groups.items()]
        cells = [
            [method.name, *(f"{method.by_kind[kind][1]:.3f}" for kind in groups)]
            for method in results.methods
        ]
        lines += ["", "Top-1 by kind of expression:", "", *to_table(["method", *names], cells)]
    return "\n".join(lines) + "\n"


_MAIN = [
    "method", "top-1", "best 3", "best 5", "best 5 @.8", "oIoU", "mIoU", "P@.7", "P@.9",
    "MC-Acc", "CC-oIoU", "N-acc", "T-acc", "top-1 against the first row",
]  # fmt: skip


def _main_cells(method: MethodResult) -> list[str]:
    return [
        method.name,
        *(str(method.recall[name]) for name in ("1@0.5", "3@0.5", "5@0.5")),
        f"{method.recall['5@0.8'].mean:.3f}",
        str(method.oiou),
        str(method.miou),
        f"{method.precision['0.7']:.3f}",
        f"{method.precision['0.9']:.3f}",
        _optional(method.mc_accuracy),
        _optional(method.cc_oiou),
        _optional(method.n_accuracy),
        _optional(method.t_accuracy),
        _signed(method.difference),
    ]


def _optional(value: float | Interval | None) -> str:
    if value is None:
        return ""
    return f"{value.mean if isinstance(value, Interval) else value:.3f}"


def _signed(value: Interval) -> str:
    if value.mean == value.low == value.high == 0:
        return ""
    return f"{value.mean:+.3f} [{value.low:+.3f}, {value.high:+.3f}]"


def to_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table, without columns that are empty in every row."""
    kept = [i for i in range(len(head)) if i == 0 or any(row[i] for row in rows)]
    body = [[head[i] for i in kept], ["---"] * len(kept), *([row[i] for i in kept] for row in rows)]
    return [f"| {' | '.join(cells)} |" for cells in body]


def to_html(results: Results, dataset: Dataset, images: Sequence[ImageAnswers]) -> str:
    """Return one self-contained page: tables, and pictures of the first method's answers."""
    name = results.methods[0].name
    by_name = {image.path.name: image for image in dataset.images}
    template = (resources.files("saymask_worker.evaluation") / "report.html").read_text("utf-8")
    return (
        Environment(autoescape=True)
        .from_string(template)
        .render(
            tables=[_to_rows(block) for block in to_markdown(results).split("\n\n")],
            sections=[
                (
                    title,
                    [_draw(by_name[file_name], expression, name) for file_name, expression in rows],
                )
                for title, rows in _select(images, name)
            ],
            method=name,
            provenance=results.provenance,
        )
    )


def _to_rows(block: str) -> list[list[str]] | str:
    if not block.startswith("|"):
        return block.lstrip("# ")
    rows = [[cell.strip() for cell in line.strip("| \n").split("|")] for line in block.split("\n")]
    return [row for row in rows if set("".join(row)) - {"-"}]


def _iou(expression: ExpressionAnswers, name: str) -> float:
    top = expression.answers[name].top
    return top[0][0] / max(top[0][1], 1) if top else 0.0


def _select(
    images: Sequence[ImageAnswers], name: str
) -> list[tuple[str, list[tuple[str, ExpressionAnswers]]]]:
    """Choose the expressions to draw: by section, each with its image's file name."""
    rows = [(i.image, e) for i in images for e in i.expressions if e.target_px]
    by_iou = sorted(rows, key=lambda row: (_iou(row[1], name), row[1].id))
    best = sorted(rows, key=lambda row: (-_iou(row[1], name), row[1].id))
    two = [row for row in rows if len(row[1].answers[name].masks) == 2]
    ambiguous = sorted(two, key=lambda row: (row[1].answers[name].gap, row[1].id))
    worst = [row for row in by_iou if row[1].oracle_iou > HIT_IOU]
    return [
        ("Worst, though a good proposal existed", worst[:_PICTURES]),
        ("Best", best[:_PICTURES]),
        ("Most ambiguous: two objects fit almost equally", ambiguous[:_PICTURES]),
    ]


def _draw(image: DatasetImage, expression: ExpressionAnswers, name: str) -> dict[str, str]:
    """A picture for the template: answers filled, the target as an outline."""
    answer = expression.answers[name]
    target = next(e.target for e in image.expressions if e.id == expression.id)
    canvas = decode_image(image.path.read_bytes()).pixels.astype(np.float32)
    # An expression without an answer has no mask, one without a runner-up has one.
    for mask, (color, opacity) in zip(answer.masks, _STYLES, strict=False):
        draw_mask(canvas, decode_coco_rle(mask), color, opacity=opacity)
    draw_mask(canvas, decode_coco_rle(target), REFERENT_COLOR, opacity=0)
    return {
        "data_url": to_data_url(canvas, _PICTURE_PX),
        "title": expression.text,
        "subtitle": f"IoU {_iou(expression, name):.2f}, best possible {expression.oracle_iou:.2f},"
        f" {answer.kind}, gap {answer.gap:.3f}; {image.path.name}",
    }
