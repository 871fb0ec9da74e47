"""Columns: what a physics parameterisation sees, and the tendencies it returns.

A physics is any callable `physics(columns, surroundings) -> Tendencies`. It acts on
whole columns at the points of the physics grid; the learned networks and the
idealised physics of the sample planet have this one interface. Split over the mesh, a
device has the columns of its own latitude pairs and longitudes.

Horizontal derivatives are taken in spectral space and are those of a field's gradient
and Laplacian on the unit sphere, with 1 / cos(latitude) where it belongs. Those of u
and v are of the components as if they were scalars, u_dlon = d(u cos) / cos^2 and so
on, as in Kochkov et al. (2024): features, and no part of a vector calculus.
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from model import partitioning
from model.dynamics.state import State
from model.spec import DERIVATIVES
from model.sphere.harmonics import SphericalHarmonics
from model.sphere.ordered import BandOfWaves, OrderedWaves
from model.sphere.waves import Curl, Flux, Waves
from model.vertical.layers import on_layers


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Columns:
    """Grid-point values of a state, in model units, temperature in K.

    All [level, 2, latitude, longitude] but `log_surface_pressure`, which is
    [2, latitude, longitude].

    Attributes:
      more: what learned networks look at beside, by name: derivatives (`u_dlon`,
        `u_dlat`, `u_del2`, ...), the atmosphere of the step before (`memory_u`, ...),
        and random fields (`noise`, [field, 2, latitude, longitude]).
    """

    u: jax.Array
    v: jax.Array
    vorticity: jax.Array
    divergence: jax.Array
    temperature: jax.Array
    log_surface_pressure: jax.Array
    tracers: dict[str, jax.Array]
    more: dict[str, jax.Array] = dataclasses.field(default_factory=dict)

    def by_name(self) -> dict[str, jax.Array]:
        """All fields by name."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        tracers, more = fields.pop("tracers"), fields.pop("more")
        return fields | tracers | more


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Surroundings:
    """What bounds the columns, all [2, latitude, longitude].

    Attributes:
      sea_surface_temperature: K, continued over land.
      sea_ice_cover: fraction, 0 to 1.
      land_sea_mask: fraction of land, 0 to 1.
      surface_geopotential: model units.
      surface_slopes: derivatives of `surface_geopotential` by longitude and latitude,
        and its Laplacian, [3, 2, latitude, longitude].
      solar_flux: at the top of the atmosphere, relative to its largest value.
      sin_latitude: where the columns are, [2, latitude, 1].
    """

    sea_surface_temperature: jax.Array
    sea_ice_cover: jax.Array
    land_sea_mask: jax.Array
    surface_geopotential: jax.Array
    surface_slopes: jax.Array
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

    def by_name(self) -> dict[str, jax.Array]:
        """All of them by the field's name."""
        winds = {"u": self.u, "v": self.v}
        return winds | {"temperature": self.temperature} | self.tracers


Physics = Callable[[Columns, Surroundings], Tendencies]


def to_columns(
    harmonics: SphericalHarmonics,
    state: State,
    reference_temperature: jax.Array,
    gradients: bool = False,
    memory: State | None = None,
    noise: jax.Array | None = None,
) -> Columns:
    """Spectral state -> whole columns on the grid of `harmonics`.

    In one synthesis, and one exchange from levels to columns.

    Args:
      harmonics: of the columns' grid.
      state: the atmosphere.
      reference_temperature: of the state's own levels, K, [level].
      gradients: with the derivatives of all fields.
      memory: the atmosphere of the step before.
      noise: spectral random fields, [field, 2, m, l].
    """
    waves = harmonics.ordered
    entered = waves.enter(harmonics.gather((state, memory, noise)))

    def of_band(
        band: BandOfWaves, state: State, memory: State | None, noise: jax.Array | None
    ) -> dict[str, Waves]:
        fields = _fields(band, state)
        if gradients:
            fields |= _derivatives(band, fields)
        if memory is not None:
            before = _fields(band, memory)
            fields |= {f"memory_{name}": x for name, x in before.items()}
        if noise is not None:
            fields["noise"] = Waves(noise)
        return fields

    fields = [of_band(band, *x) for band, x in zip(waves.bands, entered, strict=True)]
    nodal = _to_nodal(waves, fields)
    # Planes of the surface are equal on all devices along `level`.
    of_surface = [n for n in nodal if "surface" in n or n == "noise"]
    of_layers = [n for n in nodal if n not in of_surface]
    sec = jnp.sqrt(harmonics.sec2_latitude)
    for name in nodal:
        nodal[name] *= sec ** _secants(name)
    for name in nodal.keys() & {"temperature", "memory_temperature"}:
        nodal[name] += on_layers(reference_temperature, nodal[name])
    whole = partitioning.columns_from_levels(jnp.stack([nodal[n] for n in of_layers]))
    columns = dict(zip(of_layers, jnp.unstack(whole), strict=True))
    for name in of_surface:
        x = partitioning.own_longitudes(nodal[name])
        columns[name] = x if name == "noise" else x[0]
    known = [f.name for f in dataclasses.fields(Columns)]
    return Columns(
        **{name: columns.pop(name) for name in known if name in columns},
        tracers={name: columns.pop(name) for name in state.tracers},
        more=columns,
    )


