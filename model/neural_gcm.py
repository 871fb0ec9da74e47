"""The neural GCM: encoder, learned physics through a dynamical core, decoder.

Written for one sample; `jax.vmap` adds batches. The networks are a Flax NNX module;
everything that is not trained is a pytree of tables, `NeuralGCM`, and both are passed
to jitted functions. After Kochkov et al. (2024), arXiv:2311.07222.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import jax_datetime
import numpy as np
from flax import nnx

from model import partitioning, units
from model.dynamics import baroclinic_wave
from model.dynamics.filters import exponential_filter
from model.dynamics.forcing import Forced
from model.dynamics.integrators import imex_step
from model.dynamics.primitive_equations import HUMIDITY, PrimitiveEquations
from model.dynamics.state import State
from model.physics.columns import (
    Columns,
    Physics,
    Surroundings,
    Tendencies,
    to_columns,
    to_spectral,
)
from model.physics.solar import solar_flux
from model.physics.towers import Tower
from model.scales import (
    SURROUNDINGS_FEATURES,
    Scales,
    column_features,
    data_features,
    surroundings_features,
)
from model.spec import LEVEL_VARIABLES, TRACERS, ModelSpec
from model.sphere.harmonics import SphericalHarmonics, resample
from model.vertical import interpolation
from model.vertical.surface import on_levels

Frame = dict[str, jax.Array]
"""Fields by ERA5 name in SI units: `LEVEL_VARIABLES` [level, latitude, longitude] and
`SURFACE_VARIABLES` [latitude, longitude]."""

# Corrections of the coders are measured in this part of a field's deviation, and
# tendencies in this part of a day's change a day.
CORRECTION = 0.1
TENDENCY = 0.2


class Networks(nnx.Module):
    """Everything that is trained."""

    def __init__(self, spec: ModelSpec, rngs: nnx.Rngs) -> None:
        layers, levels = spec.sigma.layers, len(spec.levels)
        column = layers * (5 + len(TRACERS)) + 1 + SURROUNDINGS_FEATURES
        data = levels * len(LEVEL_VARIABLES) + SURROUNDINGS_FEATURES
        tower = functools.partial(
            Tower, width=spec.width, blocks=spec.blocks, layers=spec.layers, rngs=rngs
        )
        self.encoder = tower(data, layers * (3 + len(TRACERS)) + 1)
        self.physics = tower(column, layers * (3 + len(TRACERS)))
        self.decoder = tower(column, levels * len(LEVEL_VARIABLES))


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "harmonics",
        "equations",
        "surface_geopotential",
        "land_sea_mask",
        "scales",
    ],
    meta_fields=["spec"],
)
@dataclasses.dataclass(frozen=True)
class NeuralGCM:
    """The tables of a model: a pytree, passed to jitted functions.

    Attributes:
      harmonics: transforms of `spec.grid`.
      equations: the dynamical core on `spec.dycore_grid`.
      surface_geopotential: as the core sees it, model units, [latitude, longitude].
      land_sea_mask: [latitude, longitude].
      scales: of the networks' inputs and outputs; None is a model without networks.
      spec: what kind of model it is.
    """

    harmonics: SphericalHarmonics
    equations: PrimitiveEquations
    surface_geopotential: jax.Array
    land_sea_mask: jax.Array
    scales: Scales | None
    spec: ModelSpec

    @classmethod
    def create(
        cls,
        spec: ModelSpec,
        geopotential_at_surface: np.ndarray,
        land_sea_mask: np.ndarray,
        scales: Scales | None = None,
        dtype: jnp.dtype = jnp.float32,
        precision: str | None = None,
    ) -> "NeuralGCM":
        """Builds the tables.

        Args:
          spec: specification.
          geopotential_at_surface: m2 s-2, [latitude, longitude] on `spec.grid`; its
            waves beyond the core's truncation are dropped.
          land_sea_mask: [latitude, longitude].
          scales: see `Scales`.
          dtype: of all arithmetic.
          precision: of the transforms.
        """
        harmonics = SphericalHarmonics.create(spec.grid, dtype, precision)
        surface = jnp.asarray(geopotential_at_surface, dtype)
        surface = units.to_model("geopotential_at_surface", surface)
        orography = resample(harmonics.analysis(surface), spec.grid, spec.dycore_grid)
        equations = PrimitiveEquations.create(
            spec.dycore_grid,
            spec.sigma,
            baroclinic_wave.reference_temperature(spec.sigma),
            orography,
            dtype,
            precision,
        )
        seen = harmonics.synthesis(resample(orography, spec.dycore_grid, spec.grid))
        return cls(
            harmonics=harmonics,
            equations=equations,
            surface_geopotential=seen,
            land_sea_mask=jnp.asarray(land_sea_mask, dtype),
            scales=scales,
            spec=spec,
        )

    # ---- encoder

    def encode(
        self, frame: Frame, time: jax_datetime.Datetime, networks: Networks | None
    ) -> State:
        """ERA5 fields -> model state on `spec.grid`, truncated to the core's waves.

        Without `networks` by interpolation alone.
        """
        frame = {name: units.to_model(name, x) for name, x in frame.items()}
        state = self._interpolate_to_sigma(frame)
        if networks is not None:
            state = self._corrected(state, frame, time, networks)
        return jax.tree.map(self._to_core_and_back, state)

    def _interpolate_to_sigma(self, frame: Frame) -> State:
        h, dtype = self.harmonics, self.harmonics.dtype
        levels = jnp.asarray(self.spec.levels, dtype) / 1000
        sigma = jnp.asarray(self.spec.sigma.centers, dtype)
        surface_pressure = interpolation.surface_pressure(
            frame["geopotential"], levels, self.surface_geopotential
        )
        names = ("u_component_of_wind", "v_component_of_wind", "temperature", *TRACERS)
        fields = interpolation.pressure_to_sigma(
            partitioning.columns(jnp.stack([frame[name] for name in names])),
            levels,
            sigma,
            surface_pressure,
        )
        u, v, temperature, *tracers = jnp.unstack(partitioning.nodal_levels(fields))
        vorticity, divergence = h.vorticity_divergence(u, v)
        reference = self.equations.reference_temperature[:, None, None]
        modal = h.analysis(jnp.stack([temperature - reference, *tracers]))
        temperature, *tracers = jnp.unstack(partitioning.modal_levels(modal))
        return State(
            vorticity=vorticity,
            divergence=divergence,
            temperature=temperature,
            log_surface_pressure=h.analysis(jnp.log(surface_pressure)),
            tracers=dict(zip(TRACERS, tracers, strict=True)),
        )

    def _corrected(
        self,
        state: State,
        frame: Frame,
        time: jax_datetime.Datetime,
        networks: Networks,
    ) -> State:
        h, std = self.harmonics, self.scales.column_std
        features = jnp.concatenate(
            [
                data_features(frame, self.scales),
                self._surroundings_features(self.surroundings(frame, time)),
            ]
        )
        output = networks.encoder(partitioning.nodal_surface(features))
        *levels, surface = jnp.split(output, self._splits(3 + len(TRACERS)))
        names = ("vorticity", "divergence", "temperature", *TRACERS)
        corrections = [
            x * CORRECTION * std[name][:, None, None]
            for name, x in zip(names, levels, strict=True)
        ]
        modal = h.analysis(partitioning.nodal_levels(jnp.stack(corrections)))
        modal = partitioning.modal_levels(modal)
        vorticity, divergence, temperature, *tracers = jnp.unstack(modal)
        pressure = surface[0] * CORRECTION * std["log_surface_pressure"]
        correction = State(
            vorticity=_without_mean(vorticity),
            divergence=_without_mean(divergence),
            temperature=temperature,
            log_surface_pressure=h.analysis(pressure),
            tracers=dict(zip(TRACERS, tracers, strict=True)),
        )
        return jax.tree.map(jnp.add, state, correction)

    # ---- forecast

    def advance(
        self, state: State, surroundings: Surroundings, physics: Physics | None
    ) -> State:
        """One physics step: a tendency, and `spec.substeps` dycore steps with it.

        Without `physics` the core runs alone.
        """
        spec, core = self.spec, self.spec.dycore_grid
        minutes = spec.step_minutes / spec.substeps
        filters = [
            exponential_filter(core, minutes, f.tau_minutes, f.order, f.cutoff)
            for f in spec.filters
        ]
        equations = self.equations
        if physics is not None:
            columns = self.columns(state)
            tendency = to_spectral(self.harmonics, physics(columns, surroundings))
            equations = Forced(equations, self._to_core(tendency))
        step = imex_step(equations, minutes / 60 * units.HOUR)

        def substep(state: State, _: None) -> tuple[State, None]:
            state = step(state)
            for smooth in filters:
                state = smooth(state)
            return state, None

        state, _ = jax.lax.scan(substep, self._to_core(state), length=spec.substeps)
        return self._from_core(state)

    def learned_physics(self, networks: Networks) -> Physics:
        """The networks as a physics."""
        change = self.scales.column_change
        names = ("u", "v", "temperature", *TRACERS)

        def physics(columns: Columns, surroundings: Surroundings) -> Tendencies:
            features = jnp.concatenate(
                [
                    column_features(columns, self.scales),
                    self._surroundings_features(surroundings),
                ]
            )
            output = networks.physics(features)
            fields = jnp.split(output, self._splits(len(names) - 1))
            tendencies = {
                name: x * (TENDENCY / units.DAY) * change[name][:, None, None]
                for name, x in zip(names, fields, strict=True)
            }
            return Tendencies(
                u=tendencies.pop("u"),
                v=tendencies.pop("v"),
                temperature=tendencies.pop("temperature"),
                tracers=tendencies,
            )

        return physics

    def surroundings(self, frame: Frame, time: jax_datetime.Datetime) -> Surroundings:
        """What bounds the columns at `time`, with sea and ice of `frame`."""
        return Surroundings(
            sea_surface_temperature=frame["sea_surface_temperature"],
            sea_ice_cover=frame["sea_ice_cover"],
            land_sea_mask=self.land_sea_mask,
            surface_geopotential=self.surface_geopotential,
            solar_flux=solar_flux(self.spec.grid, time).astype(self.harmonics.dtype),
        )

    def columns(self, state: State) -> Columns:
        """State -> columns on `spec.grid`."""
        return to_columns(self.harmonics, state, self.equations.reference_temperature)

    def rollout(
        self,
        state: State,
        frame: Frame,
        time: jax_datetime.Datetime,
        hours: int,
        physics: Physics | None,
    ) -> State:
        """Advances `state` from `time` by `hours`, sea and ice kept as in `frame`.

        A step's intermediate values are recomputed in the backward pass.
        """
        step_length = jax_datetime.to_timedelta(self.spec.step_minutes, "m")

        @jax.checkpoint
        def step(state: State, index: jax.Array) -> tuple[State, None]:
            surroundings = self.surroundings(frame, time + index * step_length)
            return self.advance(state, surroundings, physics), None

        steps = hours * 60 // self.spec.step_minutes
        return jax.lax.scan(step, state, jnp.arange(steps))[0]

    # ---- decoder

    def decode(
        self, state: State, surroundings: Surroundings, networks: Networks | None
    ) -> Frame:
        """Model state -> `LEVEL_VARIABLES` on pressure levels, SI units.

        Without `networks` by interpolation alone.
        """
        columns = self.columns(state)
        frame = self._interpolate_to_pressure(columns)
        if networks is not None:
            features = jnp.concatenate(
                [
                    column_features(columns, self.scales),
                    self._surroundings_features(surroundings),
                ]
            )
            output = networks.decoder(features)
            corrections = jnp.split(output, len(LEVEL_VARIABLES))
            for name, x in zip(LEVEL_VARIABLES, corrections, strict=True):
                std = self.scales.data_std[name][:, None, None]
                frame[name] = frame[name] + x * CORRECTION * std
        return {name: units.to_si(name, frame[name]) for name in LEVEL_VARIABLES}

    def _interpolate_to_pressure(self, columns: Columns) -> Frame:
        dtype = self.harmonics.dtype
        levels = jnp.asarray(self.spec.levels, dtype) / 1000
        sigma = jnp.asarray(self.spec.sigma.centers, dtype)
        surface_pressure = jnp.exp(columns.log_surface_pressure)
        to_pressure = functools.partial(
            interpolation.sigma_to_pressure,
            sigma=sigma,
            levels=levels,
            surface_pressure=surface_pressure,
        )
        u, v, *tracers = jnp.unstack(
            to_pressure(jnp.stack([columns.u, columns.v, *columns.tracers.values()]))
        )
        virtual = 1 + (units.VAPOUR_GAS_RATIO - 1) * columns.tracers[HUMIDITY]
        geopotential = self.surface_geopotential + jnp.einsum(
            "kj,j...->k...",
            self.equations.geopotential,
            columns.temperature * virtual,
            precision="highest",
        )
        if self.spec.geopotential_interpolation == "log_sigma":
            geopotential = interpolation.interpolate(
                geopotential,
                jnp.log(sigma),
                jnp.log(levels)[:, None, None]
                - on_levels(columns.log_surface_pressure, len(levels)),
                "linear",
            )
        else:
            geopotential = to_pressure(geopotential, extrapolation="linear")
        return {
            "geopotential": geopotential,
            "temperature": to_pressure(columns.temperature, extrapolation="linear"),
            "u_component_of_wind": u,
            "v_component_of_wind": v,
            **dict(zip(columns.tracers, tracers, strict=True)),
        }

    # ---- helpers

    def _surroundings_features(self, surroundings: Surroundings) -> jax.Array:
        return surroundings_features(surroundings, self.harmonics.sin_latitude)

    def _splits(self, count: int) -> list[int]:
        """Where `count` fields of all layers end, one after another."""
        return [self.spec.sigma.layers * (i + 1) for i in range(count)]

    def _to_core(self, state: State) -> State:
        return jax.tree.map(
            lambda x: resample(x, self.spec.grid, self.spec.dycore_grid), state
        )

    def _from_core(self, state: State) -> State:
        return jax.tree.map(
            lambda x: resample(x, self.spec.dycore_grid, self.spec.grid), state
        )

    def _to_core_and_back(self, x: jax.Array) -> jax.Array:
        core = resample(x, self.spec.grid, self.spec.dycore_grid)
        return resample(core, self.spec.dycore_grid, self.spec.grid)


def _without_mean(modal: jax.Array) -> jax.Array:
    """Sets the coefficient of the global mean to zero."""
    return modal.at[..., 0, 0, 0].set(0)
