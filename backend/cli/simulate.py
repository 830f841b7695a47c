"""``saymask simulate``."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from backend.cli.context import JsonOption, console, print_json
from backend.simulation.model import Machines, StageTimes, Workload
from backend.simulation.simulate import simulate as run_simulation
from backend.simulation.sizing import Row, find_annotators, find_hosts, summarise
from saymask.errors import InvalidRequest


def simulate(
    annotators: Annotated[
        list[int] | None,
        typer.Option(min=1, help="At work at once; repeatable. Default: 10, 100, 1000."),
    ] = None,
    hosts: Annotated[
        int | None,
        typer.Option(min=1, help="Machines, or GPUs; without it, the fewest that are enough."),
    ] = None,
    p95: Annotated[float, typer.Option(help="Seconds in which 95 % of answers must come.")] = 1.0,
    every: Annotated[float, typer.Option(help="Seconds from expression to expression.")] = 8.0,
    steady: Annotated[
        bool, typer.Option("--steady", help="Equal intervals, instead of a Poisson process.")
    ] = False,
    new: Annotated[
        float, typer.Option(help="Share of expressions about a photo not asked about before.")
    ] = 0.2,
    prepared: Annotated[
        float, typer.Option(help="Share of such photos that are prepared and in the cache.")
    ] = 0.0,
    interactive: Annotated[int, typer.Option(help="Workers of a host that answer.")] = 1,
    background: Annotated[int, typer.Option(help="Workers of a host that prepare photos.")] = 1,
    minutes: Annotated[float, typer.Option(min=1, help="Of work that are simulated.")] = 30.0,
    times: Annotated[
        Path | None,
        typer.Option(
            help="Measured seconds of each stage, JSON; default: those of a two-core CPU."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of all random numbers.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Simulate annotators, queue and workers: how long people wait, and how many hosts they need.

    Example: saymask simulate --annotators 4 --hosts 1

    Example: saymask simulate --annotators 100 --prepared 1 --p95 1
    """
    stage_times = load_times(times)
    machines = Machines(hosts or 1, interactive, background)
    seconds = minutes * 60
    rows = []
    for count in annotators or (10, 100, 1000):
        workload = Workload(count, every, not steady, new, prepared)
        if hosts is None:
            rows.append(find_hosts(workload, machines, stage_times, seconds, p95, seed))
        else:
            waits = run_simulation(workload, machines, stage_times, seconds, seed)
            rows.append(summarise(workload, machines, waits))
    single = Workload(1, every, not steady, new, prepared)
    one_host = replace(machines, hosts=1)
    served = find_annotators(single, one_host, stage_times, seconds, p95, seed)
    if as_json:
        print_json({"rows": [asdict(row) for row in rows], "annotators_per_host": served})
        return
    console.print(_to_table(rows))
    console.print(f"One host serves {served} annotators with 95 % of answers within {p95:g} s.")


def load_times(path: Path | None) -> StageTimes:
    """Read measured stage times; those of a two-core CPU without a path.

    Raises:
        InvalidRequest: the file cannot be read, or holds something else.
    """
    own = resources.files("backend.simulation") / "two_cores.json"
    try:
        text = own.read_text("utf-8") if path is None else path.read_text("utf-8")
        content = json.loads(text)
        names = [item.name for item in fields(StageTimes)]
        columns = {n: tuple(float(v) for v in content[n]) for n in names if n in content}
        return StageTimes(**columns)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InvalidRequest(
            f"{path} is not a file of stage times: {error}",
            f"It needs lists of seconds named {', '.join(f.name for f in fields(StageTimes))}.",
        ) from error


def _to_table(rows: list[Row]) -> Table:
    columns = (
        "annotators",
        "hosts",
        "expressions",
        "p50",
        "p95",
        "p95 prepared",
        "p95 new",
        "busy",
    )
    table = Table(*columns)
    for row in rows:
        waits = (row.p50_s, row.p95_s, row.prepared_p95_s, row.new_p95_s)
        shown = ("" if wait is None else f"{wait:.2f} s" for wait in waits)
        counts = (str(row.annotators), str(row.hosts), str(row.expressions))
        table.add_row(*counts, *shown, f"{row.busy_share:.0%}")
    return table
