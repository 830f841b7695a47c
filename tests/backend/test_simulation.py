"""The simulation of annotators and workers, against queueing theory and against what must hold."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from backend.cli.main import app
from backend.cli.simulate import load_times
from backend.simulation.model import Machines, StageTimes, Workload
from backend.simulation.simulate import simulate
from backend.simulation.sizing import find_annotators, find_hosts, summarise
from saymask.errors import InvalidRequest

QUICK = StageTimes(
    prepared_s=(0.1,), preparation_s=(10.0,), first_look_s=(2.0,), looked_at_s=(1.0,)
)


def test_waits_are_those_of_queueing_theory() -> None:
    """Many annotators who type rarely are a Poisson process: M/D/1 (Pollaczek and Khinchine)."""
    annotators, every_s, service_s = 200, 1000.0, 2.5
    rate = annotators / every_s
    load = rate * service_s
    expected = service_s + rate * service_s**2 / (2 * (1 - load))
    workload = Workload(annotators, every_s, new_share=0.0)
    times = StageTimes((service_s,), (1.0,))
    waits = simulate(workload, Machines(), times, 400_000.0)
    # Who waits types a little later, so the load is a little below the formula's.
    assert np.mean(waits.all_s) == pytest.approx(expected, rel=0.05)
    assert waits.busy_share == pytest.approx(load, rel=0.02)


def test_one_annotator_never_waits_for_another() -> None:
    waits = simulate(Workload(1, 8.0, new_share=0.0), Machines(), QUICK, 10_000.0)
    assert set(np.round(waits.all_s, 9)) == {0.1}
    assert len(waits.all_s) == pytest.approx(10_000 / 8, rel=0.1)
    steady = simulate(
        Workload(1, 8.0, is_poisson=False, new_share=0.0), Machines(), QUICK, 10_000.0
    )
    assert len(steady.all_s) == pytest.approx(10_000 / 8, abs=2)


def test_a_new_image_is_looked_at_then_prepared_while_nobody_is_answered() -> None:
    """Every expression is about a new image: the background worker gets what time is left."""
    waits = simulate(Workload(1, 8.0, is_poisson=False, new_share=1.0), Machines(), QUICK, 800.0)
    assert set(np.round(waits.new_s, 9)) == {2.0}
    assert waits.prepared_s == ()
    # Of every 8 seconds 6 are left, and an image needs 10.
    assert waits.backlog == pytest.approx(100 * (1 - 6 / 10), abs=3)


def test_answers_about_prepared_images_do_not_wait_behind_first_looks() -> None:
    """At the most they wait for one that has begun, and for each other."""
    workload = Workload(12, 8.0, new_share=0.3, prepared_share=0.9)
    slow = replace(QUICK, first_look_s=(3.0,), looked_at_s=(3.0,))
    waits = simulate(workload, Machines(background=1), slow, 4000.0)
    assert max(waits.prepared_s) < 3.0 + 12 * 0.1
    assert max(waits.new_s) > 6.0


def test_without_first_looks_the_image_is_prepared_before_the_answer() -> None:
    times = replace(QUICK, first_look_s=(), looked_at_s=())
    waits = simulate(Workload(1, 20.0, new_share=1.0), Machines(background=0), times, 2000.0)
    assert set(np.round(waits.new_s, 9)) == {10.1}
    assert waits.backlog == 0


def test_the_next_expression_about_a_first_look_is_quicker_and_then_it_is_prepared() -> None:
    workload = Workload(1, 3.0, is_poisson=False, new_share=0.05)
    waits = simulate(workload, Machines(), QUICK, 30_000.0)
    assert set(np.round(waits.new_s, 9)) == {2.0, 1.0}
    assert set(np.round(waits.prepared_s, 9)) == {0.1}


def test_answers_beside_a_preparation_take_as_long_as_measured() -> None:
    times = replace(QUICK, beside_s=(0.4,))
    waits = simulate(Workload(2, 5.0, new_share=0.2), Machines(), times, 5000.0)
    quiet = simulate(Workload(2, 5.0, new_share=0.0), Machines(), times, 5000.0)
    assert min(quiet.all_s) == pytest.approx(0.1)
    assert max(quiet.all_s) < 0.4
    assert {0.1, 0.4} <= set(np.round(waits.prepared_s, 6))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 30), st.integers(1, 3), st.integers(1, 2), st.integers(0, 2),
    st.floats(0, 1), st.floats(0, 1), st.booleans(), st.integers(0, 5),
)  # fmt: skip
def test_nobody_is_forgotten(
    annotators: int, hosts: int, interactive: int, background: int, new: float, prepared: float,
    is_poisson: bool, seed: int,
) -> None:  # fmt: skip
    workload = Workload(annotators, 4.0, is_poisson, new, prepared)
    machines = Machines(hosts, interactive, background)
    waits = simulate(workload, machines, QUICK, 120.0, seed)
    assert simulate(workload, machines, QUICK, 120.0, seed) == waits, "the same seed, the same"
    assert len(waits.all_s) >= annotators, "everybody types at least once and is answered"
    assert min(waits.all_s) >= 0.1 - 1e-9
    assert 0 <= waits.busy_share <= 1 + 1e-9
    if new == 0 or prepared == 1:
        assert waits.new_s == ()
        assert waits.backlog == 0


def test_the_fewest_hosts_are_found() -> None:
    workload = Workload(60, 4.0, new_share=0.1)
    found = find_hosts(workload, Machines(), QUICK, 600.0, 2.5)
    assert found.p95_s <= 2.5
    fewer = Machines(hosts=found.hosts - 1)
    assert summarise(workload, fewer, simulate(workload, fewer, QUICK, 600.0)).p95_s > 2.5
    with pytest.raises(InvalidRequest, match="not enough"):
        find_hosts(workload, Machines(), QUICK, 600.0, 0.05)


def test_the_most_annotators_are_found() -> None:
    single = Workload(1, 4.0, new_share=0.0)
    most = find_annotators(single, Machines(), QUICK, 600.0, 0.5)
    for annotators, is_served in ((most, True), (most + 1, False)):
        workload = replace(single, annotators=annotators)
        waits = simulate(workload, Machines(), QUICK, 600.0)
        assert (summarise(workload, Machines(), waits).p95_s <= 0.5) is is_served
    assert find_annotators(single, Machines(), QUICK, 600.0, 0.05) == 0


@pytest.mark.parametrize(
    "build",
    [
        lambda: Workload(0),
        lambda: Workload(1, 0.0),
        lambda: Workload(1, new_share=1.5),
        lambda: Machines(hosts=0),
        lambda: StageTimes((), (1.0,)),
        lambda: StageTimes((1.0,), (-1.0,)),
    ],
)
def test_impossible_sizes_are_refused(build: object) -> None:
    with pytest.raises(InvalidRequest):
        build()  # type: ignore[operator]


def test_the_command_prints_a_table_and_json(tmp_path: Path) -> None:
    times = tmp_path / "times.json"
    times.write_text(json.dumps({"prepared_s": [0.1], "preparation_s": [9.0]}))
    arguments = ["simulate", "--annotators", "3", "--new", "0", "--times", str(times)]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert answer["rows"][0]["annotators"] == 3
    assert answer["rows"][0]["hosts"] == 1
    assert answer["annotators_per_host"] > 3
    table = CliRunner().invoke(app, arguments)
    assert "One host serves" in table.output
    assert load_times(None).prepared_s, "those of a two-core CPU come with the package"


@pytest.mark.parametrize("text", ["", "[1]", '{"prepared_s": 3}', '{"prepared_s": [1]}'])
def test_a_wrong_file_of_times_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "times.json"
    path.write_text(text)
    with pytest.raises(InvalidRequest):
        load_times(path)
