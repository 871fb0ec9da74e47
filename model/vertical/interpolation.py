"""Interpolation in the vertical between pressure levels and sigma layers.

Every lookup is a sum of weights that are clipped ramps, so there are no gathers, and
everything is differentiable. Index 0 is the top.
"""

import itertools
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp

from model.vertical.layers import on_layers
from model.vertical.surface import on_levels

Extrapolation = Literal["constant", "linear"]


def _segment_fractions(
    target: jax.Array, nodes: Sequence[jax.Array], extrapolation: Extrapolation
) -> list[jax.Array]:
    """How far `target` has passed through each segment between ascending `nodes`.

    0 before a segment, 1 behind it; beyond the end nodes constant or continued
    linearly. One array for each segment, of the common shape of target and nodes.
    """
    last = len(nodes) - 2
    fractions = []
    for i in range(last + 1):
        fraction = (target - nodes[i]) / (nodes[i + 1] - nodes[i])
        if i > 0 or extrapolation == "constant":
            fraction = jnp.maximum(fraction, 0)
        if i < last or extrapolation == "constant":
            fraction = jnp.minimum(fraction, 1)
        fractions.append(fraction)
    return fractions


@jax.custom_vjp
def _contract(weights: tuple[jax.Array, ...], values: jax.Array) -> jax.Array:
    """Sum over n of weights[n] [k, ...] * values [..., n, ...] at every point.

    Matrices of one column are far too small for matrix products: sums over levels are
    written out, which compilers fuse and vectorise over points, forward and backward.
    """
    axis = -weights[0].ndim
    fields = jnp.unstack(values, axis=axis)
    return sum(
        w * jnp.expand_dims(x, axis) for w, x in zip(weights, fields, strict=True)
    )


def _contract_forward(weights: tuple[jax.Array, ...], values: jax.Array):
    return _contract(weights, values), (weights, values)


def _contract_backward(
    saved: tuple[tuple[jax.Array, ...], jax.Array], gradient: jax.Array
):
    weights, values = saved
    axis = -weights[0].ndim
    by_target = jnp.unstack(gradient, axis=axis)
    for_values = [
        sum(row * g for row, g in zip(jnp.unstack(w), by_target, strict=True))
        for w in weights
    ]
    fields = gradient.reshape(-1, *gradient.shape[axis:])
    sources = values.reshape(-1, *values.shape[axis:])
    for_weights = tuple(
        sum(g * x[n] for g, x in zip(fields, sources, strict=True))
        for n in range(len(weights))
    )
    return for_weights, jnp.stack(for_values, axis=axis)


_contract.defvjp(_contract_forward, _contract_backward)


def interpolate(
    values: jax.Array,
    nodes: jax.Array,
    targets: jax.Array,
    extrapolation: Extrapolation = "constant",
) -> jax.Array:
    """Piecewise linear interpolation of columns at positions that vary in space.

    Args:
      values: [..., n, *points], at `nodes`.
      nodes: strictly ascending positions [n].
      targets: positions [k, *points], in the units of `nodes`.
      extrapolation: beyond the first and last node.

    Returns:
      [..., k, *points].
    """
    fractions = _segment_fractions(targets, list(nodes), extrapolation)
    # A node's weight: segments passed before it minus segments passed after it.
    passed = [jnp.ones_like(targets), *fractions, jnp.zeros_like(targets)]
    weights = [before - after for before, after in itertools.pairwise(passed)]
    return _contract(tuple(weights), values)


def surface_pressure(
    geopotential: jax.Array, levels: jax.Array, surface_geopotential: jax.Array
) -> jax.Array:
    """Pressure at which the geopotential is that of the surface.

    Args:
      geopotential: [level, *points], decreasing with pressure.
      levels: pressures [level], ascending.
      surface_geopotential: [*points], in the units of `geopotential`.

    Returns:
      Surface pressure [*points] in the units of `levels`, by linear interpolation
      in pressure, continued linearly beyond the lowest level.
    """
    fractions = _segment_fractions(-surface_geopotential, list(-geopotential), "linear")
    pressure = levels[0]
    for i, fraction in enumerate(fractions):
        pressure += fraction * (levels[i + 1] - levels[i])
    return pressure


def pressure_to_sigma(
    values: jax.Array,
    levels: jax.Array,
    sigma: jax.Array,
    surface_pressure: jax.Array,
    extrapolation: Extrapolation = "constant",
) -> jax.Array:
    """[..., level, *points] on pressure levels -> on sigma layers.

    `levels` [level] and `surface_pressure` [*points] in the same units;
    `sigma` [layer]. Linear in pressure.
    """
    surface_pressure = on_levels(surface_pressure, len(sigma))
    targets = on_layers(sigma, surface_pressure) * surface_pressure
    return interpolate(values, levels, targets, extrapolation)


def sigma_to_pressure(
    values: jax.Array,
    sigma: jax.Array,
    levels: jax.Array,
    surface_pressure: jax.Array,
    extrapolation: Extrapolation = "constant",
) -> jax.Array:
    """[..., layer, *points] on sigma layers -> on pressure levels.

    The inverse of `pressure_to_sigma`. Linear in sigma.
    """
    surface_pressure = on_levels(surface_pressure, len(levels))
    targets = on_layers(levels, surface_pressure) / surface_pressure
    return interpolate(values, sigma, targets, extrapolation)
