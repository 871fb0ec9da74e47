"""Step filters: what is done to a state after every step of the core.

A filter is any function of the states before and after the step; it returns the
state to go on with. Here are those that dissipate the smallest scales; those that
conserve are in `model.dynamics.conservation`.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from model.sphere.grids import GaussianGrid
from model.sphere.harmonics import total_wavenumbers
from model.sphere.ordered import OrderedWaves

Y = TypeVar("Y")
StepFilter = Callable[[Y, Y], Y]


def filtered(step: Callable[[Y], Y], filters: Sequence[StepFilter[Y]]) -> Callable:
    """`step`, with all `filters` applied one after another to what it makes."""

    def filtered_step(before: Y) -> Y:
        after = step(before)
        for step_filter in filters:
            after = step_filter(before, after)
        return after

    return filtered_step


def exponential_factors(
    grid: GaussianGrid,
    attenuation: float,
    order: int,
    cutoff: float = 0.0,
    rows: int | None = None,
) -> np.ndarray:
    """exp(-attenuation ((k - cutoff) / (1 - cutoff))^(2 order)) for k > cutoff, else 1.

    k = l / (n + 1) is the relative total wavenumber. Float64 [l], of as many l as
    spectral arrays have without `top`, or `rows`.
    """
    k = np.arange(rows or len(total_wavenumbers(grid))) / (grid.truncation + 1)
    excess = np.maximum(k - cutoff, 0) / (1 - cutoff)
    return np.exp(-attenuation * excess ** (2 * order))


def exponential_filter(
    grid: GaussianGrid,
    dt: float,
    tau: float,
    order: int,
    cutoff: float = 0.0,
    waves: OrderedWaves | None = None,
) -> StepFilter[Y]:
    """Filter for one step of `dt`; waves of the smallest scale decay in `tau`.

    `dt` and `tau` in the same units. States are of arrays [..., m, l]; with `waves`
    they are in the order of the transforms.

    Raises:
      ValueError: if the states have another number of l.
    """

    def smooth(before: Y, after: Y) -> Y:
        rows = jax.tree.leaves(after)[0].shape[-1]
        if waves is not None:
            rows = len(waves.harmonics.total_wavenumber)
        if rows not in (len(total_wavenumbers(grid, top)) for top in (False, True)):
            raise ValueError(
                f"states have {rows} total wavenumbers, not those of {grid}"
            )
        factors = exponential_factors(grid, dt / tau, order, cutoff, rows)
        if waves is None:
            return _times(after, factors)
        return tuple(
            _times(x, band.of_total(factors))
            for band, x in zip(waves.bands, after, strict=True)
        )

    return smooth


def _times(state: Y, factors: np.ndarray) -> Y:
    return jax.tree.map(lambda x: x * jnp.asarray(factors, x.dtype), state)
