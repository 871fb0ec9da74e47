"""The linear part of the primitive equations: gravity waves, stepped implicitly.

About a resting atmosphere of the reference temperature; see
`model.dynamics.primitive_equations`. Every wave is by itself, and so is every band of
waves, but for an exchange of layers between devices that all bands share.
"""

import dataclasses
from collections.abc import Iterable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from model import partitioning, units
from model.dynamics.state import State
from model.partitioning import LEVEL
from model.sphere.ordered import BandOfWaves
from model.sphere.waves import Bands, Matrices, Tables, ends

if TYPE_CHECKING:
    from model.dynamics.primitive_equations import PrimitiveEquations

LayersAndPlanes = tuple[jax.Array, jax.Array]
"""Waves in order, [.., level, l] and [.., k, l]."""


def linear_matrices(equations: "PrimitiveEquations") -> Matrices:
    """What multiplies columns of waves, each [k, plane].

    Of `PrimitiveEquations` by name, and `reference` (its temperature), `geopotential`
    and `weights` (`Layers.hydrostatic_weights`), times R.
    """
    e, layers = equations, equations.layers
    return {
        "reference": units.GAS_CONSTANT * e.reference_temperature[:, None],
        "geopotential": units.GAS_CONSTANT * layers.geopotential_matrix,
        "weights": units.GAS_CONSTANT * layers.hydrostatic_weights[None],
        "heating": e.heating,
        "thickness": e.thickness[None],
        "modes": e.modes,
        "modes_inverse": e.modes_inverse,
        "mode_heating": e.mode_heating,
        "mode_thickness": e.mode_thickness[None],
    }


@dataclasses.dataclass(frozen=True)
class GravityWaves:
    """The linear part among a band of waves.

    Attributes:
      equations: the tables.
      waves: the band.
      tables: of `linear_matrices`, for the band.
    """

    equations: "PrimitiveEquations"
    waves: BandOfWaves
    tables: Tables

    def tendency(
        self,
        state: State,
        potential: jax.Array,
        divergence: jax.Array,
        below: jax.Array,
    ) -> State:
        """Tendency of a state; None of vorticity and tracers.

        Args:
          state: own layers.
          potential: of them (`potential`).
          divergence, below: `all_layers` of its divergence, and of what own layers add
            to the potential of those above.
        """
        place = partitioning.index(LEVEL)
        below = jax.lax.dynamic_slice_in_dim(below, place, 1, axis=-2)
        return State(
            vorticity=None,
            divergence=-self.waves.laplacian(potential + below),
            temperature=-self._columns("heating", divergence),
            log_surface_pressure=-self._columns("thickness", divergence),
            tracers=dict.fromkeys(state.tracers),
        )

    def right_hand_side(self, state: State, step: float | jax.Array) -> LayersAndPlanes:
        """Of the equation for the divergence at the end of a step: own layers' part.

        And what they add to that of all layers above.
        """
        potential, of_layers = self.potential(state)
        rhs = state.divergence - step * self.waves.laplacian(potential)
        return rhs, -step * self.waves.laplacian(of_layers)

    def solution(
        self, state: State, step: float | jax.Array, rhs: jax.Array, below: jax.Array
    ) -> State:
        """x of x - step * tendency(x) = state.

        Temperature and pressure are eliminated; what remains is diagonal in the
        vertical normal modes: D = V [V^-1 rhs / (1 + step^2 c^2 l (l + 1))].

        Args:
          state: own layers.
          step: in model units.
          rhs, below: `all_layers` of `right_hand_side`.
        """
        rhs += jnp.repeat(below, state.divergence.shape[-2], axis=-2)
        speed2 = self.equations.mode_speed2[:, None]
        eigenvalues = jnp.asarray(self.waves.laplacian_eigenvalues, rhs.dtype)
        in_modes = self._columns("modes_inverse", rhs)
        in_modes /= 1 - step**2 * speed2 * eigenvalues
        heating = self._columns("mode_heating", in_modes)
        convergence = self._columns("mode_thickness", in_modes)
        return State(
            vorticity=state.vorticity,
            divergence=self._columns("modes", in_modes),
            temperature=state.temperature - step * heating,
            log_surface_pressure=state.log_surface_pressure - step * convergence,
            tracers=state.tracers,
        )

    def potential(self, state: State) -> LayersAndPlanes:
        """R (G T + Tref ln ps) for the layers of this device, as far as they make it.

        And what they add to that of all layers above, as one plane.
        """
        temperature, lnps = state.temperature, state.log_surface_pressure
        # As a product: of what is broadcast over layers and, in a batch of members, has
        # eight axes, jaxlib 0.10.2 makes a wrong gradient on CPUs, NaN or a crash.
        potential = self._columns("geopotential", temperature)
        potential += self._columns("reference", lnps)
        if partitioning.size(LEVEL) == 1:
            return potential, jnp.zeros_like(lnps)
        return potential, self._columns("weights", temperature)

    def _columns(self, name: str, x: jax.Array) -> jax.Array:
        """One of `tables` times columns of waves."""
        return self.waves.over_planes(self.tables[name], x)


def all_layers(bands: Iterable[LayersAndPlanes]) -> Bands[LayersAndPlanes]:
    """The layers of all devices, and a plane of each, with one exchange.

    Args:
      bands: of each own layers, and a plane that they make [.., 1, l].

    Returns:
      [.., all levels, l], and for each device the sum of the planes of those that hold
      the layers below its own, [.., devices, l].
    """
    devices = partitioning.size(LEVEL)
    if devices == 1:
        return tuple((x, jnp.zeros_like(plane)) for x, plane in bands)
    both = [jnp.concatenate(x, axis=-2) for x in bands]
    most = max(x.shape[-1] for x in both)
    missing = [(0, 0)] * (both[0].ndim - 1)
    padded = [jnp.pad(x, [*missing, (most - x.shape[-1], 0)]) for x in both]
    everyone = partitioning.all_gather(
        jnp.concatenate(padded, axis=-3), LEVEL, dimension=-2
    )
    everyone = jnp.split(everyone, ends(both, axis=-3), axis=-3)
    return tuple(
        _taken_apart(x[..., most - own.shape[-1] :], devices)
        for x, own in zip(everyone, both, strict=True)
    )


def _taken_apart(everyone: jax.Array, devices: int) -> LayersAndPlanes:
    """Layers and sums of planes, from own layers and a plane of every device."""
    leading, rows = everyone.shape[:-2], everyone.shape[-1]
    everyone = everyone.reshape(*leading, devices, -1, rows)
    layers = everyone[..., :-1, :].reshape(*leading, -1, rows)
    ones = jnp.triu(jnp.ones((devices, devices), everyone.dtype), 1)
    below = jnp.einsum(
        "kj,...jl->...kl", ones, everyone[..., -1, :], precision="highest"
    )
    return layers, below
