"""The neural GCM: encoder, learned physics through a dynamical core, decoder.

Written for one sample, and for one device's part of it (`model.partitioning`);
`jax.vmap` adds samples, `jax.shard_map` devices. The networks are a Flax NNX module;
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
from jax.sharding import PartitionSpec as P

from model import units
from model.dynamics import baroclinic_wave
from model.dynamics.conservation import fixers
from model.dynamics.filters import exponential_filter, filtered
from model.dynamics.forcing import Forced
from model.dynamics.integrators import imex_step
from model.dynamics.primitive_equations import HUMIDITY, PrimitiveEquations
from model.dynamics.state import State
from model.partitioning import COLUMN_SURFACE, LEVEL
from model.physics.columns import (
    Columns,
    Physics,
    Surroundings,
    Tendencies,
    columns_to_spectral,
    to_columns,
    to_spectral,
)
from model.physics.solar import solar_flux
from model.physics.towers import Tower
from model.precision import Precision
from model.scales import (
    SURROUNDINGS_FEATURES,
    Scales,
    column_features,
    data_features,
    surroundings_features,
)
from model.spec import LEVEL_VARIABLES, TRACERS, ModelSpec
from model.sphere.grids import GaussianGrid, fold
from model.sphere.harmonics import SphericalHarmonics
from model.vertical import interpolation
from model.vertical.layers import on_layers
from model.vertical.surface import on_levels

Frame = dict[str, jax.Array]
"""Fields by ERA5 name in SI units, whole columns: `LEVEL_VARIABLES` [level, 2,
latitude, longitude] and `SURFACE_VARIABLES` [2, latitude, longitude]; latitudes in
mirror pairs (`model.sphere.grids.fold`)."""

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
        "data_harmonics",
        "equations",
        "longitude",
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
      harmonics: transforms between the points of `spec.grid` and the core's waves.
      data_harmonics: transforms of `spec.grid` with all waves that it holds.
      equations: the dynamical core on `spec.dycore_grid`.
      longitude: of the columns, degrees, [longitude].
      surface_geopotential: as the core sees it, model units, [2, latitude, longitude].
      land_sea_mask: [2, latitude, longitude].
      scales: of the networks' inputs and outputs; None is a model without networks.
      spec: what kind of model it is.
    """

    harmonics: SphericalHarmonics
    data_harmonics: SphericalHarmonics
    equations: PrimitiveEquations
    longitude: jax.Array
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
        precision: Precision | None = None,
        shards: int = 1,
    ) -> "NeuralGCM":
        """Builds the tables.

        Args:
          spec: specification.
          geopotential_at_surface: m2 s-2, [latitude, longitude] on `spec.grid`, from
            south to north; its waves beyond the core's truncation are dropped.
          land_sea_mask: the same shape.
          scales: see `Scales`.
          dtype: of all arithmetic.
          precision: of the transforms.
          shards: devices along `lat`.
        """
        waves = spec.dycore_grid.truncation
        points = GaussianGrid(waves, spec.grid.longitudes, spec.grid.latitudes)
        harmonics, data_harmonics = (
            SphericalHarmonics.create(grid, dtype, precision, shards)
            for grid in (points, spec.grid)
        )
        surface = jnp.asarray(geopotential_at_surface, dtype)
        orography = harmonics.analysis(units.to_model("geopotential", surface))
        equations = PrimitiveEquations.create(
            spec.dycore_grid,
            spec.sigma,
            baroclinic_wave.reference_temperature(spec.sigma),
            orography,
            dtype,
            precision,
            shards,
        )
        return cls(
            harmonics=harmonics,
            data_harmonics=data_harmonics,
            equations=equations,
            longitude=jnp.asarray(spec.grid.longitude_degrees, dtype),
            surface_geopotential=harmonics.to_nodal(orography),
            land_sea_mask=jnp.asarray(fold(land_sea_mask), dtype),
            scales=scales,
            spec=spec,
        )

    def layout(self) -> "NeuralGCM":
        """Where the tables lie on a mesh: `PartitionSpec`s in their places."""
        return dataclasses.replace(
            self,
            harmonics=self.harmonics.layout(),
            data_harmonics=self.data_harmonics.layout(),
            equations=self.equations.layout(),
            longitude=P(LEVEL),
            surface_geopotential=COLUMN_SURFACE,
            land_sea_mask=COLUMN_SURFACE,
            scales=jax.tree.map(lambda _: P(), self.scales),
        )

    # ---- encoder

    def encode(
        self, frame: Frame, time: jax_datetime.Datetime, networks: Networks | None
    ) -> State:
        """ERA5 fields -> model state with the core's waves.

        Without `networks` by interpolation alone.
        """
        frame = {name: units.to_model(name, x) for name, x in frame.items()}
        dtype = self.harmonics.dtype
        levels = jnp.asarray(self.spec.levels, dtype) / 1000
        surface_pressure = interpolation.surface_pressure(
            frame["geopotential"], levels, self.surface_geopotential
        )
        names = ("u_component_of_wind", "v_component_of_wind", "temperature", *TRACERS)
        u, v, temperature, *tracers = jnp.unstack(
            interpolation.pressure_to_sigma(
                jnp.stack([frame[name] for name in names]),
                levels,
                jnp.asarray(self.spec.sigma.centers, dtype),
                surface_pressure,
            )
        )
        scalars = {
            "temperature": temperature - self._reference_temperature,
            **dict(zip(TRACERS, tracers, strict=True)),
        }
        lnps = jnp.log(surface_pressure)
        if networks is not None:
            corrections = self._corrections(frame, time, networks)
            lnps += corrections.pop("log_surface_pressure")
            scalars = {name: x + corrections.pop(name) for name, x in scalars.items()}
            scalars |= {f"{name} correction": x for name, x in corrections.items()}
        spectral = columns_to_spectral(self.harmonics, u, v, scalars, lnps)
        state = State(
            vorticity=spectral["vorticity"],
            divergence=spectral["divergence"],
            temperature=spectral["temperature"],
            log_surface_pressure=spectral["surface"],
            tracers={name: spectral[name] for name in TRACERS},
        )
        if networks is not None:
            without_mean = self.harmonics.total_wavenumber > 0
            for name in ("vorticity", "divergence"):
                correction = spectral[f"{name} correction"] * without_mean
                correction += getattr(state, name)
                state = dataclasses.replace(state, **{name: correction})
        return state

    def _corrections(
        self, frame: Frame, time: jax_datetime.Datetime, networks: Networks
    ) -> dict[str, jax.Array]:
        """What the encoder adds to interpolated fields, by name, on columns."""
        std = self.scales.column_std
        features = jnp.concatenate(
            [
                data_features(frame, self.scales),
                surroundings_features(self.surroundings(frame, time)),
            ]
        )
        output = networks.encoder(features)
        *levels, surface = jnp.split(output, self._splits(3 + len(TRACERS)))
        names = ("vorticity", "divergence", "temperature", *TRACERS)
        corrections = {
            name: x * CORRECTION * on_layers(std[name], x)
            for name, x in zip(names, levels, strict=True)
        }
        pressure = surface[0] * CORRECTION * std["log_surface_pressure"]
        return {**corrections, "log_surface_pressure": pressure}

    # ---- forecast

    def advance(
        self, state: State, surroundings: Surroundings, physics: Physics | None
    ) -> State:
        """One physics step: a tendency, and `spec.substeps` dycore steps with it.

        Without `physics` the core runs alone.
        """
        spec = self.spec
        minutes = spec.step_minutes / spec.substeps
        dt = minutes / 60 * units.HOUR
        equations, forcing = self.equations, None
        if physics is not None:
            tendencies = physics(self.columns(state), surroundings)
            forcing = to_spectral(self.harmonics, tendencies)
            equations = Forced(equations, forcing)
        filters = [
            exponential_filter(
                spec.dycore_grid, minutes, f.tau_minutes, f.order, f.cutoff
            )
            for f in spec.filters
        ]
        added = jax.tree.map(lambda x: dt * x, forcing)
        filters += fixers(spec.fixers, self.equations, added)
        step = filtered(imex_step(equations, dt), filters)
        return jax.lax.scan(
            lambda state, _: (step(state), None), state, length=spec.substeps
        )[0]

    def learned_physics(self, networks: Networks) -> Physics:
        """The networks as a physics."""
        change = self.scales.column_change
        names = ("u", "v", "temperature", *TRACERS)

        def physics(columns: Columns, surroundings: Surroundings) -> Tendencies:
            features = jnp.concatenate(
                [
                    column_features(columns, self.scales),
                    surroundings_features(surroundings),
                ]
            )
            output = networks.physics(features)
            fields = jnp.split(output, self._splits(len(names) - 1))
            tendencies = {
                name: x * (TENDENCY / units.DAY) * on_layers(change[name], x)
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
            solar_flux=solar_flux(time, self.harmonics.sin_latitude, self.longitude),
            sin_latitude=self.harmonics.sin_latitude,
        )

    def columns(self, state: State) -> Columns:
        """State -> whole columns on `spec.grid`."""
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
                    surroundings_features(surroundings),
                ]
            )
            output = networks.decoder(features)
            corrections = jnp.split(output, len(LEVEL_VARIABLES))
            for name, x in zip(LEVEL_VARIABLES, corrections, strict=True):
                std = on_layers(self.scales.data_std[name], x)
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
        matrix = units.GAS_CONSTANT * self.spec.sigma.geopotential_matrix
        geopotential = self.surface_geopotential + jnp.tensordot(
            jnp.asarray(matrix, dtype),
            columns.temperature * virtual,
            axes=1,
            precision="highest",
        )
        if self.spec.geopotential_interpolation == "log_sigma":
            geopotential = interpolation.interpolate(
                geopotential,
                jnp.log(sigma),
                jnp.log(levels)[:, None, None, None]
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

    @property
    def _reference_temperature(self) -> jax.Array:
        """K, for whole columns [level, 1, 1, 1]."""
        profile = baroclinic_wave.reference_temperature(self.spec.sigma)
        return jnp.asarray(profile, self.harmonics.dtype)[:, None, None, None]

    def _splits(self, count: int) -> list[int]:
        """Where `count` fields of all layers end, one after another."""
        return [self.spec.sigma.layers * (i + 1) for i in range(count)]
