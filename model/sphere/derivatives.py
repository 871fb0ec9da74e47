"""Differential operators of the sphere among spectral coefficients, in any order.

The sphere has radius 1. Formulas: any text on spectral models, e.g. Durran, Numerical
Methods for Fluid Dynamics, section 6.4.
"""

import jax
import jax.numpy as jnp
import numpy as np

from model.sphere.waves import Waves, d_dlon


class Derivatives:
    """Of arrays with an axis of cosine and sine parts, and whatever others.

    Attributes:
      parts: the axis of cosine and sine part.
      zonal: m, shaped to multiply one part of an array.
      laplacian_eigenvalues: -l (l + 1), float64, shaped to multiply an array.
    """

    parts: int
    zonal: jax.Array
    laplacian_eigenvalues: np.ndarray

    def d_dlon(self, x: jax.Array) -> jax.Array:
        """Derivative in longitude, spectral."""
        return d_dlon(x, self.zonal, self.parts)

    def of_both(self, field: Waves) -> Waves:
        """The same field of values and slopes alone."""
        if field.east is None:
            return field
        values = self.d_dlon(field.east)
        if field.values is not None:
            values += field.values
        return Waves(values, field.slopes)

    def laplacian(self, x: jax.Array) -> jax.Array:
        return x * jnp.asarray(self.laplacian_eigenvalues, x.dtype)

    def inverse_laplacian(self, x: jax.Array) -> jax.Array:
        """Inverse of the Laplacian among fields of zero mean."""
        eigenvalues = self.laplacian_eigenvalues
        inverse = np.divide(1, eigenvalues, where=eigenvalues != 0, out=0 * eigenvalues)
        return x * jnp.asarray(inverse, x.dtype)

    def cos_gradient(self, x: jax.Array) -> tuple[Waves, Waves]:
        """cos(lat) times the gradient (east, north) of a spectral field."""
        return Waves(east=x), Waves(slopes=x)

    def cos_wind(
        self, vorticity: jax.Array, divergence: jax.Array
    ) -> tuple[Waves, Waves]:
        """cos(lat) times the wind (u, v), by Helmholtz decomposition."""
        psi = self.inverse_laplacian(vorticity)
        chi = self.inverse_laplacian(divergence)
        return Waves(slopes=-psi, east=chi), Waves(slopes=chi, east=psi)
