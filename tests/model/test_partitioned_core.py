"""The core on a mesh equals the serial core: forward, gradient, and its collectives."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from launch.tpu.chips import CHIPS
from launch.tpu.collectives import Collective
from launch.tpu.cost import cost
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
from model.sphere.harmonics import (
    SphericalHarmonics,
    total_wavenumbers,
    zonal_wavenumbers,
)
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
    "mesh, dtype",
    [
        pytest.param(
            mesh,
            dtype,
            marks=[] if (mesh, dtype) == ((2, 2), "float64") else pytest.mark.slow,
        )
        for mesh, dtype in itertools.product(MESHES, TOLERANCE)
    ],
)
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


def collectives_of_a_step(level: int, lat: int) -> dict[tuple[str, str], Collective]:
    """Collectives of one compiled, filtered step, by kind and axis."""
    equations, state = equations_and_state("float32", lat)
    mesh = Mesh(np.array(jax.devices()[: level * lat]).reshape(level, lat), AXES)

    def step(equations, state):
        state = rollout(*varying((equations, state)), steps=1)
        state.log_surface_pressure = state.log_surface_pressure[None]
        return state

    mapped = jax.shard_map(
        step,
        mesh=mesh,
        in_specs=(equations.layout(), LAYOUT),
        out_specs=dataclasses.replace(LAYOUT, log_surface_pressure=LEVELS),
    )
    text = jax.jit(mapped).lower(equations, state).compile().as_text()
    found = cost(text, CHIPS["v5p"], dict(mesh.shape)).collectives
    return {(c.kind, c.axes): c for c in found}


def sizes(level: int, lat: int) -> tuple[int, int, int]:
    """Bytes of a plane in spectral space and on the grid; own layers. float32."""
    own = zonal_wavenumbers(GRID, lat) // lat
    modal = 4 * 2 * own * len(total_wavenumbers(GRID))
    nodal = 4 * GRID.latitudes // lat * GRID.longitudes
    return modal, nodal, SIGMA.layers // level


STAGES = 3  # of SIL3, each with one right-hand side and one solve
FIELDS = 3 + len(TRACERS)  # on levels
ADVECTED = 3 + len(TRACERS)  # vertically: u, v, temperature and tracers


def test_a_step_has_the_collectives_of_its_design_and_no_others():
    """Over `lat` one gather and one scatter for each right-hand side, of everything.

    Over `level` planes of the vertical sums (two of the flow, one of the vapour's
    weight), planes next to a device's own layers, and what a solve needs.
    """
    found = collectives_of_a_step(2, 2)
    modal, nodal, layers = sizes(2, 2)
    state = FIELDS * layers + 1
    expected = {
        ("all-gather", "lat"): (STAGES, STAGES * state * modal),
        ("reduce-scatter", "lat"): (STAGES, STAGES * state * modal),
        ("all-gather", "level"): (
            # The first solve's linear part is evaluated, all others are known.
            STAGES + (STAGES + 1),
            STAGES * 3 * nodal + (STAGES + 1) * (layers + 1) * modal,
        ),
        ("collective-permute", "level"): (
            2 * STAGES,
            2 * STAGES * ADVECTED * nodal,
        ),
    }
    assert {key: (c.count, c.bytes) for key, c in found.items()} == expected


def test_large_lat_axes_transpose_each_field():
    """One exchange each way for all fields of a right-hand side, amid transforms."""
    found = collectives_of_a_step(1, 4)
    assert set(found) == {("all-to-all", "lat")}
    assert found["all-to-all", "lat"].count == 2 * STAGES


def test_levels_alone_need_no_collective_in_transforms():
    found = collectives_of_a_step(4, 1)
    assert set(found) == {("all-gather", "level"), ("collective-permute", "level")}
