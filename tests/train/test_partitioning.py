"""The program on 8 devices equals that on one: loss and gradient of a rollout."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from model.neural_gcm import Networks
from train import build
from train.calibration import calibrate, with_scales
from train.data import BatchReader, Windows
from train.mesh import MeshShape, make_mesh, replicated
from train.step import batch_loss, split_networks

HOURS = 6


@pytest.fixture(scope="module")
def parts(request, tiny_store):
    config = request.getfixturevalue("module_config")
    spec = build.build_spec(config, tiny_store)
    model = build.build_model(spec, tiny_store)
    last = len(tiny_store.times) - 1
    scales = calibrate(model, tiny_store, 0, last)
    windows = Windows(tiny_store, 0, last, frames=3, hours=HOURS)
    return config, spec, scales, windows


@pytest.fixture(scope="module")
def module_config(tiny_store):
    from configs import base

    config = base.get_config()
    config.model.dycore_grid = "10@32x16"
    config.model.layers = 4
    config.model.step_minutes = 180
    config.model.substeps = 2
    config.model.width = 8
    config.model.blocks = 1
    return config


@functools.cache
def _gradient_function(weights):
    def function(model, params, batch):
        return jax.value_and_grad(
            lambda p: batch_loss(model, p, weights, batch, HOURS)[0]
        )(params)

    return function


def loss_and_gradient(parts, tiny_store, shape: MeshShape, dtype):
    from model.neural_gcm import NeuralGCM

    config, spec, scales, windows = parts
    model = NeuralGCM.create(
        spec,
        tiny_store.read("geopotential_at_surface", None),
        tiny_store.read("land_sea_mask", None),
        dtype=dtype,
    )
    model = with_scales(model, scales)
    _, params = split_networks(Networks(spec, nnx.Rngs(0)))
    params = jax.tree.map(lambda x: jnp.asarray(x, dtype), params)
    mesh = make_mesh(shape)
    reader = BatchReader(windows, mesh, batch=2)
    batch = reader.to_devices(reader.read(np.array([1, 5])))
    batch["frames"] = jax.tree.map(lambda x: x.astype(dtype), batch["frames"])
    with jax.set_mesh(mesh):
        model, params = jax.device_put((model, params), replicated(mesh))
        function = _gradient_function(build.build_loss_weights(config))
        return jax.jit(function)(model, params, batch)


MESHES = [(2, 1, 1), (1, 2, 1), (1, 1, 2), (2, 2, 2)]


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-10), ("float32", 1e-4)])
def test_meshes_agree_with_one_device(parts, tiny_store, dtype, tolerance):
    one, expected = loss_and_gradient(parts, tiny_store, MeshShape(), dtype)
    flat = jax.tree.leaves(expected)
    assert all(x.dtype == dtype for x in flat)
    whole = np.sqrt(sum(np.sum(np.square(x, dtype=np.float64)) for x in flat))
    for data, level, lat in MESHES:
        shape = MeshShape(data=data, level=level, lat=lat)
        loss, gradient = loss_and_gradient(parts, tiny_store, shape, dtype)
        assert loss == pytest.approx(float(one), rel=tolerance), shape
        for (path, x), y in zip(
            jax.tree_util.tree_leaves_with_path(gradient), flat, strict=True
        ):
            x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
            scale = max(np.linalg.norm(y), 1e-6 * whole)
            error = np.linalg.norm(x - y) / scale
            assert error < tolerance, (shape, jax.tree_util.keystr(path), error)
