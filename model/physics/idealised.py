"""The idealised physics of the sample planet.

That of Held and Suarez (`held_suarez`), relaxation of temperature and friction near the
ground; to it are added a surface that is felt by the lowest layers (sea temperature, a
land that the Sun warms by day) and a water cycle
(evaporation, boundary-layer mixing, condensation with latent heat, clouds that rain
out). It makes the sample data, which the networks then learn without knowing it, and
it can stand in for them (`--physics=oracle`).
"""

import jax
import jax.numpy as jnp

from model import units
from model.dynamics.primitive_equations import CONDENSATES, HUMIDITY
from model.physics.columns import Columns, Physics, Surroundings, Tendencies
from model.physics.held_suarez import (
    BOUNDARY_LAYER,
    FRICTION,
    equilibrium_temperature,
    near_ground,
    relaxation_rate,
)
from model.vertical.sigma import SigmaLevels

_ICE, _LIQUID = CONDENSATES

# Rates, per model time unit.
_EVAPORATION = 1 / (12 * units.HOUR)
_MIXING = 1 / (24 * units.HOUR)
_CONDENSATION = 1 / units.HOUR
_RAINOUT = 1 / (3 * units.HOUR)
# Of the negative humidity that spectral advection leaves.
_REFILL = 1 / (3 * units.HOUR)

_LAND_WETNESS = 0.3
_LAND_RESPONSE = 20.0  # K, of the land's surface to the whole range of sunshine


def surface_profile(sin_latitude: jax.Array) -> jax.Array:
    """Zonal mean surface temperature, K, of any shape."""
    return 300.0 - 45.0 * sin_latitude**2


def saturation_humidity(temperature: jax.Array, pressure: jax.Array) -> jax.Array:
    """Specific humidity at saturation; Bolton (1980), doi:10.1175/1520-0493(1980)108.

    Args:
      temperature: K.
      pressure: in units of p00 = 1e5 Pa.

    Returns:
      kg/kg, at most 0.1.
    """
    celsius = jnp.clip(temperature - 273.15, -100.0, 60.0)
    vapour = 611.2 * units.PASCAL * jnp.exp(17.67 * celsius / (celsius + 243.5))
    return jnp.minimum(vapour / (units.VAPOUR_GAS_RATIO * pressure), 0.1)


def idealised_physics(sigma: SigmaLevels) -> Physics:
    """The physics for columns on `sigma` layers."""
    centers = sigma.centers[:, None, None, None]
    thickness = sigma.thickness[:, None, None, None]
    lowest = near_ground(sigma)
    boundary = (centers > BOUNDARY_LAYER) * thickness
    boundary = boundary / boundary.sum()

    def physics(columns: Columns, surroundings: Surroundings) -> Tendencies:
        dtype = columns.u.dtype
        ground, mixed = jnp.asarray(lowest, dtype), jnp.asarray(boundary, dtype)
        sin = surroundings.sin_latitude
        surface_pressure = jnp.exp(columns.log_surface_pressure)
        pressure = jnp.asarray(centers, dtype) * surface_pressure
        temperature = columns.temperature
        land = surroundings.land_sea_mask

        profile = surface_profile(sin)
        warmed_land = profile + _LAND_RESPONSE * (surroundings.solar_flux - 0.25)
        surface = land * warmed_land
        surface += (1 - land) * surroundings.sea_surface_temperature

        equilibrium = equilibrium_temperature(pressure, sin)
        equilibrium += ground * (surface - profile)
        heating = -relaxation_rate(ground, sin) * (temperature - equilibrium)

        humidity = columns.tracers[HUMIDITY]
        wet = (1 - land) * (1 - surroundings.sea_ice_cover) + _LAND_WETNESS * land
        supply = 0.7 * saturation_humidity(surface, surface_pressure)
        evaporation = wet * ground * jnp.maximum(supply - humidity, 0) * _EVAPORATION
        mean = jnp.sum(mixed * humidity, axis=0)
        mixing = jnp.where(mixed > 0, mean - humidity, 0.0) * _MIXING
        refill = jnp.maximum(-humidity, 0) * _REFILL
        saturation = saturation_humidity(temperature, pressure)
        condensation = jnp.maximum(humidity - saturation, 0) * _CONDENSATION
        frozen = jnp.clip((273.15 - temperature) / 20, 0.0, 1.0)
        ice, liquid = columns.tracers[_ICE], columns.tracers[_LIQUID]
        return Tendencies(
            u=-FRICTION * ground * columns.u,
            v=-FRICTION * ground * columns.v,
            temperature=heating + units.LATENT_HEAT_OVER_CP * condensation,
            tracers={
                HUMIDITY: evaporation + mixing + refill - condensation,
                _ICE: frozen * condensation - _RAINOUT * ice,
                _LIQUID: (1 - frozen) * condensation - _RAINOUT * liquid,
            },
        )

    return physics
