"""Interpolation in the vertical between pressure levels and sigma layers.

Every lookup is a sum of weights that are clipped ramps, so there are no gathers, and
everything is differentiable. Index 0 is the top.
"""

from typing import Literal

import jax
import jax.numpy as jnp

Extrapolation = Literal["constant", "linear"]


def _segment_fractions(
    target: jax.Array, nodes: jax.Array, extrapolation: Extrapolation
) -> jax.Array:
    """How far `target` has passed through each segment between ascending `nodes`.

    target [...], nodes [n, ...] (broadcasting) -> [n - 1, ...]: 0 before a segment,
    1 behind it; beyond the end nodes constant or continued linearly.
    """
    fraction = (target - nodes[:-1]) / (nodes[1:] - nodes[:-1])
    count = fraction.shape[0]
    linear = extrapolation == "linear"
    index = jnp.arange(count).reshape((-1,) + (1,) * (fraction.ndim - 1))
    lower = jnp.where((index == 0) & linear, -jnp.inf, 0.0)
    upper = jnp.where((index == count - 1) & linear, jnp.inf, 1.0)
    return jnp.clip(
        fraction, lower.astype(fraction.dtype), upper.astype(fraction.dtype)
    )


def interpolate(
    values: jax.Array,
    nodes: jax.Array,
    targets: jax.Array,
    extrapolation: Extrapolation = "constant",
) -> jax.Array:
    """Piecewise linear interpolation of columns at positions that vary in space.

    Args:
      values: [..., n, latitude, longitude], at `nodes`.
      nodes: strictly ascending positions [n].
      targets: positions [k, latitude, longitude], in the units of `nodes`.
      extrapolation: beyond the first and last node.

    Returns:
      [..., k, latitude, longitude].
    """
    fraction = _segment_fractions(
        targets, nodes.reshape((-1,) + (1,) * targets.ndim), extrapolation
    )
    one, zero = jnp.ones_like(fraction[:1]), jnp.zeros_like(fraction[:1])
    # A node's weight: segments passed before it minus segments passed after it.
    weights = jnp.concatenate([one, fraction]) - jnp.concatenate([fraction, zero])
    return jnp.einsum("nkji,...nji->...kji", weights, values, precision="highest")


def surface_pressure(
    geopotential: jax.Array, levels: jax.Array, surface_geopotential: jax.Array
) -> jax.Array:
    """Pressure at which the geopotential is that of the surface.

    Args:
      geopotential: [level, latitude, longitude], decreasing with pressure.
      levels: pressures [level], ascending.
      surface_geopotential: [latitude, longitude], in the units of `geopotential`.

    Returns:
      Surface pressure [latitude, longitude] in the units of `levels`, by linear
      interpolation in pressure, continued linearly beyond the lowest level.
    """
    fraction = _segment_fractions(-surface_geopotential, -geopotential, "linear")
    thickness = (levels[1:] - levels[:-1])[:, None, None]
    return levels[0] + jnp.sum(fraction * thickness, axis=0)


def pressure_to_sigma(
    values: jax.Array,
    levels: jax.Array,
    sigma: jax.Array,
    surface_pressure: jax.Array,
    extrapolation: Extrapolation = "constant",
) -> jax.Array:
    """[..., level, latitude, longitude] on pressure levels -> on sigma layers.

    `levels` [level] and `surface_pressure` [latitude, longitude] in the same units;
    `sigma` [layer]. Linear in pressure.
    """
    return interpolate(
        values, levels, sigma[:, None, None] * surface_pressure, extrapolation
    )


def sigma_to_pressure(
    values: jax.Array,
    sigma: jax.Array,
    levels: jax.Array,
    surface_pressure: jax.Array,
    extrapolation: Extrapolation = "constant",
) -> jax.Array:
    """[..., layer, latitude, longitude] on sigma layers -> on pressure levels.

    The inverse of `pressure_to_sigma`. Linear in sigma.
    """
    return interpolate(
        values, sigma, levels[:, None, None] / surface_pressure, extrapolation
    )
