"""From pressure levels to sigma layers, where sigma is pressure over surface pressure.

Both steps are linear in pressure, as in the data preparation of NeuralGCM (Kochkov et
al. 2024, supplement). NumPy only: Beam's workers need no JAX.
"""

import numpy as np

from pipeline.errors import UserError

# How far below the lowest level a surface may lie, as a ratio of pressures. 1000 hPa
# are enough for the deepest anticyclone, 925 hPa for almost any sea; 850 hPa are not.
_REACH = 1.15


def surface_pressure(
    levels: np.ndarray, geopotential: np.ndarray, orography: np.ndarray
) -> np.ndarray:
    """Pressure where the geopotential is that of the surface.

    Linear in pressure between levels, and continued so below the lowest level.

    Args:
      levels: [level], hPa, ascending or descending.
      geopotential: [..., level, latitude, longitude], m2 s-2.
      orography: surface geopotential, [latitude, longitude], m2 s-2.

    Returns:
      [..., latitude, longitude], Pa, float64.

    Raises:
      UserError: if there are fewer than two levels, if values are NaN, if geopotential
        does not fall with pressure around the surface, or if the surface lies above
        the highest level or far below the lowest.
    """
    pressure, geopotential = _downwards(levels, geopotential)
    for name, values in (("geopotential", geopotential), ("orography", orography)):
        if np.isnan(values).any():
            raise UserError(
                f"{name} has NaN: surface pressure cannot be derived from it, mend it "
                "or leave that time out"
            )
    above = geopotential > orography
    lower = np.clip(above.sum(-3), 1, len(pressure) - 1)[..., None, :, :]
    z_upper, z_lower = (
        np.take_along_axis(geopotential, index, -3)[..., 0, :, :].astype(np.float64)
        for index in (lower - 1, lower)
    )
    if not np.all(z_upper > z_lower):
        raise UserError(
            "geopotential does not fall with pressure near the surface: surface "
            "pressure cannot be derived from it, mend it or leave that time out"
        )
    lower = lower[..., 0, :, :]
    p_upper, p_lower = pressure[lower - 1], pressure[lower]
    fraction = (z_upper - orography) / (z_upper - z_lower)
    surface = p_upper + fraction * (p_lower - p_upper)
    if surface.min() < pressure[0] or surface.max() > _REACH * pressure[-1]:
        raise UserError(
            f"levels {pressure[0]:g} to {pressure[-1]:g} hPa do not reach the surface, "
            f"which lies at {surface.min():.0f} to {surface.max():.0f} hPa: take more "
            "levels"
        )
    return 100 * surface


def pressure_to_sigma(
    levels: np.ndarray,
    fields: np.ndarray,
    surface_pressure: np.ndarray,
    sigma: np.ndarray,
) -> np.ndarray:
    """Fields in the middle of sigma layers.

    Linear in pressure between levels. Beyond the first and the last level they are
    extrapolated linearly by the distance of the last two levels, as dinosaur does, and
    are constant from there, where dinosaur gives NaN.

    Args:
      levels: [level], hPa, ascending or descending.
      fields: [..., level, latitude, longitude].
      surface_pressure: [..., latitude, longitude], Pa; the leading axes of `fields`,
        or the last of them.
      sigma: centres of layers, [layer].

    Returns:
      [..., layer, latitude, longitude], in the precision of `fields`.

    Raises:
      UserError: if there are fewer than two levels or values are NaN.
    """
    pressure, fields = _downwards(levels, fields)
    steps = np.diff(pressure)
    first, last = pressure[0] - steps[0], pressure[-1] + steps[-1]
    shape = (*fields.shape[:-3], len(sigma), *fields.shape[-2:])
    result = np.empty(shape, fields.dtype)
    for layer, centre in enumerate(sigma):  # All at once would overflow caches.
        target = np.clip(centre / 100 * surface_pressure, first, last)
        upper = np.searchsorted(pressure[1:-1], target)
        weight = ((target - pressure[upper]) / steps[upper]).astype(fields.dtype)
        upper = upper[(None,) * (fields.ndim - 1 - upper.ndim)][..., None, :, :]
        above, below = (
            np.take_along_axis(fields, index, -3)[..., 0, :, :]
            for index in (upper, upper + 1)
        )
        result[..., layer, :, :] = above + weight * (below - above)
    if np.isnan(result).any():
        raise UserError(
            "fields on pressure levels, or surface pressure, have NaN: mend the source "
            "or leave that time out"
        )
    return result


def _downwards(levels: np.ndarray, fields: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Levels and fields in the order of ascending pressure."""
    levels = np.asarray(levels, np.float64)
    if len(levels) < 2:
        raise UserError("sigma layers need at least two pressure levels")
    order = np.argsort(levels)
    if (order == np.arange(len(levels))).all():
        return levels, fields
    return levels[order], fields[..., order, :, :]
