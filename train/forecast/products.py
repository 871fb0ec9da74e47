"""What a forecast writes: fields that are asked for by name, made on whole columns."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from model import diagnostics, units
from model.dynamics.conservation import Budget
from model.neural_gcm import Frame, NeuralGCM
from model.physics.columns import Columns, Surroundings
from model.spec import LEVEL_VARIABLES, TENDENCY_FIELDS
from model.vertical import interpolation
from pipeline.errors import UserError
from pipeline.variables import VARIABLES

LEVEL, SIGMA, SURFACE, GLOBAL = "level", "sigma", "surface", "global"
"""Where a field is: on pressure levels, on the model's layers, at the surface, or a
mean of the whole atmosphere."""


@dataclasses.dataclass(frozen=True)
class Moment:
    """A forecast at one time, of one member: what fields are made of.

    Attributes:
      model: its tables.
      columns: the atmosphere on the model's layers.
      decoded: on pressure levels, SI units.
      surroundings: what bounds it.
      budget: makes that of the state.
      tendencies: makes those of the physics, on the layers, by name, model units.
    """

    model: NeuralGCM
    columns: Columns
    decoded: Frame
    surroundings: Surroundings
    budget: Callable[[], Budget]
    tendencies: Callable[[], dict[str, jax.Array]]


@dataclasses.dataclass(frozen=True)
class Field:
    """A field of a forecast.

    Attributes:
      units: in CF's spelling.
      long_name: for people.
      place: `LEVEL`, `SIGMA`, `SURFACE` or `GLOBAL`.
      of: its values [(level,) 2, latitude, longitude], or [] of a mean.
    """

    units: str
    long_name: str
    place: str
    of: Callable[[Moment], jax.Array]


def _decoded(name: str) -> Field:
    variable = VARIABLES[name]
    return Field(
        variable.units, variable.long_name, LEVEL, lambda moment: moment.decoded[name]
    )


def _on_levels(name: str, long_name: str) -> Field:
    """Of the model's own winds, interpolated to pressure levels."""

    def of(moment: Moment) -> jax.Array:
        x = getattr(moment.columns, name)
        (on_levels,) = interpolation.sigma_to_pressure(
            x[None],
            sigma=jnp.asarray(moment.model.spec.sigma.centers, x.dtype),
            levels=jnp.asarray(moment.model.spec.levels, x.dtype) / 1000,
            surface_pressure=jnp.exp(moment.columns.log_surface_pressure),
        )
        return on_levels * units.SECOND

    return Field("s-1", long_name, LEVEL, of)


def era5_name(name: str) -> str:
    """Of a field of columns."""
    winds = {"u": "u_component_of_wind", "v": "v_component_of_wind"}
    return winds.get(name, name)


def _on_sigma(name: str) -> Field:
    variable = VARIABLES[era5_name(name)]
    return Field(
        variable.units,
        f"{variable.long_name} on the model's layers",
        SIGMA,
        lambda moment: units.to_si(variable.name, moment.columns.by_name()[name]),
    )


def _tendency(name: str) -> Field:
    variable = VARIABLES[era5_name(name)]
    per_second = variable.units.removesuffix(" s-1")
    return Field(
        f"{per_second} s-2" if name in ("u", "v") else f"{variable.units} s-1",
        f"Tendency of {variable.long_name[0].lower()}{variable.long_name[1:]} by the "
        "physics, on the model's layers",
        SIGMA,
        lambda moment: (
            units.SECOND * units.to_si(variable.name, moment.tendencies()[name])
        ),
    )


def _mean(name: str, units_: str, long_name: str) -> Field:
    """Of the budget of the model's state, whose drift tells of leaks."""
    return Field(units_, long_name, GLOBAL, lambda moment: moment.budget().si()[name])


