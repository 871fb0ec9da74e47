"""Primitive equations, integrators and filters: invariants and known solutions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import units
from model.dynamics.filters import exponential_factors
from model.dynamics.integrators import imex_step
from model.dynamics.primitive_equations import (
    CONDENSATES,
    HUMIDITY,
    PrimitiveEquations,
)
from model.dynamics.state import State
from model.sphere.grids import parse_grid
from model.vertical.sigma import SigmaLevels

GRID, SIGMA = parse_grid("T21"), SigmaLevels.equidistant(8)


def isothermal_equations(orography=None, temperature=250.0):
    reference = np.full(SIGMA.layers, temperature)
    return PrimitiveEquations.create(GRID, SIGMA, reference, orography, jnp.float64)


def random_state(equations, tracers=(), seed=0):
    rng = np.random.default_rng(seed)
    h = equations.harmonics
    decay = (1.0 + h.total_wavenumber) ** -2

    def field(scale, *lead):
        values = rng.standard_normal((*lead, *h.modal_shape)) * h.mask * decay
        return jnp.asarray(values * scale)

    k = SIGMA.layers
    return State(
        vorticity=field(0.1, k).at[..., 0].set(0),
        divergence=field(0.02, k).at[..., 0].set(0),
        temperature=field(10.0, k),
        log_surface_pressure=field(0.05),
        tracers={name: field(1e-3, k) for name in tracers},
    )


def test_moist_equations_without_water_are_the_dry_ones():
    equations = isothermal_equations()
    state = random_state(equations)
    water = {name: 0 * state.vorticity for name in (HUMIDITY, *CONDENSATES)}
    dry = equations.explicit(state)
    moist = equations.explicit(dataclasses.replace(state, tracers=water))
    for name in ("vorticity", "divergence", "temperature", "log_surface_pressure"):
        np.testing.assert_allclose(
            getattr(moist, name), getattr(dry, name), atol=1e-15, rtol=1e-12
        )


def test_constant_tracer_stays_constant():
    equations = isothermal_equations()
    state = random_state(equations, ["dust"])
    one = equations.harmonics.analysis(jnp.ones((SIGMA.layers, *GRID.shape)))
    state = dataclasses.replace(state, tracers={"dust": one})
    tendency = equations.explicit(state).tracers["dust"]
    scale = np.abs(state.divergence).max()
    assert np.abs(tendency).max() < 1e-12 * scale


def test_implicit_solve_inverts_the_linear_operator():
    equations = isothermal_equations()
    state = random_state(equations, ["dust"])
    step = 0.3
    solved = equations.implicit_solve(state, step)
    implicit = equations.implicit(solved)
    again = jax.tree.map(
        lambda x, y: x if y is None else x - step * y, solved, implicit
    )
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-11)


def test_resting_isothermal_atmosphere_over_a_mountain_stays_at_rest():
    """Pressure-gradient errors of the sigma coordinate drive less than 0.5 m/s."""
    temperature = 250.0
    flat = isothermal_equations()
    h = flat.harmonics
    lat = np.deg2rad(GRID.latitude_degrees)[:, None]
    lon = np.deg2rad(GRID.longitude_degrees)[None, :]
    bump = (
        2000
        * units.METRE
        * units.GRAVITY
        * np.exp(-((lat - 0.6) ** 2 + (lon - np.pi) ** 2) / 0.3**2)
    )
    orography = h.analysis(jnp.asarray(bump)) * exponential_factors(GRID, 4.0, 2)
    equations = isothermal_equations(orography, temperature)
    lnps = -orography / (units.GAS_CONSTANT * temperature)
    state = State(
        vorticity=jnp.zeros((SIGMA.layers, *h.modal_shape)),
        divergence=jnp.zeros((SIGMA.layers, *h.modal_shape)),
        temperature=jnp.zeros((SIGMA.layers, *h.modal_shape)),
        log_surface_pressure=lnps,
        tracers={},
    )
    step = jax.jit(lambda e, y: imex_step(e, units.HOUR / 2)(y))
    for _ in range(24):
        state = step(equations, state)
    wind = jnp.stack(h.wind(state.vorticity, state.divergence)) / units.VELOCITY
    assert np.abs(wind).max() < 0.5


def test_solid_body_rotation_is_steady():
    """Gradient-wind balance of a barotropic solid-body rotation on a flat planet."""
    equations = isothermal_equations()
    h = equations.harmonics
    sin = GRID.sin_latitude[:, None] + 0 * GRID.longitude_degrees
    speed = 20 * units.VELOCITY
    zonal = speed * np.sqrt(1 - sin**2)
    vorticity, divergence = h.vorticity_divergence(
        *(
            jnp.asarray(np.broadcast_to(x, (SIGMA.layers, *GRID.shape)))
            for x in (zonal, 0 * sin)
        )
    )
    lnps = -(speed + speed**2) * sin**2 / 2 / (units.GAS_CONSTANT * 250.0)
    state = State(
        vorticity=vorticity,
        divergence=divergence,
        temperature=0 * vorticity,
        log_surface_pressure=h.analysis(jnp.asarray(lnps)),
        tracers={},
    )
    explicit, implicit = equations.explicit(state), equations.implicit(state)
    total = jax.tree.map(lambda x, y: x if y is None else x + y, explicit, implicit)
    for leaf in jax.tree.leaves(total):
        assert np.abs(leaf).max() < 1e-12


@dataclasses.dataclass
class Oscillator:
    """dy/dt = i a y explicitly + i b y implicitly."""

    explicit_rate: float
    implicit_rate: float

    def explicit(self, y):
        return 1j * self.explicit_rate * y

    def implicit(self, y):
        return 1j * self.implicit_rate * y

    def implicit_solve(self, y, step):
        return y / (1 - 1j * self.implicit_rate * step)


@pytest.mark.parametrize("a, b, order", [(1.0, 0.0, 3), (0.0, 1.0, 2), (1.0, 0.5, 2)])
def test_sil3_has_its_order(a, b, order):
    errors = []
    for steps in (32, 64):
        y = jnp.asarray(1.0 + 0j)
        for _ in range(steps):
            y = imex_step(Oscillator(a, b), 1 / steps)(y)
        errors.append(abs(y - np.exp(1j * (a + b))))
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.1)


def test_exponential_filter():
    rows = GRID.truncation + 2
    factors = exponential_factors(GRID, attenuation=16.0, order=18, rows=rows)
    assert factors[0] == 1
    assert factors[GRID.truncation + 1] == pytest.approx(np.exp(-16))
    cut = exponential_factors(GRID, attenuation=3.0, order=2, cutoff=0.5)
    assert np.all(cut[: (GRID.truncation + 1) // 2] == 1)


def test_bad_reference_profiles_are_refused():
    with pytest.raises(ValueError, match="shape"):
        PrimitiveEquations.create(GRID, SIGMA, np.full(3, 250.0))
    with pytest.raises(ValueError, match="unstable"):
        PrimitiveEquations.create(GRID, SIGMA, np.linspace(150, 700, SIGMA.layers))
