"""Sums over a quarter circle of one hemisphere, which eight places share.

For machines that multiply matrices not much faster than they do all else. An eighth of
the products is formed, in an order in which none needs a transposition: about half the
time of fast Fourier transforms, which need fields to be moved.
"""

import dataclasses
import functools
from collections.abc import Callable

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
from model.sphere.waves import (
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
    own_m,
    point_weights,
    sec2_latitude,
    turned,
    turned_back,
)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["synthesis", "analysis", "fourier", "zonal", "sec2", "turn"],
    meta_fields=["precision", "transposes"],
)
@dataclasses.dataclass(frozen=True)
class QuarterCircle:
    """Sums over a quarter circle of one hemisphere, which eight places share.

    P(-mu) = (-1)^(l+m) P(mu), and H the same but for a sign; the longitudes x, -x,
    x + pi and pi - x have the same cosines and sines but for signs.

    Points have the shape [place, longitude, plane, latitude]: places by hemisphere,
    half of the circle, and side of the half. Waves are ordered as
    [2, parity of l, parity of m, m // 2, plane, l // 2 or latitude], so that every sum
    is one product of matrices for each of the leading indices.

    Attributes:
      synthesis: P and H of the northern hemisphere, each [2, parity of l, parity of m,
        m // 2, l // 2, latitude], the same for cosines and sines.
      analysis: P, and H / cos^2(latitude), times the weights of latitudes, the last two
        axes exchanged. The parity is that of l for P, and the other one for H, so that
        with that of m it tells whether they are even or odd about the equator.
      fourier: cosines and sines, orthonormal on the circle, [2, parity of l, parity
        of m, longitude, m // 2]; the same for both parities of l.
      zonal: all m, and their negative, [2, 1, parity of m, m // 2, 1, 1].
      sec2: 1 / cos^2(latitude), [latitude].
      turn: of `half_cell`, [2, m, 1].
      precision: of the products.
      transposes: whether fields are exchanged over `lat` between the two sums.
    """

    synthesis: Waves
    analysis: Waves
    fourier: Table
    zonal: jax.Array
    sec2: jax.Array
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
    ) -> "QuarterCircle":
        """Tables for spectral arrays of so many m and l, both even numbers."""
        m = np.arange(shape[0])
        quarter = middles(grid)[: grid.longitudes // 4]
        waves = circle_waves(shape[0], quarter).reshape(2, -1, 2, len(quarter))
        waves = waves.transpose(0, 2, 3, 1)
        # [2, m // 2, parity of m, l // 2, parity of l, latitude]
        polynomials = legendre_tables(grid, *shape, top)
        polynomials = polynomials.reshape(
            2, shape[0] // 2, 2, shape[1] // 2, 2, polynomials.shape[-1]
        )
        values, slopes = polynomials.transpose(0, 4, 2, 1, 3, 5)
        weights, sec2 = point_weights(grid), sec2_latitude(grid)
        zonal = m.reshape(-1, 2).T[..., None, None]
        of_both = functools.partial(np.repeat, repeats=2, axis=0)  # cosines, sines
        tables = dict(
            synthesis=Waves(of_both(values[None]), of_both(slopes[None])),
            analysis=Waves(
                of_both((values * weights).swapaxes(-1, -2)[None]),
                of_both((slopes[::-1] * weights * sec2).swapaxes(-1, -2)[None]),
            ),
            fourier=Table.of(np.stack([waves, waves], axis=1)),
            zonal=np.stack([zonal, -zonal])[:, None],
            sec2=sec2,
            turn=half_cell(len(m), grid),
        )
        tables = jax.tree.map(lambda table: jnp.asarray(table, dtype), tables)
        return cls(**tables, precision=precision, transposes=transposes)

    def layout(self) -> "QuarterCircle":
        """Where the tables lie: `PartitionSpec`s in their places."""
        if self.transposes:
            synthesis = analysis = P(None, None, None, LAT)
        else:
            analysis = P(None, None, None, None, LAT)
            synthesis = P(None, None, None, None, None, LAT)
        return dataclasses.replace(
            self,
            synthesis=Waves(synthesis, synthesis),
            analysis=Waves(analysis, analysis),
            fourier=Table(P(), P()),
            zonal=P(),
            sec2=P(LAT),
            turn=P(None, LAT) if self.transposes else P(),
        )

    fuses = False  # kernels are those of TPUs

    # ---- order

    def ordered(self, modal: jax.Array) -> jax.Array:
        """[plane, 2, m, l] -> [2, parity, parity of m, m // 2, plane, l // 2]."""
        planes, _, m, l = modal.shape  # noqa: E741
        waves = turned(modal, self.turn).reshape(planes, 2, m // 2, 2, l // 2, 2)
        return _transposed(waves, (1, 5, 3, 2, 0, 4))

    def restored(self, waves: jax.Array) -> jax.Array:
        """The inverse of `ordered`."""
        *_, m, planes, l = waves.shape  # noqa: E741
        modal = _transposed(waves, (4, 0, 3, 2, 5, 1))
        return turned_back(modal.reshape(planes, 2, 2 * m, 2 * l), self.turn)

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

    def to_nodal(self, fields: list[Waves]) -> Fields:
        """Each, of ordered waves, -> [plane, 2, latitude, longitude], own latitudes."""
        return [self._joined(x) for x in self.to_points(fields)]

    def from_nodal(self, fluxes: list[Flux | Curl]) -> Fields:
        """Each, of arrays [plane, 2, latitude, longitude], -> ordered waves."""
        return self.from_points(jax.tree.map(self._split, fluxes))

    def to_points(self, fields: list[Waves]) -> Fields:
        """Each, of ordered waves, -> [place, longitude, plane, latitude].

        One by one, as caches want it, but for one exchange of all.
        """
        waves = self._exchanged([self._over_l(x) for x in fields], to_latitudes=True)
        return [self._over_m(x) for x in waves]

    def from_points(self, fluxes: list[Flux | Curl]) -> Fields:
        """Each, of arrays [place, longitude, plane, latitude], -> ordered waves."""
        sums = jax.tree.map(self._over_longitudes, fluxes)
        waves = [by_parts(x, lambda y: self.sec2 * self._d_dlon(y)) for x in sums]
        leaves, structure = jax.tree.flatten(waves)
        leaves = self._exchanged(leaves, to_latitudes=False)
        waves = jax.tree.unflatten(structure, leaves)
        return [self._over_latitudes(x) for x in waves]

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

    # ---- sums, one after another

    def _over_l(self, field: Waves) -> jax.Array:
        """-> [2, parity, parity of m, m // 2, plane, latitude]."""
        values, slopes = self.synthesis.values, self.synthesis.slopes
        total = None
        for waves, table, finish in (
            (field.values, values, lambda x: x),
            (field.slopes, slopes, _other_parity),
            (field.east, values, self._d_dlon),
        ):
            if waves is None:
                continue
            sums = finish(self._einsum("cpamxk,cpamkj->cpamxj", waves, table))
            total = sums if total is None else total + sums
        return total

    def _over_m(self, waves: jax.Array) -> jax.Array:
        """-> [place, longitude, plane, latitude]."""
        sums = of_table(self.fourier, waves, self.precision)
        return _signed(_SIGNS, sums.reshape(8, *sums.shape[3:]))

    def _over_longitudes(self, points: jax.Array) -> jax.Array:
        """-> [2, parity, parity of m, m // 2, plane, latitude]."""
        sums = _signed(_SIGNS.T, points).reshape(2, 2, 2, *points.shape[1:])
        return of_table(self.fourier.T, sums, self.precision)

    def _d_dlon(self, waves: jax.Array) -> jax.Array:
        # As `waves.d_dlon`, but a CPU vectorises no loop over what is stacked.
        return own_m(self.zonal, waves.shape[3], axis=3) * jnp.flip(waves, axis=0)

    def _over_latitudes(self, waves: Waves) -> jax.Array:
        """-> ordered waves."""
        subscripts = "cpamxj,cpamjk->cpamxk"
        total = self._einsum(subscripts, waves.values, self.analysis.values)
        if waves.slopes is not None:
            sums = self._einsum(subscripts, waves.slopes, self.analysis.slopes)
            total += _other_parity(sums)
        return total

    def _exchanged(self, waves: Fields, to_latitudes: bool) -> Fields:
        """Own m of all latitudes <-> all m of own latitudes."""
        if not self.transposes:
            return waves
        split, join = (-1, 3) if to_latitudes else (3, -1)
        together = jnp.concatenate(waves, axis=4)
        exchanged = partitioning.all_to_all(together, LAT, split=split, join=join)
        return jnp.split(exchanged, ends(waves, axis=4), axis=4)

    def _einsum(self, subscripts: str, x: jax.Array, y: jax.Array) -> jax.Array:
        return einsum(subscripts, x, y, self.precision)


def _other_parity(waves: jax.Array) -> jax.Array:
    """Of slopes, where they belong: l of H are of the other parity than those of P."""
    return waves[:, ::-1]


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
