"""Moist primitive equations on sigma levels, split into explicit and linear parts.

The linear part (gravity waves about a resting atmosphere of the reference
temperature) is stepped implicitly, the rest explicitly; see Durran, Numerical Methods
for Fluid Dynamics, section 8.6, and Supplement B of Kochkov et al. (2024),
arXiv:2311.07222. Humidity acts through the virtual temperature and the heat capacity,
cloud condensates through their weight in the pressure gradient term. Everything is in
model units (radius = 2 Omega = p00 = 1).

Every method acts on one device's part of the atmosphere (`model.partitioning`). A
right-hand side gathers the spectral state over `lat` once and scatters its tendency
once; over `level` it exchanges the planes that vertical sums and differences need, and
the linear part the divergence.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from model import partitioning, units
from model.dynamics.state import State
from model.partitioning import LEVEL, MODAL_SURFACE
from model.precision import Precision
from model.sphere.grids import GaussianGrid
from model.sphere.harmonics import SphericalHarmonics
from model.sphere.waves import Curl, Flux, Waves
from model.vertical.layers import (
    Layers,
    PlaneSums,
    all_layers,
    on_layers,
    sum_layers,
    sums_below,
    sums_of_all,
    times,
)
from model.vertical.sigma import SigmaLevels
from model.vertical.surface import on_levels

HUMIDITY = "specific_humidity"
CONDENSATES = (
    "specific_cloud_ice_water_content",
    "specific_cloud_liquid_water_content",
)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "harmonics",
        "layers",
        "orography",
        "reference_temperature",
        "heating",
        "thickness",
        "modes",
        "modes_inverse",
        "mode_speed2",
        "mode_heating",
        "mode_thickness",
    ],
    meta_fields=["sigma"],
)
@dataclasses.dataclass(frozen=True)
class PrimitiveEquations:
    """Tables of the equations: a pytree, passed to jitted functions.

    Attributes:
      harmonics: transforms of the grid on which products are formed.
      layers: vertical sums and differences of own layers.
      orography: surface geopotential, spectral [2, m, l].
      reference_temperature: K, [level].
      heating: H of the linear part dT/dt = -H D, [level, all levels].
      thickness: of all layers, [all levels].
      modes, modes_inverse, mode_speed2: vertical normal modes of the linear part,
        R (G H + Tref ds^T) = V diag(c^2) V^-1; [level, mode], [mode, all levels] and
        [mode].
      mode_heating, mode_thickness: H V [level, mode] and ds^T V [mode].
      sigma: all layers.
    """

    harmonics: SphericalHarmonics
    layers: Layers
    orography: jax.Array
    reference_temperature: jax.Array
    heating: jax.Array
    thickness: jax.Array
    modes: jax.Array
    modes_inverse: jax.Array
    mode_speed2: jax.Array
    mode_heating: jax.Array
    mode_thickness: jax.Array
    sigma: SigmaLevels

    @classmethod
    def create(
        cls,
        grid: GaussianGrid,
        sigma: SigmaLevels,
        reference_temperature: np.ndarray,
        orography: jax.Array | None = None,
        dtype: jnp.dtype = jnp.float32,
        precision: Precision | None = None,
        shards: int = 1,
        top: bool = False,
    ) -> "PrimitiveEquations":
        """Builds the tables in float64 and casts them once to `dtype`.

        Args:
          grid: the dycore's grid, preferably de-aliased (a `T` grid).
          sigma: layers.
          reference_temperature: K, [level].
          orography: surface geopotential, spectral [2, m, l] on `grid`; default flat.
          dtype: of all arithmetic.
          precision: of the transforms (see `SphericalHarmonics.create`).
          shards: devices along `lat`.
          top: see `SphericalHarmonics`.

        Raises:
          ValueError: if the reference profile has another length than `sigma`, or is
            statically unstable, so that a gravity wave would have no real speed.
        """
        reference = np.asarray(reference_temperature, np.float64)
        if reference.shape != (sigma.layers,):
            raise ValueError(
                f"reference temperature has shape {reference.shape}, "
                f"but there are {sigma.layers} layers"
            )
        harmonics = SphericalHarmonics.create(grid, dtype, precision, shards, top)
        heating = units.KAPPA * reference[:, None] * sigma.omega_matrix
        heating = heating - sigma.advection_matrix(reference)
        gravity_waves = units.GAS_CONSTANT * (
            sigma.geopotential_matrix @ heating + np.outer(reference, sigma.thickness)
        )
        speed2, modes = np.linalg.eig(gravity_waves)
        if np.any(np.iscomplex(speed2)) or np.any(speed2.real <= 0):
            raise ValueError("the reference temperature profile is statically unstable")
        modes = modes.real
        tables = dict(
            orography=jnp.zeros(harmonics.modal_shape)
            if orography is None
            else orography,
            reference_temperature=reference,
            heating=heating,
            thickness=sigma.thickness,
            modes=modes,
            modes_inverse=np.linalg.inv(modes),
            mode_speed2=speed2.real,
            mode_heating=heating @ modes,
            mode_thickness=sigma.thickness @ modes,
        )
        tables = {name: jnp.asarray(table, dtype) for name, table in tables.items()}
        layers = Layers.create(sigma, dtype)
        return cls(harmonics=harmonics, layers=layers, sigma=sigma, **tables)

    def layout(self) -> "PrimitiveEquations":
        """Where the tables lie: `PartitionSpec`s in their places."""
        by_level = (
            "reference_temperature",
            "heating",
            "modes",
            "mode_heating",
        )
        everywhere = ("thickness", "modes_inverse", "mode_speed2", "mode_thickness")
        return dataclasses.replace(
            self,
            harmonics=self.harmonics.layout(),
            layers=self.layers.layout(),
            orography=MODAL_SURFACE,
            **dict.fromkeys(by_level, P(LEVEL)),
            **dict.fromkeys(everywhere, P()),
        )

    # ---- explicit part

    def explicit(self, state: State) -> State:
        """Tendency of everything but the linear gravity-wave terms.

        All fields go to the grid in one batched synthesis, all products come back in
        one batched analysis.
        """
        h = self.harmonics
        whole = h.gather(state)
        aliased = HUMIDITY in state.tracers and not h.grid.resolves_products
        lnps = whole.log_surface_pressure[None]
        fields = [Waves(whole.vorticity), Waves(whole.divergence)]
        fields += [Waves(whole.temperature)]
        fields += h.cos_wind(whole.vorticity, whole.divergence)
        fields += [Waves(x) for x in whole.tracers.values()]
        fields += h.cos_gradient(lnps)
        if aliased:
            vapour = whole.tracers[HUMIDITY]
            fields += [Waves(h.laplacian(lnps)), *h.cos_gradient(vapour)]
        products = functools.partial(self._products, list(state.tracers))
        vorticity, divergence, energy, temperature, *tracers, lnps = h.at_points(
            products, self._point_matrices(), fields
        )
        tendency = State(
            vorticity=vorticity,
            divergence=divergence - h.laplacian(energy),
            temperature=temperature,
            log_surface_pressure=lnps[0],
            tracers=dict(zip(state.tracers, tracers, strict=True)),
        )
        tendency = h.scatter(jax.tree.map(h.clip, tendency))
        ground = h.clip(h.laplacian(self.orography))
        levels = len(state.temperature)
        return dataclasses.replace(
            tendency, divergence=tendency.divergence - on_levels(ground, levels)
        )

    def _point_matrices(self) -> dict[str, jax.Array]:
        """What multiplies columns of own layers' points, each [k, own level]."""
        tables = {
            "exchange_above": self.layers.exchange_above,
            "exchange_below": self.layers.exchange_below,
            "omega": self.layers.omega,
            "heating": self.heating,
        }
        matrices = {name: self._own_columns(x) for name, x in tables.items()}
        thickness = self.layers.thickness[None]
        matrices["heating"] = jnp.concatenate([matrices["heating"], thickness])
        matrices["geopotential"] = self.layers.geopotential_matrix
        return matrices

    def _own_columns(self, matrix: jax.Array) -> jax.Array:
        """[k, all levels] -> [k, own level]."""
        own = len(self.layers.thickness)
        start = partitioning.index(LEVEL) * own
        return jax.lax.dynamic_slice_in_dim(matrix, start, own, axis=1)

    def _products(
        self,
        names: list[str],
        sin_latitude: jax.Array,
        matrices: dict[str, jax.Array],
        fields: list[jax.Array],
    ) -> list[Flux | Curl]:
        """The products of the explicit part, of own latitudes' fields [plane, ...].

        Args:
          names: of the tracers.
          sin_latitude: of the points.
          matrices: see `_point_matrices`.
          fields: as `explicit` puts them together.

        Returns:
          What is transformed to the tendencies of vorticity, of divergence but for the
          energy, the energy, and what is transformed to the tendencies of temperature,
          tracers and ln(ps).
        """
        layers = self.layers
        zeta, div, temp, u, v, *others = fields
        tracers = dict(zip(names, others, strict=False))
        p_lon, p_lat, *of_aliased = others[len(tracers) :]
        humid = HUMIDITY in tracers
        p_lon, p_lat = (on_levels(x[0], len(temp)) for x in (p_lon, p_lat))

        # u and v carry a factor cos(lat) throughout; sec2 makes up for two of them.
        sec2 = 1 / (1 - sin_latitude**2)
        coriolis = sin_latitude
        tref = on_layers(self.reference_temperature, temp)
        q = tracers.get(HUMIDITY, 0.0)
        virtual = (units.VAPOUR_GAS_RATIO - 1) * q
        weight = virtual - sum(tracers.get(name, 0.0) for name in CONDENSATES)

        thickness = on_layers(layers.thickness, temp)
        pressure_advection = sec2 * (u * p_lon + v * p_lat)
        full = div + pressure_advection
        virtual_temp = virtual * (temp + tref)
        heated = times(matrices["heating"], pressure_advection)
        linear_heating, slow = heated[:-1], heated[-1]
        planes = [sum_layers(full * thickness), slow]
        if humid:
            planes.append(sum_layers(layers.hydrostatic_weight(virtual_temp)))
        of_full, slow, *of_moist = sums_of_all(planes)
        above, below, omega = (
            self._with_others(
                getattr(layers, name), times(matrices[name], full), of_full
            )
            for name in ("exchange_above", "exchange_below", "omega")
        )
        u_advection, v_advection, *advection = layers.advection(
            *(above, below), [u, v, temp, *tracers.values()]
        )

        gradient_temp = temp * (1 + weight)
        if humid and not of_aliased:
            gradient_temp += tref * virtual
        gradient_temp *= units.GAS_CONSTANT
        force_u = (zeta + coriolis) * v - gradient_temp * p_lon + u_advection
        force_v = -(zeta + coriolis) * u - gradient_temp * p_lat + v_advection

        heat_capacity = 1 + (units.VAPOUR_HEAT_RATIO - 1) * q
        explained = units.VAPOUR_GAS_RATIO - units.VAPOUR_HEAT_RATIO
        moist_temp = (temp * (1 + virtual) + tref * explained * q) / heat_capacity
        heating = units.KAPPA * (
            tref * pressure_advection + moist_temp * (pressure_advection - omega)
        )
        heating -= self._with_others(self.heating, linear_heating, slow)
        energy = sec2 * (u * u + v * v) / 2
        if humid:
            buoyancy = times(matrices["geopotential"], virtual_temp)
            energy += units.GAS_CONSTANT * (buoyancy + of_moist[0].below)

        curl_of_vapour = divergence_of_vapour = None
        if of_aliased:
            # The force - R (Rv / R - 1) Tref q grad(ln ps), by the product rule: of
            # products that the grid does not resolve derivatives are not the same.
            lnps_laplacian, q_lon, q_lat = of_aliased
            vapour = units.GAS_CONSTANT * (units.VAPOUR_GAS_RATIO - 1) * tref
            q_dot_p = sec2 * (q_lon * p_lon + q_lat * p_lat)
            p_cross_q = sec2 * (p_lon * q_lat - p_lat * q_lon)
            divergence_of_vapour = -vapour * (q * lnps_laplacian + q_dot_p)
            curl_of_vapour = vapour * p_cross_q
        force_u, force_v = force_u * sec2, force_v * sec2
        products = [
            Curl(curl_of_vapour, force_u, force_v),
            Flux(divergence_of_vapour, force_u, force_v),
            Flux(energy),
        ]
        advected = {"temperature": temp, **tracers}
        for (name, x), vertical in zip(advected.items(), advection, strict=True):
            source = x * div + vertical + (heating if name == "temperature" else 0.0)
            products.append(Flux(source, -u * x * sec2, -v * x * sec2))
        return [*products, Flux(-slow.total[None])]

    def _with_others(
        self, matrix: jax.Array, product: jax.Array, sums: PlaneSums
    ) -> jax.Array:
        """A matrix [level, all levels] times the layers of all devices.

        Args:
          matrix: one that takes nothing but the sums of x ds of all layers above a
            device's own, and of all below.
          product: the same times own layers, [level, ...].
          sums: of x ds.
        """
        if partitioning.size(LEVEL) == 1:
            return product
        of_above = on_layers(matrix[:, 0] / self.thickness[0], product)
        of_below = on_layers(matrix[:, -1] / self.thickness[-1], product)
        return product + of_above * sums.above + of_below * sums.below

    # ---- linear part

    def implicit(self, state: State) -> State:
        """Tendency of the linear gravity-wave terms; None of vorticity and tracers."""
        potential, of_layers = self._potential(state)
        divergence, below = all_layers(state.divergence, of_layers)
        below = jax.lax.dynamic_index_in_dim(
            below, partitioning.index(LEVEL), keepdims=False
        )
        potential += on_levels(below, len(potential))
        return State(
            vorticity=None,
            divergence=-self.harmonics.laplacian(potential),
            temperature=-_vertical(self.heating, divergence),
            log_surface_pressure=-_vertical(self.thickness, divergence),
            tracers=dict.fromkeys(state.tracers),
        )

    def implicit_solve(self, state: State, step: float | jax.Array) -> State:
        """Solves x - step * implicit(x) = state for x.

        Temperature and pressure are eliminated; what remains is diagonal in the
        vertical normal modes: D = V [V^-1 rhs / (1 + step^2 c^2 l (l + 1))]. The
        right-hand side is all that needs to be known of the other devices' layers.
        """
        laplacian = self.harmonics.laplacian
        potential, of_layers = self._potential(state)
        rhs = state.divergence - step * laplacian(potential)
        rhs, below = all_layers(rhs, -step * laplacian(of_layers))
        rhs += jnp.repeat(below, len(potential), axis=0)
        eigenvalues = jnp.asarray(self.harmonics.laplacian_eigenvalues, rhs.dtype)
        in_modes = _vertical(self.modes_inverse, rhs)
        in_modes /= 1 - step**2 * on_layers(self.mode_speed2, in_modes) * eigenvalues
        rows = jnp.concatenate([self.modes, self.mode_heating])
        divergence, heating = jnp.split(_vertical(rows, in_modes), 2)
        return State(
            vorticity=state.vorticity,
            divergence=divergence,
            temperature=state.temperature - step * heating,
            log_surface_pressure=state.log_surface_pressure
            - step * _vertical(self.mode_thickness, in_modes),
            tracers=state.tracers,
        )

    def _potential(self, state: State) -> tuple[jax.Array, jax.Array]:
        """R (G T + Tref ln ps) for the layers of this device, as far as they make it.

        And what they add to that of all layers above: [level, 2, m, l], [2, m, l].
        """
        temperature, lnps = state.temperature, state.log_surface_pressure
        weighted = self.layers.hydrostatic_weight(temperature)
        potential = self.layers.geopotential(temperature, sums_below(weighted))
        reference = on_layers(self.reference_temperature, potential)
        potential += reference * on_levels(lnps, len(potential))
        return (
            units.GAS_CONSTANT * potential,
            units.GAS_CONSTANT * sum_layers(weighted),
        )


def _vertical(matrix: jax.Array, x: jax.Array) -> jax.Array:
    """[k, level] or [level] times [level, ...]."""
    return jnp.tensordot(matrix, x, axes=1, precision="highest")
