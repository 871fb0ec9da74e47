"""What kind of model it is: everything that decides shapes and formulas."""

import dataclasses
from typing import Literal

import numpy as np

from model.dynamics import baroclinic_wave
from model.dynamics.conservation import FIXERS
from model.dynamics.primitive_equations import CONDENSATES, HUMIDITY
from model.remat import Remat
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

# Fields of a model's atmosphere on columns, and in spectral space.
LAYER_FIELDS = ("u", "v", "vorticity", "divergence", "temperature", *TRACERS)
COLUMN_FIELDS = (*LAYER_FIELDS, "log_surface_pressure")
STATE_FIELDS = ("vorticity", "divergence", "temperature", *TRACERS)
DERIVATIVES = ("dlon", "dlat", "del2")  # horizontal ones, of features
OROGRAPHIES = ("encoder", "core", "decoder")
# What the physics makes tendencies of.
TENDENCY_FIELDS = ("u", "v", "temperature", *TRACERS)


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
class StateFilter:
    """An exponential filter of an encoded state, of one field or of "all".

    Raises:
      ValueError: if there is no such field, or it cannot be filtered so.
    """

    field: str
    attenuation: float
    order: int
    cutoff: float = 0.0

    def __post_init__(self) -> None:
        known = ("all", *STATE_FIELDS, "log_surface_pressure")
        if self.field not in known:
            raise ValueError(
                f"encoder_filters: {self.field!r} is none of {', '.join(known)}"
            )
        if self.attenuation < 0 or self.order <= 0 or not 0 <= self.cutoff < 1:
            raise ValueError(
                f"encoder_filters: {dataclasses.astuple(self)} is no (field, "
                "attenuation from 0, order above 0, cutoff from 0 to below 1)"
            )


@dataclasses.dataclass(frozen=True)
class NetworkSpec:
    """The learned part: its sizes, and what it looks at.

    As in Kochkov et al. (2024), Supplement C, where each of these is chosen.

    Attributes:
      width, blocks, layers: of the towers (`physics.towers`).
      encoder_gradients, physics_gradients, decoder_gradients: whether a tower sees the
        horizontal derivatives of its fields too.
      decoder_fields: of the atmosphere that the decoder sees, of `COLUMN_FIELDS`.
      convolution: channels of the convolution over levels (`physics.convolution`), the
        last of which are features; empty: none.
      convolution_window: levels.
      surface: what the networks know of sea and ice: "raw", the fields themselves, in
        all towers; or, in the physics, an embedding (`physics.surface`) whose land and
        ice look at the "air" above them, or are "constant".
      surface_features: number of the embedding's outputs, and width of its towers.
      positional: number of trained features of each place, for each tower.
      memory: whether the physics sees the atmosphere of the step before, of which a
        second encoder makes the first.
      noise: correlation length in km and time in hours of random fields
        (`physics.random_fields`) that encoder and physics see.
      learned_orography: where a correction to the orography is trained: any of
        "encoder", "core", "decoder".
      orography_scale: of these corrections, as height in radii of the Earth.
      dtype: "float32" or "bfloat16", of the products within networks; parameters and
        sums are float32 always.

    Raises:
      ValueError: if a number makes no sense, or a name is unknown.
    """

    width: int
    blocks: int
    layers: int
    encoder_gradients: bool = False
    physics_gradients: bool = False
    decoder_gradients: bool = False
    decoder_fields: tuple[str, ...] = COLUMN_FIELDS
    convolution: tuple[int, ...] = ()
    convolution_window: int = 5
    surface: Literal["raw", "air", "constant"] = "raw"
    surface_features: int = 8
    positional: int = 0
    memory: bool = False
    noise: tuple[tuple[float, float], ...] = ()
    learned_orography: tuple[str, ...] = ()
    orography_scale: float = 0.0
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        for name in ("width", "blocks", "layers", "convolution_window"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if min(self.positional, *self.convolution, self.surface_features - 1) < 0:
            raise ValueError("numbers of features must not be negative")
        for name, known in [
            ("decoder_fields", COLUMN_FIELDS),
            ("learned_orography", OROGRAPHIES),
        ]:
            for value in getattr(self, name):
                if value not in known:
                    raise ValueError(f"{name}: {value!r} is none of {', '.join(known)}")
        for name, known in [
            ("surface", ("raw", "air", "constant")),
            ("dtype", ("float32", "bfloat16")),
        ]:
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is none of {', '.join(known)}"
                )
        if any(length <= 0 or time <= 0 for length, time in self.noise):
            raise ValueError(f"noise: {self.noise} must be lengths and times above 0")


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """Specification of a neural GCM.

    Attributes:
      grid: of data, encoder, decoder and learned physics.
      dycore_grid: of the dynamical core, which drops the waves that it does not have.
      sigma: layers of the model.
      levels: pressure levels of the data, hPa, ascending.
      step_minutes: between two evaluations of the physics.
      substeps: dycore steps in that time, all with the same physics tendency.
      filters: applied after every dycore step.
      tendency_filters: applied once to every tendency of the learned physics.
      encoder_filters: applied to every encoded state.
      fixers: what is conserved after every dycore step
        (`dynamics.conservation.FIXERS`).
      as_published: repeat what published models do, and others here do not: waves
        l = n + 1 of a grid of truncation n, which no state keeps, are left in the
        orography (so that geopotential has waves that ln(ps) lacks), and in an encoded
        state for the core's first step; and encoders correct the mean of vorticity and
        divergence over the sphere, which physically is 0.
      reference_temperature: of the core, K, one number for each layer; empty: of
        `dynamics.baroclinic_wave`.
      geopotential_interpolation: the decoder's, linear in sigma (as published) or in
        ln(sigma), which follows the hydrostatic profile more closely.
      networks: the learned part.
      remat: what the backward pass recomputes; it changes no result.

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
    networks: NetworkSpec
    tendency_filters: tuple[Filter, ...] = ()
    encoder_filters: tuple[StateFilter, ...] = ()
    as_published: bool = False
    reference_temperature: tuple[float, ...] = ()
    remat: Remat = Remat()

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
        if len(self.reference_temperature) not in (0, self.sigma.layers):
            raise ValueError(
                f"reference_temperature has {len(self.reference_temperature)} values, "
                f"but there are {self.sigma.layers} layers"
            )
        if list(self.levels) != sorted(set(self.levels)) or len(self.levels) < 2:
            raise ValueError("pressure levels must be two or more, ascending")

    @property
    def reference_profile(self) -> np.ndarray:
        """Reference temperature of the core, K, float64 [layer]."""
        if self.reference_temperature:
            return np.asarray(self.reference_temperature, np.float64)
        return baroclinic_wave.reference_temperature(self.sigma)
