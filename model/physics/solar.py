"""Sunshine at the top of the atmosphere, by `jax-solar`."""

import jax
import jax_datetime
import jax_solar
import numpy as np

from model.sphere.grids import GaussianGrid


def solar_flux(grid: GaussianGrid, time: jax_datetime.Datetime) -> jax.Array:
    """Top-of-atmosphere flux relative to its largest value, [latitude, longitude].

    0 at night; `time` is UTC.
    """
    return jax_solar.normalized_radiation_flux(
        time,
        grid.longitude_degrees[None, :].astype(np.float32),
        grid.latitude_degrees[:, None].astype(np.float32),
    )
