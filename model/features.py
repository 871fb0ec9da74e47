"""Features: what a column looks like to the networks."""

import jax
import jax.numpy as jnp

from model.physics.columns import (
    Columns,
    Surroundings,
    with_derivatives,
)
from model.scales import AIR, Normal, packed, standardised
from model.spec import DERIVATIVES, LAYER_FIELDS, LEVEL_VARIABLES
from model.sphere.harmonics import SphericalHarmonics
from model.vertical.layers import on_layers
from model.vertical.surface import on_levels

# Features of the physics are bounded softly by this many standard deviations.
CLIP = 16.0
_AT_BOUND = 40.0  # beyond the bound, the rest is less than rounding


def of_ground(surroundings: Surroundings) -> dict[str, jax.Array]:
    """Fields that bound a column, and its latitude, by name; [2, lat, lon]."""
    s = surroundings
    sin = jnp.broadcast_to(s.sin_latitude, s.land_sea_mask.shape)
    slopes = {
        f"surface_geopotential_{name}": x
        for name, x in zip(DERIVATIVES, s.surface_slopes, strict=True)
    }
    return slopes | {
        "land_sea_mask": s.land_sea_mask,
        "surface_geopotential": s.surface_geopotential,
        "solar_flux": s.solar_flux,
        "cos_latitude": jnp.sqrt(1 - sin**2),
        "sin_latitude": sin,
        "sea_surface_temperature": s.sea_surface_temperature,
        "sea_ice_cover": s.sea_ice_cover,
    }


def of_data(
    frame: dict[str, jax.Array], harmonics: SphericalHarmonics, gradients: bool
) -> dict[str, jax.Array]:
    """Fields on pressure levels, and if `gradients` their derivatives, by name.

    Each [level, 2, latitude, longitude].
    """
    fields = {name: frame[name] for name in LEVEL_VARIABLES}
    if not gradients:
        return fields
    planes = jnp.concatenate(list(fields.values()))
    return {
        f"{name}{end}": part
        for end, x in with_derivatives(harmonics, planes).items()
        for name, part in zip(
            LEVEL_VARIABLES, jnp.split(x, len(LEVEL_VARIABLES)), strict=True
        )
    }


def of_columns(columns: Columns, sigma: jax.Array) -> dict[str, jax.Array]:
    """Fields of the model's atmosphere, and the pressure of its layers, by name.

    Args:
      columns: of the atmosphere.
      sigma: of the layers, [layer].
    """
    ps = on_levels(jnp.exp(columns.log_surface_pressure), len(sigma))
    return columns.by_name() | {"pressure": on_layers(sigma, ps) * ps}


def of_volume(fields: dict[str, jax.Array], scales: dict[str, Normal]) -> jax.Array:
    """Channels of the convolution over levels, in the order of their names.

    [channel, layer, 2, latitude, longitude].
    """
    channels = standardised({n: fields[n] for n in (*LAYER_FIELDS, "pressure")}, scales)
    return jnp.stack([channels[name] for name in sorted(channels)])


def of_surface(
    fields: dict[str, jax.Array],
    surroundings: Surroundings,
    scales: dict[str, Normal],
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What the surface embedding looks at, standardised.

    Returns:
      Temperature of the sea, [2, latitude, longitude]; the lowest layer's air,
      [4, ...]; and the ice cover, [...].
    """
    lowest = {name: fields[name][-1] for name in AIR}
    x = standardised(lowest | of_ground(surroundings), scales)
    air = packed({name: x[name] for name in AIR})
    return x["sea_surface_temperature"][0], air, x["sea_ice_cover"][0]


def softly_clipped(x: jax.Array, limit: float = CLIP) -> jax.Array:
    """x where it is small, and never beyond -+ limit, with a smooth passage.

    By softplus from below and from above, scaled so that the bounds are met:
    limit - scale * softplus(2 limit - softplus(x + limit)), written with one
    exponential and one logarithm.
    """
    scale = 2 * limit / jax.nn.softplus(2 * limit)
    # Beyond this it is at its bounds, and exponentials would overflow.
    x = jnp.clip(x, -limit - _AT_BOUND, limit + _AT_BOUND)
    ratio = jnp.exp(2 * limit) / (1 + jnp.exp(x + limit))
    return limit - scale * jnp.log(1 + ratio)
