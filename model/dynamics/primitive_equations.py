"""Moist primitive equations on sigma levels, split into explicit and linear parts.

The linear part (gravity waves about a resting atmosphere of the reference
temperature) is stepped implicitly, the rest explicitly; see Durran, Numerical Methods
for Fluid Dynamics, section 8.6, and Supplement B of Kochkov et al. (2024),
arXiv:2311.07222. Humidity acts through the virtual temperature and the heat capacity,
cloud condensates through their weight in the pressure gradient term. Everything is in
model units (radius = 2 Omega = p00 = 1).
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from model import partitioning, units
from model.dynamics.state import State
from model.sphere.grids import GaussianGrid
from model.sphere.harmonics import SphericalHarmonics
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
        "orography",
        "reference_temperature",
        "geopotential",
        "divergence_heating",
        "sigma_dot",
        "omega",
        "reference_advection",
        "modes",
        "modes_inverse",
        "mode_speed2",
    ],
    meta_fields=["sigma"],
)
@dataclasses.dataclass(frozen=True)
class PrimitiveEquations:
    """Tables of the equations: a pytree, passed to jitted functions.

    Attributes:
      harmonics: transforms of the grid on which products are formed.
      orography: surface geopotential, spectral [2, m, l].
      reference_temperature: K, [level].
      geopotential: R G, [level, level] (`SigmaLevels.geopotential_matrix`).
      divergence_heating: H of the linear part dT/dt = -H D, [level, level].
      sigma_dot, omega: vertical integrals (`SigmaLevels`), [level, level].
      reference_advection: - w d(Tref)/d(sigma) as a matrix, [level, level].
      modes, modes_inverse, mode_speed2: vertical normal modes of the linear part,
        R (G H + Tref ds^T) = V diag(c^2) V^-1; [level, level] twice, and [level].
      sigma: the layers.
    """

    harmonics: SphericalHarmonics
    orography: jax.Array
    reference_temperature: jax.Array
    geopotential: jax.Array
    divergence_heating: jax.Array
    sigma_dot: jax.Array
    omega: jax.Array
    reference_advection: jax.Array
    modes: jax.Array
    modes_inverse: jax.Array
    mode_speed2: jax.Array
    sigma: SigmaLevels

    @classmethod
    def create(
        cls,
        grid: GaussianGrid,
        sigma: SigmaLevels,
        reference_temperature: np.ndarray,
        orography: jax.Array | None = None,
        dtype: jnp.dtype = jnp.float32,
        precision: str | None = None,
    ) -> "PrimitiveEquations":
        """Builds the tables in float64 and casts them once to `dtype`.

        Args:
          grid: the dycore's grid, preferably de-aliased (a `T` grid).
          sigma: layers.
          reference_temperature: K, [level].
          orography: surface geopotential, spectral [2, m, l] on `grid`; default flat.
          dtype: of all arithmetic.
          precision: of the transforms (see `SphericalHarmonics.create`).

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
        harmonics = SphericalHarmonics.create(grid, dtype, precision)
        geopotential = units.GAS_CONSTANT * sigma.geopotential_matrix
        heating = units.KAPPA * reference[:, None] * sigma.omega_matrix
        heating = heating - sigma.advection_matrix(reference)
        gravity_waves = geopotential @ heating + units.GAS_CONSTANT * np.outer(
            reference, sigma.thickness
        )
        speed2, modes = np.linalg.eig(gravity_waves)
        if np.any(np.iscomplex(speed2)) or np.any(speed2.real <= 0):
            raise ValueError("the reference temperature profile is statically unstable")
        tables = dict(
            orography=jnp.zeros(harmonics.modal_shape)
            if orography is None
            else orography,
            reference_temperature=reference,
            geopotential=geopotential,
            divergence_heating=heating,
            sigma_dot=sigma.sigma_dot_matrix,
            omega=sigma.omega_matrix,
            reference_advection=sigma.advection_matrix(reference),
            modes=modes.real,
            modes_inverse=np.linalg.inv(modes.real),
            mode_speed2=speed2.real,
        )
        tables = {name: jnp.asarray(table, dtype) for name, table in tables.items()}
        return cls(harmonics=harmonics, sigma=sigma, **tables)

    # ---- explicit part

    def explicit(self, state: State) -> State:
        """Tendency of everything but the linear gravity-wave terms.

        All fields go to the grid in one batched synthesis, all products come back in
        one batched analysis.
        """
        h = self.harmonics
        names = list(state.tracers)
        humid = HUMIDITY in state.tracers
        cos_u, cos_v = h.cos_wind(state.vorticity, state.divergence)
        spectral = [state.vorticity, state.divergence, state.temperature, cos_u, cos_v]
        spectral += state.tracers.values()
        if humid:
            spectral += h.cos_gradient(state.tracers[HUMIDITY])
        nodal = h.synthesis(partitioning.modal_levels(jnp.stack(spectral)))
        nodal = partitioning.columns(partitioning.nodal_levels(nodal))
        zeta, div, temp, u, v, *tracers = jnp.unstack(nodal)
        if humid:
            q_lon, q_lat = tracers[-2:]
        tracers = dict(zip(names, tracers, strict=False))
        lnps = state.log_surface_pressure
        surface = h.synthesis(jnp.stack([*h.cos_gradient(lnps), h.laplacian(lnps)]))
        p_lon, p_lat, lnps_laplacian = (
            on_levels(x, self.sigma.layers)
            for x in jnp.unstack(partitioning.columns(surface))
        )

        # u and v carry a factor cos(lat) throughout; sec2 makes up for two of them.
        sec2 = h.sec2_latitude
        coriolis = h.sin_latitude[:, None]
        tref = self.reference_temperature[:, None, None]
        q = tracers.get(HUMIDITY, 0.0)
        virtual = (units.VAPOUR_GAS_RATIO - 1) * q
        weight = virtual - sum(tracers.get(name, 0.0) for name in CONDENSATES)

        pressure_advection = sec2 * (u * p_lon + v * p_lat)
        sigma_dot = self._vertical(self.sigma_dot, div + pressure_advection)
        gradient_temp = units.GAS_CONSTANT * temp * (1 + weight)
        force_u = (zeta + coriolis) * v - gradient_temp * p_lon
        force_v = -(zeta + coriolis) * u - gradient_temp * p_lat
        force_u += self._vertical_advection(sigma_dot, u)
        force_v += self._vertical_advection(sigma_dot, v)

        heat_capacity = 1 + (units.VAPOUR_HEAT_RATIO - 1) * q
        explained = units.VAPOUR_GAS_RATIO - units.VAPOUR_HEAT_RATIO
        moist_temp = (temp * (1 + virtual) + tref * explained * q) / heat_capacity
        omega_reference = self._vertical(self.omega, pressure_advection)
        omega_full = self._vertical(self.omega, div + pressure_advection)
        heating = units.KAPPA * (
            tref * (pressure_advection - omega_reference)
            + moist_temp * (pressure_advection - omega_full)
        )
        heating += self._vertical(self.reference_advection, pressure_advection)
        energy = sec2 * (u * u + v * v) / 2
        if humid:
            energy += self._vertical(self.geopotential, virtual * (temp + tref))

        def material(x: jax.Array) -> jax.Array:
            return x * div + self._vertical_advection(sigma_dot, x)

        products = [force_u * sec2, force_v * sec2, energy]
        if humid:
            vapour = units.GAS_CONSTANT * (units.VAPOUR_GAS_RATIO - 1) * tref
            q_dot_p = sec2 * (q_lon * p_lon + q_lat * p_lat)
            p_cross_q = sec2 * (p_lon * q_lat - p_lat * q_lon)
            products += [-vapour * (q * lnps_laplacian + q_dot_p), vapour * p_cross_q]
        advected = {"temperature": temp, **tracers}
        for name, x in advected.items():
            source = material(x) + (heating if name == "temperature" else 0.0)
            products += [source, u * x * sec2, v * x * sec2]
        lnps_tendency = -self._column_integral(pressure_advection)

        products = partitioning.columns(jnp.stack(products))
        products = partitioning.nodal_levels(products)
        products = partitioning.modal_levels(h.analysis(products, clip=False))
        f_u, f_v, energy, *products = jnp.unstack(products)
        vorticity = h.curl(f_u, f_v)
        divergence = h.divergence(f_u, f_v) - h.laplacian(energy + self.orography)
        if humid:
            divergence += products[0]
            vorticity += products[1]
            products = products[2:]
        scalars = {
            name: products[3 * i] - h.divergence(*products[3 * i + 1 : 3 * i + 3])
            for i, name in enumerate(advected)
        }
        tendency = State(
            vorticity=vorticity,
            divergence=divergence,
            temperature=scalars.pop("temperature"),
            log_surface_pressure=h.analysis(lnps_tendency),
            tracers=scalars,
        )
        return jax.tree.map(h.clip, tendency)

    # ---- linear part

    def implicit(self, state: State) -> State:
        """Tendency of the linear gravity-wave terms."""
        tref = self.reference_temperature[:, None, None, None]
        lnps = state.log_surface_pressure
        pressure = self._vertical(self.geopotential, state.temperature)
        pressure += units.GAS_CONSTANT * tref * on_levels(lnps, self.sigma.layers)
        return State(
            vorticity=jnp.zeros_like(state.vorticity),
            divergence=-self.harmonics.laplacian(pressure),
            temperature=-self._vertical(self.divergence_heating, state.divergence),
            log_surface_pressure=-self._column_integral(state.divergence),
            tracers=jax.tree.map(jnp.zeros_like, state.tracers),
        )

    def implicit_solve(self, state: State, step: float | jax.Array) -> State:
        """Solves x - step * implicit(x) = state for x.

        Temperature and pressure are eliminated; what remains is diagonal in the
        vertical normal modes: D = V [V^-1 rhs / (1 + step^2 c^2 l (l + 1))].
        """
        h = self.harmonics
        eigenvalues = jnp.asarray(h.laplacian_eigenvalues, h.dtype)
        rhs = state.divergence + step * self.implicit(state).divergence
        speed2 = self.mode_speed2[:, None, None, None]
        in_modes = self._vertical(self.modes_inverse, rhs)
        in_modes /= 1 - step**2 * speed2 * eigenvalues
        divergence = self._vertical(self.modes, in_modes)
        heating = self._vertical(self.divergence_heating, divergence)
        return State(
            vorticity=state.vorticity,
            divergence=divergence,
            temperature=state.temperature - step * heating,
            log_surface_pressure=state.log_surface_pressure
            - step * self._column_integral(divergence),
            tracers=state.tracers,
        )

    # ---- vertical operations on [level, ...]

    def _vertical(self, matrix: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.einsum("kj,j...->k...", matrix, x, precision="highest")

    def _column_integral(self, x: jax.Array) -> jax.Array:
        thickness = jnp.asarray(self.sigma.thickness, x.dtype)
        return jnp.einsum("k,k...->...", thickness, x, precision="highest")

    def _vertical_advection(self, sigma_dot: jax.Array, x: jax.Array) -> jax.Array:
        """- w dx/d(sigma), centred; `sigma_dot` is at the lower edges of the layers."""
        spacing = np.append(np.diff(self.sigma.centers), 1.0)[:, None, None]
        below = jnp.concatenate([x[1:], x[-1:]])
        flux = sigma_dot * (below - x) / jnp.asarray(spacing, x.dtype)
        above = jnp.concatenate([jnp.zeros_like(flux[:1]), flux[:-1]])
        return -(flux + above) / 2
