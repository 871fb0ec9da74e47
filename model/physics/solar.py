"""Sunshine at the top of the atmosphere, by `jax-solar`."""

import jax
import jax.numpy as jnp
import jax_datetime
import jax_solar


def solar_flux(
    time: jax_datetime.Datetime,
    sin_latitude: jax.Array,
    longitude_degrees: jax.Array,
) -> jax.Array:
    """Top-of-atmosphere flux relative to its largest value.

    0 at night; `time` is UTC. `sin_latitude` and `longitude_degrees` are broadcast
    together.
    """
    latitude_degrees = jnp.rad2deg(jnp.arcsin(sin_latitude))
    return jax_solar.normalized_radiation_flux(
        time,
        longitude_degrees.astype(jnp.float32),
        latitude_degrees.astype(jnp.float32),
    ).astype(sin_latitude.dtype)
