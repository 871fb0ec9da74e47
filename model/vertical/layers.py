"""Vertical sums and differences on sigma layers that are split over `level`.

Formulas as in `model.vertical.sigma`. Every sum over layers is a running sum within a
device's own layers, to which the planes that the other devices' layers add up to are
exchanged.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from model import partitioning
from model.partitioning import LEVEL
from model.vertical.sigma import SigmaLevels

_TABLES = (
    "thickness",
    "upper_edge",
    "lower_edge",
    "alpha",
    "alpha_above",
    "per_spacing_below",
    "per_spacing_above",
)


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=list(_TABLES), meta_fields=[]
)
@dataclasses.dataclass(frozen=True)
class Layers:
    """Tables of a device's own layers, each [level].

    Attributes:
      thickness: in sigma.
      upper_edge, lower_edge: sigma.
      alpha, alpha_above: half the differences of ln(sigma) between this layer's centre
        and that of the layer below, and above (0 at the top; to the ground, whole).
      per_spacing_below, per_spacing_above: 1 / distance in sigma to the next centre
        below, and above; 0 at the ground and the top, through which nothing flows.
    """

    thickness: jax.Array
    upper_edge: jax.Array
    lower_edge: jax.Array
    alpha: jax.Array
    alpha_above: jax.Array
    per_spacing_below: jax.Array
    per_spacing_above: jax.Array

    @classmethod
    def create(cls, sigma: SigmaLevels, dtype: jnp.dtype) -> "Layers":
        per_spacing = 1 / np.diff(sigma.centers)
        tables = dict(
            thickness=sigma.thickness,
            upper_edge=sigma.boundaries[:-1],
            lower_edge=sigma.boundaries[1:],
            alpha=sigma.alpha,
            alpha_above=np.append(0, sigma.alpha[:-1]),
            per_spacing_below=np.append(per_spacing, 0),
            per_spacing_above=np.append(0, per_spacing),
        )
        return cls(**{name: jnp.asarray(x, dtype) for name, x in tables.items()})

    def layout(self) -> "Layers":
        """Where the tables lie: `PartitionSpec`s in their places."""
        return Layers(**dict.fromkeys(_TABLES, P(LEVEL)))

    def sigma_dot(
        self, x: jax.Array, downward: jax.Array, total: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """sigma-dot at the upper edges of layers, and at the lower ones.

        Args:
          x: (divergence + v . grad ln ps) times thickness, [level, ...].
          downward, total: its `running_sums`.

        Returns:
          Both [level, ...].
        """
        upper = on_layers(self.upper_edge, x) * total - (downward - x)
        lower = on_layers(self.lower_edge, x) * total - downward
        return upper, lower

    def omega(self, x: jax.Array, downward: jax.Array) -> jax.Array:
        """v . grad(ln ps) - omega / p, [level, ...]; arguments as of `sigma_dot`."""
        sums = on_layers(self.alpha / self.thickness, x) * downward
        return sums + on_layers(self.alpha_above / self.thickness, x) * (downward - x)

    def hydrostatic_weight(self, temperature: jax.Array) -> jax.Array:
        """What each layer adds to the geopotential, over R, of those above it."""
        return on_layers(self.alpha + self.alpha_above, temperature) * temperature

    def geopotential(self, temperature: jax.Array, below: jax.Array) -> jax.Array:
        """Geopotential over R above the ground, [level, ...].

        `below` is the sum of `hydrostatic_weight` of all layers below each.
        """
        return on_layers(self.alpha, temperature) * temperature + below

    def advection(
        self, sigma_dot: tuple[jax.Array, jax.Array], fields: Sequence[jax.Array]
    ) -> list[jax.Array]:
        """- sigma-dot dx/d(sigma), centred, of every field [level, ...].

        The planes next to a device's layers come from its neighbours, those of all
        fields together.
        """
        upper, lower = sigma_dot
        upper = upper * on_layers(self.per_spacing_above, upper) / 2
        lower = lower * on_layers(self.per_spacing_below, lower) / 2
        first, last = (jnp.stack([x[i] for x in fields]) for i in (0, -1))
        above = jnp.unstack(partitioning.from_neighbour(last, LEVEL, -1))
        below = jnp.unstack(partitioning.from_neighbour(first, LEVEL, 1))
        # Not one flux that is shifted by a layer: XLA would fuse it into the forces,
        # which then take three times as long on a CPU.
        results = []
        for x, plane_above, plane_below in zip(fields, above, below, strict=True):
            x_above = jnp.concatenate([plane_above[None], x[:-1]])
            x_below = jnp.concatenate([x[1:], plane_below[None]])
            results.append(upper * (x_above - x) + lower * (x - x_below))
        return results


def on_layers(table: jax.Array, x: jax.Array) -> jax.Array:
    """A table [level] shaped to multiply x [level, ...]."""
    return table.reshape(-1, *[1] * (x.ndim - 1))


def sum_layers(x: jax.Array) -> jax.Array:
    """Sum over a device's own layers: [level, ...] -> [...]."""
    ones = jnp.ones(x.shape[0], x.dtype)
    return jnp.einsum("k,k...->...", ones, x, precision="highest")


