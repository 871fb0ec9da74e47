"""Variables of one time that contradict each other.

Nothing here knows a map, so that other planets pass; only `find_earth_faults` does, for
sources that say they are Earth.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.checks.places import place
from pipeline.checks.turns import (
    TURNED,
    area_weights,
    find_turn,
    mean_correlation,
    thinned,
    thinned_latitude,
)

# Air need not follow the sea in a young simulation, and on a single level smooth
# fields correlate by chance.
_TURNED_SEA = -0.5

_GRAVITY = 9.80665
_GAS_CONSTANT = 287.05  # J kg-1 K-1, of dry air: moisture adds at most 2 %
_ROTATION = 7.292e-5  # s-1
_RADIUS = 6.371e6  # m


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
        turn = find_turn(undefined, land, latitude)
        if turn:
            findings.append(
                f"sea_surface_temperature or land_sea_mask is {turn}: the one is "
                "undefined where the other has sea"
            )
    if sea is not None and temperature is not None and levels[-1] >= 900:
        # Sea ice and what is filled in over land have temperatures of their own.
        water = sea if land is None else np.where(land < 0.5, sea, np.nan)
        turn = find_turn(temperature[-1:], water, latitude, 60, _TURNED_SEA)
        if turn:
            findings.append(
                f"temperature or sea_surface_temperature is {turn}: the air at "
                f"{levels[-1]:g} hPa contradicts the sea"
            )
    if ground is not None and land is not None:
        # The root, so that plains count beside the highest mountains.
        turn = find_turn(np.sqrt(np.maximum(ground, 0)), land, latitude)
        if turn:
            findings.append(
                f"geopotential_at_surface or land_sea_mask is {turn}: mountains stand "
                "in the sea"
            )
    return [finding + place(time) for finding in findings]


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


def _column_faults(
    geopotential: np.ndarray,
    temperature: np.ndarray | None,
    latitude: np.ndarray,
    levels: np.ndarray,
) -> list[str]:
    """Levels ascend in pressure. At most one finding: one fault shows in many ways."""
    if temperature is not None:
        z, t = (thinned(x).astype(np.float64) for x in (geopotential, temperature))
        thin_latitude = thinned_latitude(latitude)
        areas = area_weights(thin_latitude)
        profiles = [
            (areas * x).sum((-2, -1)) / (areas.sum() * x.shape[-1]) for x in (z, t)
        ]
        fault = _profile_fault(*profiles, levels)
        if fault:
            return [fault]
        turn = find_turn(
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
    wind = thinned(wind[chosen])
    geostrophic = geostrophic[chosen]
    latitude = thinned_latitude(latitude)
    if mean_correlation(wind, geostrophic, area_weights(latitude)) < TURNED:
        # Coriolis' parameter and the direction of x do not turn with the fields.
        cause = (
            ": all fields are upside down or all are mirrored from east to west"
            if name.startswith("v")
            else ""
        )
        return [f"{name} has the wrong sign for the geopotential{cause}"]
    turn = find_turn(wind, geostrophic, latitude)
    if turn:
        return [f"{name} or geopotential is {turn}: the wind is not geostrophic"]
    return []


def _geostrophic_wind(
    geopotential: np.ndarray, latitude: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """u and v [level, latitude, longitude] of thinned geopotential, in m/s.

    Undefined in the tropics, where winds are not geostrophic, and around the poles.
    """
    geopotential = thinned(geopotential).astype(np.float64)
    latitude = thinned_latitude(latitude)
    phi = np.deg2rad(latitude)
    coriolis = 2 * _ROTATION * np.sin(phi)[:, None]
    coriolis[np.abs(np.abs(latitude) - 50) > 25] = np.nan
    spacing = 4 * np.pi / geopotential.shape[-1] * np.cos(phi)[:, None]
    northward = np.gradient(geopotential, phi, axis=-2) / _RADIUS
    eastward = np.roll(geopotential, -1, -1) - np.roll(geopotential, 1, -1)
    return -northward / coriolis, eastward / (spacing * _RADIUS * coriolis)
