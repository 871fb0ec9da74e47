"""The neural GCM: encoder, learned physics through a dynamical core, decoder.

Written for one sample, and for one device's part of it (`model.partitioning`);
`jax.vmap` adds samples and members, `jax.shard_map` devices. The networks are a Flax
NNX module; everything that is not trained is a pytree of tables, `NeuralGCM`, and both
are passed to jitted functions. After Kochkov et al. (2024), arXiv:2311.07222.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import jax_datetime
import numpy as np
from jax.sharding import PartitionSpec as P

from model import coders, features, partitioning, remat, units
from model.dynamics.conservation import fixers
from model.dynamics.filters import exponential_factors, exponential_filter, filtered
from model.dynamics.forcing import Forced
from model.dynamics.integrators import imex_step
from model.dynamics.primitive_equations import PrimitiveEquations
from model.dynamics.state import State
from model.networks import Networks
from model.partitioning import COLUMN_SURFACE, LEVEL, MODAL_SURFACE
from model.physics.columns import (
    Columns,
    Physics,
    Surroundings,
    Tendencies,
    columns_to_spectral,
    to_columns,
    to_spectral,
    with_derivatives,
)
from model.physics.solar import solar_flux
from model.precision import Precision
from model.scales import Scales, packed, standardised, unpacked
from model.spec import DERIVATIVES, LEVEL_VARIABLES, TRACERS, ModelSpec
from model.sphere.grids import fold
from model.sphere.harmonics import SphericalHarmonics
from model.vertical.layers import on_layers

Frame = dict[str, jax.Array]
"""Fields by ERA5 name in SI units, whole columns: `LEVEL_VARIABLES` [level, 2,
latitude, longitude] and `SURFACE_VARIABLES` [2, latitude, longitude]; latitudes in
mirror pairs (`model.sphere.grids.fold`)."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Noise:
    """Random fields of a forecast, and where their future draws come from.

    Attributes:
      fields: spectral, [field, 2, m, l].
      key: of this forecast.
      step: number of physics steps taken, which is folded into the key.
    """

    fields: jax.Array
    key: jax.Array
    step: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class ModelState:
    """What a step of the model starts from.

    Attributes:
      atmosphere: spectral, with all waves of the data's grid.
      memory: the same of one physics step before; None if the model has no memory.
      noise: None if the model has no random fields.
    """

    atmosphere: State
    memory: State | None = None
    noise: Noise | None = None


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "harmonics",
        "equations",
        "longitude",
        "orography",
        "surface_geopotential",
        "surface_slopes",
        "land_sea_mask",
        "scales",
    ],
    meta_fields=["spec"],
)
@dataclasses.dataclass(frozen=True)
class NeuralGCM:
    """The tables of a model: a pytree, passed to jitted functions.

    Attributes:
      harmonics: transforms of `spec.grid`, with all waves that it holds.
      equations: the dynamical core on `spec.dycore_grid`.
      longitude: of the columns, degrees, [longitude].
      orography: surface geopotential in model units, spectral [2, m, l].
      surface_geopotential: the same as it was given, [2, latitude, longitude].
      surface_slopes: its derivatives (`physics.columns.Surroundings`).
      land_sea_mask: [2, latitude, longitude].
      scales: of the networks' inputs and outputs; None is a model without networks.
      spec: what kind of model it is.
    """

    harmonics: SphericalHarmonics
    equations: PrimitiveEquations
    longitude: jax.Array
    orography: jax.Array
    surface_geopotential: jax.Array
    surface_slopes: jax.Array
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
            south to north; the core drops waves beyond its truncation.
          land_sea_mask: the same shape.
          scales: see `Scales`.
          dtype: of all arithmetic.
          precision: of the transforms.
          shards: devices along `lat`.
        """
        # Random fields and learned orography have a row l = n + 1; states have none.
        harmonics = SphericalHarmonics.create(
            spec.grid, dtype, precision, shards, top=True
        )
        surface = units.to_model("geopotential", np.asarray(geopotential_at_surface))
        orography = harmonics.analysis(jnp.asarray(surface, dtype))
        nodal = jnp.asarray(fold(surface), dtype)
        slopes = with_derivatives(harmonics, nodal[None])
        equations = PrimitiveEquations.create(
            spec.dycore_grid,
            spec.sigma,
            spec.reference_profile,
            None,
            dtype,
            precision,
            shards,
            top=spec.as_published,
        )
        equations = dataclasses.replace(
            equations,
            orography=harmonics.with_waves_of(equations.harmonics, orography),
        )
        return cls(
            harmonics=harmonics,
            equations=equations,
            longitude=jnp.asarray(spec.grid.longitude_degrees, dtype),
            orography=orography if spec.as_published else harmonics.clip(orography),
            surface_geopotential=nodal,
            surface_slopes=jnp.concatenate([slopes[f"_{d}"] for d in DERIVATIVES]),
            land_sea_mask=jnp.asarray(fold(land_sea_mask), dtype),
            scales=scales,
            spec=spec,
        )

    def layout(self) -> "NeuralGCM":
        """Where the tables lie on a mesh: `PartitionSpec`s in their places."""
        return dataclasses.replace(
            self,
            harmonics=self.harmonics.layout(),
            equations=self.equations.layout(),
            longitude=P(LEVEL),
            orography=MODAL_SURFACE,
            surface_geopotential=COLUMN_SURFACE,
            surface_slopes=P(None, *COLUMN_SURFACE),
            land_sea_mask=COLUMN_SURFACE,
            scales=jax.tree.map(lambda _: P(), self.scales),
        )

    # ---- encoder

    @jax.named_scope("encode")
    def encode(
        self,
        frame: Frame,
        time: jax_datetime.Datetime,
        networks: Networks | None,
        key: jax.Array | None = None,
    ) -> ModelState:
        """ERA5 fields -> model state.

        Args:
          frame: the fields.
          time: their date, UTC.
          networks: None encodes by interpolation alone.
          key: of all that is random in this forecast; needed if the model has noise.
        """
        frame = {name: units.to_model(name, x) for name, x in frame.items()}
        if networks is None:
            return ModelState(self._encoded(frame, "encoder", None, []))
        inputs = features.of_data(
            frame, self.harmonics, self.spec.networks.encoder_gradients
        ) | features.of_ground(self.surroundings(frame, time))
        inputs = [packed(standardised(inputs, self.scales.inputs["encoder"]))]
        noise, drawn = None, []
        if networks.noise:
            keys = jax.random.split(key, 3)
            first, later = (
                networks.noise[name]().initial(k, self.harmonics)
                for name, k in zip(("encoder", "physics"), keys, strict=False)
            )
            drawn = [self._nodal(first)]
            noise = Noise(later, keys[2], jnp.zeros((), jnp.int32))

        def encoded(encoder: str) -> State:
            more = [*inputs, *networks.places(encoder), *drawn]
            return self._encoded(frame, encoder, networks, more)

        memory = encoded("memory_encoder") if self.spec.networks.memory else None
        return ModelState(encoded("encoder"), memory, noise)

    def _encoded(
        self,
        frame: Frame,
        encoder: str,
        networks: Networks | None,
        inputs: list[jax.Array],
    ) -> State:
        """Interpolated fields, corrected by one of the encoders, in spectral space."""
        orography = self._nodal(self._orography(encoder, networks))
        layers, lnps = coders.to_layers(frame, orography, self.spec)
        u, v = layers.pop("u_component_of_wind"), layers.pop("v_component_of_wind")
        reference = jnp.asarray(self.spec.reference_profile, lnps.dtype)
        layers["temperature"] -= on_layers(reference, u)
        corrected = {}
        if networks is not None:
            output = getattr(networks, encoder)(jnp.concatenate(inputs))
            corrected = unpacked(output, self.scales.outputs["encoder"])
            lnps += corrected.pop("log_surface_pressure")[0]
            layers = {name: x + corrected.pop(name) for name, x in layers.items()}
        spectral = columns_to_spectral(
            self.harmonics,
            *(u, v),
            layers | {f"{name} correction": x for name, x in corrected.items()},
            lnps,
        )
        has_mean = self.spec.as_published
        for name in corrected:  # vorticity and divergence
            correction = spectral.pop(f"{name} correction")
            # Which have no mean over the sphere.
            rows = has_mean | (self.harmonics.total_wavenumber > 0)
            spectral[name] += correction * rows
        for f in self.spec.encoder_filters:
            factors = exponential_factors(
                *(self.spec.grid, f.attenuation, f.order, f.cutoff),
                rows=len(self.harmonics.total_wavenumber),
            )
            field = f.field.replace("log_surface_pressure", "surface")
            for name in spectral if f.field == "all" else [field]:
                spectral[name] *= jnp.asarray(factors, lnps.dtype)
        return State(
            vorticity=spectral["vorticity"],
            divergence=spectral["divergence"],
            temperature=spectral["temperature"],
            log_surface_pressure=spectral["surface"],
            tracers={name: spectral[name] for name in TRACERS},
        )

    # ---- forecast

    @jax.named_scope("dycore")
    def advance(
        self,
        state: ModelState,
        surroundings: Surroundings,
        physics: Networks | Physics | None,
    ) -> ModelState:
        """One physics step: a tendency, and `spec.substeps` dycore steps with it.

        The physics is that of the networks, or another one; or the core runs alone.
        """
        spec = self.spec
        minutes = spec.step_minutes / spec.substeps
        dt = minutes / 60 * units.HOUR
        networks = physics if isinstance(physics, Networks) else None
        core = dataclasses.replace(
            self.equations, orography=self.core_orography(networks)
        )
        # The core's steps are taken in the order of the transforms.
        ordered = equations = core.ordered
        forcing = None
        if physics is not None:
            forcing = core.enter(self.forcing(state, surroundings, physics))
            equations = Forced(ordered, forcing)
        filters = [
            exponential_filter(
                *(spec.dycore_grid, minutes, f.tau_minutes, f.order, f.cutoff),
                waves=ordered.waves,
            )
            for f in spec.filters
        ]
        added = jax.tree.map(lambda x: dt * x, forcing)
        filters += fixers(spec.fixers, ordered, added)
        step = filtered(imex_step(equations, dt), filters)
        atmosphere = self.harmonics.with_waves_of(
            core.harmonics, state.atmosphere, clip=not spec.as_published
        )
        substep = remat.treated(lambda x, _: (step(x), None), spec.remat.substep)
        atmosphere, _ = jax.lax.scan(
            substep, core.enter(atmosphere), length=spec.substeps
        )
        return ModelState(
            core.harmonics.with_waves_of(self.harmonics, core.leave(atmosphere)),
            state.atmosphere if state.memory is not None else None,
            self._later(state.noise, networks),
        )

    @jax.named_scope("networks")
    def forcing(
        self,
        state: ModelState,
        surroundings: Surroundings,
        physics: Networks | Physics,
    ) -> State:
        """Tendencies of a physics as the core is given them, spectral, of its waves."""
        tendencies = self.tendencies(state, surroundings, physics)
        forcing = to_spectral(self.harmonics, tendencies)
        if isinstance(physics, Networks):
            for f in self.spec.tendency_filters:
                smooth = exponential_filter(
                    *(self.spec.grid, self.spec.step_minutes, f.tau_minutes),
                    *(f.order, f.cutoff),
                )
                forcing = smooth(forcing, forcing)
        return self.harmonics.with_waves_of(self.equations.harmonics, forcing)

    def tendencies(
        self,
        state: ModelState,
        surroundings: Surroundings,
        physics: Networks | Physics,
    ) -> Tendencies:
        """Tendencies of a physics on whole columns."""
        if isinstance(physics, Networks):
            return self._learned_tendencies(state, surroundings, physics)
        return physics(self.columns(state.atmosphere), surroundings)

    def _learned_tendencies(
        self, state: ModelState, surroundings: Surroundings, networks: Networks
    ) -> Tendencies:
        """What the networks make of the atmosphere, its past and their own noise."""
        n, scales = self.spec.networks, self.scales.inputs
        sigma = jnp.asarray(self.spec.sigma.centers, self.harmonics.dtype)
        columns = self.columns(
            state.atmosphere,
            n.physics_gradients,
            state.memory,
            None if state.noise is None else state.noise.fields,
        )
        fields = features.of_columns(columns, sigma)
        embedded = networks.embedded(
            features.of_volume(fields, scales["convolution"])
            if n.convolution
            else None,
            features.of_surface(fields, surroundings, scales["surface"])
            if n.surface != "raw"
            else None,
            surroundings.sea_ice_cover,
            surroundings.land_sea_mask,
        )
        fields |= features.of_ground(surroundings)
        inputs = [packed(standardised(fields, scales["physics"])), *embedded]
        inputs += networks.places("physics")
        if state.noise is not None:
            inputs.append(columns.more["noise"])
        output = networks.physics(features.softly_clipped(jnp.concatenate(inputs)))
        tendencies = unpacked(output, self.scales.outputs["physics"])
        return Tendencies(
            u=tendencies.pop("u"),
            v=tendencies.pop("v"),
            temperature=tendencies.pop("temperature"),
            tracers={name: tendencies[name] for name in TRACERS},
        )

    def _later(self, noise: Noise | None, networks: Networks | None) -> Noise | None:
        """The random fields one physics step later."""
        if noise is None or networks is None:
            return noise
        dt = self.spec.step_minutes / 60 * units.HOUR
        key = jax.random.fold_in(noise.key, noise.step)
        law = networks.noise["physics"]()
        fields = law.advance(noise.fields, dt, key, self.harmonics)
        return Noise(fields, noise.key, noise.step + 1)

    def surroundings(self, frame: Frame, time: jax_datetime.Datetime) -> Surroundings:
        """What bounds the columns at `time`, with sea and ice of `frame`."""
        return Surroundings(
            sea_surface_temperature=frame["sea_surface_temperature"],
            sea_ice_cover=frame["sea_ice_cover"],
            land_sea_mask=self.land_sea_mask,
            surface_geopotential=self.surface_geopotential,
            surface_slopes=self.surface_slopes,
            solar_flux=solar_flux(time, self.harmonics.sin_latitude, self.longitude),
            sin_latitude=self.harmonics.sin_latitude,
        )

    def columns(
        self,
        state: State,
        gradients: bool = False,
        memory: State | None = None,
        noise: jax.Array | None = None,
    ) -> Columns:
        """State -> whole columns on `spec.grid` (`physics.columns.to_columns`)."""
        reference = self.equations.reference_temperature
        return to_columns(self.harmonics, state, reference, gradients, memory, noise)

    def rollout(
        self,
        state: ModelState,
        frame: Frame,
        time: jax_datetime.Datetime,
        hours: int,
        physics: Networks | Physics | None,
    ) -> ModelState:
        """Advances `state` from `time` by `hours`, sea and ice kept as in `frame`."""
        step_length = jax_datetime.to_timedelta(self.spec.step_minutes, "m")

        def step(state: ModelState, index: jax.Array) -> tuple[ModelState, None]:
            surroundings = self.surroundings(frame, time + index * step_length)
            return self.advance(state, surroundings, physics), None

        steps = hours * 60 // self.spec.step_minutes
        return jax.lax.scan(step, state, jnp.arange(steps))[0]

    # ---- decoder

    @jax.named_scope("decode")
    def decode(
        self,
        state: ModelState,
        surroundings: Surroundings,
        networks: Networks | None,
    ) -> Frame:
        """Model state -> `LEVEL_VARIABLES` on pressure levels, SI units.

        Without `networks` by interpolation alone.
        """
        gradients = networks is not None and self.spec.networks.decoder_gradients
        columns = self.columns(state.atmosphere, gradients)
        orography = self._nodal(self._orography("decoder", networks))
        frame = coders.to_levels(columns, orography, self.spec)
        if networks is not None:
            fields = columns.by_name() | features.of_ground(surroundings)
            inputs = packed(standardised(fields, self.scales.inputs["decoder"]))
            output = networks.decoder(
                jnp.concatenate([inputs, *networks.places("decoder")])
            )
            corrections = unpacked(output, self.scales.outputs["decoder"])
            frame = {name: x + corrections[name] for name, x in frame.items()}
        return {name: units.to_si(name, frame[name]) for name in LEVEL_VARIABLES}

    # ---- helpers

    def core_orography(self, networks: Networks | None) -> jax.Array:
        """Surface geopotential of the core, learned or not, spectral [2, own m, l]."""
        return self._orography("core", networks)

    def _orography(self, place: str, networks: Networks | None) -> jax.Array:
        """Surface geopotential as it is seen at a place, spectral [2, own m, l]."""
        core = place == "core"
        orography = self.equations.orography if core else self.orography
        if networks is not None and place in networks.orography:
            harmonics = self.equations.harmonics if core else self.harmonics
            correction = networks.orography[place](harmonics)
            height = self.spec.networks.orography_scale * correction
            orography += units.GRAVITY * height
        return orography

    def _nodal(self, modal: jax.Array) -> jax.Array:
        """Surface fields on own columns, [..., 2, m, l] -> [..., 2, lat, lon]."""
        nodal = self.harmonics.to_nodal(self.harmonics.gather(modal))
        return partitioning.own_longitudes(nodal)
