"""Surface pressure and sigma layers: exact profiles, and dinosaur as judge."""

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.vertical import pressure_to_sigma, surface_pressure

LEVELS = np.array([100.0, 250, 500, 700, 850, 1000])
SHAPE = (5, 8)


@pytest.fixture
def orography():
    return np.random.default_rng(0).uniform(-500, 4e4, SHAPE)


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
def test_profiles_linear_in_pressure_are_exact(orography, order):
    """Between levels, and below the lowest by extrapolation."""
    geopotential = 5e4 - 50 * LEVELS[:, None, None] * np.ones(SHAPE)
    p = surface_pressure(LEVELS[order], geopotential[order], orography)
    np.testing.assert_allclose(p, 100 * (5e4 - orography) / 50, rtol=1e-12)
    assert p.max() > 1e5

    sigma = np.array([0.2, 0.5, 0.9])
    p = np.random.default_rng(1).uniform(6e4, 1.05e5, SHAPE)
    other = 3 * LEVELS[:, None, None] + np.arange(8) + np.zeros(SHAPE)
    fields = np.stack([geopotential, other])
    result = pressure_to_sigma(LEVELS[order], fields[:, order], p, sigma)
    target = sigma[:, None, None] * p / 100
    np.testing.assert_allclose(result[0], 5e4 - 50 * target, rtol=1e-12)
    np.testing.assert_allclose(result[1], 3 * target + np.arange(8), rtol=1e-12)


def test_isothermal_atmosphere():
    levels = np.arange(200, 1025, 25.0)
    gas_constant, temperature = 287.05, 250.0
    geopotential = -gas_constant * temperature * np.log(levels / 1000)
    orography = np.linspace(-500, 4e4, 40).reshape(5, 8)
    p = surface_pressure(
        levels, geopotential[:, None, None] + np.zeros(SHAPE), orography
    )
    expected = 1e5 * np.exp(-orography / gas_constant / temperature)
    np.testing.assert_allclose(p, expected, rtol=1e-3)


def test_beyond_the_levels():
    """One step further linearly, then constant."""
    fields = (LEVELS**2)[:, None, None] * np.ones(SHAPE)
    p = np.full(SHAPE, 1.3e5)
    sigma = np.array([0.001, 900, 1100, 1150, 1250]) / np.array([1, *[1300] * 4])
    result = pressure_to_sigma(LEVELS, fields, p, sigma)[:, 0, 0]
    assert result[0] == 1e4 - 350 * (100 - 1.3)
    np.testing.assert_allclose(result[2:], 1e6 + 1850 * np.array([100, 150, 150]))


def test_leading_axes():
    """Several variables in one surface pressure; several times, each in its own."""
    random = np.random.default_rng(2)
    fields = random.normal(size=(3, 2, 6, *SHAPE))  # variable, time, level, ...
    p = random.uniform(6e4, 1.05e5, (2, *SHAPE))
    sigma = np.array([0.3, 0.8])
    result = pressure_to_sigma(LEVELS, fields, p, sigma)
    assert result.shape == (3, 2, 2, *SHAPE)
    for time in range(2):
        alone = pressure_to_sigma(LEVELS, fields[1, time], p[time], sigma)
        np.testing.assert_array_equal(result[1, time], alone)


def test_what_is_refused(orography):
    with pytest.raises(UserError, match="at least two pressure levels"):
        surface_pressure(LEVELS[:1], np.zeros((1, *SHAPE)), orography)
    rising = 50 * LEVELS[:, None, None] * np.ones(SHAPE)
    with pytest.raises(UserError, match="does not fall with pressure"):
        surface_pressure(LEVELS, rising, orography)
    geopotential = 5e4 - rising  # 200 to 1010 hPa at the surface
    for part, message in (
        (slice(5), "levels 100 to 850 hPa do not reach the surface"),
        (slice(3, None), "levels 700 to 1000 hPa do not reach the surface"),
    ):
        with pytest.raises(UserError, match=message):
            surface_pressure(LEVELS[part], geopotential[part], orography)


def test_nan_is_refused(orography):
    geopotential = 5e4 - 50 * LEVELS[:, None, None] * np.ones(SHAPE)
    p = np.full(SHAPE, 9e4)
    hole = np.zeros(SHAPE)
    hole[1, 2] = np.nan
    for geopotential_hole, orography_hole, name in (
        (hole, 0, "geopotential"),
        (0, hole, "orography"),
    ):
        with pytest.raises(UserError, match=f"{name} has NaN"):
            surface_pressure(
                LEVELS, geopotential + geopotential_hole, orography + orography_hole
            )
    for fields_hole, surface_hole in ((hole, 0), (0, hole)):
        with pytest.raises(UserError, match="have NaN"):
            pressure_to_sigma(
                LEVELS, geopotential + fields_hole, p + surface_hole, np.array([0.5])
            )


def test_agrees_with_dinosaur_on_a_real_analysis(era5_tl31, real_data):
    judge = pytest.importorskip("dinosaur.vertical_interpolation")
    sigma_coordinates = pytest.importorskip("dinosaur.sigma_coordinates")
    era5 = era5_tl31.transpose("level", "latitude", "longitude", ...)
    levels = era5.level.values.astype(np.float64)
    z = era5.geopotential.values.reshape(37, 32, 64)
    # Mountains that reach into the levels, and basins below the lowest.
    orography = np.random.default_rng(0).uniform(-300, 5e4, (32, 64)).astype(np.float32)
    coordinates = judge.PressureCoordinates(levels)
    theirs = judge.get_surface_pressure(coordinates, z, orography[None], 1.0)
    ours = surface_pressure(levels, z, orography)
    np.testing.assert_allclose(ours / 100, theirs[0], rtol=1e-5)

    layers = sigma_coordinates.SigmaCoordinates.equidistant(32)
    for name in ("temperature", "u_component_of_wind", "specific_humidity"):
        fields = era5[name].values.reshape(37, 32, 64)
        expected = np.asarray(
            judge.interp_pressure_to_sigma(
                fields, coordinates, layers, ours[None] / 100
            )
        )
        result = pressure_to_sigma(levels, fields, ours, layers.centers)
        defined = np.isfinite(expected)
        assert defined.mean() > 0.98 and np.isfinite(result).all()
        error = np.abs(result - expected)[defined]
        assert error.max() < 1e-5 * np.abs(fields).max()
