"""Between grid points and waves: two ways to compute the same sums.

`WholeCircle` is for machines that multiply matrices much faster than they do all
else, as TPUs do; `QuarterCircle` for others. Both use that a pair of mirrored latitudes
shares its Legendre functions, P(-mu) = (-1)^(l+m) P(mu). The latter uses that the four
longitudes x, -x, x + pi and pi - x share their cosines and sines but for signs: it
forms a quarter of the products, in an order in which none needs a transposition. That
takes about half the time of fast Fourier transforms, which need fields to be moved.

Spectral and grid-point arrays are those of `model.sphere.harmonics`. Beside, each way
has a layout of grid points of its own in which products of fields are formed:
`to_points`, `from_points` and `at_points`.
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
from model.precision import Precision, einsum
from model.sphere import legendre
from model.sphere.grids import GaussianGrid, fold

Fields = list[jax.Array]
Matrices = dict[str, jax.Array]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["legendre", "fourier", "weights", "mirror_sign"],
    meta_fields=["precision", "transposes"],
)
@dataclasses.dataclass(frozen=True)
class WholeCircle:
    """Sums over all longitudes at once.

    Attributes:
      legendre: associated Legendre functions [parity of l, m, l // 2, latitude] of the
        northern hemisphere.
      fourier: cosines and sines [2, m, longitude], orthonormal on the circle.
      weights: of latitudes, [latitude].
      mirror_sign: (-1)^m, [m, 1].
      precision: of the products.
      transposes: whether fields are exchanged over `lat` between the two sums.
    """

    legendre: jax.Array
    fourier: jax.Array
    weights: jax.Array
    mirror_sign: jax.Array
    precision: Precision
    transposes: bool

    @classmethod
    def create(
        cls,
        grid: GaussianGrid,
        shape: tuple[int, int],
        dtype: jnp.dtype,
        precision: Precision,
        transposes: bool,
    ) -> "WholeCircle":
        """Tables for spectral arrays of so many m and l."""
        longitude = np.deg2rad(grid.longitude_degrees)
        tables = dict(
            legendre=_legendre(grid, *shape),
            fourier=_waves(shape[0], longitude),
            weights=point_weights(grid),
            mirror_sign=1 - 2 * (np.arange(shape[0])[:, None] % 2),
        )
        tables = {name: jnp.asarray(table, dtype) for name, table in tables.items()}
        return cls(**tables, precision=precision, transposes=transposes)

    def layout(self) -> "WholeCircle":
        """Where the tables lie: `PartitionSpec`s in their places."""
        by_m = P(LAT) if self.transposes else P()
        return dataclasses.replace(
            self,
            legendre=P(None, LAT) if self.transposes else P(None, None, None, LAT),
            fourier=P(),
            weights=P() if self.transposes else P(LAT),
            mirror_sign=by_m,
        )

    def to_nodal(self, fields: Fields) -> Fields:
        """Each [plane, 2, m, l] -> [plane, 2, latitude, longitude], own latitudes."""
        modal = jnp.concatenate(fields)
        by_parity = modal.reshape(*modal.shape[:-1], -1, 2)
        symmetric, antisymmetric = jnp.unstack(
            einsum("pmkj,xcmkp->pxcmj", self.legendre, by_parity, self.precision)
        )
        north = symmetric + antisymmetric
        south = (symmetric - antisymmetric) * self.mirror_sign
        fourier = jnp.stack([south, north], axis=1)  # [plane, hemisphere, 2, m, lat]
        if self.transposes:
            fourier = partitioning.all_to_all(fourier, LAT, split=-1, join=-2)
        nodal = einsum("cmi,xhcmj->xhji", self.fourier, fourier, self.precision)
        return partitioning.split_planes(nodal, fields)

    def to_modal(self, fields: Fields) -> Fields:
        """Each [plane, 2, latitude, longitude] -> [plane, 2, m, l]; own latitudes."""
        nodal = jnp.concatenate(fields)
        fourier = einsum("cmi,xhji->xhcmj", self.fourier, nodal, self.precision)
        if self.transposes:
            fourier = partitioning.all_to_all(fourier, LAT, split=-2, join=-1)
        south, north = jnp.unstack(fourier * self.weights, axis=1)
        south = south * self.mirror_sign
        by_parity = einsum(
            "pmkj,pxcmj->xcmkp",
            self.legendre,
            jnp.stack([north + south, north - south]),
            self.precision,
        )
        modal = by_parity.reshape(*by_parity.shape[:-2], -1)
        return partitioning.split_planes(modal, fields)

    to_points, from_points = to_nodal, to_modal

    def at_points(
        self,
        function: Callable[[jax.Array, Matrices, Fields], Fields],
        sin_latitude: jax.Array,
        matrices: Matrices,
        fields: Fields,
    ) -> Fields:
        """A function of sin(latitude), matrices and fields [plane, ...]."""
        return function(sin_latitude, matrices, fields)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["synthesis", "analysis", "fourier", "turn"],
    meta_fields=["precision", "transposes"],
)
@dataclasses.dataclass(frozen=True)
class QuarterCircle:
    """Sums over a quarter circle of one hemisphere, which eight places share.

    Points have the shape [place, longitude, plane, latitude]: places by hemisphere,
    half of the circle, and side of the half. Waves lie in between as
    [2, parity of l, parity of m, m // 2, plane, l // 2 or latitude], so that every sum
    is one product of matrices for each of the leading indices.

    The middles of a circle's cells lie symmetrically to their quarters, the points
    themselves do not: fields are turned by half a cell on the way.

    Attributes:
      synthesis: associated Legendre functions of the northern hemisphere,
        [parity of l, parity of m, m // 2, l // 2, latitude].
      analysis: the same times the weights of latitudes, the last two exchanged.
      fourier: cosines and sines, orthonormal on the circle, [2, parity of m,
        longitude, m // 2].
      turn: cosines and sines of m times half a cell, [2, m, 1].
      precision: of the products.
      transposes: whether fields are exchanged over `lat` between the two sums.
    """

    synthesis: jax.Array
    analysis: jax.Array
    fourier: jax.Array
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
        transposes: bool,
    ) -> "QuarterCircle":
        """Tables for spectral arrays of so many m, an even number, and l."""
        m = np.arange(shape[0])
        half_cell = np.pi / grid.longitudes
        middles = (2 * np.arange(grid.longitudes // 4) + 1) * half_cell
        waves = _waves(shape[0], middles).reshape(2, -1, 2, len(middles))
        polynomials = _legendre(grid, *shape)
        polynomials = polynomials.reshape(2, -1, 2, *polynomials.shape[2:])
        synthesis = polynomials.swapaxes(1, 2)
        tables = dict(
            synthesis=synthesis,
            analysis=(synthesis * point_weights(grid)).swapaxes(-1, -2),
            fourier=waves.transpose(0, 2, 3, 1),
            turn=np.stack([np.cos(m * half_cell), np.sin(m * half_cell)])[..., None],
        )
        tables = {name: jnp.asarray(table, dtype) for name, table in tables.items()}
        return cls(**tables, precision=precision, transposes=transposes)

    def layout(self) -> "QuarterCircle":
        """Where the tables lie: `PartitionSpec`s in their places."""
        if self.transposes:
            by_m = P(None, None, LAT)
            return dataclasses.replace(
                self, synthesis=by_m, analysis=by_m, fourier=P(), turn=P(None, LAT)
            )
        return dataclasses.replace(
            self,
            synthesis=P(None, None, None, None, LAT),
            analysis=P(None, None, None, LAT),
            fourier=P(),
            turn=P(),
        )

    def to_nodal(self, fields: Fields) -> Fields:
        """Each [plane, 2, m, l] -> [plane, 2, latitude, longitude], own latitudes."""
        return [self._joined(x) for x in self.to_points(fields)]

    def to_modal(self, fields: Fields) -> Fields:
        """Each [plane, 2, latitude, longitude] -> [plane, 2, m, l]; own latitudes."""
        return self.from_points([self._split(x) for x in fields])

    def to_points(self, fields: Fields) -> Fields:
        """Each [plane, 2, m, l] -> [place, longitude, plane, latitude].

        One by one, as caches want it; or all in one exchange.
        """
        if not self.transposes:
            return [self._synthesised(x) for x in fields]
        points = self._synthesised(jnp.concatenate(fields))
        return jnp.split(points, _ends(fields, axis=0), axis=2)

    def from_points(self, fields: Fields) -> Fields:
        """Each [place, longitude, plane, latitude] -> [plane, 2, m, l]."""
        if not self.transposes:
            return [self._analysed(x) for x in fields]
        modal = self._analysed(jnp.concatenate(fields, axis=2))
        return jnp.split(modal, _ends(fields, axis=2))

    def at_points(
        self,
        function: Callable[[jax.Array, Matrices, Fields], Fields],
        sin_latitude: jax.Array,
        matrices: Matrices,
        fields: Fields,
    ) -> Fields:
        """A function of sin(latitude), matrices and fields [plane, latitude].

        Every place and longitude has a copy of the matrices: with one for all, fields
        would be moved before and after each product.
        """
        of_places = jnp.repeat(sin_latitude[..., 0], 4, axis=0)
        places = fields[0].shape[:2]
        matrices = jax.tree.map(
            lambda x: jnp.broadcast_to(x, (*places, *x.shape)), matrices
        )
        for_longitudes = jax.vmap(function, in_axes=(None, 0, 0))
        return jax.vmap(for_longitudes)(of_places, matrices, fields)

    def _joined(self, points: jax.Array) -> jax.Array:
        places = points.reshape(2, 4, *points.shape[1:]).transpose(3, 0, 4, 1, 2)
        first, last, third, second = jnp.unstack(places, axis=-2)
        circle = [first, second[..., ::-1], third, last[..., ::-1]]
        return jnp.concatenate(circle, axis=-1)

    def _split(self, nodal: jax.Array) -> jax.Array:
        first, second, third, last = jnp.split(nodal, 4, axis=-1)
        places = jnp.stack([first, last[..., ::-1], third, second[..., ::-1]])
        points = places.transpose(2, 0, 4, 1, 3)  # of place, plane, hemisphere, j, i
        return points.reshape(8, *points.shape[2:])

    def _synthesised(self, modal: jax.Array) -> jax.Array:
        planes, _, m, l = modal.shape  # noqa: E741
        waves = self._turned(modal).reshape(planes, 2, m // 2, 2, l // 2, 2)
        waves = waves.transpose(1, 5, 3, 2, 0, 4)
        waves = self._einsum("cpamxk,cpamkj->cpamxj", waves, _twice(self.synthesis, 0))
        if self.transposes:
            waves = partitioning.all_to_all(waves, LAT, split=-1, join=3)
        sums = self._einsum("cpaim,cpam...->cpai...", _twice(self.fourier, 1), waves)
        signs = jnp.asarray(_SIGNS, sums.dtype)
        return jnp.einsum(
            "ps,s...->p...",
            signs,
            sums.reshape(8, *sums.shape[3:]),
            precision="highest",
        )

    def _analysed(self, points: jax.Array) -> jax.Array:
        signs = jnp.asarray(_SIGNS, points.dtype)
        sums = jnp.einsum("ps,p...->s...", signs, points, precision="highest")
        sums = sums.reshape(2, 2, 2, *sums.shape[1:])
        waves = self._einsum("cpaim,cpai...->cpam...", _twice(self.fourier, 1), sums)
        if self.transposes:
            waves = partitioning.all_to_all(waves, LAT, split=3, join=-1)
        waves = self._einsum("cpamxj,cpamjk->cpamxk", waves, _twice(self.analysis, 0))
        *_, m, planes, l = waves.shape  # noqa: E741
        modal = waves.transpose(4, 0, 3, 2, 5, 1).reshape(planes, 2, 2 * m, 2 * l)
        return self._turned_back(modal)

    def _turned(self, modal: jax.Array) -> jax.Array:
        """[plane, 2, m, l] half a cell to the east."""
        along, across = jnp.unstack(self.turn)
        # Nothing is stacked, so that XLA makes it one with what moves waves about.
        return along * modal + jnp.stack([-across, across]) * jnp.flip(modal, axis=1)

    def _turned_back(self, modal: jax.Array) -> jax.Array:
        """[plane, 2, m, l] half a cell to the west."""
        cosine, sine = jnp.unstack(modal, axis=1)
        along, across = jnp.unstack(self.turn)
        # Stacked, so that XLA does not repeat it in every derivative that follows.
        return jnp.stack(
            [cosine * along + sine * across, sine * along - cosine * across]
        ).swapaxes(0, 1)

    def _einsum(self, subscripts: str, x: jax.Array, y: jax.Array) -> jax.Array:
        return einsum(subscripts, x, y, self.precision)


def _ends(fields: Fields, axis: int) -> np.ndarray:
    """Where all but the last field end if they are put together along an axis."""
    return np.cumsum([x.shape[axis] for x in fields])[:-1]


def _twice(table: jax.Array, axis: int) -> jax.Array:
    """A table that is the same for both indices of a new axis."""
    shape = [*table.shape[:axis], 2, *table.shape[axis:]]
    return jnp.broadcast_to(jnp.expand_dims(table, axis), shape)


def _signs() -> np.ndarray:
    """Of each sum [2, parity of l, parity of m], at each place, [8, 8].

    Places: south and north, each with the longitudes x, -x, x + pi and pi - x.
    """
    north, half, mirror, sine, l, m = np.indices((2,) * 6)  # noqa: E741
    odd = (1 - north) * (l + m) + half * m + mirror * sine
    return (1.0 - 2.0 * (odd % 2)).reshape(8, 8)


_SIGNS = _signs()


# ---- tables, float64


def _legendre(grid: GaussianGrid, m: int, l: int) -> np.ndarray:  # noqa: E741
    """Of the northern hemisphere, [parity of l, m, l // 2, latitude]."""
    n = grid.truncation
    north = fold(grid.sin_latitude[:, None])[1, :, 0]
    table = np.zeros((m, l, len(north)))
    table[: n + 1, : n + 2] = legendre.associated_legendre(n, north)
    return np.stack([table[:, 0::2], table[:, 1::2]])


def _waves(m: int, longitude: np.ndarray) -> np.ndarray:
    """Cosines and sines [2, m, longitude], orthonormal on the circle."""
    m = np.arange(m)[:, None]
    norm = np.where(m == 0, np.sqrt(0.5), 1.0) / np.sqrt(np.pi)
    return norm * np.stack([np.cos(m * longitude), np.sin(m * longitude)])


def point_weights(grid: GaussianGrid) -> np.ndarray:
    """Quadrature weights of a hemisphere's points, [latitude]."""
    weights = fold(grid.latitude_weights[:, None])[1, :, 0]
    return weights * 2 * np.pi / grid.longitudes
