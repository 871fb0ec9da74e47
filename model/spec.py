"""What kind of model it is: everything that decides shapes and formulas."""

import dataclasses
from typing import Literal

from model.dynamics.conservation import FIXERS
from model.dynamics.primitive_equations import CONDENSATES, HUMIDITY
from model.sphere.grids import GaussianGrid
from model.vertical.sigma import SigmaLevels

TRACERS = (HUMIDITY, *CONDENSATES)
# What is encoded and decoded, on pressure levels.
LEVEL_VARIABLES = (
    "geopotential",
    "temperature",
    "u_component_of_wind",
    "v_component_of_wind",
    *TRACERS,
)
SURFACE_VARIABLES = ("sea_surface_temperature", "sea_ice_cover")
STATIC_VARIABLES = ("geopotential_at_surface", "land_sea_mask")


@dataclasses.dataclass(frozen=True)
class Filter:
    """An exponential filter of every dycore step (`dynamics.filters`).

    Raises:
      ValueError: if it damps nothing, or everything.
    """

    tau_minutes: float
    order: int
    cutoff: float = 0.0

    def __post_init__(self) -> None:
        if self.tau_minutes <= 0 or self.order <= 0 or not 0 <= self.cutoff < 1:
            raise ValueError(
                f"filters: {dataclasses.astuple(self)} is no (tau in minutes above 0, "
                "order above 0, cutoff from 0 to below 1)"
            )


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """Specification of a neural GCM.

    Attributes:
      grid: of data, encoder, decoder and learned physics.
      dycore_grid: of the dynamical core; states have its waves, on both grids.
      sigma: layers of the model.
      levels: pressure levels of the data, hPa, ascending.
      step_minutes: between two evaluations of the physics.
      substeps: dycore steps in that time, all with the same physics tendency.
      filters: applied after every dycore step.
      fixers: what is conserved after that (`dynamics.conservation.FIXERS`).
      geopotential_interpolation: the decoder's, linear in sigma (as published) or in
        ln(sigma), which follows the hydrostatic profile more closely.
      width, blocks, layers: of the networks (`physics.towers`).

    Raises:
      ValueError: if the time steps do not divide an hour or each other, the core has
        more waves than the data, or a name is unknown.
    """

    grid: GaussianGrid
    dycore_grid: GaussianGrid
    sigma: SigmaLevels
    levels: tuple[float, ...]
    step_minutes: int
    substeps: int
    filters: tuple[Filter, ...]
    fixers: tuple[str, ...]
    geopotential_interpolation: Literal["sigma", "log_sigma"]
    width: int
    blocks: int
    layers: int

    def __post_init__(self) -> None:
        if self.step_minutes < 1 or 360 % self.step_minutes:
            raise ValueError(
                f"step_minutes={self.step_minutes} does not divide 6 hours (360 min)"
            )
        if self.dycore_grid.truncation > self.grid.truncation:
            raise ValueError(
                f"dycore_grid={self.dycore_grid} has more waves than the data's grid "
                f"{self.grid} holds: use one of {self.grid.truncation} or fewer"
            )
        if self.substeps < 1:
            raise ValueError(f"substeps={self.substeps} must be at least 1")
        if unknown := sorted(set(self.fixers) - set(FIXERS)):
            raise ValueError(f"fixers: {unknown[0]!r} is none of {', '.join(FIXERS)}")
        if self.geopotential_interpolation not in ("sigma", "log_sigma"):
            raise ValueError(
                f"geopotential_interpolation={self.geopotential_interpolation!r} is "
                "neither 'sigma' nor 'log_sigma'"
            )
        if list(self.levels) != sorted(set(self.levels)) or len(self.levels) < 2:
            raise ValueError("pressure levels must be two or more, ascending")
