"""Sigma levels and vertical interpolation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import units
from model.vertical import interpolation
from model.vertical.sigma import SigmaLevels

SHAPE = (4, 5)


def test_integrals_converge_with_the_square_of_the_layer_number():
    errors = []
    for layers in (16, 32, 64):
        sigma = SigmaLevels.equidistant(layers)
        integral = sigma.cumulative_matrix @ np.cos(sigma.centers)
        errors.append(np.abs(integral - np.sin(sigma.boundaries[1:])).max())
    rates = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    np.testing.assert_allclose(rates, 2, atol=0.05)


def test_geopotential_of_an_isothermal_atmosphere():
    sigma = SigmaLevels.equidistant(24)
    geopotential = units.GAS_CONSTANT * sigma.geopotential_matrix @ np.full(24, 250.0)
    expected = -units.GAS_CONSTANT * 250.0 * np.log(sigma.centers)
    np.testing.assert_allclose(geopotential, expected, rtol=1e-12)


def test_sigma_dot_vanishes_where_the_flow_does_not_converge():
    sigma = SigmaLevels.equidistant(8)
    uniform = sigma.sigma_dot_matrix @ np.ones(8)
    np.testing.assert_allclose(uniform, 0, atol=1e-15)


@pytest.mark.parametrize(
    "edges", [(0, 1), (0.1, 0.5, 1), (0, 0.6, 0.5, 1), (0, 0.5, 0.9)]
)
def test_bad_boundaries_are_refused(edges):
    with pytest.raises(ValueError, match="sigma boundaries"):
        SigmaLevels(edges)


@pytest.mark.parametrize("extrapolation", ["constant", "linear"])
def test_interpolation_equals_numpy(extrapolation):
    rng = np.random.default_rng(0)
    nodes = np.sort(rng.uniform(0, 1, 9))
    values = rng.standard_normal((2, 9, *SHAPE))
    targets = rng.uniform(-0.3, 1.3, (6, *SHAPE))
    ours = interpolation.interpolate(
        jnp.asarray(values), jnp.asarray(nodes), jnp.asarray(targets), extrapolation
    )
    for f, j, i in np.ndindex(2, *SHAPE):
        column, x = values[f, :, j, i], targets[:, j, i]
        expected = np.interp(x, nodes, column)
        if extrapolation == "linear":
            slopes = np.diff(column) / np.diff(nodes)
            below, above = x < nodes[0], x > nodes[-1]
            expected[below] += slopes[0] * (x[below] - nodes[0])
            expected[above] += slopes[-1] * (x[above] - nodes[-1])
        np.testing.assert_allclose(ours[f, :, j, i], expected, atol=1e-12)


@pytest.mark.parametrize("extrapolation", ["constant", "linear"])
def test_gradients_of_interpolation(extrapolation):
    """By values the transpose of it, by targets the slope of the segment they are in.

    At a node exactly, that of the segment behind it.
    """
    rng = np.random.default_rng(1)
    nodes = np.sort(rng.uniform(0, 1, 7))
    values = rng.standard_normal((3, 7, *SHAPE))
    targets = rng.uniform(-0.3, 1.3, (5, *SHAPE))
    targets[2, 1] = nodes[3]
    gradient = rng.standard_normal((3, 5, *SHAPE))

    def interpolate(values, targets):
        return interpolation.interpolate(
            values, jnp.asarray(nodes), targets, extrapolation
        )

    _, backward = jax.vjp(interpolate, jnp.asarray(values), jnp.asarray(targets))
    for_values, for_targets = backward(gradient)
    other = rng.standard_normal(values.shape)
    np.testing.assert_allclose(
        np.sum(for_values * other),
        np.sum(gradient * interpolate(jnp.asarray(other), jnp.asarray(targets))),
        rtol=1e-12,
    )
    segment = np.searchsorted(nodes, targets, side="right") - 1
    slopes = np.diff(values, axis=1) / np.diff(nodes)[:, None, None]
    if extrapolation == "constant":
        inside = (segment >= 0) & (segment < 6)
    else:
        inside = True
    slope = np.take_along_axis(slopes, np.clip(segment, 0, 5)[None], axis=1) * inside
    expected = np.sum(gradient * slope, axis=0)
    np.testing.assert_allclose(for_targets, expected, rtol=1e-9, atol=1e-9)


def test_surface_pressure_is_where_geopotential_meets_the_surface():
    levels = jnp.asarray([500.0, 700.0, 850.0, 1000.0])
    column = jnp.asarray([50e3, 30e3, 14e3, 1e3])[:, None, None] * jnp.ones((4, *SHAPE))
    for surface, expected in [(30e3, 700.0), (7.5e3, 925.0), (-12e3, 1150.0)]:
        pressure = interpolation.surface_pressure(
            column, levels, jnp.full(SHAPE, surface)
        )
        np.testing.assert_allclose(pressure, expected, rtol=1e-12)


def test_pressure_sigma_round_trip_of_a_linear_profile():
    sigma = jnp.asarray(SigmaLevels.equidistant(10).centers)
    levels = jnp.linspace(1.0, 1000.0, 37)
    pressure = jnp.full(SHAPE, 987.0)
    profile = 3.0 * levels[:, None, None] * jnp.ones((37, *SHAPE))
    on_sigma = interpolation.pressure_to_sigma(
        profile, levels, sigma, pressure, "linear"
    )
    again = interpolation.sigma_to_pressure(on_sigma, sigma, levels, pressure, "linear")
    np.testing.assert_allclose(again, profile, rtol=1e-11)


def test_interpolation_agrees_with_dinosaur_on_the_real_analysis(era5_tl31):
    vertical = pytest.importorskip("dinosaur.vertical_interpolation")
    levels = era5_tl31.level.values.astype(np.float64)
    order = ("level", "latitude", "longitude")
    geopotential = era5_tl31.geopotential.transpose(*order).values.astype(np.float64)
    surface = np.random.default_rng(0).uniform(0, 3e4, geopotential.shape[1:])
    ours = interpolation.surface_pressure(
        jnp.asarray(geopotential), jnp.asarray(levels), jnp.asarray(surface)
    )
    theirs = vertical.get_surface_pressure(
        vertical.PressureCoordinates(levels),
        np.swapaxes(geopotential, -1, -2),
        surface.T[None] / 9.80616,
        9.80616,
    )
    np.testing.assert_allclose(ours, np.asarray(theirs)[0].T, rtol=1e-6)
