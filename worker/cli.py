"""``saymask-worker``: the worker's command line."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from saymask.contract import MAX_K, SegmentResult
from saymask.drawing import draw_candidates
from saymask.errors import ImageUnreachable, InvalidRequest, SaymaskError
from saymask.logs import configure_logging
from worker.settings import load_worker_settings
from worker.weights import CHECKPOINTS, DEFAULT, WeightStore, find_checkpoint

if TYPE_CHECKING:
    from worker.explanation import Explanation
    from worker.pipeline.pipeline import Pipeline
    from worker.pipeline.timing import PreparationTimings
    from worker.stages import PreparedImage

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="saymask-worker: proposals, CLIP and ranking. Settings come from SAYMASK_... variables.",
)
models = typer.Typer(no_args_is_help=True, help="Weights: list, pull, verify.")
app.add_typer(models, name="models")
console = Console(stderr=True)


@app.command()
def run(
    burst: Annotated[bool, typer.Option(help="Stop when the queues are empty.")] = False,
) -> None:
    """Serve the queue.

    Example: SAYMASK_REDIS_URL=redis://localhost:6379/0 saymask-worker run
    """
    from worker.pipeline.build import build_pipeline
    from worker.serving.main import run_worker

    settings = load_worker_settings()
    configure_logging(settings.log_format)
    run_worker(settings, build_pipeline, burst=burst)


@app.command()
def health(
    as_json: Annotated[bool, typer.Option("--json", help="JSON, for machines.")] = False,
) -> None:
    """Tell whether a worker of this machine serves the queue. Exit status 0 means it does.

    Example: saymask-worker health --json
    """
    from worker.serving.health import check_own_worker

    status = check_own_worker(load_worker_settings())
    text = status.model_dump_json(indent=2) if as_json else f"{status.name}: {status.state}"
    print(text)


@app.command()
def segment(
    photo: Annotated[Path, typer.Argument(help="An image file.")],
    expression: Annotated[str, typer.Argument(help="What you mean, in words.")],
    k: Annotated[int, typer.Option("-k", help="How many candidates, 1 to 50.")] = 3,
    overlay: Annotated[Path | None, typer.Option("-o", help="Write a picture here.")] = None,
    masks: Annotated[Path | None, typer.Option("--json", help="Write the result here.")] = None,
) -> None:
    """Segment one photo without Label Studio.

    Example: saymask-worker segment cat.jpg "the cat" -k 3 -o overlay.png --json masks.json
    """
    from worker.pipeline.images import decode_image

    pipeline, prepared, timings, data = _prepare_photo(photo, k)
    with console.status("segmenting"):
        result = pipeline.segment(prepared, expression, k, preparation=timings)
    _print_result(result)
    if masks is not None:
        masks.write_text(result.model_dump_json(indent=2), encoding="utf-8")
    if overlay is not None:
        pixels = decode_image(data, load_worker_settings().photo_max_megapixels).pixels
        draw_candidates(pixels, result.candidates, result.expression).save(overlay)


@app.command()
def explain(
    photo: Annotated[Path, typer.Argument(help="An image file.")],
    expression: Annotated[str, typer.Argument(help="What you mean, in words.")],
    k: Annotated[int, typer.Option("-k", help="How many candidates, 1 to 50.")] = 5,
    overlay: Annotated[Path | None, typer.Option("-o", help="Write a picture here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON, for machines.")] = False,
) -> None:
    """Show how an expression was read, and what each term gave to the best candidates.

    Example: saymask-worker explain street.jpg "second car from the left" -o why.png
    """
    from worker.explanation import explain as explain_ranking
    from worker.pipeline.images import decode_image

    pipeline, prepared, _, data = _prepare_photo(photo, k)
    explanation = explain_ranking(pipeline, prepared, expression, k)
    if as_json:
        print(json.dumps(explanation.to_json(), indent=2))
    else:
        _print_explanation(explanation)
    if overlay is not None:
        pixels = decode_image(data, load_worker_settings().photo_max_megapixels).pixels
        candidates = [ranked.candidate for ranked in explanation.proposals]
        draw_candidates(pixels, candidates, explanation.parsed.text).save(overlay)


def _prepare_photo(
    photo: Path, k: int
) -> tuple[Pipeline, PreparedImage, PreparationTimings | None, bytes]:
    """Load the models, and a photo from the cache or anew."""
    # PyTorch is imported by those commands that need it.
    from worker.pipeline.build import build_pipeline

    if not 1 <= k <= MAX_K:
        raise InvalidRequest(f"-k must be from 1 to {MAX_K}, got {k}.")
    try:
        data = photo.read_bytes()
    except OSError as error:
        raise ImageUnreachable(f"{photo} cannot be read: {error.strerror}.") from error
    with console.status("loading models"):
        pipeline = build_pipeline(load_worker_settings())
    with console.status("preparing the photo"):
        prepared, timings = pipeline.load_prepared(hashlib.sha256(data).hexdigest()), None
        if prepared is None:
            prepared, timings = pipeline.prepare(data)
    return pipeline, prepared, timings, data


def _print_explanation(explanation: Explanation) -> None:
    from worker.explanation import list_parse

    out = Console()
    parse = Table("read", "as", title=escape(explanation.parsed.text))
    for name, value in list_parse(explanation.parsed):
        parse.add_row(name, escape(value))
    out.print(parse)
    columns = (f"{c.candidate.rank}" for c in explanation.proposals)
    terms = Table("term, in nats", *columns, title="candidates")
    for name in explanation.proposals[0].terms if explanation.proposals else ():
        terms.add_row(name, *(f"{ranked.terms[name]:+.2f}" for ranked in explanation.proposals))
    total = (f"{ranked.candidate.score:.2f}" for ranked in explanation.proposals)
    terms.add_row("score", *total, style="bold")
    out.print(terms)
    if explanation.confidence is not None:
        out.print(f"probability that rank 1 is right: {explanation.confidence:.2f}")


def _print_result(result: SegmentResult) -> None:
    table = Table("rank", "score", "box x y w h", "predicted IoU", title=escape(result.expression))
    for candidate in result.candidates:
        box = " ".join(str(side) for side in candidate.box_xywh)
        score = f"{candidate.score:.4f}"
        table.add_row(str(candidate.rank), score, box, f"{candidate.predicted_iou:.3f}")
    out = Console()
    out.print(table)
    stages = result.timings.model_dump()
    out.print("  ".join(f"{name[:-3]} {value:.0f} ms" for name, value in stages.items() if value))
    out.print(f"{result.model_version}; head noun phrase: {result.head_noun_phrase}", markup=False)
    for notice in result.notices:
        out.print(f"[yellow]{notice}[/yellow]")


@app.command()
def evaluate(
    dataset: Annotated[
        str, typer.Option(help="refcoco, refcoco+, refcocog, grefcoco, phrasecut or export.")
    ] = "refcoco",
    root: Annotated[Path | None, typer.Option(help="The dataset's folder.")] = None,
    split: Annotated[str, typer.Option(help="For example val or testA.")] = "val",
    split_by: Annotated[str | None, typer.Option(help="unc, umd or google.")] = None,
    methods: Annotated[
        str,
        typer.Option(help="Names or groups: main, terms, mixing, repairs, baselines, all."),
    ] = "main",
    proposals: Annotated[
        str,
        typer.Option(help="`settings`, or `truth`: the annotated objects themselves."),
    ] = "settings",
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many photos.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes, each with its own models.")] = 1,
    no_target_below: Annotated[
        float | None, typer.Option(help="Withhold answers with a lower score (gRefCOCO).")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for tables and report.")] = Path("evaluation"),
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(help="Two finished runs, each FOLDER or FOLDER:METHOD; runs nothing."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON, for machines.")] = False,
) -> None:
    """Measure on a dataset with ground truth; continues where a killed run stopped.

    Writes results.json, table.md and report.html (with pictures) to --out.

    Examples:
    saymask-worker evaluate --dataset refcoco --root data --split val --methods all

    saymask-worker evaluate --compare evaluation:corrected evaluation:faithful
    """
    if compare is not None:
        _print_comparison(*compare, as_json=as_json)
        return
    if root is None:
        raise InvalidRequest("--root is missing.", "Give the dataset's folder.")
    if proposals not in ("settings", "truth"):
        raise InvalidRequest(
            f"--proposals must be settings or truth, got {proposals!r}.",
            "Generators are chosen with SAYMASK_PROPOSALS.",
        )
    from worker.evaluation.report import HTML_FILE, MARKDOWN_FILE, to_html, to_markdown
    from worker.evaluation.request import EvaluationRequest
    from worker.evaluation.run import RESULTS_FILE, run_evaluation

    request = EvaluationRequest(
        dataset=dataset,
        root=root,
        split=split,
        split_by=split_by,
        limit=limit,
        methods=methods,
        truth_proposals=proposals == "truth",
        no_target_below=no_target_below,
    )
    results, data, images = run_evaluation(request, load_worker_settings(), out, jobs, console)
    markdown = to_markdown(results)
    (out / MARKDOWN_FILE).write_text(markdown, encoding="utf-8")
    (out / HTML_FILE).write_text(to_html(results, data, images), encoding="utf-8")
    print(results.model_dump_json(indent=2) if as_json else markdown)
    written = (out / name for name in (RESULTS_FILE, MARKDOWN_FILE, HTML_FILE))
    console.print(", ".join(str(path) for path in written), markup=False)


def _print_comparison(first: str, second: str, *, as_json: bool) -> None:
    from worker.evaluation.compare import compare_runs

    comparison = compare_runs(first, second)
    if as_json:
        print(json.dumps(comparison.to_json(), indent=2))
        return
    table = Table("metric", "difference", "95 % interval")
    for name, interval in comparison.differences.items():
        table.add_row(name, f"{interval.mean:+.3f}", f"[{interval.low:+.3f}, {interval.high:+.3f}]")
    out = Console()
    out.print(f"{comparison.first} minus {comparison.second}", markup=False)
    out.print(f"{comparison.expressions} expressions in both, {comparison.unmatched} in one only")
    out.print(table)


@models.command("list")
def list_models(
    as_json: Annotated[bool, typer.Option("--json", help="JSON, for machines.")] = False,
) -> None:
    """List what can be pulled and what is here.

    Example: saymask-worker models list --json
    """
    store = _store()
    rows = [
        {
            "name": c.name,
            "what": c.what,
            "licence": c.licence,
            "bytes": c.bytes,
            "sha256": c.sha256,
            "source": str(c.source),
            "path": str(store.path(c.name)),
            "present": store.is_present(c.name),
        }
        for c in CHECKPOINTS.values()
    ]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = Table("name", "here", "MB", "licence", "what", "source")
    for row in rows:
        here = "yes" if row["present"] else "no"
        size = f"{CHECKPOINTS[str(row['name'])].bytes / 1e6:.0f}"
        table.add_row(
            str(row["name"]), here, size, str(row["licence"]), str(row["what"]), str(row["source"])
        )
    Console().print(table)
    Console().print("Genuine CLIP pairs come from the model hub by name: SAYMASK_ENCODER.")


@models.command()
def pull(
    names: Annotated[list[str] | None, typer.Argument(help="Default: what CPU use needs.")] = None,
) -> None:
    """Fetch weights once.

    Example: saymask-worker models pull mobile-sam
    """
    store = _store()
    wanted = names or list(DEFAULT)
    # Unknown names are reported before anything is downloaded.
    for name in wanted:
        find_checkpoint(name)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        for name in wanted:
            if store.is_present(name):
                console.print(f"{name}: already here")
                continue
            task = progress.add_task(name, total=None)

            def report(_: str, done: int, total: int, task: TaskID = task) -> None:
                progress.update(task, completed=done, total=total)

            store.pull(name, report)
            console.print(f"{name}: {store.path(name)}")


@models.command()
def verify(
    names: Annotated[list[str] | None, typer.Argument(help="Default: all that are here.")] = None,
) -> None:
    """Check stored weights against their hashes.

    Example: saymask-worker models verify
    """
    store = _store()
    for name in names or [name for name in CHECKPOINTS if store.is_present(name)]:
        console.print(f"{name}: sha256 {store.verify(name)}")


def _store() -> WeightStore:
    return WeightStore(load_worker_settings().cache_dir)


def main() -> None:
    """Run the command line; errors are printed as cause and cure, without a traceback."""
    try:
        app()
    except SaymaskError as error:
        console.print(f"[red]error:[/red] {escape(error.cause)}", highlight=False)
        if error.cure:
            console.print(error.cure, highlight=False, markup=False)
        sys.exit(2)
