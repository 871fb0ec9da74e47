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
from train.losses import LossWeights
from train.mesh import MeshShape, make_mesh, state_shardings, tree_shardings
from train.step import TrainState, initial_state, make_eval_step, make_train_step


@dataclasses.dataclass
class Case:
    """A small model on 8 devices; windows: in `bad`, the second is not finite."""

    optimizer: optax.GradientTransformation
    weights: LossWeights
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
        build.build_loss_weights(tiny_config),
        mesh,
        shardings,
        jax.device_put(model, tree_shardings(mesh, model.layout())),
        jax.device_put(state, shardings),
        batch,
        batch | {"frames": batch["frames"] | {"temperature": poisoned}},
    )


def test_parameters_of_a_skipped_step_stay_as_they_were(case):
    step = make_train_step(
        case.optimizer, case.weights, 6, 0.9, case.mesh, case.shardings
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
    evaluate = make_eval_step(case.weights, 6, case.mesh)
    whole = evaluate(case.model, case.state.ema, case.batch)
    part = evaluate(case.model, case.state.ema, case.bad)
    assert np.isfinite(whole["loss"]).all()
    assert np.isfinite(part["loss"]).tolist() == [True, False]
    for name, losses in part.items():
        assert losses[0] == whole[name][0], name


@pytest.mark.drill
def test_a_run_ends_after_too_many(tmp_path, make_tiny_config, tiny_store, capsys):
    """A step so long that parameters are spoiled for good."""
    config = make_tiny_config()
    config.model.step_minutes, config.data.frames = 360, 2
    config.optimizer.learning_rate, config.optimizer.warmup_steps = 1e30, 0
    config.train.steps, config.train.skips = 9, 2
    file = tmp_path / "config.json"
    file.write_text(json.dumps(to_json(config)))
    with jax.enable_x64(False), pytest.raises(SystemExit) as end:
        main(["train", f"--config={file}", f"--workdir={tmp_path / 'run'}"])
    output = capsys.readouterr()
    assert end.value.code == 2
    assert "step 2 is skipped: the loss is" in output.out + output.err
    assert "3 steps in a row, up to step 4, had no finite loss" in output.err
