"""Budgets of mass, energy and angular momentum, and the filters that keep them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from model import units
from model.dynamics import baroclinic_wave
from model.dynamics.conservation import (
    FIXERS,
    budget,
    fix_dry_mass,
    fix_mean_log_surface_pressure,
    fix_total_energy,
    fixers,
)
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
TRACERS = (HUMIDITY, *CONDENSATES)
LEVELS, SURFACE = P("level", None, "lat"), P(None, "lat")
LAYOUT = State(LEVELS, LEVELS, LEVELS, SURFACE, dict.fromkeys(TRACERS, LEVELS))


def make(lat=1, seed=0):
    """Equations over mountains and a moist random state, with m padded for `lat`."""
    reference = baroclinic_wave.reference_temperature(SIGMA)
    equations = PrimitiveEquations.create(
        GRID, SIGMA, reference, dtype=jnp.float64, shards=lat
    )
    h = SphericalHarmonics.create(GRID, jnp.float64)
    rows = equations.harmonics.modal_shape[1] - h.modal_shape[1]
    rng = np.random.default_rng(seed)
    decay = h.mask * (1.0 + h.total_wavenumber) ** -2

    def field(scale, *lead):
        x = scale * rng.standard_normal((*lead, *h.modal_shape)) * decay
        return jnp.asarray(np.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, rows), (0, 0)]))

    k = SIGMA.layers
    state = State(
        vorticity=field(0.1, k).at[..., 0].set(0),
        divergence=field(0.02, k).at[..., 0].set(0),
        temperature=field(10.0, k),
        log_surface_pressure=field(0.05),
        tracers={name: field(1e-3, k) for name in TRACERS},
    )
    return dataclasses.replace(equations, orography=field(0.01)), state


def numbers(equations, state):
    """The budget as plain numbers."""
    return jax.tree.map(float, budget(equations, state))


def test_budget_is_that_of_plain_sums():
    """Against NumPy sums over grid points with Gauss weights."""
    equations, state = make()
    h = equations.harmonics
    found = numbers(equations, state)
    nodal = {name: np.asarray(h.synthesis(x)) for name, x in state.tracers.items()}
    u, v = (np.asarray(x) for x in h.wind(state.vorticity, state.divergence))
    reference = baroclinic_wave.reference_temperature(SIGMA)[:, None, None]
    temperature = np.asarray(h.synthesis(state.temperature)) + reference
    lnps = np.asarray(h.synthesis(state.log_surface_pressure))
    ground = np.asarray(h.synthesis(equations.orography))
    weights = (GRID.latitude_weights / 2 / GRID.longitudes)[:, None]
    mass = np.exp(lnps) * SIGMA.thickness[:, None, None] * weights
    cos = np.sqrt(1 - GRID.sin_latitude**2)[:, None]
    cp = units.GAS_CONSTANT / units.KAPPA
    cp = cp * (1 + (units.VAPOUR_HEAT_RATIO - 1) * nodal[HUMIDITY])
    energy = (u**2 + v**2) / 2 + cp * temperature + ground
    expected = {
        "log_surface_pressure": np.sum(lnps * weights),
        "surface_pressure": np.sum(mass),
        "dry_mass": np.sum(mass * (1 - sum(nodal.values()))),
        "total_energy": np.sum(mass * energy),
        "heat_capacity": np.sum(mass * cp),
        "angular_momentum": np.sum(mass * (u + cos / 2) * cos),
    }
    for name, value in expected.items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-12, abs=1e-14), name


def test_solid_body_rotation_has_its_angular_momentum_and_energy_in_si():
    """Isothermal, without mountains, at 20 m/s at the equator: closed formulas."""
    equations, state = make()
    h = equations.harmonics
    state = jax.tree.map(jnp.zeros_like, state)
    cos = np.sqrt(1 - GRID.sin_latitude**2)[:, None] + 0 * GRID.longitude_degrees
    zonal = np.broadcast_to(20 * units.VELOCITY * cos, (SIGMA.layers, *GRID.shape))
    vorticity, _ = h.vorticity_divergence(jnp.asarray(zonal), jnp.asarray(0 * zonal))
    state = dataclasses.replace(state, vorticity=vorticity)
    flat = dataclasses.replace(equations, orography=0 * equations.orography)
    found = {name: float(x) for name, x in budget(flat, state).si().items()}
    mass = 1e5 / 9.80616
    radius, omega = units.EARTH_RADIUS, units.ANGULAR_VELOCITY
    assert found["dry_mass_kg_m2"] == pytest.approx(mass)
    assert found["surface_pressure_Pa"] == pytest.approx(1e5)
    assert found["angular_momentum_kg_s"] == pytest.approx(
        mass * radius * (20 + omega * radius) * 2 / 3
    )
    heat = 1004.0 * np.mean(baroclinic_wave.reference_temperature(SIGMA))
    assert found["total_energy_J_m2"] == pytest.approx(mass * (heat + 200 * 2 / 3))


def test_fixers_keep_what_they_say():
    equations, before = make()
    _, after = make(seed=1)
    old = numbers(equations, before)

    def kept(fix, name):
        new = numbers(equations, fix(before, after))
        return getattr(new, name) == pytest.approx(getattr(old, name), rel=1e-13)

    changed = numbers(equations, after)
    assert changed.dry_mass != pytest.approx(old.dry_mass, rel=1e-6)
    assert kept(fix_mean_log_surface_pressure(equations), "log_surface_pressure")
    assert kept(fix_dry_mass(equations), "dry_mass")
    assert kept(fix_total_energy(equations), "total_energy")


def test_fixers_change_one_number_each():
    """Everything but one mean coefficient is left as it was."""
    equations, before = make()
    _, after = make(seed=1)
    for fix, name, coefficients in [
        (fix_dry_mass, "log_surface_pressure", 1),
        (fix_total_energy, "temperature", SIGMA.layers),
    ]:
        fixed = fix(equations)(before, after)
        difference = jax.tree.map(lambda x, y: np.abs(x - y), fixed, after)
        assert np.count_nonzero(getattr(difference, name)) == coefficients
        assert np.all(getattr(difference, name)[..., 0, 0, 0] > 0)
        others = dataclasses.replace(difference, **{name: np.zeros(())})
        assert all(np.all(x == 0) for x in jax.tree.leaves(others))


def test_energy_that_a_physics_brings_is_kept():
    equations, before = make()
    _, after = make(seed=1)
    rate = jnp.zeros_like(before.temperature).at[:, 0, 0, 0].set(np.sqrt(4 * np.pi))
    forcing = jax.tree.map(jnp.zeros_like, before)
    forcing = dataclasses.replace(forcing, temperature=rate)  # 1 K a unit of time
    (fix,) = fixers(
        ["total_energy"], equations, jax.tree.map(lambda x: 0.25 * x, forcing)
    )
    old = numbers(equations, before)
    new = numbers(equations, fix(before, after))
    added = new.total_energy - old.total_energy
    assert added == pytest.approx(0.25 * old.heat_capacity, rel=1e-9)


def test_a_filtered_day_conserves_and_keeps_a_constant_tracer():
    """48 steps of the wave, over mountains, with and without fixers."""
    equations, _ = make()
    h = equations.harmonics
    equations = dataclasses.replace(equations, orography=baroclinic_wave.orography(h))
    one = h.analysis(jnp.ones((SIGMA.layers, *GRID.shape)))
    state = baroclinic_wave.initial_state(h, SIGMA)
    state.tracers = {"dust": one}

    def run(names):
        smooth = exponential_filter(GRID, 2.0, tau=2.0, order=3)
        step = imex_step(equations, 2 * units.HOUR / 4)
        step = filtered(step, [smooth, *fixers(names, equations)])
        many = jax.jit(
            lambda y: jax.lax.scan(lambda y, _: (step(y), None), y, length=48)[0]
        )
        return many(state)

    end = run(())
    old, free, kept = (numbers(equations, x) for x in (state, end, run(FIXERS[1:])))
    assert kept.dry_mass == pytest.approx(old.dry_mass, rel=1e-12)
    assert kept.total_energy == pytest.approx(old.total_energy, rel=1e-12)
    assert abs(free.total_energy / old.total_energy - 1) > 1e-9  # there is work to do
    assert np.abs(h.synthesis(end.tracers["dust"]) - 1).max() < 1e-12
    assert np.abs(end.divergence - state.divergence).max() > 1e-4


def fixed_and_gradient(equations, before, after):
    """The budget before, the state that all fixers make, and the gradient of a sum.

    By the state before and that after the step.
    """

    def squares(before, after):
        for step_filter in fixers(FIXERS, equations):
            after = step_filter(before, after)
        # Every device along `level` has all of ln(ps), and counts its part.
        lnps = after.log_surface_pressure**2 / size("level")
        total = jnp.sum(lnps) + 1e-4 * jnp.sum(after.temperature**2)
        return total, after

    gradient, fixed = jax.grad(squares, argnums=(0, 1), has_aux=True)(before, after)
    return budget(equations, before), fixed, gradient


@pytest.mark.parametrize("level, lat", [(2, 2), (2, 4)])
def test_budgets_and_fixers_on_a_mesh(level, lat):
    equations, before = make(lat)
    _, after = make(lat, seed=1)
    devices = np.array(jax.devices()[: level * lat]).reshape(level, lat)
    mesh = Mesh(devices, ("level", "lat"))

    def part(*arguments):
        found, fixed, gradients = fixed_and_gradient(*varying(arguments))
        lnps = jax.lax.pmean(fixed.log_surface_pressure, "level")
        fixed = dataclasses.replace(fixed, log_surface_pressure=lnps)
        for gradient in gradients:
            gradient.log_surface_pressure = jax.lax.psum(
                gradient.log_surface_pressure, "level"
            )
        return jax.lax.pmean(varying(found), mesh.axis_names), fixed, gradients

    mapped = jax.shard_map(
        part,
        mesh=mesh,
        in_specs=(equations.layout(), LAYOUT, LAYOUT),
        out_specs=(P(), LAYOUT, (LAYOUT, LAYOUT)),
    )
    found, *states = jax.jit(mapped)(equations, before, after)
    one, their_before = make()
    _, their_after = make(seed=1)
    expected, *theirs = jax.jit(fixed_and_gradient)(one, their_before, their_after)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert float(x) == pytest.approx(float(y), rel=1e-12, abs=1e-14)
    rows = GRID.truncation + 1
    for x, y in zip(jax.tree.leaves(states), jax.tree.leaves(theirs), strict=True):
        scale = max(np.abs(y).max(), 1e-3)
        np.testing.assert_allclose(x[..., :rows, :], y, atol=1e-12 * scale)
