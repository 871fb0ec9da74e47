"""The core on a mesh equals the serial core: forward, gradient, and its collectives."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from model import units
from model.dynamics import baroclinic_wave
from model.dynamics.filters import exponential_filter, filtered
from model.dynamics.integrators import imex_step
from model.dynamics.primitive_equations import (
    CONDENSATES,
    HUMIDITY,
    PrimitiveEquations,
)
from model.dynamics.state import State
from model.partitioning import size, varying
from model.sphere.grids import parse_grid
from model.sphere.harmonics import SphericalHarmonics
from model.vertical.sigma import SigmaLevels

GRID, SIGMA = parse_grid("T21"), SigmaLevels.equidistant(8)
STEPS, MINUTES = 12, 30
AXES = ("level", "lat")
TRACERS = (HUMIDITY, *CONDENSATES)
TOLERANCE = {"float64": 1e-10, "float32": 1e-4}
MESHES = [(2, 1), (4, 1), (8, 1), (1, 2), (1, 4), (1, 8), (2, 2), (4, 2), (2, 4)]
LEVELS, SURFACE = P("level", None, "lat"), P(None, "lat")
LAYOUT = State(LEVELS, LEVELS, LEVELS, SURFACE, dict.fromkeys(TRACERS, LEVELS))


@functools.cache
def equations_and_state(dtype: str, lat: int) -> tuple[PrimitiveEquations, State]:
    """A moist baroclinic wave over its mountains, with m padded for `lat` devices."""
    reference = baroclinic_wave.reference_temperature(SIGMA)
    equations = PrimitiveEquations.create(
        GRID, SIGMA, reference, dtype=dtype, shards=lat
    )
    h = SphericalHarmonics.create(GRID, jnp.float64)
    state = baroclinic_wave.initial_state(h, SIGMA)
    noise = np.random.default_rng(0).standard_normal((3, SIGMA.layers, *h.modal_shape))
    decay = 1e-3 * h.mask * (1.0 + h.total_wavenumber) ** -2
    state.tracers = dict(zip(TRACERS, jnp.asarray(noise * decay), strict=True))
    rows = equations.harmonics.modal_shape[1] - h.modal_shape[1]

    def fitted(x):
        padding = [(0, 0)] * (x.ndim - 2) + [(0, rows), (0, 0)]
        return jnp.pad(x, padding).astype(dtype)

    state, orography = jax.tree.map(fitted, (state, baroclinic_wave.orography(h)))
    return dataclasses.replace(equations, orography=orography), state


def rollout(equations, state, steps=STEPS):
    smooth = exponential_filter(GRID, MINUTES, tau=120.0, order=3)
    step = filtered(imex_step(equations, MINUTES / 60 * units.HOUR), [smooth])
    return jax.lax.scan(lambda y, _: (step(y), None), state, length=steps)[0]


def forward_and_gradient(equations, state):
    """The state after the rollout, and the gradient of the sum of its squares."""

    def energy(state):
        end = rollout(equations, state)
        squares = jax.tree.map(lambda x: jnp.sum(x * x), end)
        # Every device along `level` has all of ln(ps), and counts its part.
        squares.log_surface_pressure /= size("level")
        return sum(jax.tree.leaves(squares)), end

    (_, end), gradient = jax.value_and_grad(energy, has_aux=True)(state)
    return end, gradient


def on_mesh(part, level, lat, equations):
    """`part(equations, state)` on every device of a mesh."""
    mesh = Mesh(np.array(jax.devices()[: level * lat]).reshape(level, lat), AXES)

    def local(equations, state):
        end, gradient = part(*varying((equations, state)))
        end.log_surface_pressure = jax.lax.pmean(end.log_surface_pressure, "level")
        gradient.log_surface_pressure = jax.lax.psum(
            gradient.log_surface_pressure, "level"
        )
        return end, gradient

    return jax.jit(
        jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(equations.layout(), LAYOUT),
            out_specs=(LAYOUT, LAYOUT),
        )
    )


@functools.cache
def serial(dtype: str):
    return jax.jit(forward_and_gradient)(*equations_and_state(dtype, 1))


@pytest.mark.parametrize(
    "mesh",
    [
        pytest.param(m, marks=[] if m in [(2, 1), (2, 2)] else pytest.mark.slow)
        for m in MESHES
    ],
)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_mesh_equals_serial(mesh, dtype):
    level, lat = mesh
    equations, state = equations_and_state(dtype, lat)
    run = on_mesh(forward_and_gradient, level, lat, equations)
    rows = GRID.truncation + 1
    worst = 0.0
    pairs = zip(
        jax.tree_util.tree_leaves_with_path(run(equations, state)),
        jax.tree.leaves(serial(dtype)),
        strict=True,
    )
    for (path, x), expected in pairs:
        assert x.dtype == dtype
        x = np.asarray(x, np.float64)
        assert np.all(x[..., rows:, :] == 0)
        error = np.linalg.norm(x[..., :rows, :] - expected) / np.linalg.norm(expected)
        assert error < TOLERANCE[dtype], (jax.tree_util.keystr(path), error)
        worst = max(worst, error)
    print(f"mesh {mesh}, {dtype}: worst relative error of a leaf {worst:.1e}")
