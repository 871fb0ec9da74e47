"""Sums over a quarter circle of one hemisphere, which eight places share.

For machines that multiply matrices not much faster than they do all else. An eighth of
the products is formed, in an order in which none needs a transposition: about half the
time of fast Fourier transforms, which need fields to be moved.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import PartitionSpec as P

from model import partitioning
from model.apart import apart
from model.partitioning import LAT, LEVEL
from model.precision import Precision, Table, einsum, of_table
from model.sphere.grids import GaussianGrid
from model.sphere.legendre_sums import LegendreSums
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
    ends,
    half_cell,
    legendre_tables,
    middles,
    sec2_latitude,
    turned,
    turned_back,
)

T = TypeVar("T")


# Pairs of m that a band has: at TL127 there are two bands, at TL63 one. More bands have
# less to multiply, but smaller products take as long.
BAND = 32


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["legendre", "fourier", "sec2", "turn"],
    meta_fields=["edges", "precision", "transposes"],
)
@dataclasses.dataclass(frozen=True)
class QuarterCircle:
    """Sums over a quarter circle of one hemisphere, which eight places share.

    P(-mu) = (-1)^(l+m) P(mu), and H the same but for a sign; the longitudes x, -x,
    x + pi and pi - x have the same cosines and sines but for signs.

    Points have the shape [place, longitude, plane, latitude]: places by hemisphere,
    half of the circle, and side of the half. Waves of a band are ordered as
    [2, parity of l, parity of m, m // 2, plane, l // 2 or latitude], so that every sum
    is one product of matrices for each of the leading indices.

    Attributes:
      legendre: sums over l, and over latitudes, of each band.
      fourier: cosines and sines, orthonormal on the circle, [2, parity of l, parity
        of m, longitude, m // 2]; the same for both parities of l.
      sec2: 1 / cos^2(latitude), [latitude].
      turn: of `half_cell`, [2, m, 1].
      edges: the first m of each band, and the number of m; all even.
      precision: of the products.
      transposes: whether fields are exchanged over `lat` between the two sums.
    """

    legendre: Bands[LegendreSums]
    fourier: Table
    sec2: jax.Array
    turn: jax.Array
    edges: tuple[int, ...]
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
    ) -> "QuarterCircle":
        """Tables for spectral arrays of so many m and l, both even numbers."""
        m = np.arange(shape[0])
        quarter = middles(grid)[: grid.longitudes // 4]
        waves = circle_waves(shape[0], quarter).reshape(2, -1, 2, len(quarter))
        waves = waves.transpose(0, 2, 3, 1)
        polynomials = legendre_tables(grid, *shape, top)
        pairs = shape[0] // 2
        # Devices along `lat` have m of their own, each in one band.
        bands = max(1, round(pairs / BAND)) if shards == 1 else 1
        edges = tuple(2 * (i * pairs // bands) for i in range(bands + 1))
        legendre = (
            LegendreSums.of_band(grid, m[band.m], polynomials[:, *band], precision)
            for band in Band.of_edges(edges)
        )
        tables = dict(
            legendre=tuple(legendre),
            fourier=Table.of(np.stack([waves, waves], axis=1)),
            sec2=sec2_latitude(grid),
            turn=half_cell(len(m), grid),
        )
        tables = jax.tree.map(lambda table: jnp.asarray(table, dtype), tables)
        return cls(**tables, edges=edges, precision=precision, transposes=transposes)

    def layout(self) -> "QuarterCircle":
        """Where the tables lie: `PartitionSpec`s in their places."""
        return dataclasses.replace(
            self,
            legendre=tuple(x.layout(self.transposes) for x in self.legendre),
            fourier=Table(P(), P()),
            sec2=P(LAT),
            turn=P(None, LAT) if self.transposes else P(),
        )

    fuses = False  # kernels are those of TPUs

    # ---- order

    @property
    def bands(self) -> Bands[Band]:
        """Of all m; a device that has fewer has one band."""
        return Band.of_edges(self.edges)

    def ordered(self, modal: jax.Array) -> Bands[jax.Array]:
        """[plane, 2, m, l] -> [2, parity, parity of m, m // 2, plane, l // 2]."""
        modal = turned(modal, self.turn)

        def of_band(band: Band) -> jax.Array:
            x = modal[:, :, *band]
            planes, _, m, l = x.shape  # noqa: E741
            x = x.reshape(planes, 2, m // 2, 2, l // 2, 2)
            return _transposed(x, (1, 5, 3, 2, 0, 4))

        return tuple(map(of_band, self.bands))

    def restored(self, waves: Bands[jax.Array]) -> jax.Array:
        """The inverse of `ordered`."""
        l = 2 * waves[0].shape[-1]  # noqa: E741

        def of_band(x: jax.Array) -> jax.Array:
            x = _transposed(x, (4, 0, 3, 2, 5, 1))
            x = x.reshape(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[4])
            return jnp.pad(x, [(0, 0), (0, 0), (0, 0), (l - x.shape[-1], 0)])

        modal = jnp.concatenate([of_band(x) for x in waves], axis=2)
        return turned_back(modal, self.turn)

    @staticmethod
    def of_total(table: np.ndarray) -> np.ndarray:
        """A table [l], even many, shaped to multiply ordered waves."""
        return table.reshape(-1, 2).T[:, None, None, None]

    @staticmethod
    def of_zonal(table: jax.Array) -> jax.Array:
        """A table [m], even many, shaped to multiply one part of ordered waves."""
        return table.reshape(-1, 2).T[..., None, None]

    @staticmethod
    def of_waves(table: jax.Array) -> jax.Array:
        """A table [m, l], even many, shaped to multiply one part of ordered waves."""
        m, l = table.shape  # noqa: E741
        return table.reshape(m // 2, 2, l // 2, 2).transpose(3, 1, 0, 2)[..., None, :]

    @staticmethod
    def neighbours(waves: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Waves of l - 1, and of l + 1, in the place of each l; or zero."""
        even, odd = jnp.unstack(waves, axis=1)
        none = jnp.zeros_like(even[..., :1])
        before_even = jnp.concatenate([none, odd[..., :-1]], axis=-1)
        after_odd = jnp.concatenate([even[..., 1:], none], axis=-1)
        return (
            jnp.stack([before_even, even], axis=1),
            jnp.stack([odd, after_odd], axis=1),
        )

    # ---- transforms

    def to_nodal(self, fields: Bands[list[Waves]]) -> Fields:
        """Each, of ordered waves, -> [plane, 2, latitude, longitude], own latitudes."""
        return [self._joined(x) for x in self.to_points(fields)]

    def from_nodal(self, fluxes: list[Flux | Curl]) -> Bands[Fields]:
        """Each, of arrays [plane, 2, latitude, longitude], -> ordered waves."""
        return self.from_points(jax.tree.map(self._split, fluxes))

    def to_points(self, fields: Bands[list[Waves]]) -> Fields:
        """Each, of ordered waves, -> [place, longitude, plane, latitude].

        One by one, as caches want it, but for one exchange of all.
        """
        waves = [
            [sums.over_l(x) for sums, x in zip(self.legendre, field, strict=True)]
            for field in zip(*fields, strict=True)
        ]
        waves = self._exchanged(waves, to_latitudes=True)
        return [self._over_m(x) for x in waves]

    def from_points(self, fluxes: list[Flux | Curl]) -> Bands[Fields]:
        """Each, of arrays [place, longitude, plane, latitude], -> ordered waves."""
        leaves, structure = jax.tree.flatten(fluxes)
        of_bands = zip(*map(self._over_longitudes, leaves), strict=True)
        waves = [
            [
                by_parts(flux, lambda x, sums=sums: self.sec2 * sums.d_dlon(x))
                for flux in structure.unflatten(own)
            ]
            for sums, own in zip(self.legendre, of_bands, strict=True)
        ]
        waves = self._exchanged(waves, to_latitudes=False)
        return tuple(
            [sums.over_latitudes(x) for x in own]
            for sums, own in zip(self.legendre, waves, strict=True)
        )

    def point_tables(self, matrices: Matrices, vectors: Matrices) -> PointTables:
        """Matrices [k, plane] and others for `at_points`.

        Every place and longitude has a copy of its own: with one for all, fields would
        be moved before and after each product.
        """
        places = (8, self.fourier.matrix.shape[-2])
        repeated = {name: _repeated(x, places) for name, x in matrices.items()}
        return PointTables(repeated, vectors)

    def at_points(
        self,
        function: Callable[[jax.Array, PointTables, Fields], list[Flux | Curl]],
        sin_latitude: jax.Array,
        tables: PointTables,
        fields: Fields,
    ) -> list[Flux | Curl]:
        """A function of sin(latitude), tables and fields [plane, latitude]."""
        of_places = jnp.repeat(sin_latitude[..., 0], 4, axis=0)
        matrices = PointTables(matrices=0, vectors=None)
        for_longitudes = jax.vmap(function, in_axes=(None, matrices, 0))
        for_places = jax.vmap(for_longitudes, in_axes=(0, matrices, 0))
        # Devices along `level` exchange planes within the function.
        if partitioning.platform() != "cpu" or partitioning.size(LEVEL) > 1:
            return for_places(of_places, tables, fields)
        return apart(
            lambda known, fields: for_places(*known, fields),
            (of_places, tables),
            fields,
        )

    def wave_tables(self, matrices: Matrices, m: int) -> Tables:
        """Matrices [k, plane] for `over_planes` of waves of so many m."""
        shape = (2, 2, 2, m // 2)
        return {name: _repeated(x, shape) for name, x in matrices.items()}

    def over_planes(self, table: Table, waves: jax.Array) -> jax.Array:
        """A matrix [k, plane] times ordered waves."""
        return of_table(table, waves)

    def _joined(self, points: jax.Array) -> jax.Array:
        places = points.reshape(2, 4, *points.shape[1:])
        first, last, third, second = jnp.unstack(places, axis=1)
        circle = [first, second[:, ::-1], third, last[:, ::-1]]
        return _transposed(jnp.concatenate(circle, axis=1), (2, 0, 3, 1))

    def _split(self, nodal: jax.Array) -> jax.Array:
        circle = _transposed(nodal, (1, 3, 0, 2))
        first, second, third, last = jnp.split(circle, 4, axis=1)
        places = jnp.stack([first, last[:, ::-1], third, second[:, ::-1]], axis=1)
        return places.reshape(8, *places.shape[2:])

    def _over_m(self, waves: list[jax.Array]) -> jax.Array:
        """Of all bands -> [place, longitude, plane, latitude]."""
        sums = _to_longitudes(self.fourier, waves, self._pairs, self.precision)
        return _signed(_SIGNS, sums.reshape(8, *sums.shape[3:]))

    def _over_longitudes(self, points: jax.Array) -> list[jax.Array]:
        """-> of all bands [2, parity, parity of m, m // 2, plane, latitude]."""
        sums = _signed(_SIGNS.T, points).reshape(2, 2, 2, *points.shape[1:])
        return _from_longitudes(self.fourier, sums, self._pairs, self.precision)

    @property
    def _pairs(self) -> tuple[int, ...]:
        """Of m, of each band."""
        return tuple(np.diff(self.edges) // 2)

    def _exchanged(self, waves: T, to_latitudes: bool) -> T:
        """Own m of all latitudes <-> all m of own latitudes, of the one band."""
        if not self.transposes:
            return waves
        split, join = (-1, 3) if to_latitudes else (3, -1)
        leaves, structure = jax.tree.flatten(waves)
        together = jnp.concatenate(leaves, axis=4)
        exchanged = partitioning.all_to_all(together, LAT, split=split, join=join)
        return structure.unflatten(jnp.split(exchanged, ends(leaves, axis=4), axis=4))


# ---- sums over m and over longitudes, of which each is the other's gradient


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _to_longitudes(
    fourier: Table,
    waves: list[jax.Array],
    pairs: tuple[int, ...],
    precision: Precision,
) -> jax.Array:
    """[2, parity, parity, m // 2, ..] of all bands -> [.., longitude, ..].

    `pairs` of m has each band. The waves alone have a gradient.
    """
    return _times(fourier.matrix, jnp.concatenate(waves, axis=3), precision)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _from_longitudes(
    fourier: Table, sums: jax.Array, pairs: tuple[int, ...], precision: Precision
) -> list[jax.Array]:
    """[2, parity, parity, longitude, ..] -> [.., m // 2, ..] of all bands."""
    tables = jnp.split(fourier.transpose, np.cumsum(pairs)[:-1], axis=3)
    return [_times(table, sums, precision) for table in tables]


_to_longitudes.defvjp(
    lambda fourier, x, *sizes: (_to_longitudes(fourier, x, *sizes), fourier),
    lambda *given: (None, _from_longitudes(*given[2:], *given[:2])),
)
_from_longitudes.defvjp(
    lambda fourier, x, *sizes: (_from_longitudes(fourier, x, *sizes), fourier),
    lambda *given: (None, _to_longitudes(*given[2:], *given[:2])),
)


def _times(table: jax.Array, x: jax.Array, precision: Precision) -> jax.Array:
    return einsum("cpayz,cpazxj->cpayxj", table, x, precision)


@functools.partial(jax.jit, static_argnums=1)  # else it would bind x to a device
def _transposed(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """`x.transpose(axes)` in a loop of its own, and so in the backward pass.

    In one with anything else XLA moves every number by itself on a CPU, which takes
    five times as long. It fuses nothing with an array of which it is told how it lies.
    """

    def in_order(x: jax.Array) -> jax.Array:
        return with_layout_constraint(x, Layout(tuple(range(x.ndim))))

    return in_order(in_order(x).transpose(axes))


def _repeated(matrix: jax.Array, shape: tuple[int, ...]) -> Table:
    """A matrix for each of the indices of an array's leading axes."""
    return Table(*(jnp.broadcast_to(x, (*shape, *x.shape)) for x in Table.of(matrix)))


def _signs() -> np.ndarray:
    """Of each sum [2, parity of l, parity of m], at each place, [8, 8].

    Places: south and north, each with the longitudes x, -x, x + pi and pi - x.
    """
    north, half, mirror, sine, l, m = np.indices((2,) * 6)  # noqa: E741
    odd = (1 - north) * (l + m) + half * m + mirror * sine
    return (1.0 - 2.0 * (odd % 2)).reshape(8, 8)


_SIGNS = _signs()


def _signed(signs: np.ndarray, x: jax.Array) -> jax.Array:
    """Sums of the eight arrays of the leading axis, with signs [8, 8]."""
    return of_table(Table.of(jnp.asarray(signs, x.dtype)), x)
