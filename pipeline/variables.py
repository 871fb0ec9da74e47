"""The catalogue of variables: names, units, kinds, plausible values.

Names and units are those of ARCO-ERA5; short names are ECMWF's
(https://codes.ecmwf.int/grib/param-db) and CMIP's. A further variable needs one more
line of the table.
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
    "Pa s-1": ("Pa s**-1", "Pa/s", "Pa s^-1", "Pa s-1"),
    "K m2 kg-1 s-1": ("K m**2 kg**-1 s**-1", "K m^2 kg^-1 s^-1", "K m2 kg-1 s-1"),
    "Pa": ("Pa", "pascal", "Pascal"),
    "m": ("m", "metre", "meter", "m of water equivalent"),
    "J m-2": ("J m**-2", "J/m^2", "J m^-2", "J m-2"),
    "kg m-2": ("kg m**-2", "kg/m^2", "kg m^-2", "kg m-2"),
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
      plausible: least and largest value that a sound source can hold.
      fill: whether the source leaves points undefined (NaN over land), which
        regridding fills from the nearest defined points. NaN is an error otherwise.
      forcing: whether a forecast is given it, rather than predicting it. It may be
        taken from a time before, so that the forecast cannot peek.
      may_vanish: whether a sound source may hold zero everywhere.
    """

    name: str
    short_names: tuple[str, ...]
    kind: Kind
    units: str
    plausible: tuple[float, float]
    fill: bool = False
    forcing: bool = False
    may_vanish: bool = False

    @property
    def long_name(self) -> str:
        """For people and plots."""
        name = self.name.replace("_", " ")
        return name[0].upper() + name[1:]

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
            advice = "mend the source"
            if self.kind != "static":
                advice += " or leave that time out by --skip_times"
            raise UserError(f"{self.name} {what}{place}: {advice}")


# Ranges are wide enough for any sound analysis or simulation and narrow enough to
# catch a wrong unit. Small negative water is sound: humidity comes from interpolation
# and packing, and ERA5 holds condensate down to -1e-9, packed to 16 bits -1e-8.
# Accumulations are over an hour in ERA5; there is room for a day.
#
# Categories, such as ERA5's soil_type, are not here: their means are none.
#
# name, short names, kind, units, (least, largest), and what else there is to say
# fmt: off
_TABLE = (
    # upper air
    ("geopotential", "z phi", "levels", "m2 s-2", (-2e4, 6e5)),
    ("temperature", "t ta", "levels", "K", (140, 350)),
    ("u_component_of_wind", "u ua", "levels", "m s-1", (-250, 250)),
    ("v_component_of_wind", "v va", "levels", "m s-1", (-250, 250)),
    ("specific_humidity", "q hus", "levels", "kg kg-1", (-1e-4, 0.06)),
    ("specific_cloud_ice_water_content", "ciwc", "levels", "kg kg-1",
     (-1e-7, 0.02), "may_vanish"),
    ("specific_cloud_liquid_water_content", "clwc", "levels", "kg kg-1",
     (-1e-7, 0.02), "may_vanish"),
    ("vertical_velocity", "w wap", "levels", "Pa s-1", (-150, 150)),
    ("potential_vorticity", "pv", "levels", "K m2 kg-1 s-1", (-1, 1)),
    ("ozone_mass_mixing_ratio", "o3", "levels", "kg kg-1", (-1e-6, 1e-4)),
    ("fraction_of_cloud_cover", "cc", "levels", "1", (-1e-3, 1.001), "may_vanish"),
    # surface
    ("sea_surface_temperature", "sst", "surface", "K", (260, 320), "fill forcing"),
    ("sea_ice_cover", "siconc ci", "surface", "1", (-1e-3, 1.001), "fill forcing"),
    ("surface_pressure", "sp ps", "surface", "Pa", (4e4, 1.2e5)),
    ("mean_sea_level_pressure", "msl psl", "surface", "Pa", (8e4, 1.2e5)),
    ("2m_temperature", "t2m 2t tas", "surface", "K", (160, 340)),
    ("2m_dewpoint_temperature", "d2m 2d", "surface", "K", (140, 320)),
    ("10m_u_component_of_wind", "u10 10u uas", "surface", "m s-1", (-120, 120)),
    ("10m_v_component_of_wind", "v10 10v vas", "surface", "m s-1", (-120, 120)),
    ("skin_temperature", "skt", "surface", "K", (150, 370)),
    ("total_cloud_cover", "tcc", "surface", "1", (-1e-3, 1.001), "may_vanish"),
    ("total_column_water_vapour", "tcwv", "surface", "kg m-2", (-0.1, 150)),
    ("total_precipitation", "tp", "surface", "m", (-1e-5, 2), "may_vanish"),
    ("toa_incident_solar_radiation", "tisr", "surface", "J m-2", (-100, 6e7)),
    ("snow_depth", "sd", "surface", "m", (-1e-5, 30), "may_vanish"),
    # static
    ("geopotential_at_surface", "z", "static", "m2 s-2", (-5e3, 9e4)),
    ("land_sea_mask", "lsm", "static", "1", (-1e-3, 1.001)),
    ("standard_deviation_of_orography", "sdor", "static", "m", (-1, 3e3)),
    ("lake_cover", "cl", "static", "1", (-1e-3, 1.001)),
    ("low_vegetation_cover", "cvl", "static", "1", (-1e-3, 1.001)),
    ("high_vegetation_cover", "cvh", "static", "1", (-1e-3, 1.001)),
)
# fmt: on

VARIABLES: dict[str, Variable] = {
    name: Variable(
        name,
        tuple(short_names.split()),
        kind,
        units,
        plausible,
        **{flag: True for flags in notes for flag in flags.split()},
    )
    for name, short_names, kind, units, plausible, *notes in _TABLE
}

# What the model is trained on, and `podgcm preprocess` takes by default.
MODEL_VARIABLES = (
    "geopotential",
    "temperature",
    "u_component_of_wind",
    "v_component_of_wind",
    "specific_humidity",
    "specific_cloud_ice_water_content",
    "specific_cloud_liquid_water_content",
    "sea_surface_temperature",
    "sea_ice_cover",
    "geopotential_at_surface",
    "land_sea_mask",
)
