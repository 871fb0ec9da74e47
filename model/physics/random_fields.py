"""Gaussian random fields on the sphere that evolve in time: a model's own noise.

Every spectral coefficient is an autoregressive process of first order,

  U(t + dt) = phi U(t) + sqrt(1 - phi^2) sigma_l eta,   phi = exp(-dt / time),
  sigma_l^2 ~ exp(-(length / radius)^2 l (l + 1) / 2),

stationary from the start, with mean 0 and variance 1 at every point: Palmer et al.
(2009), ECMWF Technical Memorandum 598, appendix 8, as in Kochkov et al. (2024),
Supplement. Like theirs, the fields have the waves l = n + 1 too. What is drawn depends
on the key alone, not on the mesh.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from model import partitioning, units
from model.partitioning import LAT
from model.sphere.harmonics import SphericalHarmonics

# Standard deviations at which a coefficient's noise is cut off.
CLIP = 6.0
# softplus of this is 1: where trained values begin.
_UNIT = float(np.log(np.e - 1))


class Correlations(nnx.Module):
    """Trained correlation lengths and times, one of each for every field.

    A value is its initial one times softplus(parameter + 0.54); parameters begin at 0.
    """

    def __init__(
        self, lengths_km: Sequence[float], times_hours: Sequence[float]
    ) -> None:
        """
        Args:
          lengths_km: initial correlation lengths, km.
          times_hours: initial correlation times, h; as many.
        """
        self.lengths = nnx.Param(jnp.zeros(len(lengths_km), jnp.float32))
        self.times = nnx.Param(jnp.zeros(len(times_hours), jnp.float32))
        self._lengths_km, self._times_hours = tuple(lengths_km), tuple(times_hours)

    def __call__(self) -> "RandomFields":
        """The fields' law with the present values."""

        def positive(parameter: nnx.Param, initial: Sequence[float]) -> jax.Array:
            value = parameter[...]
            return jnp.asarray(initial, value.dtype) * jax.nn.softplus(value + _UNIT)

        return RandomFields(
            length=positive(self.lengths, self._lengths_km) * 1000 * units.METRE,
            time=positive(self.times, self._times_hours) * units.HOUR,
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RandomFields:
    """The law of some independent fields.

    Attributes:
      length, time: of correlation, model units, [field].
    """

    length: jax.Array
    time: jax.Array

    def initial(self, key: jax.Array, harmonics: SphericalHarmonics) -> jax.Array:
        """Draws from the stationary distribution: spectral, [field, 2, own m, l]."""
        return self._deviation(harmonics) * self._noise(key, harmonics)

    def advance(
        self,
        fields: jax.Array,
        dt: float,
        key: jax.Array,
        harmonics: SphericalHarmonics,
    ) -> jax.Array:
        """The fields `dt` (model units) later; `key` is of this step alone."""
        phi, rest = jnp.exp(-dt / self.time), -jnp.expm1(-2 * dt / self.time)
        deviation = jnp.sqrt(rest)[:, None, None, None] * self._deviation(harmonics)
        noise = self._noise(key, harmonics)
        return phi[:, None, None, None] * fields + deviation * noise

    def _deviation(self, harmonics: SphericalHarmonics) -> jax.Array:
        """Standard deviation of a coefficient, [field, 1, 1, l].

        The squares of orthonormal harmonics of one l add up to (2 l + 1) / (4 pi)
        everywhere, which makes the sum over all l the variance of a point.
        """
        dtype = harmonics.dtype
        l = jnp.asarray(harmonics.total_wavenumber, dtype)  # noqa: E741
        exists = l <= harmonics.grid.truncation + harmonics.top
        shape = jnp.exp(-(self.length[:, None] ** 2) / 4 * l * (l + 1)) * exists
        variance = jnp.sum((2 * l + 1) * shape**2, axis=1, keepdims=True) / (4 * jnp.pi)
        return (shape / jnp.sqrt(variance))[:, None, None, :].astype(dtype)

    def _noise(self, key: jax.Array, harmonics: SphericalHarmonics) -> jax.Array:
        """Independent standard normal coefficients, [field, 2, own m, l]."""
        parts, all_m, all_l = harmonics.modal_shape
        n = harmonics.grid.truncation
        count = len(self.length)
        # Of all m on every device, and without padding: the same on every mesh.
        eta = jax.random.truncated_normal(
            key, -CLIP, CLIP, (count, parts, n + 1, n + 2), harmonics.dtype
        )
        part, m, l = np.indices((parts, n + 1, n + 2))  # noqa: E741
        eta = eta * ((l >= m) & ((part == 0) | (m > 0)))
        rows = n + 1 + harmonics.top
        missing = [(0, all_m - n - 1), (0, all_l - rows)]
        eta = jnp.pad(eta[..., :rows], [(0, 0), (0, 0), *missing])
        own = all_m // partitioning.size(LAT)
        start = partitioning.index(LAT) * own
        return jax.lax.dynamic_slice_in_dim(eta, start, own, axis=-2)
