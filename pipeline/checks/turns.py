"""Turned fields: upside down, mirrored, or shifted around the globe.

A field that is upside down has the mean, the range and the statistics of a sound one.
It shows only against another field that it must fit: the same variable six hours
before, or another variable that physics ties to it.

The turns considered are the latitudes reversed, the longitudes mirrored, and a shift by
180 degrees, with all their combinations. Each undoes itself. So what is symmetric under
a turn T tells nothing, and what remains of a field, x - T x, changes sign when it is
turned. Its correlation with y - T y is therefore r for two fields that fit and exactly
-r if one of them is turned, whatever they have in common by being, say, warm at the
equator. Means over levels of r, least and largest over all turns, seen on sound data
(ERA5 at 0.25, 3 and 5.6 degrees, two of its times and ten members; ERA-Interim by the
shear of its wind; the sample planet from its second day, when it is still a zonal jet,
to its eleventh), as they are and at TL31:

                                            real data       sample planets
    one variable, 6 or 12 h apart           0.76 .. 0.94    0.22 .. 1.00
    thickness and mean temperature          0.92 .. 1.00    0.99 .. 1.00
    u and geostrophic u, 25 to 75 degrees   0.80 .. 0.95    0.43 .. 0.97
    v and geostrophic v, 25 to 75 degrees   0.83 .. 0.97    0.31 .. 0.98
    where sea temperature is not, and land  -               0.98 .. 0.99
    lowest air and sea temperature          0.67 .. 0.84    -0.20 .. 0.37
    root of the ground's height, and land   0.76 .. 0.88    0.29 .. 0.61

and for unrelated random numbers not below -0.13. A turn is a fault below -0.3 (-0.5
for air and sea). The most negative of several is named.
"""

import itertools

import numpy as np

TURNED = -0.3
"""Correlation of the parts that change sign, below which a field is turned."""

# Enough points for any correlation here; finer fields are thinned to about this.
_THIN_LATITUDES, _THIN_LONGITUDES = 45, 90
_LEAST_POINTS = 50

Turn = tuple[bool, bool, bool]
"""Upside down, mirrored, shifted by half a circle."""


def find_turn(
    x: np.ndarray,
    y: np.ndarray,
    latitude: np.ndarray,
    farthest: float = 90.0,
    limit: float = TURNED,
) -> str | None:
    """How `x` is turned against `y`, which it ought to fit; None if it is not.

    Args:
      x, y: [level, latitude, longitude].
      latitude: [latitude], degrees north.
      farthest: distance from the equator, in degrees, beyond which nothing counts.
      limit: correlation below which `x` is turned.
    """
    x, y = (thinned(field).astype(np.float64) for field in (x, y))
    latitude = thinned_latitude(latitude)
    areas = area_weights(latitude) * (np.abs(latitude) <= farthest)[:, None]
    least, worst = limit, None
    for turn in itertools.product((False, True), repeat=3):
        if not any(turn):
            continue
        r = mean_correlation(x - turned(x, turn), y - turned(y, turn), areas)
        if r < least:
            least, worst = r, turn
    return worst and describe(worst)


def turned(x: np.ndarray, turn: Turn) -> np.ndarray:
    """`x` [..., latitude, longitude] after a turn."""
    upside_down, mirrored, shifted = turn
    if upside_down:
        x = x[..., ::-1, :]
    if mirrored:  # Longitude i becomes -i, so that the first one stays.
        x = np.roll(x[..., ::-1], 1, -1)
    if shifted:
        x = np.roll(x, x.shape[-1] // 2, -1)
    return x


def describe(turn: Turn) -> str:
    """In words."""
    words = (
        "upside down",
        "mirrored from east to west",
        "shifted by 180 degrees of longitude",
    )
    return " and ".join(itertools.compress(words, turn))


def mean_correlation(x: np.ndarray, y: np.ndarray, areas: np.ndarray) -> float:
    """Mean over levels of the correlation over the area; NaN if nothing varies.

    It is about 0, which is the mean of what changes sign under a turn.
    """
    defined = np.isfinite(x + y)
    x, y = np.where(defined, x, 0), np.where(defined, y, 0)
    xx, yy, xy = (
        np.einsum("lij,lij,ij->l", a, b, np.broadcast_to(areas, a.shape[-2:]))
        for a, b in ((x, x), (y, y), (x, y))
    )
    varies = (xx > 0) & (yy > 0) & (defined.sum((-2, -1)) >= _LEAST_POINTS)
    return np.mean(xy[varies] / np.sqrt(xx * yy)[varies]) if varies.any() else np.nan


def thinned(x: np.ndarray) -> np.ndarray:
    """Points at a stride, such that all turns keep the set of points."""
    rows, columns = (_thin_rows(x.shape[-2]), _thin_columns(x.shape[-1]))
    return x[..., rows, columns]


def thinned_latitude(latitude: np.ndarray) -> np.ndarray:
    """The latitudes of `thinned` fields."""
    return np.asarray(latitude)[_thin_rows(len(latitude))]


def _thin_rows(latitudes: int) -> slice:
    stride = max(1, latitudes // _THIN_LATITUDES)
    if latitudes % 2 == 0 and stride % 2 == 0:  # There would be no symmetric start.
        stride -= 1
    start = next(i for i in range(stride) if (latitudes - 1 - 2 * i) % stride == 0)
    return slice(start, None, stride)


def _thin_columns(longitudes: int) -> slice:
    largest = max(1, longitudes // _THIN_LONGITUDES)
    strides = (s for s in range(largest, 0, -1) if longitudes % (2 * s) == 0)
    return slice(None, None, next(strides, 1))


def area_weights(latitude: np.ndarray) -> np.ndarray:
    """Relative areas, [latitude, 1]."""
    return np.cos(np.deg2rad(latitude)).clip(0)[:, None]