def _to_nodal(
    waves: OrderedWaves, fields: list[dict[str, Waves]]
) -> dict[str, jax.Array]:
    """By name, from what each band has of a field."""
    nodal = waves.to_nodal(tuple(list(x.values()) for x in fields))
    return dict(zip(fields[0], nodal, strict=True))


def _fields(waves: BandOfWaves, state: State) -> dict[str, Waves]:
    """Values by name, of a state in order; the wind times cos(latitude)."""
    u, v = map(waves.values_of, waves.cos_wind(state.vorticity, state.divergence))
    fields = {
        "u": u,
        "v": v,
        "vorticity": state.vorticity,
        "divergence": state.divergence,
        "temperature": state.temperature,
        **state.tracers,
        "log_surface_pressure": state.log_surface_pressure,
    }
    return {name: Waves(x) for name, x in fields.items()}


def _derivatives(waves: BandOfWaves, fields: Mapping[str, Waves]) -> dict[str, Waves]:
    """Derivatives of values by name; the first ones times cos(latitude)."""
    derivatives = {}
    for name, field in fields.items():
        x = field.values
        # As published: what lies beyond the grid's waves is cut off a gradient, and
        # left in the Laplacian.
        parts = (
            Waves(east=waves.clip(x)),
            Waves(waves.values_of(Waves(slopes=x))),
            Waves(waves.laplacian(x)),
        )
        for suffix, y in zip(DERIVATIVES, parts, strict=True):
            derivatives[f"{name}_{suffix}"] = y
    return derivatives


def _secants(name: str) -> int:
    """How many factors 1 / cos(latitude) a field of this name still needs."""
    is_wind = name.removeprefix("memory_").split("_")[0] in ("u", "v")
    return is_wind + name.endswith(("_dlon", "_dlat"))


def with_derivatives(
    harmonics: SphericalHarmonics, planes: jax.Array
) -> dict[str, jax.Array]:
    """Fields of whole columns, whatever they are, and their horizontal derivatives.

    [plane, 2, latitude, longitude] -> by the ends of their names (``, `_dlon`, `_dlat`,
    `_del2`), of the same shape. The fields themselves come back with the waves that the
    derivatives are of.
    """
    waves = harmonics.ordered
    modal = harmonics.gather(planes_to_spectral(harmonics, planes, clip=False))
    fields = [{"": Waves(x)} for x in waves.enter(modal)]
    for band, x in zip(waves.bands, fields, strict=True):
        x |= _derivatives(band, x)
    nodal = _to_nodal(waves, fields)
    whole = jnp.stack(list(nodal.values()))
    columns = partitioning.columns_from_levels(whole)[:, : len(planes)]
    sec = jnp.sqrt(harmonics.sec2_latitude)
    return {
        name: x * sec ** _secants(name) for name, x in zip(nodal, columns, strict=True)
    }


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
    east, south = u / sec, -v / sec
    fluxes = [Curl(None, east, south), Flux(None, east, south), *map(Flux, others)]
    if surface is not None:
        fluxes.append(Flux(partitioning.all_longitudes(surface)[None]))
    vorticity, divergence, *others = harmonics.all_to_modal(fluxes)
    spectral = {
        "vorticity": vorticity,
        "divergence": divergence,
        **dict(zip(scalars, others, strict=False)),
    }
    if surface is not None:
        spectral["surface"] = others[-1][0]
    return harmonics.scatter(jax.tree.map(harmonics.clip, spectral))


def planes_to_spectral(
    harmonics: SphericalHarmonics, planes: jax.Array, clip: bool = True
) -> jax.Array:
    """Fields of whole columns, whatever they are, each to its spectral coefficients.

    [plane, 2, latitude, longitude] -> [own plane, 2, m, l]. Planes are spread over
    `level` like levels, after as many zeros as make their number fit.
    """
    missing = -len(planes) % partitioning.size(partitioning.LEVEL)
    planes = jnp.pad(planes, [(0, missing), (0, 0), (0, 0), (0, 0)])
    modal = harmonics.to_modal(partitioning.levels_from_columns(planes))
    return harmonics.scatter(harmonics.clip(modal) if clip else modal)
