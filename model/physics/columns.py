"""Columns: what a physics parameterisation sees, and the tendencies it returns.

A physics is any callable `physics(columns, surroundings) -> Tendencies`. It acts on
whole columns at the points of the physics grid; the learned networks and the
idealised physics of the sample planet have this one interface. Split over the mesh, a
device has the columns of its own latitude pairs and longitudes.
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from model import partitioning
from model.dynamics.state import State
from model.sphere.harmonics import SphericalHarmonics


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Columns:
    """Grid-point values of a state, in model units, temperature in K.

    All [level, 2, latitude, longitude] but `log_surface_pressure`, which is
    [2, latitude, longitude].
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
    """What bounds the columns, all [2, latitude, longitude].

    Attributes:
      sea_surface_temperature: K, continued over land.
      sea_ice_cover: fraction, 0 to 1.
      land_sea_mask: fraction of land, 0 to 1.
      surface_geopotential: model units.
      solar_flux: at the top of the atmosphere, relative to its largest value.
      sin_latitude: where the columns are, [2, latitude, 1].
    """

    sea_surface_temperature: jax.Array
    sea_ice_cover: jax.Array
    land_sea_mask: jax.Array
    surface_geopotential: jax.Array
    solar_flux: jax.Array
    sin_latitude: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Tendencies:
    """Rates of change per model time unit, [level, 2, latitude, longitude]."""

    u: jax.Array
    v: jax.Array
    temperature: jax.Array
    tracers: dict[str, jax.Array]


Physics = Callable[[Columns, Surroundings], Tendencies]


def to_columns(
    harmonics: SphericalHarmonics, state: State, reference_temperature: jax.Array
) -> Columns:
    """Spectral state -> whole columns on the grid of `harmonics`.

    In one synthesis, and one exchange from levels to columns. `reference_temperature`
    is that of the state's own levels, [level].
    """
    state = harmonics.gather(state)
    cos_u, cos_v = harmonics.cos_wind(state.vorticity, state.divergence)
    fields = [cos_u, cos_v, state.vorticity, state.divergence, state.temperature]
    fields += [*state.tracers.values(), state.log_surface_pressure[None]]
    nodal = harmonics.to_nodal(jnp.concatenate(fields))
    *nodal, log_surface_pressure = partitioning.split_planes(nodal, fields)
    cos_u, cos_v, vorticity, divergence, temperature, *tracers = nodal
    sec = jnp.sqrt(harmonics.sec2_latitude)
    temperature += reference_temperature[:, None, None, None]
    fields = [cos_u * sec, cos_v * sec, vorticity, divergence, temperature, *tracers]
    columns = partitioning.columns_from_levels(jnp.stack(fields))
    u, v, vorticity, divergence, temperature, *tracers = jnp.unstack(columns)
    return Columns(
        u=u,
        v=v,
        vorticity=vorticity,
        divergence=divergence,
        temperature=temperature,
        log_surface_pressure=partitioning.own_longitudes(log_surface_pressure[0]),
        tracers=dict(zip(state.tracers, tracers, strict=True)),
    )


def to_spectral(harmonics: SphericalHarmonics, tendencies: Tendencies) -> State:
    """Tendencies of whole columns -> spectral tendencies of the state.

    The wind enters through its curl and divergence, and ln(ps) has no tendency, so
    that no physics can create mass.
    """
    scalars = {"temperature": tendencies.temperature, **tendencies.tracers}
    spectral = columns_to_spectral(harmonics, tendencies.u, tendencies.v, scalars)
    vorticity = spectral.pop("vorticity")
    return State(
        vorticity=vorticity,
        divergence=spectral.pop("divergence"),
        temperature=spectral.pop("temperature"),
        log_surface_pressure=jnp.zeros_like(vorticity[0]),
        tracers=spectral,
    )


def columns_to_spectral(
    harmonics: SphericalHarmonics,
    u: jax.Array,
    v: jax.Array,
    scalars: Mapping[str, jax.Array],
    surface: jax.Array | None = None,
) -> dict[str, jax.Array]:
    """Vorticity and divergence of (u, v), and scalars, of whole columns.

    In one exchange from columns to levels, and one analysis.

    Args:
      harmonics: of the columns' grid.
      u, v: a wind or its tendency, [level, 2, latitude, longitude].
      scalars: by name, the same shape.
      surface: [2, latitude, longitude].

    Returns:
      `vorticity`, `divergence` and the scalars, spectral [level, 2, m, l]; the surface
      field as `surface`, [2, m, l].
    """
    columns = jnp.stack([u, v, *scalars.values()])
    u, v, *others = jnp.unstack(partitioning.levels_from_columns(columns))
    sec = jnp.sqrt(harmonics.sec2_latitude)
    fields = [u * sec, v * sec, *others]
    if surface is not None:
        fields.append(partitioning.all_longitudes(surface)[None])
    modal = harmonics.to_modal(jnp.concatenate(fields), clip=False)
    u, v, *others = partitioning.split_planes(modal, fields)
    spectral = {
        "vorticity": harmonics.curl(u, v),
        "divergence": harmonics.divergence(u, v),
        **dict(zip(scalars, others, strict=False)),
    }
    if surface is not None:
        spectral["surface"] = others[-1][0]
    return harmonics.scatter(jax.tree.map(harmonics.clip, spectral))


def planes_to_spectral(harmonics: SphericalHarmonics, planes: jax.Array) -> jax.Array:
    """Fields of whole columns, whatever they are, each to its spectral coefficients.

    [plane, 2, latitude, longitude] -> [own plane, 2, m, l]. Planes are spread over
    `level` like levels, after as many zeros as make their number fit.
    """
    missing = -len(planes) % partitioning.size(partitioning.LEVEL)
    planes = jnp.pad(planes, [(0, missing), (0, 0), (0, 0), (0, 0)])
    modal = harmonics.to_modal(partitioning.levels_from_columns(planes))
    return harmonics.scatter(modal)
