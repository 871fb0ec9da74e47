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

from model import units
from model.dynamics.gravity_waves import GravityWaves, all_layers, linear_matrices
from model.dynamics.products import CONDENSATES as CONDENSATES
from model.dynamics.products import (
    HUMIDITY,
    columns,
    fields,
    point_matrices,
    point_vectors,
    products,
    tendency,
)
from model.dynamics.state import State
from model.partitioning import LEVEL, MODAL_SURFACE
from model.precision import Precision
from model.sphere.grids import GaussianGrid
from model.sphere.harmonics import SphericalHarmonics
from model.sphere.ordered import OrderedWaves
from model.sphere.waves import Bands, PointTables, RightHandSide, Tables
from model.vertical.layers import Layers, exchanged
from model.vertical.sigma import SigmaLevels


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

    @property
    def waves(self) -> SphericalHarmonics:
        """What is done with states of these equations; see `OrderedEquations.waves`."""
        return self.harmonics

    # ---- the equations, of states [level, 2, own m, l]

    def explicit(self, state: State) -> State:
        """Tendency of everything but the linear gravity-wave terms."""
        return self.leave(self.ordered.explicit(self.enter(state)))

    def implicit(self, state: State) -> State:
        """Tendency of the linear gravity-wave terms; None of vorticity and tracers."""
        return self.leave(self.ordered.implicit(self.enter(state)))

    def implicit_solve(self, state: State, step: float | jax.Array) -> State:
        """Solves x - step * implicit(x) = state for x."""
        return self.leave(self.ordered.implicit_solve(self.enter(state), step))

    # ---- the same in the order of the transforms, in which steps are taken

    @property
    def ordered(self) -> "OrderedEquations":
        """The same equations among states in the order of the transforms."""
        return OrderedEquations.create(self)

    def enter(self, state: State) -> Bands[State]:
        """Puts a state in the order of the transforms."""
        return self.harmonics.ordered.enter(state)

    def leave(self, state: Bands[State]) -> State:
        """The inverse of `enter`."""
        state = self.harmonics.ordered.leave(state)
        return dataclasses.replace(
            state, log_surface_pressure=state.log_surface_pressure[0]
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OrderedEquations:
    """`PrimitiveEquations` among states in the order of the transforms: a pytree.

    Of each band of m [2, .., own m, level, l] (`model.sphere.ordered`); a surface field
    has one level. Steps stay in that order, with their filters.

    Attributes:
      equations: the tables.
      point_tables: what multiplies columns of points (`model.dynamics.products`).
      wave_tables: of `linear_matrices`, for each band. Like those of points they have
        no gradient.
      ground: Laplacian of the surface geopotential, of each band one plane.
    """

    equations: PrimitiveEquations
    point_tables: PointTables
    wave_tables: Bands[Tables]
    ground: Bands[jax.Array]

    @classmethod
    def create(cls, equations: PrimitiveEquations) -> "OrderedEquations":
        """Puts tables in order; on a mesh this device's part of them."""
        e, waves = equations, equations.harmonics.ordered
        matrices, orography = linear_matrices(e), waves.enter(e.orography)
        return cls(
            equations=e,
            point_tables=waves.point_tables(point_matrices(e), point_vectors(e)),
            wave_tables=tuple(x.wave_tables(matrices) for x in waves.bands),
            ground=tuple(
                band.clip(band.laplacian(x))
                for band, x in zip(waves.bands, orography, strict=True)
            ),
        )

    @property
    def waves(self) -> OrderedWaves:
        """What is done with states of these equations."""
        return self.equations.harmonics.ordered

    # ---- explicit part

    def explicit(self, state: Bands[State]) -> Bands[State]:
        """Tendency of everything but the linear gravity-wave terms.

        All fields go to the grid together, and all products come back.
        """
        h, grid = self.waves, self.equations.harmonics.grid
        names = list(state[0].tracers)
        aliased = HUMIDITY in names and not grid.resolves_products
        equation = RightHandSide(
            fields=functools.partial(fields, aliased),
            columns=functools.partial(columns, names),
            exchanged=exchanged,
            products=functools.partial(products, names),
            tendency=functools.partial(tendency, names),
        )
        tables = self.point_tables
        end = h.scatter(h.through_points(equation, tables, h.gather(state)))
        return tuple(
            dataclasses.replace(x, divergence=x.divergence - ground)
            for x, ground in zip(end, self.ground, strict=True)
        )

    # ---- linear part

    def implicit(self, state: Bands[State]) -> Bands[State]:
        """Tendency of the linear gravity-wave terms; None of vorticity and tracers."""
        parts = self._linear
        potentials = list(map(GravityWaves.potential, parts, state))
        known = all_layers(
            (x.divergence, plane)
            for x, (_, plane) in zip(state, potentials, strict=True)
        )
        return tuple(
            part.tendency(x, potential, *layers)
            for part, x, (potential, _), layers in zip(
                parts, state, potentials, known, strict=True
            )
        )

    def implicit_solve(
        self, state: Bands[State], step: float | jax.Array
    ) -> Bands[State]:
        """Solves x - step * implicit(x) = state for x.

        The right-hand side is all that needs to be known of other devices' layers.
        """
        bands = list(zip(self._linear, state, strict=True))
        known = all_layers([part.right_hand_side(x, step) for part, x in bands])
        return tuple(
            part.solution(x, step, *layers)
            for (part, x), layers in zip(bands, known, strict=True)
        )

    @property
    def _linear(self) -> Bands[GravityWaves]:
        return tuple(
            GravityWaves(self.equations, band, tables)
            for band, tables in zip(self.waves.bands, self.wave_tables, strict=True)
        )


Equations = PrimitiveEquations | OrderedEquations
"""In either order."""
