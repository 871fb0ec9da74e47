"""Scores of scaled errors, plane by plane: what a term makes of them.

All are means over the sphere; by Parseval, the mean of a square is the sum of squared
coefficients over 4 pi. Each is this device's part: the sum over `level` and `lat` is
the whole.
"""

import math

import jax
import jax.numpy as jnp

from model import partitioning
from model.partitioning import LAT

SPHERE = 4 * math.pi


def mean_square(error: jax.Array) -> jax.Array:
    """Mean square error, [plane, 2, m, l] -> [plane]."""
    return jnp.sum(error**2, axis=(-3, -2, -1)) / SPHERE


def spectrum(target: jax.Array, error: jax.Array, cutoff: int) -> jax.Array:
    """Squared difference of the amplitudes of each total wavenumber, summed.

    The amplitude at l is the root of the sum over m of squared coefficients.

    Args:
      target, error: [plane, 2, m, l].
      cutoff: the largest l that is compared.

    Returns:
      [plane].
    """
    both = jnp.stack([target + error, target])[..., : cutoff + 1]
    power = partitioning.sum_over(jnp.sum(both**2, axis=(-3, -2)), LAT)
    predicted, observed = _root(power)
    whole = jnp.sum((predicted - observed) ** 2, axis=-1) / SPHERE
    return whole / partitioning.size(LAT)


def amplitude_bias(target: jax.Array, error: jax.Array) -> jax.Array:
    """|prediction| - |target| of complex coefficients, [plane, 2, m, l] -> [.., m, l].

    It does not depend on where longitudes begin. The bias is `mean_square_bias` of its
    mean over frames and samples.
    """
    both = jnp.stack([target + error, target])
    predicted, observed = _root(jnp.sum(both**2, axis=-3))
    return predicted - observed


def mean_square_bias(bias: jax.Array) -> jax.Array:
    """Mean square of what `amplitude_bias` averages to, [plane, m, l] -> [plane]."""
    return jnp.sum(bias**2, axis=(-2, -1)) / SPHERE


def crps(error: jax.Array, other: jax.Array) -> jax.Array:
    """Fair continuous ranked probability score of two members, of every element.

    |X - Y| / 2 + |X' - Y| / 2 - |X - X'| / 2 is the distance of the target Y to the
    interval between the members X and X'; so computed it is never negative, and small
    differences of large terms do not occur. Its mean over draws is that of the
    distribution. After Zamo and Naveau (2018), doi:10.1007/s11004-017-9709-7.

    Args:
      error: of this member, X - Y.
      other: of the other one, X' - Y, the same shape.
    """
    above = jnp.minimum(error, other)
    below = jnp.maximum(error, other)
    return jnp.maximum(above, 0) + jnp.maximum(-below, 0)


def mean_over_points(scores: jax.Array, weights: jax.Array) -> jax.Array:
    """Mean over the sphere, of own grid points.

    Args:
      scores: [plane, 2, latitude, longitude].
      weights: of quadrature, [latitude, 1]; their sum over points is 4 pi.

    Returns:
      [plane].
    """
    return jnp.sum(scores * weights, axis=(-3, -2, -1)) / SPHERE


def mean_over_waves(scores: jax.Array, cutoff: int) -> jax.Array:
    """Scores of coefficients up to a total wavenumber, [plane, 2, m, l] -> [plane].

    Their sum over root(4 pi N), N the number of coefficients: of |errors| it is never
    more than the root mean square error, and equal to it if all are as large.
    """
    count = (cutoff + 1) ** 2
    compared = scores[..., : cutoff + 1]
    return jnp.sum(compared, axis=(-3, -2, -1)) / math.sqrt(SPHERE * count)


def _root(x: jax.Array) -> jax.Array:
    """Square root, with a finite derivative (0) at 0."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)
