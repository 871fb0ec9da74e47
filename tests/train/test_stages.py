"""Curricula: what they may be, and that each stage is one program."""

import json
import pathlib

import jax
import numpy as np
import pytest

from launch.cli import main
from pipeline.errors import UserError
from train import build
from train.config import from_json, load_config, to_json
from train.experiment import prepare
from train.metrics import read_metrics
from train.programs import Programs
from train.stages import stage_of, stages

CURRICULUM = (
    (2, {"data.frames": 3, "optimizer.learning_rate": 2e-4}),
    (4, {"data.frames": 5, "train.batch": 1, "loss.bias_data": 0}),
)

EXPERIMENTS = sorted(
    file.stem
    for file in pathlib.Path("configs").glob("*.py")
    if file.stem not in ("__init__", "base")
)


@pytest.fixture
def config(make_tiny_config):
    config = make_tiny_config()
    config.data.frames, config.model.step_minutes = 2, 360
    config.train.steps, config.stages = 6, CURRICULUM
    config.data.eval_times = "2001-01-03/2001-01-04"
    return config


def test_a_stage_keeps_what_earlier_ones_have_set(config):
    found = stages(config)
    assert [(s.first, s.last, s.hours) for s in found] == [
        (0, 2, 6),
        (2, 4, 12),
        (4, 6, 24),
    ]
    assert [s.config.train.batch for s in found] == [2, 2, 1]
    assert [s.config.optimizer.learning_rate for s in found] == [1e-3, 2e-4, 2e-4]
    assert found[2].config.loss.bias_data == 0.0
    numbers = [stage_of(found, step).number for step in (0, 1, 2, 5, 99)]
    assert numbers == [0, 0, 1, 2, 2]
    config.stages = ()
    assert [(s.first, s.last) for s in stages(config)] == [(0, 6)]


@pytest.mark.parametrize(
    "value, message",
    [
        ((5,), "is no .first step"),
        (((-1, {}),), "is no .first step"),
        (((5, {}), (5, {})), "do not ascend"),
        (((5, {"data.frame": 3}),), "did you mean 'data.frames'"),
        (((5, {"model.layers": 3}),), "'model.layers' cannot change with a stage"),
        (((5, {"data.frames": 2.5}),), "expected int"),
    ],
)
def test_curricula_that_make_no_sense_are_told(config, value, message):
    config.stages = value
    with pytest.raises(UserError, match=message):
        stages(config)


def test_curricula_survive_json_and_the_command_line(config):
    text = json.dumps(to_json(config))
    again = from_json(text, "config.json")
    assert [s.config.to_dict() for s in stages(again)] == [
        s.config.to_dict() for s in stages(config)
    ]
    on_line = load_config("configs/demo.py", [f"stages={CURRICULUM!r}"])
    assert [s.hours for s in stages(on_line)] == [12, 12, 24]


@pytest.mark.parametrize(
    "decay, expected",
    [
        ("none", {0: 0, 1000: 1e-3, 2000: 2e-3, 15_000: 2e-3, 35_000: 2e-3}),
        ("halving", {1000: 1e-3, 15_000: 2e-3, 25_000: 1e-3, 35_000: 5e-4}),
        ("cosine", {1000: 1e-3, 15_000: 2e-3, 20_000: 1e-3, 25_000: 0}),
    ],
)
def test_learning_rates(make_tiny_config, decay, expected):
    """With `halving`, that of the paper at 2.8 degrees."""
    config = make_tiny_config()
    optimizer = config.optimizer
    optimizer.learning_rate, optimizer.warmup_steps = 2e-3, 2000
    optimizer.decay, optimizer.decay_start = decay, 15_000
    optimizer.decay_steps = 25_000 if decay == "cosine" else 10_000
    rate = build.build_schedule(config)
    for step, value in expected.items():
        assert float(rate(step)) == pytest.approx(value, rel=1e-5, abs=1e-9)


def test_a_stage_has_its_own_learning_rate(config):
    config.optimizer.decay, config.optimizer.warmup_steps = "none", 0
    rate = build.build_schedule(config)
    assert [float(rate(s)) for s in range(6)] == pytest.approx([1e-3] * 2 + [2e-4] * 4)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_all_configurations_have_losses_and_stages(name):
    config = load_config(f"configs/{name}.py", [])
    for stage in stages(config):
        loss = build.build_objective(stage.config).loss
        assert loss.needs_members == (config.train.members == 2)
        assert loss.spectrum_lead_hours == 40.0 and loss.crps_cutoff == 0.667


def test_what_does_not_fit_a_later_stage_is_told_at_once(config):
    config.stages = (
        (2, {"data.frames": 2, "train.batch": 3}),
        (3, {"data.frames": 99}),
    )
    with pytest.raises(UserError, match="shorter than a window of 99 frames"):
        prepare(config)
    config.stages = ((2, {"loss.crps_data": 1.0}),)
    with pytest.raises(UserError, match="set config.train.members=2"):
        prepare(config)


@pytest.mark.slow
def test_every_stage_is_compiled_once_and_its_windows_are_its_own(
    config, tmp_path, capsys
):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(to_json(config)))
    with jax.enable_x64(False), pytest.raises(SystemExit, match="0"):
        main(["train", f"--config={file}", f"--workdir={tmp_path / 'run'}"])
    told = capsys.readouterr().err
    assert told.count("compiled in") == 4  # three steps and the evaluation
    for stage in stages(config):
        assert told.count(f": the step of {stage}") == 1
    lines = read_metrics(tmp_path / "run")
    steps = [line for line in lines if "loss" in line]
    longest = [max(int(k[9:-1]) for k in s if k[:9] == "mse_data_") for s in steps]
    assert longest == [6, 6, 12, 12, 24, 24]
    assert ["share/bias_data" in s for s in steps] == [True] * 4 + [False] * 2
    *_, evaluation = (line for line in lines if "eval_loss" in line)
    for kind in ("rmse", "bias"):
        for lead in (6, 24):
            key = f"{kind}/{lead}h/temperature/850 hPa"
            assert np.isfinite(
                [evaluation[f"eval_{key}"], evaluation[f"eval_raw_{key}"]]
            ).all()
    folder = tmp_path / "run"
    assert (folder / "curves.png").stat().st_size > 10_000
    tables = json.loads((folder / "evaluations" / "0000006.json").read_text())
    assert np.shape(tables["raw"]["rmse"]["geopotential"]) == (5, 8)
    assert tables["ema"]["lead_hours"] == [0, 6, 12, 18, 24]
    assert (folder / "evaluations" / "0000006.png").stat().st_size > 10_000


@pytest.mark.drill
def test_a_compiled_step_takes_no_other_windows(config):
    """So that nothing is ever compiled again behind one's back."""
    with jax.enable_x64(False):
        experiment = prepare(config)
        programs = Programs(experiment)
        with pytest.raises(TypeError, match="compiled for|differ"):
            _step_with_other_windows(experiment, programs)


def _step_with_other_windows(experiment, programs):
    from train.calibration import calibrate, with_scales
    from train.data import Loader
    from train.mesh import place, tree_shardings

    windows = experiment.windows
    model = build.build_model(experiment.spec, experiment.store)
    model = with_scales(model, calibrate(model, experiment.store, 0, 7))
    model = place(model, tree_shardings(experiment.mesh, model.layout()))
    state = jax.jit(programs.fresh_state, out_shardings=programs.shardings)()
    stage = experiment.stages[0]
    model = programs.model_of(stage, model)
    step = programs.train_step(stage, model, state)
    longer = next(Loader(windows[1], experiment.mesh, batch=2, seed=0))
    step(model, state, longer)
