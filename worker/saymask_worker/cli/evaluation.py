"""``saymask-worker evaluate`` and ``endpoint``: what is right, measured."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from saymask.command_line import (
    JsonOption,
    build_table,
    console,
    finish,
    print_json,
    print_line,
    show_progress,
    stderr,
)
from saymask.datasets import DatasetName
from saymask.errors import InvalidRequest, counted
from saymask.left_out import LeftOut
from saymask_worker.config.settings import load_worker_settings

if TYPE_CHECKING:
    from saymask_worker.evaluation.processes import EvaluationRequest


def evaluate(
    dataset: Annotated[DatasetName, typer.Option(help="Layout of the data.")] = "refcoco",
    root: Annotated[Path | None, typer.Option(help="The dataset's folder.")] = None,
    split: Annotated[str, typer.Option(help="For example val or testA.")] = "val",
    split_by: Annotated[str | None, typer.Option(help="unc, umd or google.")] = None,
    methods: Annotated[
        str,
        typer.Option(help="Names or groups: main, terms, crops, baselines, all."),
    ] = "main",
    proposals: Annotated[
        Literal["settings", "truth"],
        typer.Option(help="Those of the settings, or the annotated objects themselves."),
    ] = "settings",
    model: Annotated[
        list[str] | None, typer.Option(help="Also a trained model, cris:FOLDER; can be repeated.")
    ] = None,
    few_sample: Annotated[
        str | None,
        typer.Option(help="Also train CRIS on this many photos of split train: 1,2,4,8,16,32."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Models per number of photos.")] = 3,
    steps: Annotated[int, typer.Option(min=1, help="Training steps of each.")] = 200,
    side: Annotated[int, typer.Option(min=64, help="Side of their input, pixels.")] = 416,
    rate: Annotated[float, typer.Option(min=0, help="Their learning rate.")] = 3e-4,
    first_sentence: Annotated[
        bool, typer.Option("--first-sentence", help="One sentence per referent, as in CRIS.")
    ] = False,
    first_look: Annotated[
        bool, typer.Option("--first-look", help="The quick answers before photos are prepared.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Only this many photos.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes, each with its own models.")] = 1,
    no_target_below: Annotated[
        float | None, typer.Option(help="Withhold answers with a lower score (gRefCOCO).")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for tables and report.")] = Path("evaluation"),
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(help="Only compare two finished runs, each FOLDER or FOLDER:METHOD."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure methods on a dataset with ground truth. Repeat to continue an interrupted run.

    Writes results.json, table.md and report.html (with pictures) to --out.

    Examples:
    saymask-worker evaluate --dataset refcoco --root data --split val --methods all

    saymask-worker evaluate --compare evaluation:corrected evaluation:faithful

    saymask-worker evaluate --dataset refcoco --root data --few-sample 1,2,4,8 --seeds 2
    """
    if compare is not None:
        _print_comparison(*compare, as_json=as_json)
        return
    if root is None:
        raise InvalidRequest("--root is missing.", "Give the dataset's folder.")
    from saymask_worker.evaluation.processes import EvaluationRequest
    from saymask_worker.evaluation.report import HTML_FILE, MARKDOWN_FILE, to_html, to_markdown
    from saymask_worker.evaluation.run import RESULTS_FILE, run_evaluation

    request = EvaluationRequest(
        dataset=dataset,
        root=root,
        split=split,
        split_by=split_by,
        limit=limit,
        methods=methods,
        truth_proposals=proposals == "truth",
        no_target_below=no_target_below,
        models=tuple(model or ()),
        first_sentence=first_sentence,
        first_look=first_look,
    )
    if few_sample is not None:
        _compare_few_sample(
            request, few_sample, seeds, steps, side, rate, out, jobs, as_json=as_json
        )
        return
    results, data, images = run_evaluation(request, load_worker_settings(), out, jobs, stderr)
    markdown = to_markdown(results)
    (out / MARKDOWN_FILE).write_text(markdown, encoding="utf-8")
    (out / HTML_FILE).write_text(to_html(results, data, images), encoding="utf-8")
    written = (out / name for name in (RESULTS_FILE, MARKDOWN_FILE, HTML_FILE))
    stderr.print(", ".join(str(path) for path in written), markup=False)
    finish(results.model_dump(mode="json"), markdown, as_json=as_json, failed=results.failed)


def endpoint(
    root: Annotated[Path | None, typer.Option(help="Also a dataset's folder, to measure.")] = None,
    dataset: Annotated[DatasetName, typer.Option(help="Layout of the data.")] = "refcoco",
    split: Annotated[str, typer.Option(help="For example val or testA.")] = "val",
    limit: Annotated[int, typer.Option(min=1, help="At most this many photos of it.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """Check the chat server of SAYMASK_ENDPOINT_URL on sample photos, or measure it on a dataset.

    It shows in which coordinates the model writes boxes, and with --root how often it is right.

    Example: saymask-worker endpoint --root data --split val
    """
    from saymask_worker.evaluation.endpoint import check_endpoint, load_photos, load_samples
    from saymask_worker.masks.endpoint.source import require_endpoint

    config = require_endpoint(load_worker_settings().endpoint)
    left_out = LeftOut()
    photos = load_samples() if root is None else load_photos(dataset, root, split, limit, left_out)
    with show_progress("photos", quiet=as_json) as update:
        report = check_endpoint(config, photos, left_out, update)
    text = report.describe(config.coordinates)
    if root is not None and report.boxes:
        text += f"\nSAYMASK_SOURCES=proposals,endpoint:{report.probability(config.coordinates):.2f}"
    is_ok = report.fits(config.coordinates)
    finish(asdict(report), text, as_json=as_json, failed=left_out.lines, is_ok=is_ok)


def _compare_few_sample(
    request: EvaluationRequest,
    sizes: str,
    seeds: int,
    steps: int,
    side: int,
    rate: float,
    out: Path,
    jobs: int,
    *,
    as_json: bool,
) -> None:
    from saymask_worker.evaluation.few_sample import (
        TABLE_FILE,
        FewSampleRequest,
        compare_few_sample,
    )
    from saymask_worker.training.config import TrainingConfig

    try:
        numbers = tuple(sorted({int(size) for size in sizes.split(",")}))
    except ValueError as error:
        raise InvalidRequest(
            f"--few-sample {sizes!r} is not a list of numbers.", "Write 1,2,4,8."
        ) from error
    if side % 32:
        raise InvalidRequest(f"--side must be a multiple of 32, got {side}.")
    few = FewSampleRequest(numbers, seeds, steps, TrainingConfig(side_px=side, rate=rate))
    table, runs, zero_shot, failed = compare_few_sample(
        request, few, load_worker_settings(), out, jobs, stderr
    )
    values = {
        "zero_shot": asdict(zero_shot),
        "runs": [run.model_dump() for run in runs],
        "failed": failed,
    }
    stderr.print(str(out / TABLE_FILE), markup=False)
    finish(values, table, as_json=as_json, failed=failed)


def _print_comparison(first: str, second: str, *, as_json: bool) -> None:
    from saymask_worker.evaluation.results import compare_runs

    comparison = compare_runs(first, second)
    if as_json:
        print_json(asdict(comparison))
        return
    table = build_table("metric", "difference", "95 % interval")
    for name, interval in comparison.differences.items():
        table.add_row(name, f"{interval.mean:+.3f}", f"[{interval.low:+.3f}, {interval.high:+.3f}]")
    print_line(f"{comparison.first} minus {comparison.second}")
    both = counted(comparison.expressions, "expression")
    print_line(f"{both} in both, {comparison.unmatched} in one only")
    console.print(table)
