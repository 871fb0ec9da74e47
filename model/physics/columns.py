"""Columns: what a physics parameterisation sees, and the tendencies it returns.

A physics is any callable `physics(columns, surroundings) -> Tendencies`. It acts on
whole columns at the points of the physics grid; the learned networks and the
idealised physics of the sample planet have this one interface.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from model import partitioning
from model.dynamics.state import State
from model.sphere.harmonics import SphericalHarmonics


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Columns:
    """Grid-point values of a state, in model units, temperature in K.

    All [level, latitude, longitude] but `log_surface_pressure`, which is
    [latitude, longitude].
    """

    u: jax.Array
    v: jax.Array
    vorticity: jax.Array
    divergence: jax.Array
    temperature: jax.Array
    log_surface_pressure: jax.Array
    tracers: dict[str, jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Surroundings:
    """What bounds the columns, all [latitude, longitude].

    Attributes:
      sea_surface_temperature: K, continued over land.
      sea_ice_cover: fraction, 0 to 1.
      land_sea_mask: fraction of land, 0 to 1.
      surface_geopotential: model units.
      solar_flux: at the top of the atmosphere, relative to its largest value.
    """

    sea_surface_temperature: jax.Array
    sea_ice_cover: jax.Array
    land_sea_mask: jax.Array
    surface_geopotential: jax.Array
    solar_flux: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Tendencies:
    """Rates of change per model time unit, [level, latitude, longitude]."""

    u: jax.Array
    v: jax.Array
    temperature: jax.Array
    tracers: dict[str, jax.Array]


Physics = Callable[[Columns, Surroundings], Tendencies]


def to_columns(
    harmonics: SphericalHarmonics, state: State, reference_temperature: jax.Array
) -> Columns:
    """Spectral state -> whole columns on the grid of `harmonics`, in one synthesis."""
    cos_u, cos_v = harmonics.cos_wind(state.vorticity, state.divergence)
    fields = [cos_u, cos_v, state.vorticity, state.divergence, state.temperature]
    fields += state.tracers.values()
    nodal = harmonics.synthesis(partitioning.modal_levels(jnp.stack(fields)))
    nodal = partitioning.columns(partitioning.nodal_levels(nodal))
    cos_u, cos_v, vorticity, divergence, temperature, *tracers = jnp.unstack(nodal)
    sec = jnp.sqrt(harmonics.sec2_latitude)
    return Columns(
        u=cos_u * sec,
        v=cos_v * sec,
        vorticity=vorticity,
        divergence=divergence,
        temperature=temperature + reference_temperature[:, None, None],
        log_surface_pressure=partitioning.nodal_surface(
            harmonics.synthesis(state.log_surface_pressure)
        ),
        tracers=dict(zip(state.tracers, tracers, strict=True)),
    )


def to_spectral(harmonics: SphericalHarmonics, tendencies: Tendencies) -> State:
    """Tendencies at grid points -> spectral tendencies of the state.

    The wind enters through its curl and divergence, and ln(ps) has no tendency, so
    that no physics can create mass.
    """
    sec = jnp.sqrt(harmonics.sec2_latitude)
    fields = [tendencies.u * sec, tendencies.v * sec, tendencies.temperature]
    fields += tendencies.tracers.values()
    nodal = partitioning.nodal_levels(partitioning.columns(jnp.stack(fields)))
    modal = partitioning.modal_levels(harmonics.analysis(nodal, clip=False))
    u, v, temperature, *tracers = jnp.unstack(modal)
    state = State(
        vorticity=harmonics.curl(u, v),
        divergence=harmonics.divergence(u, v),
        temperature=temperature,
        log_surface_pressure=jnp.zeros(harmonics.modal_shape, harmonics.dtype),
        tracers=dict(zip(tendencies.tracers, tracers, strict=True)),
    )
    return jax.tree.map(harmonics.clip, state)
