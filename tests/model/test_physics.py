"""Physics: interface, idealised planet, sunshine, networks."""

import dataclasses

import jax
import jax.numpy as jnp
import jax_datetime
import numpy as np
import pytest
from flax import nnx

from model import units
from model.dynamics.primitive_equations import CONDENSATES, HUMIDITY
from model.physics import idealised
from model.physics.columns import Columns, Surroundings, Tendencies, to_spectral
from model.physics.solar import solar_flux
from model.physics.towers import Tower
from model.sphere.grids import fold, parse_grid
from model.sphere.harmonics import SphericalHarmonics
from model.vertical.sigma import SigmaLevels

GRID, SIGMA = parse_grid("T21"), SigmaLevels.equidistant(8)
POINTS = (2, GRID.latitudes // 2, GRID.longitudes)
SHAPE = (SIGMA.layers, *POINTS)
SIN = fold(GRID.sin_latitude[:, None])


def columns(**changes) -> Columns:
    zero = jnp.zeros(SHAPE)
    tracers = {name: zero for name in (HUMIDITY, *CONDENSATES)}
    return dataclasses.replace(
        Columns(zero, zero, zero, zero, zero + 260.0, jnp.zeros(POINTS), tracers),
        **changes,
    )


def surroundings(land: float, ice: float = 0.0) -> Surroundings:
    one, sin = jnp.ones(POINTS), jnp.asarray(SIN)
    profile = idealised.surface_profile(sin) * one
    slopes = jnp.zeros((3, *POINTS))
    return Surroundings(
        profile, ice * one, land * one, 0 * one, slopes, 0.25 * one, sin
    )


def run(columns, surroundings):
    return idealised.idealised_physics(SIGMA)(columns, surroundings)


def test_held_suarez_equilibrium_is_a_fixed_point():
    sin2 = SIN**2
    p = SIGMA.centers[:, None, None, None]
    equilibrium = 315 - 60 * sin2 - 10 * np.log(p) * (1 - sin2)
    equilibrium = np.maximum(200, p**units.KAPPA * equilibrium) + np.zeros(SHAPE)
    result = run(columns(temperature=jnp.asarray(equilibrium)), surroundings(land=1.0))
    assert np.abs(result.temperature).max() < 1e-10


def test_friction_is_a_day_at_the_ground_and_none_aloft():
    result = run(columns(u=jnp.ones(SHAPE)), surroundings(land=0.0))
    rate = -result.u[:, 0, 0, 0] * units.DAY
    sigma = SIGMA.centers
    np.testing.assert_allclose(rate, np.maximum(0, (sigma - 0.7) / 0.3), atol=1e-12)


def test_condensation_turns_vapour_to_cloud_and_heat():
    base = columns(temperature=jnp.full(SHAPE, 260.0))
    dry = run(base, surroundings(land=1.0))
    wet = columns(tracers={**base.tracers, HUMIDITY: jnp.full(SHAPE, 0.02)})
    result = run(wet, surroundings(land=1.0))
    aloft = 4  # above the boundary layer, where nothing but condensation acts
    vapour = result.tracers[HUMIDITY][aloft]
    cloud = sum(result.tracers[name][aloft] for name in CONDENSATES)
    assert np.all(vapour < 0)
    np.testing.assert_allclose(cloud, -vapour, rtol=1e-12)
    heating = result.temperature[aloft] - dry.temperature[aloft]
    np.testing.assert_allclose(heating, units.LATENT_HEAT_OVER_CP * cloud, rtol=1e-9)


def test_ice_stops_evaporation_over_the_sea():
    open_sea = run(columns(), surroundings(land=0.0)).tracers[HUMIDITY]
    frozen = run(columns(), surroundings(land=0.0, ice=1.0)).tracers[HUMIDITY]
    assert open_sea[-1].min() > 0
    assert np.all(frozen == 0)


def test_saturation_humidity_at_the_freezing_point():
    value = idealised.saturation_humidity(jnp.asarray(273.15), jnp.asarray(1.0))
    assert value == pytest.approx(0.0038, rel=0.01)


def test_tendencies_reach_the_state_as_curl_and_divergence():
    harmonics = SphericalHarmonics.create(GRID, jnp.float64)
    rng = np.random.default_rng(0)
    vorticity, divergence = (
        jnp.asarray(rng.standard_normal((SIGMA.layers, *harmonics.modal_shape)))
        * harmonics.mask
        * (harmonics.total_wavenumber > 0)
        for _ in range(2)
    )
    u, v = (fold(np.asarray(x)) for x in harmonics.wind(vorticity, divergence))
    u, v = jnp.asarray(u), jnp.asarray(v)
    state = to_spectral(harmonics, Tendencies(u, v, 0 * u, {}))
    np.testing.assert_allclose(state.vorticity, vorticity, atol=1e-10)
    np.testing.assert_allclose(state.divergence, divergence, atol=1e-10)
    assert np.all(state.log_surface_pressure == 0)


def test_sunshine_is_over_greenwich_at_noon_and_over_the_north_in_june():
    noon = jax_datetime.to_datetime(np.datetime64("2001-03-20T12"))
    where = jnp.asarray(GRID.sin_latitude[:, None]), jnp.asarray(GRID.longitude_degrees)
    flux = solar_flux(noon, *where)
    brightest = np.unravel_index(np.argmax(flux), flux.shape)
    assert min(brightest[1], GRID.longitudes - brightest[1]) <= 1
    june = jax_datetime.to_datetime(np.datetime64("2001-06-21T12"))
    flux = np.asarray(solar_flux(june, *where))
    assert flux[GRID.latitudes // 2 :].sum() > 1.5 * flux[: GRID.latitudes // 2].sum()
    assert 0 <= flux.min() and flux.max() <= 1


def test_tower_acts_on_every_column_alike():
    tower = Tower(5, 3, width=8, blocks=2, layers=1, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (5, 4, 6), jnp.float32)
    whole = tower(x)
    assert whole.shape == (3, 4, 6)
    np.testing.assert_allclose(tower(x[:, :, ::-1]), whole[:, :, ::-1], rtol=1e-5)
    np.testing.assert_allclose(
        tower(x[:, 2:3, 4:5])[:, 0, 0], whole[:, 2, 4], rtol=1e-5
    )
