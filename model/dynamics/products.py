"""Grid-point products of the primitive equations: all that is not linear in them.

Moist primitive equations on sigma levels, in the form of Supplement B of Kochkov et al.
(2024), arXiv:2311.07222, less the linear gravity-wave terms
(`model.dynamics.primitive_equations`).
"""

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from model import partitioning, units
from model.dynamics.state import State
from model.partitioning import LEVEL
from model.precision import of_table
from model.sphere.derivatives import Derivatives
from model.sphere.waves import Curl, Flux, Matrices, PointTables, Waves
from model.vertical.layers import (
    OtherLayers,
    OwnPlanes,
    PlaneSums,
    on_layers,
    vertical_advection,
)

if TYPE_CHECKING:
    from model.dynamics.primitive_equations import PrimitiveEquations

HUMIDITY = "specific_humidity"
CONDENSATES = (
    "specific_cloud_ice_water_content",
    "specific_cloud_liquid_water_content",
)

_MOTION = ("exchange_above", "exchange_below", "omega")  # of `Layers`


def point_matrices(equations: "PrimitiveEquations") -> Matrices:
    """What multiplies columns of own layers' points, each [k, own level].

    Their last rows sum own layers: of x ds, and of what layers add to the geopotential.
    """
    layers = equations.layers
    thickness = layers.thickness[None]

    def own_columns(matrix: jax.Array) -> jax.Array:
        """[k, all levels] -> [k, own level]."""
        own = thickness.shape[1]
        start = partitioning.index(LEVEL) * own
        return jax.lax.dynamic_slice_in_dim(matrix, start, own, axis=1)

    motion = [getattr(layers, name) for name in _MOTION]
    return {
        "motion": jnp.concatenate([*map(own_columns, motion), thickness]),
        "heating": jnp.concatenate([own_columns(equations.heating), thickness]),
        "geopotential": jnp.concatenate(
            [layers.geopotential_matrix, layers.hydrostatic_weights[None]]
        ),
        "every layer": jnp.ones_like(thickness).T,
    }


def point_vectors(equations: "PrimitiveEquations") -> dict[str, jax.Array]:
    """What else is known of own layers, each [own level, k].

    Matrices of motion and heating take nothing of other devices' layers but the sums of
    x ds of all above a device's own, and of all below: by what these are multiplied.
    """
    vectors = {"reference_temperature": equations.reference_temperature[:, None]}
    if partitioning.size(LEVEL) == 1:
        return vectors
    thickness = equations.thickness
    matrices = {name: getattr(equations.layers, name) for name in _MOTION}
    for name, matrix in (matrices | {"heating": equations.heating}).items():
        vectors[f"{name} of above"] = matrix[:, :1] / thickness[0]
        vectors[f"{name} of below"] = matrix[:, -1:] / thickness[-1]
    return vectors


def fields(aliased: bool, h: Derivatives, state: State) -> list[Waves]:
    """What goes to points, of a band of a state in the order of the transforms.

    Args:
      aliased: whether there is humidity, on a grid that does not resolve products.
      h: its derivatives.
      state: all of the band.
    """
    lnps = state.log_surface_pressure
    made = [Waves(state.vorticity), Waves(state.divergence), Waves(state.temperature)]
    made += h.cos_wind(state.vorticity, state.divergence)
    made += [Waves(x) for x in state.tracers.values()]
    made += h.cos_gradient(lnps)
    if aliased:
        vapour = state.tracers[HUMIDITY]
        made += [Waves(h.laplacian(lnps)), *h.cos_gradient(vapour)]
    return made


class Columns(NamedTuple):
    """What own layers tell of their columns, of points [plane, ...].

    Attributes:
      pressure_gradient: cos(latitude) times that of ln(ps), the same on every layer.
      pressure_advection: v . grad(ln ps).
      tref: the reference temperature.
      virtual: virtual temperature over temperature, less 1.
      motion, heating, buoyancy: `point_matrices` times own layers.
      planes: of which others need to know: sums of x ds and of what own layers add to
        the geopotential over R, and layers of the wind, temperature and tracers.
    """

    pressure_gradient: tuple[jax.Array, jax.Array]
    pressure_advection: jax.Array
    tref: jax.Array
    virtual: jax.Array | float
    motion: jax.Array
    heating: jax.Array
    buoyancy: jax.Array | None
    planes: OwnPlanes


def columns(
    names: list[str],
    sin_latitude: jax.Array,
    tables: PointTables,
    fields: list[jax.Array],
) -> Columns:
    """What own layers tell of their columns.

    Args:
      names: of the tracers.
      sin_latitude: of the points.
      tables: of `point_matrices` and `point_vectors`.
      fields: values of what `fields` made; those of ln(ps) have one plane.
    """
    matrices, vectors = tables
    _, div, temp, u, v, *others = fields
    tracers = dict(zip(names, others, strict=False))
    # By a table, whose gradient sums over layers as fast as one can.
    p_lon, p_lat = (
        of_table(matrices["every layer"], x)
        for x in others[len(tracers) : len(tracers) + 2]
    )
    tref = on_layers(vectors["reference_temperature"], temp)
    virtual = (units.VAPOUR_GAS_RATIO - 1) * tracers.get(HUMIDITY, 0.0)
    # u and v carry a factor cos(lat), and so do gradients.
    sec2 = 1 / (1 - sin_latitude**2)
    pressure_advection = sec2 * (u * p_lon + v * p_lat)
    motion, full = _but_last(of_table(matrices["motion"], div + pressure_advection))
    heating, slow = _but_last(of_table(matrices["heating"], pressure_advection))
    buoyancy, moist = None, []
    if HUMIDITY in tracers:
        virtual_temp = virtual * (temp + tref)
        buoyancy, of_all = _but_last(of_table(matrices["geopotential"], virtual_temp))
        moist = [of_all]
    advected = [temp, u, v, *tracers.values()]
    return Columns(
        pressure_gradient=(p_lon, p_lat),
        pressure_advection=pressure_advection,
        tref=tref,
        virtual=virtual,
        motion=motion,
        heating=heating,
        buoyancy=buoyancy,
        planes=OwnPlanes(
            sums=[full, slow, *moist],
            first=[x[:1] for x in advected],
            last=[x[-1:] for x in advected],
        ),
    )


