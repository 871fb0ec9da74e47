"""What one forecast is worth, by region: NumPy, float64, whole planes at once.

Everything here is of one initial time. Means over initial times are taken later, of
squares before the root, so that scores are those of WeatherBench 2 (Rasp et al. 2024,
doi:10.1029/2023MS004019).
"""

import functools
from collections.abc import Sequence

import numpy as np

from model.sphere import legendre
from model.sphere.grids import GaussianGrid

Statistics = dict[str, np.ndarray]
"""By name [lead, level, region]; see each function."""

_INTERNAL, _LATENT = 717.0, 2.501e6  # c_v of dry air, J/kg/K, and L, J/kg
_GRAVITY = 9.80616  # m/s2


def region_mean(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean over regions, [..., latitude, longitude] -> [..., region].

    Args:
      x: fields.
      weights: of `region_weights`, [region, latitude].
    """
    rows = x.sum(axis=-1, dtype=np.float64)
    return rows @ weights.T


def errors(forecast: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> Statistics:
    """`mse`, `mae` and `bias`, of fields [lead, level, latitude, longitude]."""
    error = forecast.astype(np.float64) - truth
    return {
        "mse": region_mean(error**2, weights),
        "mae": region_mean(np.abs(error), weights),
        "bias": region_mean(error, weights),
    }


def anomalies(
    forecast: np.ndarray, truth: np.ndarray, normal: np.ndarray, weights: np.ndarray
) -> Statistics:
    """`acc`: correlation of anomalies, about 0 and not about their mean.

    Args:
      forecast, truth: [lead, level, latitude, longitude].
      normal: climatology at the same times.
      weights: of regions.
    """
    theirs = forecast.astype(np.float64) - normal
    real = truth.astype(np.float64) - normal
    product = region_mean(theirs * real, weights)
    squares = region_mean(theirs**2, weights) * region_mean(real**2, weights)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {"acc": product / np.sqrt(squares)}


def ensemble(members: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> Statistics:
    """Scores of members, [member, lead, level, latitude, longitude].

    Returns:
      `crps`, fair for few members: E|x - y| - 1/2 E|x - x'| with the pairs of different
      members (Zamo & Naveau 2018, doi:10.1007/s11004-017-9709-7); `spread`, the
      variance of members, unbiased; `mse`, `mae` and `bias` of their mean.
    """
    members, truth = members.astype(np.float64), truth.astype(np.float64)
    count = len(members)
    scores = errors(members.mean(axis=0), truth, weights)
    distance = np.abs(members - truth).mean(axis=0)
    # Sum of all distances of pairs, from the members in order.
    ordered = np.sort(members, axis=0)
    places = 2 * np.arange(count) - count + 1
    pairs = np.tensordot(places, ordered, axes=1) / (count * (count - 1))
    return scores | {
        "crps": region_mean(distance - pairs, weights),
        "spread": region_mean(members.var(axis=0, ddof=1), weights),
    }


def rank_histogram(
    members: np.ndarray, truth: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """How much of a region's area has the truth above so many members.

    [member, lead, level, latitude, longitude] -> [lead, level, region, rank].
    """
    ranks = (members < truth).sum(axis=0)
    return np.stack(
        [region_mean(ranks == rank, weights) for rank in range(len(members) + 1)],
        axis=-1,
    )


def budgets(
    temperature: np.ndarray,
    u: np.ndarray,
    v: np.ndarray,
    geopotential: np.ndarray,
    humidity: np.ndarray,
    levels: Sequence[float],
    weights: np.ndarray,
) -> Statistics:
    """Global `energy`, J m-2, and `water`, kg m-2, above a unit area, [lead].

    Internal, kinetic, potential and latent energy, c_v T + (u2 + v2) / 2 + Phi + L q,
    and the humidity q, integrated between the highest and the lowest pressure level:
    what is below the ground is counted too, the same in all forecasts.

    Args:
      temperature, u, v, geopotential, humidity: SI, [lead, level, latitude, longitude].
      levels: hPa.
      weights: of regions, the globe the first.
    """
    t, u, v, z, q = (
        x.astype(np.float64) for x in (temperature, u, v, geopotential, humidity)
    )
    energy = _INTERNAL * t + 0.5 * (u**2 + v**2) + z + _LATENT * q
    pressure = 100 * np.array(levels)

    def integral(x: np.ndarray) -> np.ndarray:
        means = region_mean(x, weights)[..., 0]
        return np.trapezoid(means, pressure, axis=1) / _GRAVITY

    return {"energy": integral(energy), "water": integral(q)}


@functools.lru_cache(maxsize=2)
def _legendre(grid: GaussianGrid) -> np.ndarray:
    """Weighted associated Legendre functions, [m, l, latitude]."""
    n = grid.truncation
    table = legendre.associated_legendre(n, grid.sin_latitude)[:, : n + 1]
    return table * grid.latitude_weights


def power_spectrum(x: np.ndarray, grid: GaussianGrid) -> np.ndarray:
    """Mean square of a field by total wavenumber, [..., l].

    [..., latitude, longitude]. Its sum is the mean of the square over the sphere, for a
    field of the grid's waves.
    """
    n = grid.truncation
    waves = np.fft.rfft(x.astype(np.float64), axis=-1)[..., : n + 1]
    waves *= np.sqrt(2 * np.pi) / grid.longitudes
    modal = np.einsum("mlj,...jm->...ml", _legendre(grid), waves, optimize=True)
    power = np.abs(modal) ** 2
    power[..., 1:, :] *= 2  # m and -m
    return power.sum(axis=-2) / (4 * np.pi)
