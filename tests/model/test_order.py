"""States in the order of the transforms: the same steps, filters and fixers."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import units
from model.dynamics import baroclinic_wave
from model.dynamics.conservation import FIXERS, fixers
from model.dynamics.filters import exponential_filter, filtered
from model.dynamics.integrators import imex_step
from model.dynamics.primitive_equations import HUMIDITY, PrimitiveEquations
from model.sphere.grids import parse_grid
from model.sphere.quarter_circle import QuarterCircle
from model.sphere.whole_circle import WholeCircle
from model.vertical.sigma import SigmaLevels

GRID, SIGMA = parse_grid("T21"), SigmaLevels.equidistant(8)
MINUTES = 30.0
TRANSFORMS = {"highest": QuarterCircle, "bf16_3x_emulated": WholeCircle}


def moist_wave(precision, top):
    """The baroclinic wave over its mountains, with vapour where it is warm."""
    equations = PrimitiveEquations.create(
        *(GRID, SIGMA, baroclinic_wave.reference_temperature(SIGMA)),
        dtype=jnp.float64,
        precision=precision,
        top=top,
    )
    h = equations.harmonics
    equations = dataclasses.replace(equations, orography=baroclinic_wave.orography(h))
    state = baroclinic_wave.initial_state(h, SIGMA)
    state.tracers = {HUMIDITY: 1e-3 * state.temperature}
    return equations, state


@pytest.mark.parametrize("top", [False, True])
@pytest.mark.parametrize("precision", TRANSFORMS)
def test_entering_and_leaving_changes_nothing(precision, top):
    equations, state = moist_wave(precision, top)
    assert isinstance(equations.harmonics.transform, TRANSFORMS[precision])
    again = equations.leave(equations.enter(state))
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-15 * np.abs(b).max())


@pytest.mark.parametrize("precision", TRANSFORMS)
def test_a_step_and_its_gradient_are_the_same_in_both_orders(precision):
    """With a filter and all fixers, from [level, 2, m, l] and in the other order."""
    equations, state = moist_wave(precision, top=False)
    dt = MINUTES / 60 * units.HOUR
    plain = types.SimpleNamespace(
        explicit=equations.explicit,
        implicit=equations.implicit,
        implicit_solve=equations.implicit_solve,
    )
    ordered = equations.ordered

    def filters(equations, **order):
        smooth = exponential_filter(GRID, MINUTES, tau=120.0, order=3, **order)
        return [smooth, *fixers(FIXERS, equations)]

    def in_order(state):
        step = filtered(imex_step(ordered, dt), filters(ordered, waves=ordered.waves))
        return equations.leave(step(equations.enter(state)))

    def by_entering(state):  # as whoever steps `PrimitiveEquations` themselves
        return filtered(imex_step(equations, dt), filters(equations))(state)

    def as_it_comes(state):
        return filtered(imex_step(plain, dt), filters(equations))(state)

    def squares(step, state):
        after = step(state)
        return sum(jnp.sum(x * x) for x in jax.tree.leaves(after)), after

    def both(step):
        made = jax.jit(jax.grad(lambda x: squares(step, x), has_aux=True))(state)
        return jax.tree.leaves(made)

    expected = both(as_it_comes)
    for step in (in_order, by_entering):
        for a, b in zip(both(step), expected, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-11 * np.abs(b).max())
