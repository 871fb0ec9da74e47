"""Spectral arrays in the order in which the transforms multiply them.

The core's steps of a physics step keep states in that order: moving fields about before
and after each transform would take a CPU as long as half of the products.
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
from model.sphere.waves import Matrices, PointTables, RightHandSide, Tables, Waves, ends
from model.sphere.whole_circle import WholeCircle

if TYPE_CHECKING:
    from model.sphere.harmonics import SphericalHarmonics

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class OrderedWaves(Derivatives):
    """Spectral arrays in the order in which the transforms multiply them.

    [2, .., m, plane, l], where there may be other axes between (of parities, of which m
    and l then are halves); what is on levels has them as planes, a surface has one.

    Attributes:
      harmonics: whose transforms.
    """

    harmonics: "SphericalHarmonics"

    parts = 0

    def enter(self, modal: T) -> T:
        """A tree of arrays [level, 2, own m, l] or [2, own m, l], put in order."""
        return jax.tree.map(
            lambda x: self._transform.ordered(x[None] if x.ndim == 3 else x), modal
        )

    @property
    def is_mean(self) -> jax.Array:
        """True at the coefficient of the mean over the sphere, of one plane."""
        return self.enter(jnp.asarray(self.harmonics.is_mean, self.harmonics.dtype)) > 0

    def of_total(self, table: np.ndarray) -> np.ndarray:
        """A table [l] shaped to multiply an array."""
        return self._transform.of_total(table)

    @property
    def zonal(self) -> jax.Array:
        return self._transform.of_zonal(self.harmonics.zonal[:, 0])

    @property
    def laplacian_eigenvalues(self) -> np.ndarray:
        return self.of_total(self.harmonics.laplacian_eigenvalues)

    def values_of(self, field: Waves) -> jax.Array:
        """A field's own coefficients, without what slopes have beyond l = n.

        By the recurrence
        cos(lat) dP_l/dlat = (l + 1) eps_l P_(l-1) - l eps_(l+1) P_(l+1).
        """
        field, h = self.of_both(field), self.harmonics
        values = 0.0 if field.values is None else field.values
        if field.slopes is not None:
            l = jnp.asarray(h.total_wavenumber, h.dtype)  # noqa: E741
            below, above = self._transform.neighbours(field.slopes)
            of_waves = self._transform.of_waves
            values += of_waves((l + 2) * h.eps[1]) * above
            values -= of_waves((l - 1) * h.eps[0]) * below
        known = h.total_wavenumber <= h.grid.truncation
        return values * self.of_total(known.astype(values.dtype))

    def clip(self, waves: jax.Array) -> jax.Array:
        """As of `SphericalHarmonics`."""
        if not self.harmonics.top:
            return waves
        h = self.harmonics
        known = h.total_wavenumber <= h.grid.truncation
        return waves * self.of_total(known.astype(waves.dtype))

    def wave_tables(self, matrices: Matrices) -> Tables:
        """Matrices [k, plane] for `over_planes`, among own m."""
        own = self.harmonics.modal_shape[1] // partitioning.size(LAT)
        return self._transform.wave_tables(matrices, own)

    def over_planes(self, table: Table, waves: jax.Array) -> jax.Array:
        """A matrix [k, plane] times an array of so many planes."""
        return self._transform.over_planes(table, waves)

    def gather(self, waves: T) -> T:
        """As of `SphericalHarmonics`."""
        return self._exchanged(partitioning.all_gather, waves)

    def scatter(self, waves: T) -> T:
        """As of `SphericalHarmonics`."""
        return self._exchanged(partitioning.reduce_scatter, waves)

    def _exchanged(self, exchange: Callable[..., jax.Array], waves: T) -> T:
        if not self.harmonics.gathers or partitioning.size(LAT) == 1:
            return waves
        leaves, structure = jax.tree.flatten(waves)
        joined = exchange(jnp.concatenate(leaves, axis=-2), LAT, dimension=-3)
        return structure.unflatten(jnp.split(joined, ends(leaves, axis=-2), axis=-2))

    def point_tables(self, matrices: Matrices, vectors: Matrices) -> PointTables:
        """Matrices [k, plane] and others [plane, k], for `RightHandSide.products`."""
        return self._transform.point_tables(matrices, vectors)

    def through_points(
        self, equation: RightHandSide, tables: PointTables, state: T
    ) -> T:
        """What an equation makes of a state; this device's part, as of `to_modal`."""
        if self._transform.fuses:
            return fused.through_points(self, equation, tables, state)
        fields = self._transform.to_points(equation.fields(self, state))
        sin_latitude = self.harmonics.sin_latitude
        products = self._transform.at_points(
            equation.at_points, sin_latitude, tables, fields
        )
        return equation.tendency(self, self._transform.from_points(products))

    @property
    def _transform(self) -> WholeCircle | QuarterCircle:
        return self.harmonics.transform
