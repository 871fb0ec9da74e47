"""From pressure levels to sigma layers, where sigma is pressure over surface pressure.

Both steps are linear in pressure, as in the data preparation of NeuralGCM (Kochkov et
al. 2024, supplement). NumPy only: Beam's workers need no JAX.
"""

import numpy as np

from pipeline.errors import UserError


def surface_pressure(
    levels: np.ndarray, geopotential: np.ndarray, orography: np.ndarray
) -> np.ndarray:
    """Pressure where the geopotential is that of the surface.

    Below the lowest and above the highest level it is extrapolated linearly from the
    two nearest.

    Args:
      levels: [level], hPa, ascending or descending.
      geopotential: [..., level, latitude, longitude], m2 s-2.
      orography: surface geopotential, [latitude, longitude], m2 s-2.

    Returns:
      [..., latitude, longitude], Pa, float64.

    Raises:
      UserError: if there are fewer than two levels or geopotential does not fall with
        pressure around the surface.
    """
    pressure, geopotential = _downwards(levels, geopotential)
    above = geopotential > orography
    lower = np.clip(above.sum(-3), 1, len(pressure) - 1)[..., None, :, :]
    z_upper, z_lower = (
        np.take_along_axis(geopotential, index, -3)[..., 0, :, :].astype(np.float64)
        for index in (lower - 1, lower)
    )
    if not np.all(z_upper > z_lower):
        raise UserError(
            "geopotential does not fall with pressure near the surface: surface "
            "pressure cannot be derived from it"
        )
    lower = lower[..., 0, :, :]
    p_upper, p_lower = pressure[lower - 1], pressure[lower]
    fraction = (z_upper - orography) / (z_upper - z_lower)
    return 100 * (p_upper + fraction * (p_lower - p_upper))


def pressure_to_sigma(
    levels: np.ndarray,
    fields: np.ndarray,
    surface_pressure: np.ndarray,
    sigma: np.ndarray,
) -> np.ndarray:
    """Fields in the middle of sigma layers.

    Beyond the first and the last level they are extrapolated linearly by the distance
    of the last two levels, and are constant from there.

    Args:
      levels: [level], hPa, ascending or descending.
      fields: [..., level, latitude, longitude].
      surface_pressure: [..., latitude, longitude], Pa.
      sigma: centres of layers, [layer].

    Returns:
      [..., layer, latitude, longitude], in the precision of `fields`.

    Raises:
      UserError: if there are fewer than two levels.
    """
    pressure, fields = _downwards(levels, fields)
    target = sigma[:, None, None] * surface_pressure[..., None, :, :] / 100
    first = 2 * pressure[0] - pressure[1]
    last = 2 * pressure[-1] - pressure[-2]
    target = np.clip(target, first, last)
    lower = np.clip(np.searchsorted(pressure, target), 1, len(pressure) - 1)
    weight = (target - pressure[lower - 1]) / (pressure[lower] - pressure[lower - 1])
    weight = weight.astype(fields.dtype)
    lower = lower[(None,) * (fields.ndim - lower.ndim)]
    below = np.take_along_axis(fields, lower, -3)
    above = np.take_along_axis(fields, lower - 1, -3)
    return above + weight * (below - above)


def _downwards(levels: np.ndarray, fields: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Levels and fields in the order of ascending pressure."""
    levels = np.asarray(levels, np.float64)
    if len(levels) < 2:
        raise UserError("sigma layers need at least two pressure levels")
    order = np.argsort(levels)
    if (order == np.arange(len(levels))).all():
        return levels, fields
    return levels[order], fields[..., order, :, :]
