"""What people ask of a state of the atmosphere that the model does not predict itself.

Of whole columns, in model units where nothing else is said.
"""

import jax
import jax.numpy as jnp

from model import units
from model.dynamics.primitive_equations import HUMIDITY
from model.physics.columns import Columns
from model.vertical.layers import on_layers
from model.vertical.sigma import SigmaLevels

_LAPSE_RATE = 0.0065  # K/m, of the standard atmosphere
_WARM, _COLD = 290.5, 255.0  # K, between which it is used as it is


def surface_pressure(columns: Columns) -> jax.Array:
    """Pa, [2, latitude, longitude]."""
    return jnp.exp(columns.log_surface_pressure) / units.PASCAL


def mean_sea_level_pressure(
    columns: Columns, surface_geopotential: jax.Array, sigma: SigmaLevels
) -> jax.Array:
    """Pressure reduced to mean sea level, Pa, [2, latitude, longitude].

    As ECMWF does it: Trenberth, Berry & Buja (1993), NCAR/TN-396+STR, section 2. The
    ground's temperature is that of the lowest layer, taken down by a lapse rate of 6.5
    K/km; over warm or cold ground it is eased.

    Args:
      columns: of the atmosphere.
      surface_geopotential: [2, latitude, longitude].
      sigma: layers.
    """
    gas, gravity = 287.05, 9.80616  # J/kg/K, m/s2
    height = surface_geopotential / units.GEOPOTENTIAL  # times gravity, m2/s2
    pressure = surface_pressure(columns)
    lowest = columns.temperature[-1]
    lapse = _LAPSE_RATE * gas / gravity
    ground = lowest * (1 + lapse * (1 / sigma.centers[-1] - 1))
    sea_level = ground + _LAPSE_RATE / gravity * height
    safe_height = jnp.where(jnp.abs(height) > 1, height, 1.0)
    exponent = jnp.full_like(ground, lapse)
    too_warm = sea_level > _WARM
    exponent = jnp.where(
        too_warm & (ground <= _WARM), gas / safe_height * (_WARM - ground), exponent
    )
    exponent = jnp.where(too_warm & (ground > _WARM), 0.0, exponent)
    ground = jnp.where(too_warm & (ground > _WARM), 0.5 * (_WARM + ground), ground)
    ground = jnp.where(ground < _COLD, 0.5 * (_COLD + ground), ground)
    x = exponent * height / (gas * ground)
    reduced = pressure * jnp.exp(height / (gas * ground) * (1 - x / 2 + x**2 / 3))
    return jnp.where(jnp.abs(height) > 1, reduced, pressure)


def total_column_water_vapour(columns: Columns, sigma: SigmaLevels) -> jax.Array:
    """Mass of vapour above a unit area, kg m-2, [2, latitude, longitude]."""
    vapour = columns.tracers[HUMIDITY]
    thickness = on_layers(jnp.asarray(sigma.thickness, vapour.dtype), vapour)
    gravity = units.GRAVITY / (units.METRE / units.SECOND**2)
    return surface_pressure(columns) / gravity * jnp.sum(vapour * thickness, axis=0)
