"""Tables for people: Markdown for a page, HTML with pictures of what went right and wrong."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

import numpy as np
from jinja2 import Environment
from numpy.typing import NDArray
from PIL import Image

from backend.datasets.load import Dataset, decode_mask
from backend.masks import Mask, decode_coco_rle
from backend.painting import find_outline
from worker.evaluation.metrics import Interval
from worker.evaluation.outcomes import ExpressionOutcome, PhotoOutcome
from worker.evaluation.results import MethodResult, Results
from worker.images import decode_photo

MARKDOWN_FILE = "table.md"
HTML_FILE = "report.html"

_PICTURES = 12
_PICTURE_PX = 420
_ANSWER, _RIVAL, _TARGET = (230, 25, 75), (67, 99, 216), (255, 225, 25)
_ALL_MEGAPIXELS = 1000.0


def to_markdown(results: Results) -> str:
    """The tables of a run."""
    provenance = results.provenance
    lines = [
        f"# {provenance['dataset']}, split {provenance['split']}",
        "",
        f"{results.photos} photos, {results.expressions} expressions;"
        f" {provenance['model_version']}; proposals {provenance['proposals']};"
        f" {provenance['device']}. Intervals are 95 % bootstrap over photos.",
        "",
        f"{results.photos_without_proposals} photos have no proposal (their expressions count as"
        " IoU 0). A proposal above IoU .5 / .7 / .8 exists for"
        f" {results.oracle['0.5']} / {results.oracle['0.7']} / {results.oracle['0.8']};"
        f" mean best IoU {results.oracle['mean']}.",
        "",
        *_table(_MAIN, [_main_cells(method) for method in results.methods]),
        "",
        "Why the first mask is wrong, share of all expressions:",
        "",
    ]
    kinds = sorted({kind for method in results.methods for kind in method.errors})
    cells = [
        [method.name, *(f"{method.errors.get(kind, 0):.3f}" for kind in kinds)]
        for method in results.methods
    ]
    lines += _table(["method", *kinds], cells)
    if groups := results.methods[0].by_kind:
        names = [f"{kind} ({count})" for kind, (count, _) in groups.items()]
        cells = [
            [method.name, *(f"{method.by_kind[kind][1]:.3f}" for kind in groups)]
            for method in results.methods
        ]
        lines += ["", "Top-1 by kind of expression:", "", *_table(["method", *names], cells)]
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


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    # A column nobody fills says nothing.
    kept = [i for i in range(len(head)) if i == 0 or any(row[i] for row in rows)]
    body = [[head[i] for i in kept], ["---"] * len(kept), *([row[i] for i in kept] for row in rows)]
    return [f"| {' | '.join(cells)} |" for cells in body]


@dataclass(frozen=True)
class _Picture:
    data_url: str
    title: str
    subtitle: str


def to_html(results: Results, dataset: Dataset, outcomes: Sequence[PhotoOutcome]) -> str:
    """One page that needs nothing else: tables, and pictures of the first method's answers."""
    name = results.methods[0].name
    sections = [
        ("Worst, though a good proposal existed", _pick_worst(outcomes, name)),
        ("Best", _pick_best(outcomes, name)),
        ("Most ambiguous: two objects fit almost equally", _pick_ambiguous(outcomes, name)),
    ]
    paths = {photo.path.name: photo for photo in dataset.photos}
    drawn = []
    for title, picked in sections:
        pictures = []
        for photo_name, outcome in picked:
            photo = paths[photo_name]
            target = next(e.target for e in photo.expressions if e.id == outcome.id)
            pixels = decode_photo(photo.path.read_bytes(), _ALL_MEGAPIXELS).pixels
            pictures.append(_draw(pixels, decode_mask(target), outcome, name, photo_name))
        drawn.append((title, pictures))
    template = (resources.files("worker.evaluation") / "report.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True)
    return environment.from_string(template).render(
        results=results,
        tables=[_to_rows(block) for block in to_markdown(results).split("\n\n")],
        sections=drawn,
        method=name,
        provenance=results.provenance,
    )


def _to_rows(block: str) -> list[list[str]] | str:
    if not block.startswith("|"):
        return block.lstrip("# ")
    rows = [[cell.strip() for cell in line.strip("| \n").split("|")] for line in block.split("\n")]
    return [row for row in rows if set("".join(row)) - {"-"}]


Picked = list[tuple[str, ExpressionOutcome]]


def _iou(outcome: ExpressionOutcome, name: str) -> float:
    top = outcome.answers[name].top
    return top[0][0] / max(top[0][1], 1) if top else 0.0


def _with_target(outcomes: Sequence[PhotoOutcome]) -> Picked:
    return [(o.photo, e) for o in outcomes for e in o.expressions if e.target_px]


def _pick_worst(outcomes: Sequence[PhotoOutcome], name: str) -> Picked:
    possible = [(p, e) for p, e in _with_target(outcomes) if e.oracle_iou > 0.5]
    return sorted(possible, key=lambda pair: (_iou(pair[1], name), pair[1].id))[:_PICTURES]


def _pick_best(outcomes: Sequence[PhotoOutcome], name: str) -> Picked:
    found = _with_target(outcomes)
    return sorted(found, key=lambda pair: (-_iou(pair[1], name), pair[1].id))[:_PICTURES]


def _pick_ambiguous(outcomes: Sequence[PhotoOutcome], name: str) -> Picked:
    found = [(p, e) for p, e in _with_target(outcomes) if len(e.answers[name].masks) == 2]
    return sorted(found, key=lambda pair: (pair[1].answers[name].gap, pair[1].id))[:_PICTURES]


def _draw(
    pixels: NDArray[np.uint8], target: Mask, outcome: ExpressionOutcome, name: str, photo: str
) -> _Picture:
    answer = outcome.answers[name]
    canvas = pixels.astype(np.float32)
    for rle, color in zip(answer.masks, (_ANSWER, _RIVAL), strict=False):
        mask = decode_coco_rle(rle)
        if color is _ANSWER:
            canvas[mask] = 0.55 * canvas[mask] + 0.45 * np.asarray(color)
        canvas[find_outline(mask)] = color
    canvas[find_outline(target)] = _TARGET
    image = Image.fromarray(canvas.round().astype(np.uint8))
    image.thumbnail((_PICTURE_PX, _PICTURE_PX))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return _Picture(
        data_url=f"data:image/jpeg;base64,{encoded}",
        title=outcome.text,
        subtitle=f"IoU {_iou(outcome, name):.2f}, best possible {outcome.oracle_iou:.2f},"
        f" {answer.kind}, gap {answer.gap:.3f}; {photo}",
    )