def products(
    names: list[str],
    sin_latitude: jax.Array,
    tables: PointTables,
    fields: list[jax.Array],
    own: Columns,
    others: OtherLayers,
) -> list[Flux | Curl]:
    """The products of the explicit part, of own latitudes' fields [plane, ...].

    Args:
      names, sin_latitude, tables, fields: as of `columns`.
      own: what that makes of them.
      others: what is exchanged of its planes.

    Returns:
      What is transformed to the tendencies of vorticity, of divergence but for the
      energy, the energy, and what is transformed to the tendencies of temperature,
      tracers and ln(ps).
    """
    matrices, vectors = tables
    zeta, div, temp, u, v, *rest = fields
    tracers = dict(zip(names, rest, strict=False))
    of_aliased = rest[len(tracers) + 2 :]
    humid = HUMIDITY in tracers
    p_lon, p_lat = own.pressure_gradient
    pressure_advection, tref, virtual = own.pressure_advection, own.tref, own.virtual
    q = tracers.get(HUMIDITY, 0.0)
    weight = virtual - sum(tracers.get(name, 0.0) for name in CONDENSATES)
    # u and v carry a factor cos(lat), which fluxes keep; sec2 makes up for two.
    sec2 = 1 / (1 - sin_latitude**2)
    coriolis = sin_latitude

    of_full, slow, *of_moist = others.sums
    above, below, omega = (
        _with_others(vectors, name, product, of_full)
        for name, product in zip(_MOTION, jnp.split(own.motion, 3), strict=True)
    )
    temp_advection, u_advection, v_advection, *advection = vertical_advection(
        *(above, below, [temp, u, v, *tracers.values()], others.above, others.below)
    )

    gradient_temp = temp * (1 + weight)
    if humid and not of_aliased:
        gradient_temp += tref * virtual
    gradient_temp *= units.GAS_CONSTANT
    force_u = (zeta + coriolis) * v - gradient_temp * p_lon + u_advection
    force_south = (zeta + coriolis) * u + gradient_temp * p_lat - v_advection

    heat_capacity = 1 + (units.VAPOUR_HEAT_RATIO - 1) * q
    explained = units.VAPOUR_GAS_RATIO - units.VAPOUR_HEAT_RATIO
    moist_temp = (temp * (1 + virtual) + tref * explained * q) / heat_capacity
    heating = units.KAPPA * (
        tref * pressure_advection + moist_temp * (pressure_advection - omega)
    )
    heating -= _with_others(vectors, "heating", own.heating, slow)
    energy = sec2 * (u * u + v * v) / 2
    if humid:
        energy += units.GAS_CONSTANT * (own.buoyancy + of_moist[0].below)

    curl_of_vapour = divergence_of_vapour = None
    if of_aliased:
        # The force - R (Rv / R - 1) Tref q grad(ln ps), by the product rule: of
        # products that the grid does not resolve derivatives are not the same.
        lnps_laplacian, q_lon, q_lat = of_aliased
        lnps_laplacian = of_table(matrices["every layer"], lnps_laplacian)
        vapour = units.GAS_CONSTANT * (units.VAPOUR_GAS_RATIO - 1) * tref
        q_dot_p = sec2 * (q_lon * p_lon + q_lat * p_lat)
        p_cross_q = sec2 * (p_lon * q_lat - p_lat * q_lon)
        divergence_of_vapour = -vapour * (q * lnps_laplacian + q_dot_p)
        curl_of_vapour = vapour * p_cross_q
    formed = [
        Curl(curl_of_vapour, force_u, force_south),
        Flux(divergence_of_vapour, force_u, force_south),
        Flux(energy),
    ]
    sources = [temp_advection + heating, *advection]
    for x, source in zip([temp, *tracers.values()], sources, strict=True):
        formed.append(Flux(x * div + source, -u * x, v * x))
    return [*formed, Flux(-slow.total)]


def tendency(names: list[str], h: Derivatives, waves: list[jax.Array]) -> State:
    """What products make, as the tendency of a state.

    Args:
      names: of the tracers.
      h: derivatives of the state.
      waves: of all `products`.
    """
    vorticity, divergence, energy, temperature, *tracers, lnps = waves
    return State(
        vorticity=h.clip(vorticity),
        divergence=h.clip(divergence - h.laplacian(energy)),
        temperature=h.clip(temperature),
        log_surface_pressure=h.clip(lnps),
        tracers={name: h.clip(x) for name, x in zip(names, tracers, strict=True)},
    )


def _but_last(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return x[:-1], x[-1:]


def _with_others(
    vectors: dict[str, jax.Array], name: str, product: jax.Array, sums: PlaneSums
) -> jax.Array:
    """A matrix [level, all levels] times the layers of all devices.

    Args:
      vectors: of `point_vectors`.
      name: of the matrix.
      product: the same times own layers, [level, ...].
      sums: of x ds.
    """
    if partitioning.size(LEVEL) == 1:
        return product
    of_above, of_below = (
        on_layers(vectors[f"{name} of {side}"], product) for side in ("above", "below")
    )
    return product + of_above * sums.above + of_below * sums.below
