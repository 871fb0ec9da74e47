"""States in the order of the transforms: the same steps, filters and fixers.

Also by the transforms of a TPU, in full precision, and on meshes.
"""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import partitioning, units
from model.dynamics import baroclinic_wave
from model.dynamics.conservation import FIXERS, fixers
from model.dynamics.filters import exponential_filter, filtered
from model.dynamics.integrators import imex_step
from model.dynamics.primitive_equations import HUMIDITY, PrimitiveEquations
from model.sphere import quarter_circle
from model.sphere.grids import parse_grid
from model.sphere.quarter_circle import QuarterCircle
from model.sphere.whole_circle import WholeCircle
from model.vertical.sigma import SigmaLevels
from tests.model.test_partitioned_core import equations_and_state, on_mesh

GRID, SIGMA = parse_grid("T21"), SigmaLevels.equidistant(8)
MINUTES = 30.0
TRANSFORMS = {"highest": QuarterCircle, "bf16_3x_emulated": WholeCircle}


@pytest.fixture
def bands(monkeypatch):
    """As many bands of m on a small grid as there are on a large one: 11 pairs in 3."""
    monkeypatch.setattr(quarter_circle, "BAND", 4)


def moist_wave(precision, top, grid=GRID):
    """The baroclinic wave over its mountains, with vapour where it is warm."""
    equations = PrimitiveEquations.create(
        *(grid, SIGMA, baroclinic_wave.reference_temperature(SIGMA)),
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


@pytest.mark.parametrize("top", [False, True])
def test_bands_hold_every_wave(bands, top):
    equations, state = moist_wave("highest", top)
    assert [x.m.start for x in equations.harmonics.transform.bands] == [0, 6, 14]
    again = equations.leave(equations.enter(state))
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-15 * np.abs(b).max())


def test_bands_make_the_same_tendency(bands):
    """As one band of all, also where the gradient of humidity is transformed."""
    for grid in (GRID, parse_grid("TL31")):
        equations, state = moist_wave("highest", top=False, grid=grid)
        one_band = as_on_tpus(equations)
        assert len(equations.harmonics.transform.bands) > 2
        for a, b in zip(
            jax.tree.leaves(equations.explicit(state)),
            jax.tree.leaves(one_band.explicit(state)),
            strict=True,
        ):
            np.testing.assert_allclose(a, b, atol=1e-10 * np.abs(b).max())


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


def as_on_tpus(equations, kernels=False):
    """The same equations with sums over whole circles, in float64."""
    h = equations.harmonics
    precision = "bf16_3x" if kernels else "highest"
    whole = WholeCircle.create(
        *(h.grid, h.modal_shape[1:], jnp.float64, precision, h.shards),
        transposes=not h.gathers,
        top=h.top,
    )
    h = dataclasses.replace(h, transform=whole)
    return dataclasses.replace(equations, harmonics=h)


def fixed_step_and_gradient(equations, state):
    """After a filtered and fixed step in order, and the gradient of its squares."""
    ordered = equations.ordered
    smooth = exponential_filter(GRID, MINUTES, 120.0, order=3, waves=ordered.waves)
    step = imex_step(ordered, MINUTES / 60 * units.HOUR)
    step = filtered(step, [smooth, *fixers(FIXERS, ordered)])

    def squares(state):
        after = equations.leave(step(equations.enter(state)))
        total = jax.tree.map(lambda x: jnp.sum(x * x), after)
        # Every device along `level` has all of ln(ps), and counts its part.
        total.log_surface_pressure /= partitioning.size("level")
        return sum(jax.tree.leaves(total)), after

    gradient, after = jax.grad(squares, has_aux=True)(state)
    return after, gradient


@pytest.mark.parametrize(
    "circle, level, lat",
    [
        ("whole", 2, 2),
        ("whole", 1, 4),
        ("kernels", 2, 2),
        ("kernels", 1, 4),
        ("bands", 1, 1),
        ("bands", 2, 1),
        pytest.param("kernels", 1, 1, marks=pytest.mark.slow),
        pytest.param("whole", 1, 1, marks=pytest.mark.slow),
        pytest.param("quarter", 2, 2, marks=pytest.mark.slow),
        pytest.param("quarter", 1, 4, marks=pytest.mark.slow),
    ],
)
def test_all_transforms_on_all_meshes_make_the_same_step(
    circle, level, lat, monkeypatch
):
    """One device with the transforms of a CPU is what all others are compared with."""
    expected = jax.jit(fixed_step_and_gradient)(*equations_and_state("float64", 1))
    if circle == "bands":
        monkeypatch.setattr(quarter_circle, "BAND", 4)
        equations, state = equations_and_state.__wrapped__("float64", lat)
        assert len(equations.harmonics.transform.bands) == 3
    else:
        equations, state = equations_and_state("float64", lat)
    if circle in ("whole", "kernels"):
        equations = as_on_tpus(equations, kernels=circle == "kernels")
    made = on_mesh(fixed_step_and_gradient, level, lat, equations)(equations, state)
    rows = GRID.truncation + 1
    pairs = zip(jax.tree.leaves(made), jax.tree.leaves(expected), strict=True)
    for a, b in pairs:
        a, b = a[..., :rows, :], b[..., :rows, :]
        # ln(ps) is small here, and the fixers' logarithms are of numbers of order 1.
        np.testing.assert_allclose(a, b, atol=1e-11 * np.abs(b).max() + 1e-13)


@pytest.mark.parametrize("kernels", [False, True])
@pytest.mark.parametrize("top", [False, True])
def test_transforms_agree_where_products_are_aliased(top, kernels):
    """A linear grid, on which the gradient of humidity is transformed by itself."""
    grid = parse_grid("TL31")
    equations, state = moist_wave("highest", top, grid)
    assert not grid.resolves_products
    for a, b in zip(
        jax.tree.leaves(as_on_tpus(equations, kernels).explicit(state)),
        jax.tree.leaves(equations.explicit(state)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=1e-10 * np.abs(b).max())


def test_a_filter_of_another_order_is_refused():
    equations, state = moist_wave("highest", top=False)
    smooth = exponential_filter(GRID, MINUTES, 120.0, order=3)
    with pytest.raises(ValueError, match="11 total wavenumbers"):
        smooth(None, equations.enter(state))
