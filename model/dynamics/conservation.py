"""What an atmosphere has of mass, energy and angular momentum, and fixers of them.

The primitive equations conserve dry mass, total energy and the angular momentum about
the planet's axis (mountains aside). A spectral core with ln(ps) as a variable
conserves none of them exactly: `budget` measures them, and the fixers, step filters
(`model.dynamics.filters`) to be used where a long run needs them, put back what a
step has lost.

Integrals are Gauss quadratures on the core's grid, over the devices of a mesh where the
atmosphere is split.
"""

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from model import partitioning, units
from model.dynamics.filters import StepFilter
from model.dynamics.primitive_equations import (
    CONDENSATES,
    HUMIDITY,
    Equations,
    PrimitiveEquations,
)
from model.dynamics.state import State
from model.partitioning import LAT, LEVEL
from model.sphere.ordered import BandOfWaves
from model.sphere.waves import Bands, Waves
from model.vertical.layers import on_layers, sum_layers

T = TypeVar("T")
AnyState = State | Bands[State]
"""In the order of the equations, whichever that is."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Budget:
    """Means over the sphere, scalars, in model units; `si` converts them.

    Attributes:
      log_surface_pressure: of ln(ps / p00).
      surface_pressure: of ps, the weight of all air.
      dry_mass: of ps without vapour and condensates.
      total_energy: of the integral of (kinetic + cp T + surface geopotential) over
        mass, times gravity; cp with vapour.
      heat_capacity: the derivative of `total_energy` by a uniform change of T.
      angular_momentum: of the integral of (u + Omega cos(lat)) cos(lat) over mass,
        times gravity.
    """

    log_surface_pressure: jax.Array
    surface_pressure: jax.Array
    dry_mass: jax.Array
    total_energy: jax.Array
    heat_capacity: jax.Array
    angular_momentum: jax.Array

    def si(self) -> dict[str, jax.Array]:
        """Pa, kg/m2, J/m2, and kg/s (of a mean angular momentum per area)."""
        gravity = units.GRAVITY / units.METRE * units.SECOND**2
        mass = 1 / units.PASCAL / gravity
        return {
            "log_surface_pressure": self.log_surface_pressure,
            "surface_pressure_Pa": self.surface_pressure / units.PASCAL,
            "dry_mass_kg_m2": self.dry_mass * mass,
            "total_energy_J_m2": self.total_energy * (mass / units.GEOPOTENTIAL),
            "angular_momentum_kg_s": self.angular_momentum
            * (mass * units.EARTH_RADIUS / units.VELOCITY),
        }


def budget(equations: Equations, state: AnyState) -> Budget:
    """The means of a state; inside `shard_map`, equal on all of its devices.

    The state is in the order of the equations.
    """
    if isinstance(equations, PrimitiveEquations):
        return budget(equations.ordered, equations.enter(state))
    equations, waves = equations.equations, equations.waves
    h = equations.harmonics
    whole, ground = waves.gather((state, waves.enter(equations.orography)))
    names = [n for n in (HUMIDITY, *CONDENSATES) if n in whole[0].tracers]

    def fields(band: BandOfWaves, state: State, ground: jax.Array) -> list[Waves]:
        scalars = [state.temperature, *map(state.tracers.get, names)]
        scalars += [state.log_surface_pressure, ground]
        wind = band.cos_wind(state.vorticity, state.divergence)
        return [*wind, *map(Waves, scalars)]

    of_bands = tuple(map(fields, waves.bands, whole, ground))
    u, v, temperature, *water, lnps, ground = waves.to_nodal(of_bands)
    (lnps,), (ground,) = lnps, ground
    sec2 = h.sec2_latitude

    # u and v carry a factor cos(lat).
    kinetic = sec2 * (u * u + v * v) / 2
    temperature += on_layers(equations.reference_temperature, temperature)
    vapour = water[0] if HUMIDITY in names else jnp.zeros_like(temperature)
    cp = 1 + (units.VAPOUR_HEAT_RATIO - 1) * vapour
    cp *= units.GAS_CONSTANT / units.KAPPA
    layers = on_layers(equations.layers.thickness, temperature)

    def columns(x: jax.Array) -> jax.Array:
        """Integral of [level, ...] over sigma."""
        total = sum_layers(x * layers)
        if partitioning.size(LEVEL) == 1:
            return total
        return jax.lax.psum(total, LEVEL)

    weights = h.own_weights / (4 * np.pi)

    def mean(x: jax.Array) -> jax.Array:
        total = jnp.sum(x * weights)
        return total if partitioning.size(LAT) == 1 else jax.lax.psum(total, LAT)

    pressure = jnp.exp(lnps)
    moisture = columns(sum(water, jnp.zeros_like(temperature)))
    return Budget(
        log_surface_pressure=mean(lnps),
        surface_pressure=mean(pressure),
        dry_mass=mean(pressure * (1 - moisture)),
        total_energy=mean(pressure * (columns(kinetic + cp * temperature) + ground)),
        heat_capacity=mean(pressure * columns(cp)),
        # Omega = 1/2, cos^2 = 1 / sec2.
        angular_momentum=mean(pressure * (columns(u) + 0.5 / sec2)),
    )


# ---- fixers


def fix_mean_log_surface_pressure(equations: Equations) -> StepFilter[AnyState]:
    """Keeps the mean of ln(ps), as the published models do."""

    def fix(before: AnyState, after: AnyState) -> AnyState:
        old, new = (_with_mean(x).log_surface_pressure for x in (before, after))
        kept = jnp.where(_with_mean(equations.waves.is_mean), old, new)
        return _replaced(after, log_surface_pressure=kept)

    return fix


def fix_dry_mass(equations: Equations) -> StepFilter[AnyState]:
    """Keeps the dry mass: scales the surface pressure by one factor everywhere."""

    def fix(before: AnyState, after: AnyState) -> AnyState:
        old, new = budget(equations, before), budget(equations, after)
        change = _uniform(equations, jnp.log(old.dry_mass / new.dry_mass))
        lnps = _with_mean(after).log_surface_pressure + change
        return _replaced(after, log_surface_pressure=lnps)

    return fix


def fix_total_energy(
    equations: Equations, forcing: AnyState | None = None
) -> StepFilter[AnyState]:
    """Keeps the total energy: changes the temperature by one amount everywhere.

    `forcing` is what a physics adds to the state in the step; the energy that it
    brings is kept too. Put it after the fixers of mass, which change the energy.
    """

    def fix(before: AnyState, after: AnyState) -> AnyState:
        if forcing is not None:
            before = jax.tree.map(jnp.add, before, forcing)
        old, new = budget(equations, before), budget(equations, after)
        warming = (old.total_energy - new.total_energy) / new.heat_capacity
        temperature = _with_mean(after).temperature + _uniform(equations, warming)
        return _replaced(after, temperature=temperature)

    return fix


FIXERS = ("mean_log_surface_pressure", "dry_mass", "total_energy")


def fixers(
    names: Sequence[str],
    equations: Equations,
    forcing: AnyState | None = None,
) -> list[StepFilter[AnyState]]:
    """The fixers of these `FIXERS`, in the order in which they go together.

    `forcing` is what a physics adds to the state in the step, if there is one.
    """
    known = {
        "mean_log_surface_pressure": fix_mean_log_surface_pressure(equations),
        "dry_mass": fix_dry_mass(equations),
        "total_energy": fix_total_energy(equations, forcing),
    }
    return [fix for name, fix in known.items() if name in names]


def _uniform(equations: Equations, value: jax.Array) -> jax.Array:
    """A field that is `value` everywhere, in the order of the equations.

    Of bands, what the first has of it, for others have none.
    """
    mean = _with_mean(equations.waves.is_mean)
    return jnp.where(mean, np.sqrt(4 * np.pi) * value, jnp.zeros((), value.dtype))


def _with_mean(x: T | Bands[T]) -> T:
    """The band to which the mean over the sphere belongs, or all if there are none."""
    return x[0] if isinstance(x, tuple) else x


def _replaced(state: AnyState, **fields: jax.Array) -> AnyState:
    """A state with other fields, where the mean over the sphere is."""
    first = dataclasses.replace(_with_mean(state), **fields)
    return (first, *state[1:]) if isinstance(state, tuple) else first
