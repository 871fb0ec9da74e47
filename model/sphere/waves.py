"""Fields as sums over waves of two sorts, and the tables of both.

At points a field is a sum of associated Legendre functions P and of their slopes
H = cos(latitude) dP/dlatitude, `Waves`: a derivative needs no arithmetic among waves,
and no waves beyond the truncation. Waves of products are integrals against the same
two, `Flux`: the divergence of a flux is integrated by parts.
"""

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from model import partitioning
from model.partitioning import LAT
from model.precision import Table
from model.sphere import legendre
from model.sphere.grids import GaussianGrid, fold

if TYPE_CHECKING:
    from model.sphere.derivatives import Derivatives

T = TypeVar("T")
Fields = list[jax.Array]
Bands = tuple[T, ...]
"""Of each `Band` of waves the same."""
Matrices = dict[str, jax.Array]
Tables = dict[str, Table]


class Band(NamedTuple):
    """Some m, and l from the least of them up: where they are in arrays [..., m, l].

    Waves have l >= m. So the higher half of m has half of l, and what is kept in two
    bands is a quarter less.
    """

    m: slice
    l: slice  # noqa: E741

    @classmethod
    def of_edges(cls, edges: tuple[int, ...]) -> "Bands[Band]":
        """Bands of m from each of the edges to the next."""
        return tuple(
            cls(slice(start, end), slice(start, None))
            for start, end in itertools.pairwise(edges)
        )


class PointTables(NamedTuple):
    """What products of columns at points are made with.

    Attributes:
      matrices: by which arrays [plane, ...] are multiplied.
      vectors: other arrays [plane, k].
    """

    matrices: Tables
    vectors: Matrices


class Waves(NamedTuple):
    """Spectral coefficients of a field at points, in any order; some may be None.

    Attributes:
      values: of associated Legendre functions.
      slopes: of cos(latitude) times their derivatives in latitude.
      east: of their derivatives in longitude.
    """

    values: jax.Array | None = None
    slopes: jax.Array | None = None
    east: jax.Array | None = None


class Flux(NamedTuple):
    """A source at points, and a flux whose divergence adds to it; each may be None.

    Attributes:
      source: what is to be transformed.
      east, south: cos(latitude) times the components of the flux; none or both.
        South, for then both integrals by parts of a divergence have one sign.
    """

    source: jax.Array | None = None
    east: jax.Array | None = None
    south: jax.Array | None = None

    @property
    def zonal_flux(self) -> jax.Array | None:
        """Of what the derivative in longitude is integrated against P."""
        return self.east

    @property
    def slopes(self) -> jax.Array | None:
        """What is integrated against H."""
        return self.south


class Curl(NamedTuple):
    """A source at points, and a flux whose curl adds to it; see `Flux`."""

    source: jax.Array | None
    east: jax.Array
    south: jax.Array

    @property
    def zonal_flux(self) -> jax.Array:
        """As of `Flux`."""
        return -self.south

    @property
    def slopes(self) -> jax.Array:
        """As of `Flux`."""
        return self.east


class RightHandSide(NamedTuple):
    """Something made of products of fields at points.

    Functions of points are of sin(latitude), tables and values [plane, ...] of all
    fields on own latitudes. They may assume nothing about the axes of points.

    Attributes:
      fields: of `Derivatives` and a band of a state in order, the fields that go to
        points; linear, some with slopes and some without.
      columns: of points, what own layers tell of their columns; its `planes` are a
        tree of planes [1, ...] that other devices need to know.
      exchanged: of such a tree, another one, of what others tell of theirs.
      products: of points, their columns and what others tell, products, some of them
        with a flux.
      tendency: of `Derivatives` and what was made of every product, a band of a state
        in order; linear.
    """

    fields: Callable[["Derivatives", Any], list[Waves]]
    columns: Callable[[jax.Array, PointTables, Fields], Any]
    exchanged: Callable[[Any], Any]
    products: Callable[[jax.Array, PointTables, Fields, Any, Any], list[Flux | Curl]]
    tendency: Callable[["Derivatives", Fields], Any]

    def at_points(
        self, sin_latitude: jax.Array, tables: PointTables, fields: Fields
    ) -> list[Flux | Curl]:
        """All that is done at points, with an exchange in between."""
        columns = self.columns(sin_latitude, tables, fields)
        others = self.exchanged(columns.planes)
        return self.products(sin_latitude, tables, fields, columns, others)