def sums_below(x: jax.Array) -> jax.Array:
    """Sums of a device's own layers below each: [level, ...] -> [level, ...]."""
    return _times(np.triu(np.ones((x.shape[0],) * 2), 1), x)


def _sums_down_to(x: jax.Array) -> jax.Array:
    """Sums of a device's own layers down to each, that one included."""
    return _times(np.tril(np.ones((x.shape[0],) * 2)), x)


def _times(matrix: np.ndarray, x: jax.Array) -> jax.Array:
    matrix = jnp.asarray(matrix, x.dtype)
    return jnp.einsum("kj,j...->k...", matrix, x, precision="highest")


class PlaneSums(NamedTuple):
    """What planes [...] add up to: one of each device, the sum over its own layers.

    Attributes:
      above, below: on the devices with the layers above this one's, and below.
      total: on all, the same number everywhere, to the last bit.
    """

    above: jax.Array
    below: jax.Array
    total: jax.Array


def running_sums(
    downward: Sequence[jax.Array], upward: Sequence[jax.Array], plane: jax.Array
) -> tuple[list[tuple[jax.Array, jax.Array]], list[jax.Array], PlaneSums]:
    """Sums over the layers of all devices, with one exchange of planes.

    Args:
      downward: fields [level, ...] to be summed from the top.
      upward: fields [level, ...] to be summed from the ground.
      plane: a sum over own layers, [...].

    Returns:
      For each of `downward` the sums of all layers down to each, that one included
      [level, ...], and the total [...]; for each of `upward` the sums of all layers
      below each, [level, ...]; and the sums of the plane.
    """
    down = [_sums_down_to(x) for x in downward]
    up = [sums_below(x) for x in upward]
    planes = [x[-1] for x in down]
    planes += [sums[0] + x[0] for sums, x in zip(up, upward, strict=True)]
    *sums, of_plane = sums_of_all([*planes, plane])
    if partitioning.size(LEVEL) > 1:
        down = [x + of.above for x, of in zip(down, sums, strict=False)]
        up = [x + of.below for x, of in zip(up, sums[len(down) :], strict=True)]
    totals = [of.total for of in sums[: len(down)]]
    return list(zip(down, totals, strict=True)), up, of_plane


def sums_of_all(planes: Sequence[jax.Array]) -> list[PlaneSums]:
    """Sums of planes [...] over the devices along `level`, with one exchange."""
    if partitioning.size(LEVEL) == 1:
        return [PlaneSums(jnp.zeros_like(x), jnp.zeros_like(x), x) for x in planes]
    everyone = partitioning.all_gather(jnp.stack(planes)[None], LEVEL, dimension=0)
    place = jnp.arange(len(everyone)) - partitioning.index(LEVEL)
    sides = jnp.stack([place < 0, place > 0, place == place]).astype(everyone.dtype)
    sums = jnp.einsum("sn,np...->ps...", sides, everyone, precision="highest")
    return [PlaneSums(*jnp.unstack(x)) for x in jnp.unstack(sums)]


def all_layers(x: jax.Array, plane: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The layers of all devices, and a plane of each, with one exchange.

    Args:
      x: own layers, [level, ...].
      plane: something of them, [...].

    Returns:
      [all levels, ...], and for each device the sum of the planes of those that hold
      the layers below its own, [devices, ...].
    """
    if partitioning.size(LEVEL) == 1:
        return x, jnp.zeros_like(plane)[None]
    both = jnp.concatenate([x, plane[None]])[None]
    everyone = partitioning.all_gather(both, LEVEL, dimension=0)
    return everyone[:, :-1].reshape(-1, *x.shape[1:]), sums_below(everyone[:, -1])
