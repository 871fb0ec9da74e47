"""One atmosphere on many devices: who holds what, and how parts are exchanged.

The model is written for the part of one device, as `jax.shard_map` runs it over the
mesh ('data', 'ensemble', 'level', 'lat'). Along `level` and `lat` a device holds

  spectral fields   [..., level, 2, m, l]               levels / level, m / lat
  in order, a band  [2, ..., m, level, l]               levels / level, m / lat
  in transforms     [..., level, 2, latitude, longitude] levels / level, pairs / lat
  whole columns     [..., level, 2, latitude, longitude] longitudes / level, pairs / lat

with latitudes in mirror pairs (`model.sphere.grids.fold`). Every exchange is one of
the functions below. Outside `shard_map`, and along an axis of one device, they do
nothing, so that the same code is the serial model.

Surface fields in spectral space or in transforms are held, equal, by every device
along `level`.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

T = TypeVar("T")

AXES = ("data", "ensemble", "level", "lat")
SAMPLES = ("data", "ensemble")  # axes over which the samples of a batch are spread
ENSEMBLE, LEVEL, LAT = "ensemble", "level", "lat"

# Layouts of tables and fields over the whole mesh.
MODAL_LEVELS = P(LEVEL, None, LAT)  # [level, 2, m, l]
MODAL_SURFACE = P(None, LAT)  # [2, m, l]
COLUMN_SURFACE = P(None, LAT, LEVEL)  # [2, latitude, longitude]


def platform() -> str:
    """Of the devices that the program is made for: the mesh's, or JAX's own."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def size(axis: str) -> int:
    """Number of devices along `axis` that share what is being computed."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.shape[axis] if axis in mesh.manual_axes else 1


def index(axis: str) -> jax.Array | int:
    """This device's place along `axis`."""
    return jax.lax.axis_index(axis) if size(axis) > 1 else 0


def varying(tree: T) -> T:
    """Arrays that are equal everywhere, as this device's own copies of them.

    Gradients with respect to the copies are this device's part of the whole gradient.
    """
    axes = tuple(jax.sharding.get_abstract_mesh().manual_axes)

    def copy(x: jax.Array) -> jax.Array:
        missing = tuple(a for a in axes if a not in jax.typeof(x).mat.varying)
        return jax.lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(copy, tree)


# ---- exchanges


def all_gather(x: jax.Array, axis: str, dimension: int) -> jax.Array:
    """Everybody's parts, one after another along `dimension`."""
    if size(axis) == 1:
        return x
    return jax.lax.all_gather(x, axis, axis=dimension % x.ndim, tiled=True)


def reduce_scatter(x: jax.Array, axis: str, dimension: int) -> jax.Array:
    """This device's part, along `dimension`, of the sum of everybody's arrays."""
    if size(axis) == 1:
        return x
    return jax.lax.psum_scatter(
        x, axis, scatter_dimension=dimension % x.ndim, tiled=True
    )


def sum_over(x: jax.Array, axis: str) -> jax.Array:
    """The sum of everybody's arrays."""
    return jax.lax.psum(x, axis) if size(axis) > 1 else x


def all_to_all(x: jax.Array, axis: str, split: int, join: int) -> jax.Array:
    """Splits dimension `split` over the devices, and joins their `join`."""
    if size(axis) == 1:
        return x
    return jax.lax.all_to_all(x, axis, split % x.ndim, join % x.ndim, tiled=True)


def from_neighbour(x: jax.Array, axis: str, step: int) -> jax.Array:
    """The array of the device `step` places further along `axis`; beyond it zeros."""
    n = size(axis)
    if n == 1:
        return jnp.zeros_like(x)
    pairs = [(i + step, i) for i in range(n) if 0 <= i + step < n]
    return jax.lax.ppermute(x, axis, pairs)


def after(x: jax.Array, y: jax.Array) -> jax.Array:
    """`x`, for what must not be computed before `y` is; nor gradients the other way.

    Devices of a CPU find each other by the order of their exchanges. XLA lets those in
    a loop overtake others that do not depend on the loop, and then mixes them up
    (RendezvousKey of jaxlib 0.10). So there must be a dependence, if one of nothing but
    zeros (and of what is not finite).
    """
    return x if platform() != "cpu" else x + 0 * jnp.sum(y)


def in_one(exchange: Callable[[jax.Array], jax.Array], tree: T) -> T:
    """Exchanges all spectral arrays of a tree, [level, 2, m, l] or [2, m, l], at once.

    `exchange` may change the length of m only.
    """
    leaves, structure = jax.tree.flatten(tree)
    if not leaves:
        return tree
    planes = [x.reshape(-1, *x.shape[-3:]) for x in leaves]
    joined = split_planes(exchange(jnp.concatenate(planes)), planes)
    return structure.unflatten(
        y.reshape(*x.shape[:-3], *y.shape[1:])
        for x, y in zip(leaves, joined, strict=True)
    )


def split_planes(joined: jax.Array, like: list[jax.Array]) -> list[jax.Array]:
    """Takes apart what was concatenated from arrays as long as those of `like`."""
    return jnp.split(joined, np.cumsum([x.shape[0] for x in like])[:-1])


# ---- from levels to whole columns, and back


def columns_from_levels(x: jax.Array) -> jax.Array:
    """[..., own level, 2, lat, longitude] -> [..., level, 2, lat, own longitude]."""
    return all_to_all(x, LEVEL, split=-1, join=-4)


def levels_from_columns(x: jax.Array) -> jax.Array:
    """[..., level, 2, lat, own longitude] -> [..., own level, 2, lat, longitude]."""
    return all_to_all(x, LEVEL, split=-4, join=-1)


def own_longitudes(x: jax.Array) -> jax.Array:
    """A surface field's part among whole columns; [..., longitude]."""
    n = size(LEVEL)
    if n == 1:
        return x
    width = x.shape[-1] // n
    return jax.lax.dynamic_slice_in_dim(x, index(LEVEL) * width, width, axis=-1)


def own_columns(x: jax.Array) -> jax.Array:
    """A field's part among whole columns; [..., 2, latitude, longitude]."""
    pairs = x.shape[-2] // size(LAT)
    start = index(LAT) * pairs
    return own_longitudes(jax.lax.dynamic_slice_in_dim(x, start, pairs, axis=-2))


def all_longitudes(x: jax.Array) -> jax.Array:
    """The inverse of `own_longitudes`."""
    return all_gather(x, LEVEL, dimension=-1)