def by_parts(flux: Flux | Curl, d_dlon: Callable[[jax.Array], jax.Array]) -> Waves:
    """What is integrated against P, and against H / cos^2(latitude).

    Args:
      flux: once transformed in longitude.
      d_dlon: derivative in longitude over cos^2(latitude).
    """
    if flux.east is None:
        return Waves(flux.source)
    derivative = d_dlon(flux.zonal_flux)
    source = derivative if flux.source is None else flux.source + derivative
    return Waves(source, flux.slopes)


def d_dlon(waves: jax.Array, zonal: jax.Array, parts: int = 0) -> jax.Array:
    """Derivative in longitude.

    Args:
      waves: with an axis of cosine and sine parts.
      zonal: m, perhaps times a factor, shaped to multiply one part.
      parts: that axis.
    """
    cosine, sine = jnp.unstack(waves, axis=parts)
    return jnp.stack([zonal * sine, -zonal * cosine], axis=parts)


# ---- fields turned by half a cell

# The middles of a circle's cells lie symmetrically to its quarters, the points
# themselves do not: ordered waves are those of fields turned by half a cell.


def half_cell(m: int, grid: GaussianGrid) -> np.ndarray:
    """Cosines and sines of m times half a cell, [2, m, 1]."""
    angle = np.arange(m)[:, None] * np.pi / grid.longitudes
    return np.stack([np.cos(angle), np.sin(angle)])


def middles(grid: GaussianGrid) -> np.ndarray:
    """Longitudes of the middles of cells, radians [longitude]."""
    return (2 * np.arange(grid.longitudes) + 1) * np.pi / grid.longitudes


def turned(modal: jax.Array, turn: jax.Array) -> jax.Array:
    """[plane, 2, own m, l] half a cell to the east; `turn` is `half_cell`."""
    along, across = jnp.unstack(own_m(turn, modal.shape[-2], axis=1))
    # Nothing is stacked, so that XLA makes it one with what moves waves about.
    return along * modal + jnp.stack([-across, across]) * jnp.flip(modal, axis=1)


def turned_back(modal: jax.Array, turn: jax.Array) -> jax.Array:
    """[plane, 2, own m, l] half a cell to the west."""
    cosine, sine = jnp.unstack(modal, axis=1)
    along, across = jnp.unstack(own_m(turn, modal.shape[-2], axis=1))
    # Stacked, so that XLA does not repeat it in every derivative that follows.
    return jnp.stack(
        [cosine * along + sine * across, sine * along - cosine * across]
    ).swapaxes(0, 1)


def own_m(table: jax.Array, m: int, axis: int) -> jax.Array:
    """A table of all m, or what a device has of it if it has so many m."""
    start = partitioning.index(LAT) * m if m < table.shape[axis] else 0
    return jax.lax.dynamic_slice_in_dim(table, start, m, axis)


# ---- tables, float64


def legendre_tables(grid: GaussianGrid, m: int, l: int, top: bool) -> np.ndarray:  # noqa: E741
    """P and H of the northern hemisphere, [2, m, l, latitude].

    Zero beyond l = n, or, with `top`, n + 1.
    """
    n = grid.truncation
    known = legendre.associated_legendre(n, fold(grid.sin_latitude[:, None])[1, :, 0])
    both = np.stack([known, legendre.slopes(known)])[:, :, : n + 1 + top]
    missing = [(0, m - both.shape[1]), (0, l - both.shape[2])]
    return np.pad(both, [(0, 0), *missing, (0, 0)])


def circle_waves(m: int, longitude: np.ndarray) -> np.ndarray:
    """Cosines and sines [2, m, longitude], orthonormal on the circle."""
    m = np.arange(m)[:, None]
    norm = np.where(m == 0, np.sqrt(0.5), 1.0) / np.sqrt(np.pi)
    return norm * np.stack([np.cos(m * longitude), np.sin(m * longitude)])


def point_weights(grid: GaussianGrid) -> np.ndarray:
    """Quadrature weights of a hemisphere's points, [latitude]."""
    weights = fold(grid.latitude_weights[:, None])[1, :, 0]
    return weights * 2 * np.pi / grid.longitudes


def sec2_latitude(grid: GaussianGrid) -> np.ndarray:
    """1 / cos^2(latitude) of a hemisphere's points, [latitude]."""
    return 1 / (1 - fold(grid.sin_latitude[:, None])[1, :, 0] ** 2)


def ends(fields: Fields, axis: int) -> np.ndarray:
    """Where all but the last field end if they are put together along an axis."""
    return np.cumsum([x.shape[axis] for x in fields])[:-1]
