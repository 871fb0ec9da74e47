"""What is derived from a state, beside what is known exactly."""

import jax.numpy as jnp
import numpy as np

from model import units
from model.diagnostics import mean_sea_level_pressure
from model.physics.columns import Columns
from model.vertical.sigma import SigmaLevels


def test_pressure_at_sea_level():
    """A column at rest with the standard lapse rate has that of its foot."""
    sigma = SigmaLevels.equidistant(40)
    height = np.array([0.0, 500.0, 1500.0, 3000.0])
    gas, gravity, lapse = 287.05, 9.80616, 0.0065
    foot = 280.0
    pressure = 101325 * (1 - lapse * height / foot) ** (gravity / gas / lapse)
    # Of the lowest layer, by hydrostatic balance with that lapse rate.
    ground = foot - lapse * height
    lowest = ground * sigma.centers[-1] ** (lapse * gas / gravity)
    columns = Columns(
        *[None] * 4,
        temperature=jnp.asarray(lowest)[None, None, None],
        log_surface_pressure=jnp.log(jnp.asarray(pressure) * units.PASCAL)[None, None],
        tracers={},
    )
    geopotential = jnp.asarray(height * gravity * units.GEOPOTENTIAL)[None, None]
    found = mean_sea_level_pressure(columns, geopotential, sigma)
    np.testing.assert_allclose(found[0, 0], 101325, rtol=2e-4)
