"""The program on 8 devices equals that on one: loss and gradient of a rollout."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from model.neural_gcm import Networks, NeuralGCM
from train import build
from train.calibration import calibrate, with_scales
from train.data import BatchReader, Windows
from train.mesh import MeshShape, make_mesh, replicated, tree_shardings
from train.step import loss_and_gradient, split_networks

HOURS = 6
TOLERANCE = {"float64": 1e-10, "float32": 1e-4}


@pytest.fixture(scope="module")
def on_mesh(tiny_store, make_tiny_config):
    """A function (mesh, precision) -> loss and gradient of two 12-hour rollouts."""
    config = make_tiny_config()
    config.model.step_minutes = 180
    config.model.substeps = 2
    spec = build.build_spec(config, tiny_store.grid, tiny_store.levels)
    last = len(tiny_store.times) - 1
    scales = calibrate(build.build_model(spec, tiny_store), tiny_store, 0, last)
    windows = Windows(tiny_store, 0, last, frames=3, hours=HOURS)
    weights = build.build_loss_weights(config)
    _, initial = split_networks(Networks(spec, nnx.Rngs(0)))

    def compute(shape: MeshShape, dtype: str):
        model = NeuralGCM.create(
            spec,
            tiny_store.read("geopotential_at_surface", None),
            tiny_store.read("land_sea_mask", None),
            dtype=dtype,
            shards=shape.lat,
        )
        model = with_scales(model, scales)
        params = jax.tree.map(lambda x: jnp.asarray(x, dtype), initial)
        mesh = make_mesh(shape)
        reader = BatchReader(windows, mesh, batch=2)
        batch = reader.to_devices(reader.read(np.array([1, 5])))
        batch["frames"] = jax.tree.map(lambda x: x.astype(dtype), batch["frames"])

        model = jax.device_put(model, tree_shardings(mesh, model.layout()))
        params = jax.device_put(params, replicated(mesh))
        step = jax.jit(
            lambda model, params, batch: loss_and_gradient(
                model, params, weights, batch, HOURS, mesh
            )
        )
        (loss, _), gradient = step(model, params, batch)
        return loss, gradient

    return compute


@pytest.fixture(scope="module")
def on_one_device():
    return {}


@pytest.mark.parametrize(
    "mesh, dtype",
    [
        ((2, 2, 2), "float64"),
        *(
            pytest.param(mesh, dtype, marks=pytest.mark.slow)
            for mesh in [(2, 1, 1), (1, 2, 1), (1, 1, 2)]
            for dtype in TOLERANCE
        ),
        pytest.param((2, 2, 2), "float32", marks=pytest.mark.slow),
    ],
)
def test_mesh_agrees_with_one_device(mesh, dtype, on_mesh, on_one_device):
    tolerance = TOLERANCE[dtype]
    if dtype not in on_one_device:
        on_one_device[dtype] = on_mesh(MeshShape(), dtype)
    one, expected = on_one_device[dtype]
    data, level, lat = mesh
    shape = dataclasses.replace(MeshShape(), data=data, level=level, lat=lat)
    loss, gradient = on_mesh(shape, dtype)
    assert all(x.dtype == dtype for x in jax.tree.leaves(gradient))
    assert loss == pytest.approx(float(one), rel=tolerance)
    flat = jax.tree.leaves(expected)
    whole = np.sqrt(sum(np.sum(np.square(x, dtype=np.float64)) for x in flat))
    worst = 0.0
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(gradient), flat, strict=True
    ):
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        error = np.linalg.norm(x - y) / max(np.linalg.norm(y), 1e-6 * whole)
        assert error < tolerance, (jax.tree_util.keystr(path), error)
        worst = max(worst, error)
    print(f"mesh {mesh}, {dtype}: worst relative error of a gradient leaf {worst:.1e}")
