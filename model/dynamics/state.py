"""The prognostic state of the atmosphere."""

import dataclasses

import jax


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class State:
    """Spectral coefficients of the prognostic fields, in model units.

    Tendencies have the same type.

    Attributes:
      vorticity: relative vorticity [level, 2, m, l].
      divergence: horizontal divergence [level, 2, m, l].
      temperature: temperature minus the reference profile, K, [level, 2, m, l].
      log_surface_pressure: ln(ps / p00), [2, m, l].
      tracers: specific humidity and others by ERA5 name, each [level, 2, m, l].
    """

    vorticity: jax.Array
    divergence: jax.Array
    temperature: jax.Array
    log_surface_pressure: jax.Array
    tracers: dict[str, jax.Array]