FIELDS: dict[str, Field] = {
    **{name: _decoded(name) for name in LEVEL_VARIABLES},
    "wind_speed": Field(
        "m s-1",
        "Wind speed",
        LEVEL,
        lambda moment: jnp.hypot(
            moment.decoded["u_component_of_wind"],
            moment.decoded["v_component_of_wind"],
        ),
    ),
    "vorticity": _on_levels("vorticity", "Relative vorticity"),
    "divergence": _on_levels("divergence", "Divergence of wind"),
    "surface_pressure": Field(
        "Pa",
        "Surface pressure",
        SURFACE,
        lambda moment: diagnostics.surface_pressure(moment.columns),
    ),
    "mean_sea_level_pressure": Field(
        "Pa",
        "Mean sea level pressure",
        SURFACE,
        lambda moment: diagnostics.mean_sea_level_pressure(
            moment.columns,
            moment.surroundings.surface_geopotential,
            moment.model.spec.sigma,
        ),
    ),
    "total_column_water_vapour": Field(
        "kg m-2",
        "Total column water vapour",
        SURFACE,
        lambda moment: diagnostics.total_column_water_vapour(
            moment.columns, moment.model.spec.sigma
        ),
    ),
    "global_surface_pressure": _mean(
        "surface_pressure_Pa", "Pa", "Mean surface pressure"
    ),
    "global_dry_mass": _mean("dry_mass_kg_m2", "kg m-2", "Mean mass of dry air"),
    "global_total_energy": _mean(
        "total_energy_J_m2", "J m-2", "Mean total energy of the atmosphere"
    ),
    **{f"{era5_name(n)}_on_sigma": _on_sigma(n) for n in TENDENCY_FIELDS},
    **{f"tendency_of_{era5_name(n)}_on_sigma": _tendency(n) for n in TENDENCY_FIELDS},
}

_OF_STATE = {
    "geopotential": "geopotential",
    "temperature": "air_temperature",
    "u_component_of_wind": "eastward_wind",
    "v_component_of_wind": "northward_wind",
    "specific_humidity": "specific_humidity",
    "specific_cloud_ice_water_content": "mass_fraction_of_cloud_ice_in_air",
    "specific_cloud_liquid_water_content": "mass_fraction_of_cloud_liquid_water_in_air",
    "vorticity": "atmosphere_relative_vorticity",
    "divergence": "divergence_of_wind",
}
STANDARD_NAMES = {
    **_OF_STATE,
    **{f"{name}_on_sigma": standard for name, standard in _OF_STATE.items()},
    "wind_speed": "wind_speed",
    "surface_pressure": "surface_air_pressure",
    "mean_sea_level_pressure": "air_pressure_at_mean_sea_level",
    "total_column_water_vapour": "atmosphere_mass_content_of_water_vapor",
}
"""Of CF, by field."""

_ON_SIGMA = tuple(f"{era5_name(n)}_on_sigma" for n in TENDENCY_FIELDS)
GROUPS = {
    "levels": LEVEL_VARIABLES,
    "sigma": (*_ON_SIGMA, "surface_pressure"),
    "drift": ("global_surface_pressure", "global_dry_mass", "global_total_energy"),
    "tendencies": tuple(f"tendency_of_{name}" for name in _ON_SIGMA),
}
"""Names that stand for several fields."""


def parse_fields(names: Sequence[str], physics: str) -> tuple[str, ...]:
    """Fields by name, without repeats, in the order of `FIELDS`.

    Raises:
      UserError: if one is not known, or there is nothing of which it could be made.
    """
    wanted: set[str] = set()
    for name in names:
        if name not in FIELDS and name not in GROUPS:
            raise UserError(
                f"--fields: there is no {name!r}; there are {', '.join(GROUPS)} and "
                f"{', '.join(FIELDS)}"
            )
        wanted.update(GROUPS.get(name, (name,)))
    if not wanted:
        raise UserError("--fields names none")
    if physics == "none" and any(n.startswith("tendency_of_") for n in wanted):
        raise UserError("--physics=none has no tendencies to write")
    return tuple(name for name in FIELDS if name in wanted)
