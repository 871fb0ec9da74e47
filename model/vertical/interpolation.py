"""Interpolation in the vertical between pressure levels and sigma layers.

There are no gathers: a value is the sum of those at all nodes, each with a weight that
is a hat function of the target's position. Loops over levels are scans, so that
programs stay small: a column's sums, written out, would be most of a training step.
Everything is differentiable. Index 0 is the top.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from model import partitioning
from model.vertical.layers import on_layers
from model.vertical.surface import on_levels

Extrapolation = Literal["constant", "linear"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Hats:
    """Weights of nodes: each rises to 1 at its node, and falls to 0 at the next.

    All [n, 1, ...], to go with positions [*points].

    Attributes:
      node: from here on a weight falls.
      below, above: nodes on either side.
      rise, fall: 1 / distance to them; 0 where there is none.
      least_rising, least_falling: smallest weights on either side; -infinity where a
        ramp goes on beyond the last node.
    """

    node: jax.Array
    below: jax.Array
    above: jax.Array
    rise: jax.Array
    fall: jax.Array
    least_rising: jax.Array
    least_falling: jax.Array

    @classmethod
    def create(
        cls, nodes: jax.Array, extrapolation: Extrapolation, ndim: int
    ) -> "_Hats":
        """For ascending `nodes` [n], and positions of `ndim` dimensions."""
        per_gap = 1 / jnp.diff(nodes)
        least = jnp.zeros_like(nodes)
        if extrapolation == "constant":  # the end nodes' weights stay 1
            node = nodes
            least_rising, least_falling = least.at[0].set(1), least.at[-1].set(1)
        else:  # the ramps of the end segments go on
            node = nodes.at[0].set(-jnp.inf).at[-1].set(jnp.inf)
            least_rising = least.at[1].set(-jnp.inf)
            least_falling = least.at[-2].set(-jnp.inf)
        hats = cls(
            node=node,
            below=jnp.concatenate([nodes[:1], nodes[:-1]]),
            above=jnp.concatenate([nodes[1:], nodes[-1:]]),
            rise=jnp.pad(per_gap, (1, 0)),
            fall=jnp.pad(per_gap, (0, 1)),
            least_rising=least_rising,
            least_falling=least_falling,
        )
        return jax.tree.map(lambda x: x.reshape(-1, *[1] * ndim), hats)

    def weight(self, position: jax.Array) -> jax.Array:
        rising = jnp.maximum((position - self.below) * self.rise, self.least_rising)
        falling = jnp.maximum((self.above - position) * self.fall, self.least_falling)
        return jnp.where(position < self.node, rising, falling)

    def slope(self, position: jax.Array) -> jax.Array:
        """Derivative of `weight`; at a node, that towards greater positions."""
        rises = (position - self.below) * self.rise >= self.least_rising
        falls = (self.above - position) * self.fall > self.least_falling
        return jnp.where(
            position < self.node,
            jnp.where(rises, self.rise, 0),
            jnp.where(falls, -self.fall, 0),
        )


@jax.custom_vjp
def _interpolate(values: jax.Array, hats: _Hats, targets: jax.Array) -> jax.Array:
    """[field, n, *points], of n nodes, [k, *points] -> [field, k, *points]."""
    return _sum_over_nodes(values, hats, targets, _Hats.weight)


def _sum_over_nodes(values, hats, targets, factor):
    """Sum over n of factor(hats[n], targets) * values[:, n]."""

    def add(total, node):
        hat, value = node
        return total + factor(hat, targets) * value[:, None], None

    nodes = hats, jnp.moveaxis(values, 1, 0)
    return jax.lax.scan(add, _zeros(len(values), targets), nodes)[0]


def _forward(values: jax.Array, hats: _Hats, targets: jax.Array):
    return _interpolate(values, hats, targets), (values, hats, targets)


def _backward(saved: tuple[jax.Array, _Hats, jax.Array], gradient: jax.Array):
    values, hats, targets = saved

    def add(total, target):
        position, row = target
        return total + hats.weight(position) * row[:, None], None

    rows = targets, jnp.moveaxis(gradient, 1, 0)
    for_values = jax.lax.scan(add, _zeros(len(values), values[0]), rows)[0]
    slopes = _sum_over_nodes(values, hats, targets, _Hats.slope)
    # Written out, for XLA's sum over a leading axis is many times slower on CPUs.
    for_targets = sum(jnp.unstack(slopes * gradient))
    return for_values, jax.tree.map(jnp.zeros_like, hats), for_targets


_interpolate.defvjp(_forward, _backward)


def _zeros(count: int, like: jax.Array) -> jax.Array:
    return partitioning.varying(jnp.zeros((count, *like.shape), like.dtype))


def interpolate(
    values: jax.Array,
    nodes: jax.Array,
    targets: jax.Array,
    extrapolation: Extrapolation = "constant",
) -> jax.Array:
    """Piecewise linear interpolation of columns at positions that vary in space.

    Args:
      values: [..., n, *points], at `nodes`.
      nodes: strictly ascending positions [n], constants: they have no gradient.
      targets: positions [k, *points], in the units of `nodes`.
      extrapolation: beyond the first and last node.

    Returns:
      [..., k, *points].
    """
    column = values.shape[-targets.ndim :]
    hats = _Hats.create(nodes, extrapolation, targets.ndim - 1)
    fields = _interpolate(values.reshape(-1, *column), hats, targets)
    return fields.reshape(*values.shape[: -targets.ndim], *targets.shape)


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
    above, below = geopotential[:-1], geopotential[1:]
    fractions = (above - on_levels(surface_geopotential, len(above))) / (above - below)
    # How far the surface has passed through each segment; the ends have none.
    least = jnp.zeros(len(above), above.dtype).at[0].set(-jnp.inf)
    most = jnp.ones(len(above), above.dtype).at[-1].set(jnp.inf)
    fractions = jnp.clip(fractions, on_layers(least, above), on_layers(most, above))
    thickness = jnp.diff(levels)
    return levels[0] + jnp.tensordot(thickness, fractions, 1, precision="highest")


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
