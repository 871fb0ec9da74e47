"""Fields as sums over waves of two sorts, and the tables of both.

At points a field is a sum of associated Legendre functions P and of their slopes
H = cos(latitude) dP/dlatitude, `Waves`: a derivative needs no arithmetic among waves,
and no waves beyond the truncation. Waves of products are integrals against the same
two, `Flux`: the divergence of a flux is integrated by parts.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from model.precision import Table
from model.sphere import legendre
from model.sphere.grids import GaussianGrid, fold

Fields = list[jax.Array]
Matrices = dict[str, jax.Array]
Tables = dict[str, Table]


class Waves(NamedTuple):
    """Spectral coefficients of a field at points, in any order; one may be None.

    Attributes:
      values: of associated Legendre functions.
      slopes: of cos(latitude) times their derivatives in latitude.
    """

    values: jax.Array | None = None
    slopes: jax.Array | None = None


class Flux(NamedTuple):
    """A source at points, and a flux whose divergence adds to it; each may be None.

    Attributes:
      source: what is to be transformed.
      east, north: components of the flux over cos(latitude); none or both.
    """

    source: jax.Array | None = None
    east: jax.Array | None = None
    north: jax.Array | None = None

    def by_parts(self, d_dlon: Callable[[jax.Array], jax.Array]) -> Waves:
        """What is integrated against P and against H, once transformed in longitude."""
        if self.east is None:
            return Waves(self.source)
        return Waves(_plus(self.source, d_dlon(self.east)), -self.north)


class Curl(NamedTuple):
    """A source at points, and a flux whose curl adds to it; see `Flux`."""

    source: jax.Array | None
    east: jax.Array
    north: jax.Array

    def by_parts(self, d_dlon: Callable[[jax.Array], jax.Array]) -> Waves:
        """As of `Flux`."""
        return Waves(_plus(self.source, d_dlon(self.north)), self.east)


def _plus(source: jax.Array | None, x: jax.Array) -> jax.Array:
    return x if source is None else source + x


def d_dlon(waves: jax.Array, zonal: jax.Array, parts: int = 0) -> jax.Array:
    """Derivative in longitude.

    Args:
      waves: with an axis of cosine and sine parts.
      zonal: m, shaped to multiply one part.
      parts: that axis.
    """
    cosine, sine = jnp.unstack(waves, axis=parts)
    return jnp.stack([zonal * sine, -zonal * cosine], axis=parts)


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


def ends(fields: Fields, axis: int) -> np.ndarray:
    """Where all but the last field end if they are put together along an axis."""
    return np.cumsum([x.shape[axis] for x in fields])[:-1]
