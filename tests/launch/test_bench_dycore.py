"""The core's benchmark: both cores do the same, and figures are what they say."""

import json

import jax
import numpy as np
import pytest

from launch.benchmarks.dycore import Case, fastest, ratio
from launch.benchmarks.dycore_cpu import initial_state
from launch.cli import main
from model.dynamics.primitive_equations import CONDENSATES, HUMIDITY
from model.sphere.grids import parse_grid
from model.vertical.sigma import SigmaLevels


def test_all_of_dinosaurs_implementations_make_our_step():
    pytest.importorskip("dinosaur", reason="needs the extra `judges`")
    from launch.benchmarks.judge import cpu_steps, state_to_dinosaur

    sigma = SigmaLevels.equidistant(4)
    case = Case(parse_grid("T21"), sigma, (HUMIDITY, *CONDENSATES), minutes=20.0)
    with jax.enable_x64(False):
        equations = case.equations("cpu")
        state = initial_state(case, equations.harmonics)
        after = jax.jit(
            lambda e, s: e.leave(case.filtered_step(e.ordered)(e.enter(s)))
        )(equations, state)
        names = []
        for name, step, in_pairs in cpu_steps(case):
            names.append(name)
            before = state_to_dinosaur(state, case.grid, in_pairs)
            theirs = jax.jit(step)(before)
            ours = state_to_dinosaur(after, case.grid, in_pairs)
            for x, y, z in zip(
                *map(jax.tree.leaves, (theirs, ours, before)), strict=True
            ):
                change, rounding = np.linalg.norm(x - z), 1e-6 * np.linalg.norm(x)
                assert np.linalg.norm(x - y) < 1e-3 * change + rounding, name
    assert len(names) == 3


def test_figures_of_the_core_alone(capsys):
    command = "bench dycore --grid=T21 --layers=4 --rounds=1 --json"
    with jax.enable_x64(False):
        with pytest.raises(SystemExit) as end:
            main(command.split())
    assert not end.value.code
    result = json.loads(capsys.readouterr().out)
    assert set(result) == {"case", "ours"}
    assert result["case"]["target"] == "cpu"
    assert set(result["ours"]) == {"step_ms", "rollout_ms", "grad_ms", "compile_s"}
    assert all(x > 0 for x in result["ours"].values())


def test_the_judge_has_the_best_of_each_figure():
    candidates = {"a": {"ms": 3.0, "s": 1.0, "x": {}}, "b": {"ms": 2.0, "s": 4.0}}
    best = fastest(candidates)
    assert best == {"ms": 2.0, "s": 1.0}
    assert ratio(best, {"ms": 0.5, "s": 2.0, "x": {}}) == {"ms": 4.0, "s": 0.5}


@pytest.mark.parametrize(
    "option, message",
    [
        ("--rounds=0", "--rounds=0 must be at least 1"),
        ("--tracers=2", "--tracers must be at least 3"),
        ("--minutes=0", "--minutes=0 must be more than 0"),
        ("--grid=T22", "unknown grid"),
    ],
)
def test_what_makes_no_sense_is_told(option, message, capsys):
    with pytest.raises(SystemExit) as end:
        main(["bench", "dycore", option])
    assert end.value.code == 2
    assert message in capsys.readouterr().err
