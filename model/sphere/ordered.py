"""Spectral arrays in the order in which the transforms multiply them.

The core's steps of a physics step keep states in that order: moving fields about before
and after each transform would take a CPU as long as half of the products. A state in
order is a tuple of as many as the transforms have bands of m (`waves.Band`); each is
acted upon by itself, but for the transforms.
"""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from model import partitioning
from model.partitioning import LAT
from model.precision import Table
from model.sphere import fused
from model.sphere.derivatives import Derivatives
from model.sphere.quarter_circle import QuarterCircle
from model.sphere.waves import (
    Band,
    Bands,
    Matrices,
    PointTables,
    RightHandSide,
    Tables,
    Waves,
    ends,
)
from model.sphere.whole_circle import WholeCircle

if TYPE_CHECKING:
    from model.sphere.harmonics import SphericalHarmonics

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class OrderedWaves:
    """Spectral arrays in the order in which the transforms multiply them.

    Of each band [2, .., m, plane, l], where there may be other axes between (of
    parities, of which m and l then are halves); what is on levels has them as planes, a
    surface has one.

    Attributes:
      harmonics: whose transforms.
    """

    harmonics: "SphericalHarmonics"

    @property
    def bands(self) -> "Bands[BandOfWaves]":
        """What is done with each band by itself."""
        return tuple(BandOfWaves(self.harmonics, x) for x in self._transform.bands)

    def enter(self, modal: T) -> Bands[T]:
        """A tree of arrays [level, 2, own m, l] or [2, own m, l], put in order."""
        leaves, structure = jax.tree.flatten(modal)
        waves = [self._transform.ordered(x[None] if x.ndim == 3 else x) for x in leaves]
        return tuple(
            structure.unflatten([x[i] for x in waves]) for i in range(len(self.bands))
        )

    def leave(self, waves: Bands[T]) -> T:
        """The inverse of `enter`; what is on a surface has a level of its own."""
        return jax.tree.map(lambda *x: self._transform.restored(x), *waves)

    @property
    def is_mean(self) -> Bands[jax.Array]:
        """True at the coefficient of the mean over the sphere, of one plane."""
        mean = jnp.asarray(self.harmonics.is_mean, self.harmonics.dtype)
        return tuple(x > 0 for x in self.enter(mean))

    def gather(self, waves: T) -> T:
        """As of `SphericalHarmonics`."""
        return self._exchanged(partitioning.all_gather, waves)

    def scatter(self, waves: T) -> T:
        """As of `SphericalHarmonics`."""
        return self._exchanged(partitioning.reduce_scatter, waves)

    def _exchanged(self, exchange: Callable[..., jax.Array], waves: T) -> T:
        if not self.harmonics.gathers or partitioning.size(LAT) == 1:
            return waves
        # Where devices share m there is one band.
        leaves, structure = jax.tree.flatten(waves)
        joined = exchange(jnp.concatenate(leaves, axis=-2), LAT, dimension=-3)
        return structure.unflatten(jnp.split(joined, ends(leaves, axis=-2), axis=-2))

    def point_tables(self, matrices: Matrices, vectors: Matrices) -> PointTables:
        """Matrices [k, plane] and others [plane, k], for `RightHandSide.products`."""
        return self._transform.point_tables(matrices, vectors)

    def to_nodal(self, fields: Bands[list[Waves]]) -> list[jax.Array]:
        """Each, of all bands, -> [plane, 2, latitude, longitude], own latitudes."""
        return self._transform.to_nodal(fields)

    def through_points(
        self, equation: RightHandSide, tables: PointTables, state: Bands[T]
    ) -> Bands[T]:
        """What an equation makes of a state; this device's part, as of `to_modal`."""
        if self._transform.fuses:
            (band,), (state,) = self.bands, state
            return (fused.through_points(band, equation, tables, state),)
        fields = map(equation.fields, self.bands, state)
        points = self._transform.to_points(tuple(fields))
        sin_latitude = self.harmonics.sin_latitude
        products = self._transform.at_points(
            equation.at_points, sin_latitude, tables, points
        )
        waves = self._transform.from_points(products)
        return tuple(map(equation.tendency, self.bands, waves))

    @property
    def _transform(self) -> WholeCircle | QuarterCircle:
        return self.harmonics.transform


@dataclasses.dataclass(frozen=True)
class BandOfWaves(Derivatives):
    """What is done with a band of waves in order.

    Attributes:
      harmonics: whose transforms.
      band: m and l.
    """

    harmonics: "SphericalHarmonics"
    band: Band

    parts = 0

    def of_total(self, table: np.ndarray) -> np.ndarray:
        """A table of all l shaped to multiply an array."""
        return self._transform.of_total(table[self.band.l])

    @property
    def zonal(self) -> jax.Array:
        return self._transform.of_zonal(self.harmonics.zonal[self.band.m, 0])

    @property
    def laplacian_eigenvalues(self) -> np.ndarray:
        return self.of_total(self.harmonics.laplacian_eigenvalues)

    def values_of(self, field: Waves) -> jax.Array:
        """A field's own coefficients, without what slopes have beyond l = n.

        By the recurrence
        cos(lat) dP_l/dlat = (l + 1) eps_l P_(l-1) - l eps_(l+1) P_(l+1).
        """
        field = self.of_both(field)
        values = 0.0 if field.values is None else field.values
        if field.slopes is not None:
            h = self.harmonics
            l = jnp.asarray(h.total_wavenumber, h.dtype)  # noqa: E741
            below, above = self._transform.neighbours(field.slopes)
            eps, next_eps = h.eps
            values += self._of_waves((l + 2) * next_eps) * above
            values -= self._of_waves((l - 1) * eps) * below
        return values * self._known(values.dtype)

    def clip(self, waves: jax.Array) -> jax.Array:
        """As of `SphericalHarmonics`."""
        if not self.harmonics.top:
            return waves
        return waves * self._known(waves.dtype)

    def wave_tables(self, matrices: Matrices) -> Tables:
        """Matrices [k, plane] for `over_planes`, among own m."""
        start, end, _ = self.band.m.indices(self.harmonics.modal_shape[1])
        own = (end - start) // partitioning.size(LAT)
        return self._transform.wave_tables(matrices, own)

    def over_planes(self, table: Table, waves: jax.Array) -> jax.Array:
        """A matrix [k, plane] times an array of so many planes."""
        return self._transform.over_planes(table, waves)

    def _known(self, dtype: jnp.dtype) -> np.ndarray:
        """1 up to l = n, then 0."""
        h = self.harmonics
        return self.of_total((h.total_wavenumber <= h.grid.truncation).astype(dtype))

    def _of_waves(self, table: jax.Array) -> jax.Array:
        """A table [m, l] shaped to multiply one part of an array."""
        return self._transform.of_waves(table[self.band])

    @property
    def _transform(self) -> WholeCircle | QuarterCircle:
        return self.harmonics.transform
