"""Spherical harmonic transforms and the differential operators of the sphere.

Spectral ("modal") arrays have shape [..., 2, m, l]: cosine and sine part, zonal
wavenumber 0..n and total wavenumber 0..n, orthonormal on the unit sphere, for a
grid of truncation n. m and l may be followed by padding, which is zero always: both to
an even number, m on each of the devices over which it is split, for their parity is
that of a harmonic's symmetries. (With `top`, as in published models, l goes to
n+1.)

Grid-point ("nodal") arrays have shape [..., 2, latitude, longitude]: hemispheres with
their latitudes in mirror pairs (`grids.fold`).

The sphere has radius 1 (`model.units`). Formulas: any text on spectral models, e.g.
Durran, Numerical Methods for Fluid Dynamics, section 6.4.
"""

import dataclasses
import functools
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from model import partitioning
from model.partitioning import LAT
from model.precision import Precision, transform_precision
from model.sphere import legendre
from model.sphere.derivatives import Derivatives
from model.sphere.grids import GaussianGrid, fold
from model.sphere.ordered import OrderedWaves
from model.sphere.quarter_circle import QuarterCircle
from model.sphere.waves import (
    Curl,
    Flux,
    Waves,
    point_weights,
)
from model.sphere.whole_circle import WholeCircle

T = TypeVar("T")

# Up to so many devices along `lat` the state is gathered. On two the core's steps are
# modelled up to 13 % better transposing, which physics would do field by field; on
# more, what every device repeats of the spectral arithmetic costs much more than is
# saved (BUILD.md, "The mesh").
LARGEST_GATHER = 2


def total_wavenumbers(grid: GaussianGrid, top: bool = False) -> np.ndarray:
    """l of spectral arrays, [l]: 0 to n (or n + 1), and one more for an even number."""
    rows = grid.truncation + 1 + top
    return np.arange(rows + rows % 2)


