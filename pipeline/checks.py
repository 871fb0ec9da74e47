"""Faults of fields that their ranges cannot show: turned, repeated, mislabelled.

A field that is upside down has the mean, the range and the statistics of a sound one.
It shows only against another field that it must fit: the same variable six hours
before, or another variable that physics ties to it. Nothing here knows a map, so that
other planets pass; only `find_earth_faults` does, for sources that say they are Earth.

Every function is pure and returns findings, one line each; none means sound. Fields
are [level, latitude, longitude] (length 1 for an axis that a variable does not have),
latitudes in degrees are symmetric about the equator and run either way, longitudes are
equally spaced eastward around the globe. NaN is undefined and does not count.

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
from collections.abc import Mapping, Sequence

import numpy as np

LONGEST_STEP = np.timedelta64(24, "h")
"""Fields further apart in time need not resemble each other."""

TURNED = -0.3
"""Correlation of the parts that change sign, below which a field is turned."""

# Air need not follow the sea in a young simulation, and on a single level smooth
# fields correlate by chance.
_TURNED_SEA = -0.5

_GRAVITY = 9.80665
_GAS_CONSTANT = 287.05  # J kg-1 K-1, of dry air: moisture adds at most 2 %
_ROTATION = 7.292e-5  # s-1
_RADIUS = 6.371e6  # m

# Every step turns by a quarter what follows the sun; its mirror image fits it then.
_FOLLOW_THE_SUN = ("toa_incident_solar_radiation",)

# Enough points for any correlation here; finer fields are thinned to about this.
_THIN_LATITUDES, _THIN_LONGITUDES = 45, 90
_LEAST_POINTS = 50

# Steps on either side that say how much a variable usually changes. On a planet that is
# spun up no sound step exceeds 2 times the median and 6 deviations (in its first days,
# when it first rains, single levels of water do, up to 5 times the median); one turned
# upside down is 3 to 6 times the median, 69 times for the sea. Levels that change by
# less than a tenth of the liveliest are not judged: clouds form and vanish there.
_WINDOW = 8
_FEWEST_STEPS = 6
_TIMES_MEDIAN = 2.0
_DEVIATIONS = 6.0
_LEAST_SHARE = 0.1

_Turn = tuple[bool, bool, bool]


def find_constant(
    name: str,
    fields: np.ndarray,
    time: np.datetime64 | None = None,
    may_vanish: bool = False,
) -> list[str]:
    """A variable that has one value everywhere, on all levels, at a time.

    Single constant levels are sound: ERA5 has whole levels without any cloud.

    Args:
      name: of the variable.
      fields: [level, latitude, longitude].
      time: for the finding.
      may_vanish: whether zero everywhere is sound, as of snow or precipitation.
    """
    # A few points tell of nearly every field that it is not constant.
    if _is_constant(_thinned(fields)) and _is_constant(fields):
        value = np.nanmax(fields)
        if value != 0 or not may_vanish:
            return [f"{name} is {value:g} everywhere{_place(time)}"]
    return []


def find_turned_in_time(
    name: str,
    before: np.ndarray,
    after: np.ndarray,
    latitude: np.ndarray,
    time: np.datetime64 | None = None,
) -> list[str]:
    """A variable that is turned against itself at the time before.

    Only for steps of a day at most. On a sound planet that is spun up, the least
    correlation of all variables is 0.5 after 6 h and 0.1 after 24 h (-0.1 on single
    levels), but as low as -0.3 after 5 days (-0.5): sound patterns do turn by then.

    Args:
      name: of the variable.
      before, after: [level, latitude, longitude], at most 24 h apart.
      latitude: [latitude], degrees north.
      time: of `after`.
    """
    turn = None
    if name not in _FOLLOW_THE_SUN:
        turn = _find_turn(before, after, latitude)
    if turn is None:
        return []
    return [f"{name} is {turn} against the time before{_place(time)}"]


def change(before: np.ndarray, after: np.ndarray, latitude: np.ndarray) -> np.ndarray:
    """Root mean square over the area of the change between two times.

    Args:
      before, after: [level, latitude, longitude].
      latitude: [latitude], degrees north.

    Returns:
      [level], float64; NaN where no point is defined at both times.
    """
    square = (np.asarray(after, np.float64) - before) ** 2
    defined = np.isfinite(square)
    total = (_areas(latitude) * defined).sum((-2, -1))
    mean = (_areas(latitude) * np.where(defined, square, 0)).sum((-2, -1))
    return np.sqrt(mean / np.where(total > 0, total, np.nan))


def find_unusual_changes(
    name: str,
    changes: np.ndarray,
    times: np.ndarray,
    levels: Sequence[float] | None = None,
) -> list[str]:
    """Steps that change a variable far more than the steps around them, or not at all.

    These are outliers, to be looked at; a storm or the first rain of a simulation may
    be among them. A bad time shows in the step to it and in the step from it.

    Args:
      name: of the variable.
      changes: [step, level], `change` between each time and the next; at least seven
        steps, all equally long, or nothing is found.
      times: [step], the later time of each step.
      levels: [level], hPa, for the finding.
    """
    findings = []
    for step, time in enumerate(times):
        around = np.delete(changes, step, 0)[max(0, step - _WINDOW) : step + _WINDOW]
        if len(around) < _FEWEST_STEPS:
            continue
        now = changes[step]
        if (now == 0).all() and np.mean((around > 0).any(1)) > 0.9:
            findings.append(f"{name} repeats the time before{_place(time)}")
        usual = np.median(around, 0)
        judged = usual > _LEAST_SHARE * np.nanmax(usual, initial=0)
        # Ratios, because changes are positive and spread by factors. A deviation of
        # 5 % is the least, or steady variables would never be steady enough.
        ratio, ratios = now[judged] / usual[judged], around[:, judged] / usual[judged]
        logs = np.abs(np.log(np.maximum(ratios, 1e-6)))
        deviation = np.maximum(1.48 * np.median(logs, 0), 0.05)
        limit = np.maximum(np.log(_TIMES_MEDIAN), _DEVIATIONS * deviation)
        excess = np.log(np.maximum(ratio, 1e-6)) - limit
        if (excess > 0).any():
            worst = excess.argmax()
            level = _level(levels, np.flatnonzero(judged)[worst])
            more = np.sum(excess > 0) - 1
            findings.append(
                f"{name} changes {ratio[worst]:.1f} times as much as usual"
                f"{_place(time, level)}{f' and {more} more levels' if more else ''}"
            )
    return findings


def find_state_faults(
    fields: Mapping[str, np.ndarray],
    latitude: np.ndarray,
    levels: Sequence[float],
    time: np.datetime64 | None = None,
) -> list[str]:
    """Variables of one time that contradict each other, as far as they are there.

    Args:
      fields: by their names in the catalogue; [level, latitude, longitude]. All on the
        same points.
      latitude: [latitude], degrees north.
      levels: [level], hPa, in any order; not for fields on sigma layers.
      time: for the findings.
    """
    latitude, levels = np.asarray(latitude), np.asarray(levels, np.float64)
    # Sorted without a copy if they are; fields of a source are large.
    order = slice(None) if np.all(np.diff(levels) > 0) else np.argsort(levels)
    levels = levels[order]

    def upper_air(name: str) -> np.ndarray | None:
        return fields[name][order] if name in fields else None

    geopotential = upper_air("geopotential")
    temperature = upper_air("temperature")
    land = fields.get("land_sea_mask")
    sea = fields.get("sea_surface_temperature")
    ground = fields.get("geopotential_at_surface")
    findings = []
    if geopotential is not None and len(levels) > 1:
        findings += _column_faults(geopotential, temperature, latitude, levels)
    if geopotential is not None:
        for name, wind in zip(
            ("u_component_of_wind", "v_component_of_wind"),
            _geostrophic_wind(geopotential, latitude),
            strict=True,
        ):
            if name in fields:
                findings += _wind_faults(name, upper_air(name), wind, latitude, levels)
    if sea is not None and land is not None:
        undefined = np.isnan(sea).astype(np.float64)
        turn = _find_turn(undefined, land, latitude)
        if turn:
            findings.append(
                f"sea_surface_temperature or land_sea_mask is {turn}: the one is "
                "undefined where the other has sea"
            )
    if sea is not None and temperature is not None and levels[-1] >= 900:
        # Sea ice and what is filled in over land have temperatures of their own.
        water = sea if land is None else np.where(land < 0.5, sea, np.nan)
        turn = _find_turn(temperature[-1:], water, latitude, 60, _TURNED_SEA)
        if turn:
            findings.append(
                f"temperature or sea_surface_temperature is {turn}: the air at "
                f"{levels[-1]:g} hPa contradicts the sea"
            )
    if ground is not None and land is not None:
        # The root, so that plains count beside the highest mountains.
        turn = _find_turn(np.sqrt(np.maximum(ground, 0)), land, latitude)
        if turn:
            findings.append(
                f"geopotential_at_surface or land_sea_mask is {turn}: mountains stand "
                "in the sea"
            )
    return [finding + _place(time) for finding in findings]


def find_earth_faults(
    fields: Mapping[str, np.ndarray], latitude: np.ndarray
) -> list[str]:
    """Static variables of the Earth that have its poles exchanged.

    Antarctica is land and high, the north pole is sea. Poleward of 85 degrees ERA5 has
    means of 1.00 and 0.00 of land, 2680 m and 0 m of height at 0.25 degree, and 2320 m
    and 4 m at TL31.

    Args:
      fields: by their names in the catalogue; [..., latitude, longitude].
      latitude: [latitude], degrees north.
    """
    latitude = np.asarray(latitude)
    reach = min(85, latitude.max(), -latitude.min())
    findings = []
    for name, little, much in (
        ("land_sea_mask", 0.2, 0.8),
        ("geopotential_at_surface", 500 * _GRAVITY, 2000 * _GRAVITY),
    ):
        if name in fields:
            north = np.mean(fields[name][..., latitude >= reach, :])
            south = np.mean(fields[name][..., latitude <= -reach, :])
            if north > much and south < little:
                findings.append(f"{name} is upside down: Antarctica is in the north")
    return findings


def find_out_of_range(
    name: str,
    before: np.ndarray,
    after: np.ndarray,
    levels: Sequence[float] | None = None,
    time: np.datetime64 | None = None,
) -> list[str]:
    """Levels with values that regridding cannot have made: it only takes means.

    Args:
      name: of the variable.
      before, after: [level, latitude, longitude], each on its own points.
      levels: [level], hPa, for the finding.
      time: for the finding.
    """
    findings = []
    for level, (old, new) in enumerate(zip(before, after, strict=True)):
        if np.isnan(old).all() or np.isnan(new).all():
            continue
        least, largest = np.nanmin(old), np.nanmax(old)
        rounding = 4 * np.spacing(np.float32(max(abs(least), abs(largest))))
        low, high = np.nanmin(new), np.nanmax(new)
        if low < least - rounding or high > largest + rounding:
            findings.append(
                f"{name} is {low:g} to {high:g} after regridding from {least:g} to "
                f"{largest:g}{_place(time, _level(levels, level))}"
            )
    return findings


def _column_faults(
    geopotential: np.ndarray,
    temperature: np.ndarray | None,
    latitude: np.ndarray,
    levels: np.ndarray,
) -> list[str]:
    """Levels ascend in pressure. At most one finding: one fault shows in many ways."""
    if temperature is not None:
        z, t = (_thinned(x).astype(np.float64) for x in (geopotential, temperature))
        thin_latitude = _thinned_latitude(latitude)
        areas = _areas(thin_latitude)
        profiles = [
            (areas * x).sum((-2, -1)) / (areas.sum() * x.shape[-1]) for x in (z, t)
        ]
        fault = _profile_fault(*profiles, levels)
        if fault:
            return [fault]
        turn = _find_turn(
            _hydrostatic_thickness(t, levels), z[:-1] - z[1:], thin_latitude
        )
        if turn:
            return [
                f"geopotential or temperature is {turn}: layers are not thick where "
                "they are warm"
            ]
    for upper in range(len(levels) - 1):
        # About half of the points rise in fields of random numbers, in tests.
        rising = np.mean(geopotential[upper] <= geopotential[upper + 1])
        if 0 < rising < 0.1 or rising > 0.9:
            return [
                f"geopotential does not fall from {levels[upper]:g} to "
                f"{levels[upper + 1]:g} hPa at {rising:.2%} of the points"
            ]
    return []


def _profile_fault(
    geopotential: np.ndarray, temperature: np.ndarray, levels: np.ndarray
) -> str | None:
    """What is wrong with area means [level], if they are not hydrostatic.

    Thickness over its hydrostatic value is 0.993 to 1.005 on all layers of ERA5 and of
    the planets, 0.988 to 1.018 with every fifth level only.
    """

    def fits(z: np.ndarray, t: np.ndarray) -> np.ndarray:
        thickness = z[:-1] - z[1:]
        return np.abs(thickness / _hydrostatic_thickness(t, levels) - 1) < 0.1

    sound = fits(geopotential, temperature)
    if sound.all():
        return None
    for what, z, t in (
        (
            "geopotential seems to be geopotential height in m: multiply it by 9.80665",
            geopotential * _GRAVITY,
            temperature,
        ),
        (
            "temperature seems to be in degrees Celsius: add 273.15",
            geopotential,
            temperature + 273.15,
        ),
        (
            "geopotential has its levels in reverse order",
            geopotential[::-1],
            temperature,
        ),
        (
            "temperature has its levels in reverse order",
            geopotential,
            temperature[::-1],
        ),
        (
            "geopotential and temperature have their levels in reverse order",
            geopotential[::-1],
            temperature[::-1],
        ),
    ):
        if fits(z, t).all():
            return what
    if sound.mean() < 0.5:  # Nothing is known of what these fields are.
        return None
    upper = np.argmin(sound)
    return (
        "geopotential and temperature are not hydrostatic between "
        f"{levels[upper]:g} and {levels[upper + 1]:g} hPa "
        f"({np.sum(~sound)} of {len(sound)} layers): levels are exchanged or wrong"
    )


def _hydrostatic_thickness(temperature: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """R T d ln p of layers between levels [level, ...] that ascend in pressure."""
    depth = np.diff(np.log(levels)).reshape(-1, *[1] * (temperature.ndim - 1))
    mean = (temperature[:-1] + temperature[1:]) / 2
    # 0 K only if a fault makes it so; it must not divide.
    return _GAS_CONSTANT * depth * np.where(mean == 0, 1e-3, mean)


def _wind_faults(
    name: str,
    wind: np.ndarray,
    geostrophic: np.ndarray,
    latitude: np.ndarray,
    levels: np.ndarray,
) -> list[str]:
    # Friction below, and weak pressure gradients above in a young simulation.
    chosen = (levels >= 100) & (levels <= 850)
    if not chosen.any():
        return []
    wind = _thinned(wind[chosen])
    geostrophic = geostrophic[chosen]
    latitude = _thinned_latitude(latitude)
    if _mean_correlation(wind, geostrophic, _areas(latitude)) < TURNED:
        # Coriolis' parameter and the direction of x do not turn with the fields.
        cause = (
            ": all fields are upside down or all are mirrored from east to west"
            if name.startswith("v")
            else ""
        )
        return [f"{name} has the wrong sign for the geopotential{cause}"]
    turn = _find_turn(wind, geostrophic, latitude)
    if turn:
        return [f"{name} or geopotential is {turn}: the wind is not geostrophic"]
    return []


def _geostrophic_wind(
    geopotential: np.ndarray, latitude: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """u and v [level, latitude, longitude] of thinned geopotential, in m/s.

    Undefined in the tropics, where winds are not geostrophic, and around the poles.
    """
    geopotential = _thinned(geopotential).astype(np.float64)
    latitude = _thinned_latitude(latitude)
    phi = np.deg2rad(latitude)
    coriolis = 2 * _ROTATION * np.sin(phi)[:, None]
    coriolis[np.abs(np.abs(latitude) - 50) > 25] = np.nan
    spacing = 4 * np.pi / geopotential.shape[-1] * np.cos(phi)[:, None]
    northward = np.gradient(geopotential, phi, axis=-2) / _RADIUS
    eastward = np.roll(geopotential, -1, -1) - np.roll(geopotential, 1, -1)
    return -northward / coriolis, eastward / (spacing * _RADIUS * coriolis)


def _find_turn(
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
    x, y = (_thinned(field).astype(np.float64) for field in (x, y))
    latitude = _thinned_latitude(latitude)
    areas = _areas(latitude) * (np.abs(latitude) <= farthest)[:, None]
    least, worst = limit, None
    for turn in itertools.product((False, True), repeat=3):
        if not any(turn):
            continue
        r = _mean_correlation(x - _turned(x, turn), y - _turned(y, turn), areas)
        if r < least:
            least, worst = r, turn
    return worst and _words(worst)


def _turned(x: np.ndarray, turn: _Turn) -> np.ndarray:
    upside_down, mirrored, shifted = turn
    if upside_down:
        x = x[..., ::-1, :]
    if mirrored:  # Longitude i becomes -i, so that the first one stays.
        x = np.roll(x[..., ::-1], 1, -1)
    if shifted:
        x = np.roll(x, x.shape[-1] // 2, -1)
    return x


def _words(turn: _Turn) -> str:
    words = (
        "upside down",
        "mirrored from east to west",
        "shifted by 180 degrees of longitude",
    )
    return " and ".join(itertools.compress(words, turn))


def _mean_correlation(x: np.ndarray, y: np.ndarray, areas: np.ndarray) -> float:
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


def _thinned(x: np.ndarray) -> np.ndarray:
    """Points at a stride, such that all turns keep the set of points."""
    rows, columns = (_thin_rows(x.shape[-2]), _thin_columns(x.shape[-1]))
    return x[..., rows, columns]


def _thinned_latitude(latitude: np.ndarray) -> np.ndarray:
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


def _areas(latitude: np.ndarray) -> np.ndarray:
    """Relative areas, [latitude, 1]."""
    return np.cos(np.deg2rad(latitude)).clip(0)[:, None]


def _is_constant(x: np.ndarray) -> bool:
    if np.isnan(x).all():
        return False  # That is another fault.
    return bool(np.nanmin(x) == np.nanmax(x))


def _level(levels: Sequence[float] | None, index: int) -> float | None:
    return None if levels is None or len(levels) < 2 else levels[index]


def _place(time: np.datetime64 | None = None, level: float | None = None) -> str:
    place = "" if time is None else f" at {np.datetime_as_string(time, 'm')}"
    return place if level is None else f"{place}, {level:g} hPa"
