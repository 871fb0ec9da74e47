"""The catalogue of variables: names, units, kinds, plausible values.

Names, units and long names are those of ARCO-ERA5; short names are ECMWF's
(https://codes.ecmwf.int/grib/param-db). A further variable needs one more entry.
"""

import dataclasses
from typing import Literal

import numpy as np

from pipeline.errors import UserError

Kind = Literal["levels", "surface", "static"]

# The 37 pressure levels of ERA5, in hPa.
PRESSURE_LEVELS = tuple(
    float(level)
    for level in (
        *(1, 2, 3, 5, 7, 10, 20, 30, 50, 70),
        *(100, 125, 150, 175, 200, 225, 250, 300, 350, 400),
        *(450, 500, 550, 600, 650, 700, 750, 775, 800, 825),
        *(850, 875, 900, 925, 950, 975, 1000),
    )
)

_UNIT_SPELLINGS = {
    "m2 s-2": ("m**2 s**-2", "m^2/s^2", "m2/s2", "m^2 s^-2", "m2 s-2"),
    "m s-1": ("m s**-1", "m/s", "m s^-1", "m s-1"),
    "K": ("K", "kelvin", "Kelvin", "degK"),
    "kg kg-1": ("kg kg**-1", "kg/kg", "kg kg^-1", "kg kg-1"),
    "1": ("1", "(0 - 1)", "0-1", "(0-1)", "dimensionless", "fraction"),
}


@dataclasses.dataclass(frozen=True)
class Variable:
    """A variable that a store may hold.

    Attributes:
      name: ERA5 name, which is also the name of the array in a store.
      short_names: other names under which sources hold it.
      kind: `levels` (time, level, latitude, longitude), `surface` (without level),
        or `static` (without level and time).
      units: units in the store, in the spelling of CF.
      long_name: for people and plots.
      plausible: least and largest value that a sound source can hold.
      fill: whether the source leaves points undefined (NaN over land), which
        regridding fills from the nearest defined points. NaN is an error otherwise.
    """

    name: str
    short_names: tuple[str, ...]
    kind: Kind
    units: str
    long_name: str
    plausible: tuple[float, float]
    fill: bool = False

    def check_units(self, units: str | None, where: str) -> None:
        """Raises UserError unless `units` is a spelling of this variable's units."""
        spellings = _UNIT_SPELLINGS[self.units]
        if units not in spellings:
            stated = "has no units" if units is None else f"has units {units!r}"
            raise UserError(
                f"{self.name} in {where} {stated}; convert it to {self.units!r} and "
                f"set that attribute (also accepted: {', '.join(spellings)})"
            )

    def check_values(
        self, fields: np.ndarray, times: np.ndarray, levels: np.ndarray
    ) -> None:
        """Checks that values are defined where they must be, and plausible.

        Args:
          fields: [time, level, latitude, longitude]; length 1 stands for an axis
            that the variable does not have.
          times: [time], datetime64, for the message.
          levels: [level] in hPa, for the message.

        Raises:
          UserError: naming variable, time and level of the first offence.
        """
        # Extremes without copies first: almost always all there is to do. NaN makes
        # both comparisons false.
        least, largest = self.plausible
        if np.min(fields) >= least and np.max(fields) <= largest:
            return
        undefined = np.isnan(fields)
        offences = (
            ((undefined.all((2, 3)), "is NaN everywhere"),)
            if self.fill
            else ((undefined.any((2, 3)), "has NaN"),)
        )
        with np.errstate(invalid="ignore"):
            outside = (fields < least) | (fields > largest)
        offences += ((outside.any((2, 3)), "has implausible values"),)
        for where, what in offences:
            if not where.any():
                continue
            time, level = np.argwhere(where)[0]
            place = ""
            if self.kind != "static":
                place += f" at {np.datetime_as_string(times[time], 'm')}"
            if self.kind == "levels":
                place += f", {levels[level]:g} hPa"
            bad = fields[time, level][outside[time, level]]
            if what == "has implausible values":
                what += (
                    f" ({bad.min():g} to {bad.max():g}, plausible are "
                    f"{least:g} to {largest:g} {self.units})"
                )
            raise UserError(
                f"{self.name} {what}{place}: mend the source or leave that out"
            )


# Ranges are wide enough for any sound analysis or simulation and narrow enough to
# catch a wrong unit. Small negative water is sound: ERA5 holds condensate down to
# -1e-9, and spectral models undershoot more.
_VARIABLES = (
    Variable(
        "geopotential",
        ("z", "phi"),
        "levels",
        "m2 s-2",
        "Geopotential",
        (-2e4, 6e5),
    ),
    Variable("temperature", ("t", "ta"), "levels", "K", "Temperature", (120, 370)),
    Variable(
        "u_component_of_wind",
        ("u", "ua"),
        "levels",
        "m s-1",
        "U component of wind",
        (-300, 300),
    ),
    Variable(
        "v_component_of_wind",
        ("v", "va"),
        "levels",
        "m s-1",
        "V component of wind",
        (-300, 300),
    ),
    Variable(
        "specific_humidity",
        ("q", "hus"),
        "levels",
        "kg kg-1",
        "Specific humidity",
        (-1e-3, 0.1),
    ),
    Variable(
        "specific_cloud_ice_water_content",
        ("ciwc",),
        "levels",
        "kg kg-1",
        "Specific cloud ice water content",
        (-1e-4, 0.05),
    ),
    Variable(
        "specific_cloud_liquid_water_content",
        ("clwc",),
        "levels",
        "kg kg-1",
        "Specific cloud liquid water content",
        (-1e-4, 0.05),
    ),
    Variable(
        "sea_surface_temperature",
        ("sst",),
        "surface",
        "K",
        "Sea surface temperature",
        (250, 330),
        fill=True,
    ),
    Variable(
        "sea_ice_cover",
        ("siconc", "ci"),
        "surface",
        "1",
        "Sea ice area fraction",
        (-1e-3, 1.001),
        fill=True,
    ),
    Variable(
        "geopotential_at_surface",
        ("z",),
        "static",
        "m2 s-2",
        "Geopotential at the surface",
        (-2e4, 1e5),
    ),
    Variable(
        "land_sea_mask",
        ("lsm",),
        "static",
        "1",
        "Land-sea mask",
        (-1e-3, 1.001),
    ),
)

VARIABLES: dict[str, Variable] = {variable.name: variable for variable in _VARIABLES}
