"""The program on 8 devices equals that on one: a whole training step of a rollout."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from model.neural_gcm import NeuralGCM
from train import build
from train.calibration import calibrate, with_scales
from train.data import BatchReader, Windows
from train.losses.terms import OF_MEMBERS, TERMS
from train.mesh import MeshShape, make_mesh, state_shardings, tree_shardings
from train.step import initial_state, make_train_step

HOURS = 6
SAMPLES, MEMBERS = 4, 2
TOLERANCE = {"float64": 1e-10, "float32": 1e-4}
# The gradient of members' scores jumps where a member meets the target: an element that
# rounding puts on the other side changes 1e-4 of most leaves, and 1e-3 of the lengths
# of random fields, a few numbers to which all elements add.
TOLERANCE_OF_JUMPS = {"float64": 1e-10, "float32": 2e-3}
# With plain gradient descent the new parameters tell the gradient to every digit; Adam
# would blow up what is left of gradients that vanish.
OPTIMIZER = optax.sgd(1e-2, momentum=0.9)


@pytest.fixture(scope="module")
def on_mesh(tiny_store, make_tiny_config, make_whole_config):
    """A function (model, mesh, precision, rules) -> state and metrics after a step.

    And the compiled step. Rollouts of 12 hours; four samples, each with two members,
    of a "small" model with random fields, or a "whole" one, with everything that a
    model may have; all terms of the loss, or, of "smooth", all but members' scores.
    """
    last = len(tiny_store.times) - 1
    windows = Windows(tiny_store, 0, last, frames=3, hours=HOURS)

    @functools.cache
    def prepared(model: str):
        config = make_whole_config() if model == "whole" else make_tiny_config()
        config.model.noise = ((2000.0, 6.0), (500.0, 3.0))
        config.model.step_minutes = 180
        config.model.substeps = 2
        spec = build.build_spec(config, tiny_store.grid, tiny_store.levels)
        scales = calibrate(build.build_model(spec, tiny_store), tiny_store, 0, last)
        initial = initial_state(spec, OPTIMIZER, seed=0)
        initial.params = jax.tree.map(not_zero, initial.params)
        config.train.members = MEMBERS
        for name in config.loss:  # all terms that there are
            if name in TERMS:
                smooth = TERMS[name].score not in OF_MEMBERS
                config.loss[name] = float(smooth or model != "smooth")
        config.loss.low_pass = ((0.0, 12.0), (12.0, 8.0))
        return spec, scales, build.build_objective(config), initial

    def compute(model: str, shape: MeshShape, dtype: str, rules=()):
        spec, scales, objective, initial = prepared(model)
        model = NeuralGCM.create(
            spec,
            tiny_store.read("geopotential_at_surface", None),
            tiny_store.read("land_sea_mask", None),
            dtype=dtype,
            shards=shape.lat,
        )
        model = with_scales(model, scales)
        state = jax.tree.map(
            lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x,
            initial,
        )
        mesh = make_mesh(shape)
        reader = BatchReader(windows, mesh, SAMPLES, MEMBERS)
        batch = reader.to_devices(reader.read(np.arange(SAMPLES)))
        batch["frames"] = jax.tree.map(lambda x: x.astype(dtype), batch["frames"])

        shardings = state_shardings(mesh, state, rules)
        model = jax.device_put(model, tree_shardings(mesh, model.layout()))
        # Copied, for the step may overwrite what it is given.
        state = jax.device_put(jax.tree.map(jnp.copy, state), shardings)
        step = make_train_step(OPTIMIZER, objective, 0.9, mesh, shardings)
        compiled = step.lower(model, state, batch).compile()
        return *compiled(model, state, batch), compiled

    return compute


@pytest.fixture(scope="module")
def on_one_device(on_mesh):
    return functools.cache(lambda model, dtype: on_mesh(model, MeshShape(), dtype)[:2])


def not_zero(x):
    """Parameters that begin at 0 would hide what is done with them."""
    noise = np.random.default_rng(x.size).standard_normal(x.shape)
    return jnp.where(jnp.any(x != 0), x, 0.1 * noise).astype(x.dtype)


def assert_same(found, expected, tolerance, what):
    """Relative L2 difference of every leaf; of those that vanish, of the whole."""
    flat = jax.tree.leaves(expected)
    whole = np.sqrt(sum(np.sum(np.square(x, dtype=np.float64)) for x in flat))
    worst = 0.0
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(found), flat, strict=True
    ):
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        error = np.linalg.norm(x - y) / max(np.linalg.norm(y), 1e-6 * whole)
        assert error < tolerance, (what, jax.tree_util.keystr(path), error)
        worst = max(worst, error)
    return worst


@pytest.mark.parametrize(
    "mesh, dtype, model",
    [
        pytest.param(
            *(MeshShape(data=2, level=2, lat=2), "float64", "small"),
            marks=pytest.mark.drill,
        ),
        pytest.param(
            *(MeshShape(ensemble=2, level=2, lat=2), "float64", "whole"),
            marks=pytest.mark.slow,
        ),
        *(
            pytest.param(mesh, dtype, model, marks=pytest.mark.slow)
            for mesh, dtype, model in [
                (MeshShape(data=2, ensemble=2, level=2), "float64", "small"),
                (MeshShape(data=2, ensemble=2, lat=2), "float64", "small"),
                (MeshShape(lat=4), "float64", "small"),
                (MeshShape(data=2, level=2, lat=2), "float32", "smooth"),
                (MeshShape(ensemble=2, level=2, lat=2), "float32", "small"),
            ]
        ),
    ],
    ids=str,
)
def test_mesh_agrees_with_one_device(mesh, dtype, model, on_mesh, on_one_device):
    expected, their_metrics = on_one_device(model, dtype)
    state, metrics, compiled = on_mesh(model, mesh, dtype)
    assert all(x.dtype == dtype for x in jax.tree.leaves(state.params))
    tolerance = (TOLERANCE if model == "smooth" else TOLERANCE_OF_JUMPS)[dtype]
    worst = 0.0
    for what in ("params", "ema", "optimizer"):
        error = assert_same(
            getattr(state, what), getattr(expected, what), tolerance, what
        )
        worst = max(worst, error)
    assert set(metrics) == set(their_metrics)
    # Those of the first frame are next to nothing beside the others.
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(
            x, y, tolerance, 1e-3 * tolerance * np.abs(y).max(initial=1.0)
        ),
        metrics,
        their_metrics,
    )
    # The donated state is overwritten, not copied; but for the flag of the last step.
    size = sum(x.nbytes for x in jax.tree.leaves(expected) if x.dtype != bool)
    assert compiled.memory_analysis().alias_size_in_bytes >= size
    print(f"{mesh}, {dtype}: worst relative error of a leaf {worst:.1e}")


@pytest.mark.slow
def test_split_parameters_change_nothing(on_mesh, on_one_device):
    """By the table of rules: parameters, average and optimizer over `data`."""
    rules = ((r"decode/.*kernel$", ("data", None)), (r"kernel$", (None, "data")))
    mesh = MeshShape(data=4, lat=2)
    state, _, compiled = on_mesh("small", mesh, "float64", rules)
    expected, _ = on_one_device("small", "float64")
    kernel = state.params["physics"]["encode"]["kernel"]
    assert kernel.addressable_shards[0].data.shape[1] == kernel.shape[1] // 4
    for what in ("params", "ema", "optimizer"):
        assert_same(getattr(state, what), getattr(expected, what), 1e-10, what)
    whole = sum(x.nbytes for x in jax.tree.leaves(expected))
    aliased = compiled.memory_analysis().alias_size_in_bytes
    assert whole / 4 < aliased < whole / 2


@pytest.mark.parametrize(
    "mesh, batch", [(MeshShape(data=2, ensemble=2), 6), (MeshShape(data=3), 8)]
)
def test_batches_that_do_not_fit_are_told(mesh, batch, tiny_store, make_tiny_config):
    spec = build.build_spec(make_tiny_config(), tiny_store.grid, tiny_store.levels)
    with pytest.raises(build.UserError, match="does not divide the batch"):
        mesh.check(spec, batch)
