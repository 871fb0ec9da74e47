"""Products of fields at points, from waves to waves, in three kernels of a TPU.

The first sums over l, the second goes to the points of a latitude and back, the third
sums over latitudes. What lies in main memory between them are sums over l, or of
products over longitudes, not values at points (but for a few layers' that devices along
`level` exchange).
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from model import partitioning
from model.kernels import LANES, Mapping, mapped
from model.partitioning import LAT, LEVEL
from model.precision import across, along
from model.sphere.derivatives import Derivatives
from model.sphere.waves import Curl, Flux, PointTables, RightHandSide, Waves

if TYPE_CHECKING:
    from model.sphere.ordered import BandOfWaves

T = TypeVar("T")
Arrays = list[jax.Array]


@dataclasses.dataclass(frozen=True)
class OfOneM(Derivatives):
    """Spectral arrays [2, plane, l] of one m.

    Attributes:
      zonal: m, [1, 1].
      totals: of `_totals`, [3, l].
    """

    zonal: jax.Array
    totals: jax.Array

    parts = 0

    @property
    def laplacian_eigenvalues(self) -> jax.Array:
        return self.totals[:1]

    def inverse_laplacian(self, x: jax.Array) -> jax.Array:
        """As of `Derivatives`."""
        return x * self.totals[1:2]

    def clip(self, x: jax.Array) -> jax.Array:
        """As of `SphericalHarmonics`."""
        return x * self.totals[2:]


def through_points(
    waves: "BandOfWaves", equation: RightHandSide, tables: PointTables, state: T
) -> T:
    """As of `OrderedWaves`, of the one band that holds all waves."""
    h, circle = waves.harmonics, waves.harmonics.transform
    kernels = _Kernels.create(waves, equation, tables, state)
    totals, of_m = _totals(waves), (waves.zonal, circle.values, circle.slopes)
    over_m, over_j = Mapping(1, 1, linear=True), Mapping(0, 0)
    fourier = mapped(kernels.over_l, over_m, totals, of_m, state)
    fourier = _exchanged(fourier, circle.transposes, to_latitudes=True)
    half = jnp.split(circle.fourier, 2, axis=-1)[0]  # -x has the cosines of x
    derivative = circle.zonal[:, 0] * half[::-1] * jnp.array([[[1]], [[-1]]])
    of_j = h.sin_latitude.reshape(-1, 1, 1), circle.weights.reshape(-1, 1, 1)
    whole = list(half), list(derivative), tables
    others = []
    if partitioning.size(LEVEL) > 1:
        planes = mapped(kernels.own_planes, over_j, whole, of_j, fourier)
        others = [kernels.exchanged(planes)]
    sums = mapped(kernels.at_latitude, over_j, whole, of_j, (fourier, others))
    sums = _exchanged(sums, circle.transposes, to_latitudes=False)
    return mapped(kernels.over_latitudes, over_m, totals, of_m, sums)


def _totals(waves: "BandOfWaves") -> jax.Array:
    """-l (l + 1), its inverse or 0, and whether l is known, [3, l]."""
    h = waves.harmonics
    eigenvalues = h.laplacian_eigenvalues
    inverse = np.divide(1, eigenvalues, where=eigenvalues != 0, out=0 * eigenvalues)
    known = h.total_wavenumber <= h.grid.truncation
    return jnp.asarray(np.stack([eigenvalues, inverse, known]), h.dtype)


def _exchanged(tiles: T, transposes: bool, to_latitudes: bool) -> T:
    """[latitude, own m, plane] <-> [own latitude, m, plane], all at once."""
    if not transposes:
        return tiles
    split, join = (1, 2) if to_latitudes else (2, 1)
    leaves, structure = jax.tree.flatten(tiles)
    together = partitioning.all_to_all(jnp.stack(leaves), LAT, split=split, join=join)
    return structure.unflatten(jnp.unstack(together))


@dataclasses.dataclass(frozen=True)
class _Kernels:
    """What the kernels do, of one m or of one latitude.

    Attributes:
      equation: whose right-hand side it is; then shapes of what its functions make:
      fields: of a state.
      planes: of the points of a latitude, what other devices need to know.
      others: of these, what others tell.
      products: of both.
    """

    equation: RightHandSide
    fields: list[Waves]
    planes: Any
    others: Any
    products: list[Flux | Curl]

    @classmethod
    def create(
        cls,
        waves: "BandOfWaves",
        equation: RightHandSide,
        tables: PointTables,
        state: T,
    ) -> "_Kernels":
        """Of a state in order."""
        fields = jax.eval_shape(functools.partial(equation.fields, waves), state)
        h = waves.harmonics

        def made(sin_latitude: jax.Array, points: Arrays) -> tuple:
            sin_latitude, points = partitioning.varying((sin_latitude, points))
            columns = equation.columns(sin_latitude, tables, points)
            others = equation.exchanged(columns.planes)
            products = equation.products(sin_latitude, tables, points, columns, others)
            return columns.planes, others, products

        points = [
            jax.ShapeDtypeStruct((_planes(x, axis=-2), h.grid.longitudes), h.dtype)
            for x in fields
        ]
        latitude = jax.ShapeDtypeStruct((1, 1), h.dtype)
        return cls(equation, fields, *jax.eval_shape(made, latitude, points))

    # ---- sums over l

    def over_l(self, totals: jax.Array, tables: Arrays, state: T) -> list[Arrays]:
        """State [2, plane, l] -> both parts of all fields, tiles [latitude, plane]."""
        zonal, values, slopes = tables
        h = OfOneM(zonal, totals)
        fields = [h.of_both(x) for x in self.equation.fields(h, state)]
        plain, sloped = ([fields[i] for i in places] for places in self._sorts)
        both = jnp.concatenate([values, slopes], axis=1)
        parts = []
        for part in range(2):
            of_values = jnp.concatenate([x.values[part] for x in plain])
            of_both = jnp.concatenate([_side_by_side(x, part) for x in sloped])
            sums = [along(values, of_values), along(both, of_both)]
            parts.append(_tiles(jnp.concatenate(sums, axis=1)))
        return parts

    @property
    def _sorts(self) -> tuple[list[int], list[int]]:
        """Which fields have values alone, and which have slopes."""
        places = range(len(self.fields))
        return (
            [i for i in places if self.fields[i].slopes is None],
            [i for i in places if self.fields[i].slopes is not None],
        )

    # ---- to points and back

    def own_planes(
        self, whole: tuple, tables: Arrays, fourier: list[Arrays]
    ) -> jax.Array:
        """Both parts of all fields [m, plane] -> planes for others [.., longitude]."""
        circle, _, point_tables = whole
        fields = self._at_points(circle, fourier)
        columns = self.equation.columns(tables[0], point_tables, fields)
        return jnp.concatenate(jax.tree.leaves(columns.planes))

    def exchanged(self, planes: jax.Array) -> jax.Array:
        """What others tell, if they know [latitude, plane, longitude] of everybody."""
        structure = jax.tree.structure(self.planes)
        rows = jnp.split(planes.swapaxes(0, 1), planes.shape[1])
        others = self.equation.exchanged(structure.unflatten(rows))
        return jnp.concatenate(jax.tree.leaves(others)).swapaxes(0, 1)

    def at_latitude(
        self, whole: tuple, tables: Arrays, arrays: tuple[list[Arrays], Arrays]
    ) -> list[Arrays]:
        """Both parts of all fields -> both parts of what is summed, tiles [m, plane].

        What is to be summed with P, and from `_slopes_at` on with H. Of several devices
        along `level` with what they exchanged.
        """
        circle, derivative, point_tables = whole
        sin_latitude, weight = tables
        over_cos2 = weight / (1 - sin_latitude**2)
        fourier, exchanged = arrays
        at_points = sin_latitude, point_tables, self._at_points(circle, fourier)
        if exchanged:
            leaves, structure = jax.tree.flatten(self.others)
            others = structure.unflatten(jnp.split(exchanged[0], len(leaves)))
            columns = self.equation.columns(*at_points)
            products = self.equation.products(*at_points, columns, others)
        else:
            products = self.equation.at_points(*at_points)

        # Those that have a flux come first, so that all slopes are theirs.
        fluxes, rest = _sorted(products, products)
        nothing = [jnp.zeros_like(x.source) for x in rest]
        sources, alongs, slopes = (
            _even_and_odd(jnp.concatenate(rows) * factor)
            for rows, factor in (
                ([_source(x) for x in fluxes] + [x.source for x in rest], weight),
                ([x.zonal_flux for x in fluxes] + nothing, over_cos2),
                ([x.slopes for x in fluxes], over_cos2),
            )
        )
        parts = []
        for part in range(2):
            both = jnp.concatenate([circle[part], derivative[part]], axis=1)
            beside = jnp.concatenate([sources[part], alongs[1 - part]], axis=1)
            of_values = _to_columns(along(both, beside), self._slopes_at)
            of_slopes = along(circle[part], slopes[part])
            parts.append(_tiles(jnp.concatenate([of_values, of_slopes], axis=1)))
        return parts

    def _at_points(self, circle: Arrays, fourier: list[Arrays]) -> Arrays:
        """Values of all fields [plane, longitude]: at half the circle, and mirrored."""
        plain, sloped = self._sorts
        places = plain + sloped
        planes = [_planes(self.fields[i], axis=-2) for i in places]
        even, odd = (
            across(table, jnp.concatenate(tiles, axis=1)[:, : sum(planes)])
            for table, tiles in zip(circle, fourier, strict=True)
        )
        points = jnp.concatenate([even + odd, even - odd], axis=1)
        return _put_back(jnp.split(points, np.cumsum(planes)[:-1]), places)

    # ---- sums over latitudes

    def over_latitudes(
        self, totals: jax.Array, tables: Arrays, sums: list[Arrays]
    ) -> T:
        """What `at_latitude` makes, [latitude, plane], -> tendency [2, plane, l]."""
        zonal, values, slopes = tables
        fluxes, rest = _sorted(self.products, self.products)
        planes = [_planes(x, axis=0) for x in fluxes + rest]
        n, begin = sum(planes[: len(fluxes)]), self._slopes_at
        parts = []
        for tiles in sums:
            joined = jnp.concatenate(tiles, axis=1)
            by_values = across(values, joined[:, : sum(planes)])
            by_slopes = across(slopes, joined[:, begin : begin + n])
            both = by_values[:n] + by_slopes
            parts.append(jnp.concatenate([both, by_values[n:]]))
        apart = jnp.split(jnp.stack(parts), np.cumsum(planes)[:-1], axis=1)
        places = _sorted(range(len(apart)), self.products)
        waves = _put_back(apart, places[0] + places[1])
        return self.equation.tendency(OfOneM(zonal, totals), waves)

    @property
    def _slopes_at(self) -> int:
        """Where slopes begin: at a tile, unless there is a tile less if they do not."""
        fluxes, rest = _sorted(self.products, self.products)
        slopes = sum(_planes(x, axis=0) for x in fluxes)
        values = slopes + sum(_planes(x, axis=0) for x in rest)
        tile = -(-values // LANES) * LANES
        tiles_from = [-(-(begin + slopes) // LANES) for begin in (values, tile)]
        return tile if tiles_from[0] == tiles_from[1] else values


def _sorted(items: Sequence[T], products: list[Flux | Curl]) -> tuple[list[T], list[T]]:
    """Those of products that have a flux, and of those that have none."""
    both = list(zip(items, products, strict=True))
    return (
        [x for x, product in both if product.east is not None],
        [x for x, product in both if product.east is None],
    )


def _put_back(sorted_arrays: Arrays, places: list[int]) -> Arrays:
    """In the order of their places."""
    in_order = dict(zip(places, sorted_arrays, strict=True))
    return [in_order[place] for place in range(len(places))]


def _to_columns(x: jax.Array, count: int) -> jax.Array:
    """[row, plane], and planes of zeros up to so many."""
    missing = count - x.shape[1]
    if not missing:
        return x
    return jnp.concatenate([x, jnp.zeros((len(x), missing), x.dtype)], axis=1)


def _tiles(x: jax.Array) -> Arrays:
    """[row, plane], and zeros, as arrays of `LANES` planes."""
    tiles = -(-x.shape[1] // LANES)
    return jnp.split(_to_columns(x, tiles * LANES), tiles, axis=1)


def _source(flux: Flux | Curl) -> jax.Array:
    return jnp.zeros_like(flux.east) if flux.source is None else flux.source


def _planes(arrays: Waves | Flux | Curl, axis: int) -> int:
    return jax.tree.leaves(arrays)[0].shape[axis]


def _side_by_side(field: Waves, part: int) -> jax.Array:
    """Values, which may be none, and slopes of a part: [plane, 2 l]."""
    slopes = field.slopes[part]
    values = jnp.zeros_like(slopes) if field.values is None else field.values[part]
    return jnp.concatenate([values, slopes], axis=1)


def _even_and_odd(points: jax.Array) -> Arrays:
    """Values [plane, x, then -x] -> what cosines, and what sines are summed with."""
    east, west = jnp.split(points, 2, axis=1)
    return [east + west, east - west]
