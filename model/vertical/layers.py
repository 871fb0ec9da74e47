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

_OWN = ("thickness", "alpha", "alpha_above")
_MATRICES = ("exchange_above", "exchange_below", "omega")


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=[*_OWN, *_MATRICES], meta_fields=[]
)
@dataclasses.dataclass(frozen=True)
class Layers:
    """Tables of a device's own layers.

    Attributes:
      thickness: in sigma, [level].
      alpha, alpha_above: half the differences of ln(sigma) between this layer's centre
        and that of the layer below, and above (0 at the top; to the ground, whole),
        [level].
      exchange_above, exchange_below: half of sigma-dot at the upper, and lower, edges
        over the distance in sigma to the next centre, made of divergence +
        v . grad(ln ps) of all layers; 0 at the top and the ground, through which
        nothing flows; [level, all levels].
      omega: v . grad(ln ps) - omega / p, made of the same, [level, all levels].
    """

    thickness: jax.Array
    alpha: jax.Array
    alpha_above: jax.Array
    exchange_above: jax.Array
    exchange_below: jax.Array
    omega: jax.Array

    @classmethod
    def create(cls, sigma: SigmaLevels, dtype: jnp.dtype) -> "Layers":
        per_distance = 1 / np.diff(sigma.centers)[:, None]
        exchange = sigma.sigma_dot_matrix[:-1] * per_distance / 2
        nothing = np.zeros((1, sigma.layers))
        tables = dict(
            thickness=sigma.thickness,
            alpha=sigma.alpha,
            alpha_above=np.append(0, sigma.alpha[:-1]),
            exchange_above=np.concatenate([nothing, exchange]),
            exchange_below=np.concatenate([exchange, nothing]),
            omega=sigma.omega_matrix,
        )
        return cls(**{name: jnp.asarray(x, dtype) for name, x in tables.items()})

    def layout(self) -> "Layers":
        """Where the tables lie: `PartitionSpec`s in their places."""
        return Layers(**dict.fromkeys([*_OWN, *_MATRICES], P(LEVEL)))

    @property
    def hydrostatic_weights(self) -> jax.Array:
        """What a layer adds to the geopotential over R of all above, per K, [level]."""
        return self.alpha + self.alpha_above

    @property
    def geopotential_matrix(self) -> jax.Array:
        """Geopotential over R above the ground, of the temperature of own layers.

        [own level, own level]; to be added is what layers below add (of other devices).
        """
        weights = jnp.broadcast_to(self.hydrostatic_weights, (len(self.alpha),) * 2)
        return jnp.triu(weights, 1) + jnp.diag(self.alpha)


def vertical_advection(
    above: jax.Array,
    below: jax.Array,
    fields: Sequence[jax.Array],
    planes_above: Sequence[jax.Array],
    planes_below: Sequence[jax.Array],
) -> list[jax.Array]:
    """- sigma-dot dx/d(sigma), centred, of every field [level, ...].

    Args:
      above, below: what `exchange_above` and `exchange_below` make, [level, ...].
      fields: to be advected.
      planes_above, planes_below: of each the layer next to a device's first and to its
        last one, [1, ...].
    """
    # Not one flux that is shifted by a layer: XLA would fuse it into the forces,
    # which then take three times as long on a CPU.
    results = []
    for x, plane_above, plane_below in zip(
        fields, planes_above, planes_below, strict=True
    ):
        x_above, x_below = _shifted(x, 1), _shifted(x, -1)
        if partitioning.size(LEVEL) > 1:
            x_above += _plane_at(0, plane_above, x)
            x_below += _plane_at(-1, plane_below, x)
        results.append(above * (x_above - x) + below * (x - x_below))
    return results


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _shifted(x: jax.Array, step: int) -> jax.Array:
    """Each layer in the place of the next one below (1) or above (-1), and 0.

    (Padded: slices that are put together a TPU's compiler would write and read once
    more.)
    """
    kept = x[:-1] if step > 0 else x[1:]
    edge = (1, 0, 0) if step > 0 else (0, 1, 0)
    others = [(0, 0, 0)] * (x.ndim - 1)
    return jax.lax.pad(kept, jnp.zeros((), x.dtype), [edge, *others])


def _shifted_forward(x: jax.Array, step: int) -> tuple[jax.Array, None]:
    return _shifted(x, step), None


def _shifted_backward(step: int, _: None, gradient: jax.Array) -> tuple[jax.Array]:
    # JAX's own would pad by less than nothing, which Pallas does not know.
    return (_shifted(gradient, -step),)


_shifted.defvjp(_shifted_forward, _shifted_backward)


def _plane_at(place: int, plane: jax.Array, x: jax.Array) -> jax.Array:
    """A plane as the first (0) or last (-1) layer of zeros like x."""
    zeros = jnp.zeros_like(x[1:])
    return jnp.concatenate([plane, zeros] if place == 0 else [zeros, plane])


def on_layers(table: jax.Array, x: jax.Array) -> jax.Array:
    """A table [level] shaped to multiply x [level, ...]."""
    return table.reshape(-1, *[1] * (x.ndim - 1))


def sum_layers(x: jax.Array) -> jax.Array:
    """Sum over a device's own layers: [level, ...] -> [...]."""
    ones = jnp.ones(x.shape[0], x.dtype)
    return jnp.einsum("k,k...->...", ones, x, precision="highest")


class PlaneSums(NamedTuple):
    """What planes [...] add up to: one of each device, the sum over its own layers.

    Attributes:
      above, below: on the devices with the layers above this one's, and below.
      total: on all, the same number everywhere, to the last bit.
    """

    above: jax.Array
    below: jax.Array
    total: jax.Array


class OwnPlanes(NamedTuple):
    """Of a device's own layers, what others need to know; planes [1, ...].

    Attributes:
      sums: over its layers.
      first, last: layers of fields.
    """

    sums: list[jax.Array]
    first: list[jax.Array]
    last: list[jax.Array]


class OtherLayers(NamedTuple):
    """What a device needs to know of the layers of others; planes [1, ...].

    Attributes:
      sums: those of all devices.
      above, below: layers next to its own, of the device above and of that below.
    """

    sums: list[PlaneSums]
    above: list[jax.Array]
    below: list[jax.Array]


def exchanged(own: OwnPlanes) -> OtherLayers:
    """What devices along `level` tell each other, in three exchanges."""
    if partitioning.size(LEVEL) == 1:
        nothing = [jnp.zeros_like(x) for x in own.sums]
        sums = list(map(PlaneSums, nothing, nothing, own.sums))
        return OtherLayers(sums, own.last, own.first)  # which nobody reads
    first, last = jnp.stack(own.first), jnp.stack(own.last)
    above = jnp.unstack(partitioning.from_neighbour(last, LEVEL, -1))
    below = jnp.unstack(partitioning.from_neighbour(first, LEVEL, 1))
    everyone = partitioning.all_gather(jnp.stack(own.sums)[None], LEVEL, dimension=0)
    place = jnp.arange(len(everyone)) - partitioning.index(LEVEL)
    sides = jnp.stack([place < 0, place > 0, place == place]).astype(everyone.dtype)
    sums = jnp.einsum("sn,np...->ps...", sides, everyone, precision="highest")
    sums = [PlaneSums(*jnp.unstack(x)) for x in jnp.unstack(sums)]
    return OtherLayers(sums, list(above), list(below))