def zonal_wavenumbers(grid: GaussianGrid, shards: int) -> int:
    """How many m spectral arrays have: n + 1 and padding.

    An even number of each device, for transforms treat even and odd ones apart.
    """
    multiple = 2 * shards
    return -(-(grid.truncation + 1) // multiple) * multiple


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "transform",
        "zonal",
        "eps",
        "sin_latitude",
        "weights",
    ],
    meta_fields=["grid", "shards", "top"],
)
@dataclasses.dataclass(frozen=True)
class SphericalHarmonics(Derivatives):
    """Tables of the transforms of one grid: a pytree, passed to jitted functions.

    Split over `lat`, there are two ways to transform. Gathering: every device has the
    spectral coefficients of all m (`gather`), transforms to and from its own
    latitudes, and what comes back is a sum over latitudes of which it has a part;
    `scatter` adds the parts up and leaves each device its own m. Derivatives are
    linear and come before the sum, so that a right-hand side needs one collective
    each way, whatever it computes. Transposing: a device transforms its own m, and
    each field is exchanged half-way, between m and latitude; `gather` and `scatter` do
    nothing. `SphericalHarmonics.gathers` says which it is.

    Attributes:
      transform: between waves and points.
      zonal: m, [m, 1].
      eps: eps[l] and eps[l + 1] of `legendre.recurrence_coefficients`, [2, m, l].
      sin_latitude: [2, latitude, 1].
      weights: quadrature weights of a grid point [latitude, 1]; they sum to 4 pi over
        all points of the sphere.
      grid: points and truncation.
      shards: devices over which m and latitudes are split.
      top: whether spectral arrays have a row l = n + 1.
    """

    transform: WholeCircle | QuarterCircle
    zonal: jax.Array
    eps: jax.Array
    sin_latitude: jax.Array
    weights: jax.Array
    grid: GaussianGrid
    shards: int
    top: bool = False

    parts = -3

    @classmethod
    def create(
        cls,
        grid: GaussianGrid,
        dtype: jnp.dtype = jnp.float32,
        precision: Precision | None = None,
        shards: int = 1,
        top: bool = False,
    ) -> "SphericalHarmonics":
        """Builds the tables in float64 and casts them once to `dtype`.

        Args:
          grid: points and truncation.
          dtype: of all arithmetic.
          precision: of the transforms; default the policy of `model.precision`.
          shards: devices along `lat`; the number of latitude pairs must divide.
          top: see there.
        """
        precision = precision or transform_precision()
        l = total_wavenumbers(grid, top)  # noqa: E741
        m = np.arange(zonal_wavenumbers(grid, shards))[:, None]
        known = legendre.recurrence_coefficients(grid.truncation)
        eps = np.zeros((len(m), len(l) + 1))
        eps[: len(known), : known.shape[1]] = known[:, : eps.shape[1]]
        tables = dict(
            zonal=m,
            eps=np.stack([eps[:, :-1], eps[:, 1:]]),
            sin_latitude=fold(grid.sin_latitude[:, None]),
            weights=point_weights(grid)[:, None],
        )
        tables = {name: jnp.asarray(table, dtype) for name, table in tables.items()}
        # Full precision is the policy of machines without a unit for products.
        transform = QuarterCircle if precision == "highest" else WholeCircle
        shape, transposes = (len(m), len(l)), shards > LARGEST_GATHER
        return cls(
            transform=transform.create(
                *(grid, shape, dtype, precision, shards, transposes, top)
            ),
            grid=grid,
            shards=shards,
            top=top,
            **tables,
        )

    # ---- shapes and wavenumbers

    @property
    def modal_shape(self) -> tuple[int, int, int]:
        """Of a whole spectral field: 2, m, l."""
        m = zonal_wavenumbers(self.grid, self.shards)
        return 2, m, len(self.total_wavenumber)

    @property
    def dtype(self) -> jnp.dtype:
        return self.zonal.dtype

    @property
    def total_wavenumber(self) -> np.ndarray:
        """l, [l]."""
        return total_wavenumbers(self.grid, self.top)

    @property
    def laplacian_eigenvalues(self) -> np.ndarray:
        """-l (l + 1), float64 [l]."""
        l = self.total_wavenumber.astype(np.float64)  # noqa: E741
        return -l * (l + 1)

    @property
    def mask(self) -> np.ndarray:
        """True where a coefficient of a state may be non-zero, [2, m, l]."""
        part, m, l = np.indices(self.modal_shape)  # noqa: E741
        return (l >= m) & (l <= self.grid.truncation) & ((part == 0) | (m > 0))

    @property
    def is_mean(self) -> jax.Array | np.ndarray:
        """True at the coefficient of the mean over the sphere, [2, own m, l]."""
        parts, m, l = self.modal_shape  # noqa: E741
        first = np.zeros((parts, m // partitioning.size(LAT), l), bool)
        first[0, 0, 0] = True
        return first & (partitioning.index(LAT) == 0)

    @property
    def own_weights(self) -> jax.Array:
        """Quadrature weights of own grid points, [own latitude, 1]."""
        own = self.sin_latitude.shape[-2]
        start = partitioning.index(LAT) * own if own < len(self.weights) else 0
        return jax.lax.dynamic_slice_in_dim(self.weights, start, own)

    @property
    def sec2_latitude(self) -> jax.Array:
        """1 / cos^2(latitude), [2, latitude, 1]."""
        return 1 / (1 - self.sin_latitude**2)

    # ---- partitioning

    @property
    def gathers(self) -> bool:
        """Whether transforms gather all m, rather than transpose each field."""
        return self.shards <= LARGEST_GATHER

    def layout(self) -> "SphericalHarmonics":
        """Where the tables lie: `PartitionSpec`s in their places."""
        by_m = P() if self.gathers else P(LAT)
        return dataclasses.replace(
            self,
            transform=self.transform.layout(),
            zonal=by_m,
            eps=P(None, *by_m),
            sin_latitude=P(None, LAT),
            weights=P(LAT) if self.gathers else P(),
        )

    def gather(self, modal: T) -> T:
        """Spectral fields of own m -> of all m that transforms and derivatives need.

        A tree of arrays [..., m, l], in one collective.
        """
        if not self.gathers or partitioning.size(LAT) == 1:
            return modal
        return partitioning.in_one(
            lambda x: partitioning.all_gather(x, LAT, dimension=-2), modal
        )

    def scatter(self, modal: T) -> T:
        """What came of transforms and derivatives -> complete fields of own m.

        A tree of arrays [..., m, l], in one collective.
        """
        if not self.gathers or partitioning.size(LAT) == 1:
            return modal
        return partitioning.in_one(
            lambda x: partitioning.reduce_scatter(x, LAT, dimension=-2), modal
        )

    def with_waves_of(
        self, other: "SphericalHarmonics", modal: T, clip: bool = True
    ) -> T:
        """States of this grid's waves -> of another's; waves it lacks are dropped.

        A tree of arrays [..., m, l], split over as many devices. Each device's own m
        are exchanged unless they are the same. Without `clip` the other's row l = n + 1
        (`top`) is filled if this grid has such waves.
        """
        n = other.grid.truncation + (not clip)
        l = min(self.grid.truncation, n) + 1  # noqa: E741
        own, wanted = (
            h.modal_shape[1] // partitioning.size(LAT) for h in (self, other)
        )
        if own != wanted and partitioning.size(LAT) > 1:
            modal = partitioning.in_one(
                lambda x: partitioning.all_gather(x, LAT, dimension=-2), modal
            )

        def convert(x: jax.Array) -> jax.Array:
            m = wanted
            if own != wanted:
                m = other.modal_shape[1]
                x = x[..., :m, :]
            missing = [(0, m - x.shape[-2]), (0, other.modal_shape[2] - l)]
            x = jnp.pad(x[..., :l], [(0, 0)] * (x.ndim - 2) + missing)
            start = partitioning.index(LAT) * wanted if m != wanted else 0
            return jax.lax.dynamic_slice_in_dim(x, start, wanted, axis=-2)

        return jax.tree.map(convert, modal)

    # ---- order

    @property
    def ordered(self) -> OrderedWaves:
        """What is done with spectral arrays in the order of the transforms."""
        return OrderedWaves(self)

    # ---- transforms

    def to_nodal(self, field: jax.Array | Waves) -> jax.Array:
        """Own latitudes of a field, or of sums of its values and slopes.

        Of arrays [..., 2, m, l] -> [..., 2, latitude, longitude].
        """
        waves = field if isinstance(field, Waves) else Waves(field)
        lead = jax.tree.leaves(waves)[0].shape[:-3]
        waves = jax.tree.map(lambda x: x.reshape(-1, *x.shape[-3:]), waves)
        (nodal,) = self.transform.to_nodal(self.ordered.enter([waves]))
        return nodal.reshape(*lead, *nodal.shape[1:])

    def to_modal(self, field: jax.Array | Flux | Curl) -> jax.Array:
        """[..., 2, latitude, longitude] -> [..., 2, m, l], by Gauss quadrature.

        This device's part of the sum over latitudes, to be completed by `scatter`.
        """
        flux = Flux(field) if isinstance(field, jax.Array) else field
        lead = jax.tree.leaves(flux)[0].shape[:-3]
        (modal,) = self.all_to_modal(
            [jax.tree.map(lambda x: x.reshape(-1, *x.shape[-3:]), flux)]
        )
        return modal.reshape(*lead, *modal.shape[1:])

    def all_to_modal(self, fluxes: list[Flux | Curl]) -> list[jax.Array]:
        """`to_modal` of arrays [plane, 2, latitude, longitude], as is fastest."""
        return self.ordered.leave(self.transform.from_nodal(fluxes))

    def synthesis(self, field: jax.Array | Waves) -> jax.Array:
        """[..., 2, m, l] -> [..., latitude, longitude], on one device.

        Latitudes from south to north.
        """
        south, north = jnp.unstack(self.to_nodal(field), axis=-3)
        return jnp.concatenate([south, jnp.flip(north, axis=-2)], axis=-2)

    def analysis(self, field: jax.Array | Flux | Curl) -> jax.Array:
        """[..., latitude, longitude] -> [..., 2, m, l], on one device.

        Latitudes from south to north.
        """

        def folded(nodal: jax.Array) -> jax.Array:
            south, north = jnp.split(nodal, 2, axis=-2)
            return jnp.stack([south, jnp.flip(north, axis=-2)], axis=-3)

        return self.to_modal(jax.tree.map(folded, field))

    def clip(self, modal: jax.Array) -> jax.Array:
        """Sets the row l = n + 1 to zero, where there is one (`top`)."""
        if not self.top:
            return modal
        return modal * np.asarray(self.total_wavenumber <= self.grid.truncation)

    # ---- vectors

    def wind(
        self, vorticity: jax.Array, divergence: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Spectral vorticity and divergence -> wind (u, v), on one device.

        [..., 2, m, l] -> [..., latitude, longitude], south to north.
        """
        u, v = map(self.synthesis, self.cos_wind(vorticity, divergence))
        return u / self._cos_from_south, v / self._cos_from_south

    def vorticity_divergence(
        self, u: jax.Array, v: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Wind (u, v) -> spectral vorticity and divergence, on one device.

        [..., latitude, longitude], south to north, -> [..., 2, m, l].
        """
        east, south = u * self._cos_from_south, -v * self._cos_from_south
        return (
            self.analysis(Curl(None, east, south)),
            self.analysis(Flux(None, east, south)),
        )

    @property
    def _cos_from_south(self) -> np.ndarray:
        cos = np.sqrt(1 - self.grid.sin_latitude**2)
        return cos[:, None].astype(self.dtype)
