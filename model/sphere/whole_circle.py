"""Sums over whole circles of longitude and of latitude at once.

For machines that multiply matrices much faster than they do all else, as TPUs do.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from model import partitioning
from model.partitioning import LAT
from model.precision import Precision, Table, einsum
from model.sphere.grids import GaussianGrid
from model.sphere.waves import (
    Band,
    Bands,
    Curl,
    Fields,
    Flux,
    Matrices,
    PointTables,
    Tables,
    Waves,
    by_parts,
    circle_waves,
    d_dlon,
    ends,
    half_cell,
    legendre_tables,
    middles,
    own_m,
    point_weights,
    sec2_latitude,
    turned,
    turned_back,
)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["values", "slopes", "weights", "sec2", "fourier", "zonal", "turn"],
    meta_fields=["precision", "transposes"],
)
@dataclasses.dataclass(frozen=True)
class WholeCircle:
    """Transforms between spectral arrays and points [plane, latitude, longitude].

    There all latitudes are one axis: of each device along `lat` its southern ones, then
    its northern ones. Waves are ordered as [2, m, plane, l or latitude], so that a
    TPU, which multiplies the last two axes of arrays, has to move nothing.

    Attributes:
      values, slopes: P and H, [m, latitude, l].
      weights: of latitudes, [latitude].
      sec2: 1 / cos^2(latitude), [latitude].
      fourier: cosines and sines [2, m, longitude], orthonormal on the circle.
      zonal: all m, [m, 1, 1].
      turn: of `half_cell`, [2, m, 1].
      precision: of the products.
      transposes: whether fields are exchanged over `lat` between the two sums.
    """

    values: jax.Array
    slopes: jax.Array
    weights: jax.Array
    sec2: jax.Array
    fourier: jax.Array
    zonal: jax.Array
    turn: jax.Array
    precision: Precision
    transposes: bool

    @classmethod
    def create(
        cls,
        grid: GaussianGrid,
        shape: tuple[int, int],
        dtype: jnp.dtype,
        precision: Precision,
        shards: int = 1,
        transposes: bool = False,
        top: bool = False,
    ) -> "WholeCircle":
        """Tables for spectral arrays of so many m and l; the rest as of harmonics."""
        m, l = np.indices(shape)[..., None]  # noqa: E741
        values, slopes = legendre_tables(grid, *shape, top)
        weights, sec2 = point_weights(grid), sec2_latitude(grid)
        mirror = 1 - 2 * ((m + l) % 2)  # P(-mu) / P(mu), and that of H but for a sign

        def latitudes(south: np.ndarray, north: np.ndarray) -> np.ndarray:
            """Of all devices, from [..., latitude] of the hemispheres."""
            both = np.stack([south, north], axis=-2)
            of_devices = both.reshape(*both.shape[:-1], shards, -1).swapaxes(-3, -2)
            return of_devices.reshape(*south.shape[:-1], -1)

        tables = dict(
            values=latitudes(mirror * values, values).swapaxes(1, 2),
            slopes=latitudes(-mirror * slopes, slopes).swapaxes(1, 2),
            weights=latitudes(weights, weights),
            sec2=latitudes(sec2, sec2),
            fourier=circle_waves(shape[0], middles(grid)),
            zonal=np.arange(shape[0])[:, None, None],
            turn=half_cell(shape[0], grid),
        )
        tables = {name: jnp.asarray(table, dtype) for name, table in tables.items()}
        return cls(**tables, precision=precision, transposes=transposes)

    def layout(self) -> "WholeCircle":
        """Where the tables lie: `PartitionSpec`s in their places."""
        split = P(LAT) if self.transposes else P(None, LAT)
        return dataclasses.replace(
            self,
            values=split,
            slopes=split,
            weights=P(LAT),
            sec2=P(LAT),
            fourier=P(),
            zonal=P(),
            turn=P(None, LAT) if self.transposes else P(),
        )

    @property
    def fuses(self) -> bool:
        """Whether products at points are formed by `model.sphere.fused`."""
        return self.precision == "bf16_3x"

    # ---- order

    # Whoever multiplies so fast has all waves in one.
    bands = (Band(slice(None), slice(None)),)

    def ordered(self, modal: jax.Array) -> Bands[jax.Array]:
        """[plane, 2, m, l] -> [2, m, plane, l]."""
        return (turned(modal, self.turn).transpose(1, 2, 0, 3),)

    def restored(self, waves: Bands[jax.Array]) -> jax.Array:
        """The inverse of `ordered`."""
        (waves,) = waves
        return turned_back(waves.transpose(2, 0, 1, 3), self.turn)

    @staticmethod
    def of_total(table: np.ndarray) -> np.ndarray:
        """A table [l], shaped to multiply ordered waves."""
        return table

    @staticmethod
    def of_zonal(table: jax.Array) -> jax.Array:
        """A table [m], shaped to multiply one part of ordered waves."""
        return table[:, None, None]

    @staticmethod
    def of_waves(table: jax.Array) -> jax.Array:
        """A table [m, l], shaped to multiply one part of ordered waves."""
        return table[:, None]

    @staticmethod
    def neighbours(waves: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Waves of l - 1, and of l + 1, in the place of each l; or zero."""
        none = jnp.zeros_like(waves[..., :1])
        return (
            jnp.concatenate([none, waves[..., :-1]], axis=-1),
            jnp.concatenate([waves[..., 1:], none], axis=-1),
        )

    # ---- transforms

    def to_nodal(self, fields: Bands[list[Waves]]) -> Fields:
        """Each, of ordered waves, -> [plane, 2, latitude, longitude], own latitudes."""
        points = self.to_points(fields)
        return [x.reshape(len(x), 2, -1, x.shape[-1]) for x in points]

    def from_nodal(self, fluxes: list[Flux | Curl]) -> Bands[Fields]:
        """Each, of arrays [plane, 2, latitude, longitude], -> ordered waves."""
        return self.from_points(
            jax.tree.map(lambda x: x.reshape(len(x), -1, x.shape[-1]), fluxes)
        )

    def to_points(self, fields: Bands[list[Waves]]) -> Fields:
        """Each, of ordered waves, -> [plane, latitude, longitude], own latitudes.

        Fields of one sort together.
        """
        (fields,) = fields
        points = [None] * len(fields)
        for sort in sorted({_sort(x) for x in fields}):
            places = [i for i, x in enumerate(fields) if _sort(x) == sort]
            group = [fields[i] for i in places]
            fourier = self._synthesised(group)
            nodal = self._einsum("cmi,cmxj->xji", self.fourier, fourier)
            parts = jnp.split(nodal, ends([jax.tree.leaves(x)[0] for x in group], 2))
            for i, part in zip(places, parts, strict=True):
                points[i] = part
        return points

    def from_points(self, fluxes: list[Flux | Curl]) -> Bands[Fields]:
        """Each, of arrays [plane, latitude, longitude], -> ordered waves."""
        leaves, structure = jax.tree.flatten(fluxes)
        # A flux may be that of a divergence and of a curl.
        nodal = list({id(x): x for x in leaves}.values())
        together = self._einsum("cmi,xji->cmxj", self.fourier, jnp.concatenate(nodal))
        together *= self.weights
        parts = jnp.split(together, ends(nodal, axis=0), axis=2)
        of = dict(zip(map(id, nodal), parts, strict=True))
        parts = jax.tree.unflatten(structure, [of[id(x)] for x in leaves])
        waves = [by_parts(x, lambda y: self.sec2 * self._d_dlon(y)) for x in parts]
        modal = [None] * len(waves)
        for sort in sorted({_sort(x) for x in waves}):
            places = [i for i, x in enumerate(waves) if _sort(x) == sort]
            group = [waves[i] for i in places]
            analysed = self._analysed(group)
            planes = ends([jax.tree.leaves(x)[0] for x in group], axis=2)
            split = jnp.split(analysed, planes, axis=2)
            for i, part in zip(places, split, strict=True):
                modal[i] = part
        return (modal,)

    def point_tables(self, matrices: Matrices, vectors: Matrices) -> PointTables:
        """Matrices [k, plane] and others for `at_points`."""
        tables = {name: Table.of(x) for name, x in matrices.items()}
        return PointTables(tables, vectors)

    def at_points(
        self,
        function: Callable[[jax.Array, PointTables, Fields], list[Flux | Curl]],
        sin_latitude: jax.Array,
        tables: PointTables,
        fields: Fields,
    ) -> list[Flux | Curl]:
        """A function of sin(latitude), tables and fields [plane, ...]."""
        return function(sin_latitude.reshape(-1, 1), tables, fields)

    def wave_tables(self, matrices: Matrices, m: int) -> Tables:
        """Matrices [k, plane] for `over_planes` of waves of so many m."""
        return {name: Table.of(x) for name, x in matrices.items()}

    def over_planes(self, table: Table, waves: jax.Array) -> jax.Array:
        """A matrix [k, plane] times ordered waves."""
        # As in other orders, tables have no gradient.
        return einsum("yx,cmxl->cmyl", jax.lax.stop_gradient(table.matrix), waves)

    def _synthesised(self, group: list[Waves]) -> jax.Array:
        """Sums over l of [2, m, plane, l], put together: [2, m, plane, latitude]."""
        fourier = self._legendre("cmxl,cmjl->cmxj", group)
        if self.transposes:
            fourier = self._exchanged(fourier, to_latitudes=True)
        return fourier

    def _analysed(self, group: list[Waves]) -> jax.Array:
        """Sums over latitudes of [2, m, plane, latitude], [2, m, plane, l]."""
        if group[0].slopes is not None:
            group = [x._replace(slopes=x.slopes * self.sec2) for x in group]
        if self.transposes:
            group = jax.tree.map(lambda x: self._exchanged(x, False), group)
        return self._legendre("cmxj,cmjl->cmxl", group)

    def _legendre(self, subscripts: str, group: list[Waves]) -> jax.Array:
        """Products with P and H, added."""
        total = None
        for parts, table, finish in zip(
            zip(*group, strict=True),
            (self.values, self.slopes, self.values),
            (lambda x: x, lambda x: x, self._d_dlon),
            strict=True,
        ):
            if parts[0] is None:
                continue
            table = jnp.broadcast_to(table, (2, *table.shape))
            waves = jnp.concatenate(parts, axis=2)
            product = finish(self._einsum(subscripts, waves, table))
            total = product if total is None else total + product
        return total

    def _d_dlon(self, x: jax.Array) -> jax.Array:
        return d_dlon(x, own_m(self.zonal, x.shape[1], axis=0))

    def _exchanged(self, x: jax.Array, to_latitudes: bool) -> jax.Array:
        """Own m of all latitudes <-> all m of own ones; [2, m, plane, latitude]."""
        split, join = (-1, 1) if to_latitudes else (1, -1)
        return partitioning.all_to_all(x, LAT, split=split, join=join)

    def _einsum(self, subscripts: str, x: jax.Array, y: jax.Array) -> jax.Array:
        return einsum(subscripts, x, y, self.precision)


def _sort(waves: Waves) -> tuple[bool, ...]:
    return tuple(x is not None for x in waves)
