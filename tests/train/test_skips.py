"""Steps whose loss or update is not finite leave the parameters alone."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh

from launch.cli import main
from model.neural_gcm import NeuralGCM
from train import build
from train.calibration import calibrate, with_scales
from train.config import to_json
from train.data import Batch, BatchReader, Windows
from train.mesh import MeshShape, make_mesh, state_shardings, tree_shardings
from train.step import (
    Objective,
    TrainState,
    initial_state,
    make_eval_step,
    make_train_step,
)


@dataclasses.dataclass
class Case:
    """A small model on 8 devices; windows: in `bad`, the second is not finite."""

    optimizer: optax.GradientTransformation
    objective: Objective
    mesh: Mesh
    shardings: TrainState
    model: NeuralGCM
    state: TrainState
    batch: Batch
    bad: Batch


@pytest.fixture
def case(tiny_store, tiny_config):
    shape = MeshShape(data=2, level=2, lat=2)
    tiny_config.model.step_minutes, tiny_config.optimizer.warmup_steps = 360, 0
    spec = build.build_spec(tiny_config, tiny_store.grid, tiny_store.levels)
    model = build.build_model(spec, tiny_store, shape.lat)
    last = len(tiny_store.times) - 1
    model = with_scales(model, calibrate(model, tiny_store, 0, last))
    optimizer = build.build_optimizer(tiny_config)
    mesh = make_mesh(shape)
    reader = BatchReader(Windows(tiny_store, 0, last, frames=2, hours=6), mesh, 2)
    batch = reader.to_devices(reader.read(np.arange(2)))
    temperature = batch["frames"]["temperature"]
    poisoned = temperature.at[1, 1, 0, 0, 3, 5].set(jnp.inf)
    poisoned = jax.device_put(poisoned, temperature.sharding)
    state = initial_state(spec, optimizer, seed=0)
    shardings = state_shardings(mesh, state, ())
    return Case(
        optimizer,
        build.build_objective(tiny_config),
        mesh,
        shardings,
        jax.device_put(model, tree_shardings(mesh, model.layout())),
        jax.device_put(state, shardings),
        batch,
        batch | {"frames": batch["frames"] | {"temperature": poisoned}},
    )


@pytest.mark.drill
def test_parameters_of_a_skipped_step_stay_as_they_were(case):
    step = make_train_step(
        case.optimizer, case.objective, 0.9, case.mesh, case.shardings
    )
    state, before = case.state, jax.device_get(case.state)
    for skipped in (1, 2):
        state, metrics = step(case.model, state, case.bad)
        assert metrics["skipped"] == skipped and not np.isfinite(metrics["loss"])
        count = np.int32(skipped)
        kept = dataclasses.replace(before, step=count, skipped=count)
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), kept)
    state, metrics = step(case.model, state, case.batch)
    assert metrics["skipped"] == 0 and np.isfinite(metrics["loss"])
    moved = jax.tree.map(
        lambda x, y: not np.array_equal(x, y), state.params, before.params
    )
    assert any(jax.tree.leaves(moved))


def test_an_evaluation_tells_which_window_is_bad(case):
    evaluate = make_eval_step(case.objective, case.mesh)
    whole = evaluate(case.model, case.state.ema, case.batch)
    part = evaluate(case.model, case.state.ema, case.bad)
    assert np.isfinite(whole["losses"]).all()
    assert np.isfinite(part["losses"]).tolist() == [True, False]
    assert part["losses"][0] == whole["losses"][0]
    assert (whole.pop("count"), part.pop("count")) == (2, 1)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(part | {"losses": 0}))


@pytest.mark.slow
def test_a_run_ends_after_too_many(tmp_path, make_tiny_config, tiny_store, capsys):
    """A step so long that parameters are spoiled for good."""
    config = make_tiny_config()
    config.model.step_minutes, config.data.frames = 360, 2
    config.optimizer.learning_rate, config.optimizer.warmup_steps = 1e30, 0
    config.train.steps, config.train.skips = 9, 2
    config.train.lookback, config.train.rollbacks = 1, 1
    file = tmp_path / "config.json"
    file.write_text(json.dumps(to_json(config)))
    with jax.enable_x64(False), pytest.raises(SystemExit) as end:
        main(["train", f"--config={file}", f"--workdir={tmp_path / 'run'}"])
    output = capsys.readouterr()
    assert end.value.code == 2
    assert output.err.count("step 2 is skipped: the loss is nan") == 2
    assert "GOING BACK to step 0, with another order of the data: 3 steps" in output.err
    assert "3 steps in a row, up to step 4, were skipped" in output.err.splitlines()[-1]
    lines = (tmp_path / "run" / "rollbacks.jsonl").read_text().splitlines()
    assert [json.loads(line)["to"] for line in lines] == [0]

    def content():
        files = (f for f in (tmp_path / "run").rglob("*") if f.is_file())
        return {f: f.read_bytes() for f in files}

    before = content()
    arguments = [f"--config={file}", f"--workdir={tmp_path / 'run'}"]
    with jax.enable_x64(False), pytest.raises(SystemExit, match="0"):
        main(["train", *arguments, "--replay_step=3"])
    told = capsys.readouterr().err
    assert "replaying steps 3 to 3, from checkpoint 2" in told
    assert "the encoder: invalid value (nan) encountered in" in told
    assert "at model/physics/towers.py:" in told
    assert content() == before
