"""Filters of the spectral state: the horizontal dissipation of the core."""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from model.sphere.grids import GaussianGrid
from model.sphere.harmonics import total_wavenumbers

Y = TypeVar("Y")


def exponential_factors(
    grid: GaussianGrid, attenuation: float, order: int, cutoff: float = 0.0
) -> np.ndarray:
    """exp(-attenuation ((k - cutoff) / (1 - cutoff))^(2 order)) for k > cutoff, else 1.

    k = l / (n + 1) is the relative total wavenumber; float64 [l].
    """
    k = total_wavenumbers(grid) / (grid.truncation + 1)
    excess = np.maximum(k - cutoff, 0) / (1 - cutoff)
    return np.exp(-attenuation * excess ** (2 * order))


def exponential_filter(
    grid: GaussianGrid, dt: float, tau: float, order: int, cutoff: float = 0.0
) -> Callable[[Y], Y]:
    """Filter for one step of `dt`; waves of the smallest scale decay in `tau`.

    `dt` and `tau` in the same units.
    """
    factors = exponential_factors(grid, dt / tau, order, cutoff)
    return lambda tree: jax.tree.map(lambda x: x * jnp.asarray(factors, x.dtype), tree)
