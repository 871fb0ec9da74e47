"""Jablonowski and Williamson (2006) at T42, 24 levels, float32, dt 20 minutes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import units
from model.dynamics import baroclinic_wave
from model.dynamics.filters import exponential_filter, filtered
from model.dynamics.integrators import imex_step
from model.dynamics.primitive_equations import PrimitiveEquations
from model.sphere.grids import parse_grid
from model.sphere.harmonics import SphericalHarmonics
from model.vertical.sigma import SigmaLevels

GRID = parse_grid("T42")
SIGMA = SigmaLevels.equidistant(24)
STEPS_PER_DAY = 72
DT = units.DAY / STEPS_PER_DAY


@functools.cache
def equations() -> PrimitiveEquations:
    harmonics = SphericalHarmonics.create(GRID, jnp.float32)
    reference = baroclinic_wave.reference_temperature(SIGMA)
    orography = baroclinic_wave.orography(harmonics)
    return PrimitiveEquations.create(GRID, SIGMA, reference, orography, jnp.float32)


@jax.jit
def one_day(equations, state):
    smooth = exponential_filter(GRID, dt=1200.0, tau=75.0, order=18)
    step = filtered(imex_step(equations, DT), [smooth])
    state, _ = jax.lax.scan(lambda y, _: (step(y), None), state, length=STEPS_PER_DAY)
    return state


@jax.jit
def diagnose(equations, state):
    harmonics = equations.harmonics
    pressure = 1000 * jnp.exp(harmonics.synthesis(state.log_surface_pressure))
    _, v = harmonics.wind(state.vorticity, state.divergence)
    return pressure, jnp.abs(v).max() / units.VELOCITY


def run(perturbation: float, days: int):
    state = baroclinic_wave.initial_state(equations().harmonics, SIGMA, perturbation)
    history = {}
    for day in range(1, days + 1):
        state = one_day(equations(), state)
        history[day] = tuple(np.asarray(x) for x in diagnose(equations(), state))
    return history


@pytest.mark.slow
def test_steady_flow_stays_steady_for_five_days():
    for pressure, v in run(perturbation=0.0, days=5).values():
        print(pressure.min(), pressure.max(), v)
        assert np.abs(pressure - 1000).max() < 0.1
        assert v < 0.2


@pytest.mark.slow
def test_wave_deepens_as_in_the_literature():
    history = run(perturbation=1.0, days=9)
    lowest = {day: float(pressure.min()) for day, (pressure, _) in history.items()}
    print(lowest)
    assert lowest[7] == pytest.approx(986.1, abs=0.5)
    assert lowest[9] == pytest.approx(947.5, abs=1.0)
    southern = history[9][0][: GRID.latitudes // 2]
    assert np.abs(southern - 1000).max() < 0.5  # the wave is in the north only
