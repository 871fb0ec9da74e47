"""Between pressure levels and the model's layers, by interpolation alone.

What encoder and decoder do before the networks correct it; of whole columns, in model
units. After Kochkov et al. (2024), Supplement D.
"""

import functools

import jax
import jax.numpy as jnp

from model import units
from model.dynamics.primitive_equations import HUMIDITY
from model.physics.columns import Columns
from model.spec import TRACERS, ModelSpec
from model.vertical import interpolation
from model.vertical.surface import on_levels

_ON_LAYERS = (
    "u_component_of_wind",
    "v_component_of_wind",
    "temperature",
    *TRACERS,
)


def to_layers(
    frame: dict[str, jax.Array], surface_geopotential: jax.Array, spec: ModelSpec
) -> tuple[dict[str, jax.Array], jax.Array]:
    """Pressure levels -> layers.

    Args:
      frame: fields by ERA5 name, [level, 2, latitude, longitude].
      surface_geopotential: [2, latitude, longitude].
      spec: of the model.

    Returns:
      Winds, temperature and tracers by ERA5 name, [layer, 2, latitude, longitude]; and
      ln(ps), [2, latitude, longitude].
    """
    dtype = surface_geopotential.dtype
    levels = jnp.asarray(spec.levels, dtype) / 1000
    surface_pressure = interpolation.surface_pressure(
        frame["geopotential"], levels, surface_geopotential
    )
    fields = interpolation.pressure_to_sigma(
        jnp.stack([frame[name] for name in _ON_LAYERS]),
        levels,
        jnp.asarray(spec.sigma.centers, dtype),
        surface_pressure,
    )
    return dict(zip(_ON_LAYERS, fields, strict=True)), jnp.log(surface_pressure)


def to_levels(
    columns: Columns, surface_geopotential: jax.Array, spec: ModelSpec
) -> dict[str, jax.Array]:
    """Layers -> pressure levels, with the hydrostatic geopotential.

    Args:
      columns: of the model's atmosphere.
      surface_geopotential: [2, latitude, longitude].
      spec: of the model.

    Returns:
      `LEVEL_VARIABLES`, [level, 2, latitude, longitude]. Below the ground and above the
      top layer winds and tracers go on unchanged, temperature and geopotential
      linearly.
    """
    dtype = surface_geopotential.dtype
    levels = jnp.asarray(spec.levels, dtype) / 1000
    sigma = jnp.asarray(spec.sigma.centers, dtype)
    surface_pressure = jnp.exp(columns.log_surface_pressure)
    to_pressure = functools.partial(
        interpolation.sigma_to_pressure,
        sigma=sigma,
        levels=levels,
        surface_pressure=surface_pressure,
    )
    u, v, *tracers = jnp.unstack(
        to_pressure(jnp.stack([columns.u, columns.v, *columns.tracers.values()]))
    )
    virtual = 1 + (units.VAPOUR_GAS_RATIO - 1) * columns.tracers[HUMIDITY]
    matrix = units.GAS_CONSTANT * spec.sigma.geopotential_matrix
    geopotential = surface_geopotential + jnp.tensordot(
        jnp.asarray(matrix, dtype),
        columns.temperature * virtual,
        axes=1,
        precision="highest",
    )
    if spec.geopotential_interpolation == "log_sigma":
        geopotential = interpolation.interpolate(
            geopotential,
            jnp.log(sigma),
            jnp.log(levels)[:, None, None, None]
            - on_levels(columns.log_surface_pressure, len(levels)),
            "linear",
        )
    else:
        geopotential = to_pressure(geopotential, extrapolation="linear")
    return {
        "geopotential": geopotential,
        "temperature": to_pressure(columns.temperature, extrapolation="linear"),
        "u_component_of_wind": u,
        "v_component_of_wind": v,
        **dict(zip(columns.tracers, tracers, strict=True)),
    }
