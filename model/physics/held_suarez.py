"""The forcing of Held and Suarez (1994), the standard climate test of dry cores.

doi:10.1175/1520-0477(1994)075<1825:APFTIO>2.0.CO;2: temperature is relaxed towards a
zonally symmetric equilibrium, winds near the ground towards rest.
"""

import jax
import jax.numpy as jnp
import numpy as np

from model import units
from model.physics.columns import Columns, Physics, Surroundings, Tendencies
from model.vertical.sigma import SigmaLevels

BOUNDARY_LAYER = 0.7  # sigma at its top

# Rates, per model time unit.
FRICTION = 1 / units.DAY
COOLING = 1 / (40 * units.DAY)
SURFACE_COOLING = 1 / (4 * units.DAY)


def near_ground(sigma: SigmaLevels) -> np.ndarray:
    """1 at the ground, falling to 0 at the boundary layer's top; [level, 1, 1, 1]."""
    weight = np.maximum(0, (sigma.centers - BOUNDARY_LAYER) / (1 - BOUNDARY_LAYER))
    return weight[:, None, None, None]


def equilibrium_temperature(pressure: jax.Array, sin_latitude: jax.Array) -> jax.Array:
    """K, at `pressure` in units of p00; the shapes are broadcast together."""
    sin2 = sin_latitude**2
    equilibrium = 315.0 - 60.0 * sin2 - 10.0 * jnp.log(pressure) * (1 - sin2)
    return jnp.maximum(200.0, pressure**units.KAPPA * equilibrium)


def relaxation_rate(ground: jax.Array, sin_latitude: jax.Array) -> jax.Array:
    """Of temperature; `ground` is `near_ground`."""
    cos4 = (1 - sin_latitude**2) ** 2
    return COOLING + (SURFACE_COOLING - COOLING) * ground * cos4


def held_suarez(sigma: SigmaLevels) -> Physics:
    """The forcing as a physics of columns on `sigma` layers; tracers have no source."""
    weight, centers = near_ground(sigma), sigma.centers[:, None, None, None]

    def physics(columns: Columns, surroundings: Surroundings) -> Tendencies:
        dtype = columns.u.dtype
        ground, sin = jnp.asarray(weight, dtype), surroundings.sin_latitude
        pressure = jnp.asarray(centers, dtype) * jnp.exp(columns.log_surface_pressure)
        excess = columns.temperature - equilibrium_temperature(pressure, sin)
        return Tendencies(
            u=-FRICTION * ground * columns.u,
            v=-FRICTION * ground * columns.v,
            temperature=-relaxation_rate(ground, sin) * excess,
            tracers=jax.tree.map(jnp.zeros_like, columns.tracers),
        )

    return physics
