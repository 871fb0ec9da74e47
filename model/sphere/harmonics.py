"""Spherical harmonic transforms and the differential operators of the sphere.

Spectral ("modal") arrays have shape [..., 2, m, l]: cosine and sine part, zonal
wavenumber 0..n and total wavenumber 0..n+1, orthonormal on the unit sphere, for a
grid of truncation n. The row l = n+1 exists because derivatives in latitude couple
l with l +- 1: it is filled inside a calculation and zero in every state. Grid-point
("nodal") arrays have shape [..., latitude, longitude].

The sphere has radius 1 (`model.units`). Formulas: any text on spectral models, e.g.
Durran, Numerical Methods for Fluid Dynamics, section 6.4.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from model.sphere import legendre
from model.sphere.grids import GaussianGrid


def default_precision() -> str:
    """Precision of the transforms' products on this backend.

    Three bfloat16 passes are enough on TPUs; the same word means TF32 on NVIDIA
    GPUs, which is not, and CPUs ignore it.
    """
    return "high" if jax.default_backend() == "tpu" else "highest"


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "legendre",
        "fourier",
        "weights",
        "eps_up",
        "eps_down",
        "sin_latitude",
    ],
    meta_fields=["grid", "precision"],
)
@dataclasses.dataclass(frozen=True)
class SphericalHarmonics:
    """Tables of the transforms of one grid: a pytree, passed to jitted functions.

    Attributes:
      legendre: associated Legendre functions [m, l, latitude].
      fourier: cosines and sines [2, m, longitude], orthonormal on the circle.
      weights: quadrature weights of a grid point [latitude]; they sum to 4 pi over
        all points of the sphere.
      eps_up, eps_down: recurrence coefficients eps[l + 1] and eps[l], [m, l].
      sin_latitude: sines of the latitudes [latitude].
      grid: points and truncation.
      precision: of the transforms' matrix products.
    """

    legendre: jax.Array
    fourier: jax.Array
    weights: jax.Array
    eps_up: jax.Array
    eps_down: jax.Array
    sin_latitude: jax.Array
    grid: GaussianGrid
    precision: str

    @classmethod
    def create(
        cls,
        grid: GaussianGrid,
        dtype: jnp.dtype = jnp.float32,
        precision: str | None = None,
    ) -> "SphericalHarmonics":
        """Builds the tables in float64 and casts them once to `dtype`."""
        n = grid.truncation
        m = np.arange(n + 1)[:, None]
        longitude = np.deg2rad(grid.longitude_degrees)[None, :]
        norm = np.where(m == 0, np.sqrt(0.5), 1.0) / np.sqrt(np.pi)
        fourier = np.stack([norm * np.cos(m * longitude), norm * np.sin(m * longitude)])
        eps = legendre.recurrence_coefficients(n)
        eps_up = eps[:, 1 : n + 3].copy()
        eps_up[:, -1] = 0.0  # nothing lies above the last row
        tables = dict(
            legendre=legendre.associated_legendre(n, grid.sin_latitude),
            fourier=fourier,
            weights=grid.latitude_weights * 2 * np.pi / grid.longitudes,
            eps_up=eps_up,
            eps_down=eps[:, : n + 2],
            sin_latitude=grid.sin_latitude,
        )
        tables = {name: jnp.asarray(table, dtype) for name, table in tables.items()}
        return cls(**tables, grid=grid, precision=precision or default_precision())

    # ---- shapes and wavenumbers

    @property
    def modal_shape(self) -> tuple[int, int, int]:
        n = self.grid.truncation
        return 2, n + 1, n + 2

    @property
    def dtype(self) -> jnp.dtype:
        return self.legendre.dtype

    @property
    def total_wavenumber(self) -> np.ndarray:
        """l, [l]."""
        return np.arange(self.grid.truncation + 2)

    @property
    def laplacian_eigenvalues(self) -> np.ndarray:
        """-l (l + 1), float64 [l]."""
        l = self.total_wavenumber.astype(np.float64)  # noqa: E741
        return -l * (l + 1)

    @property
    def mask(self) -> np.ndarray:
        """True where a coefficient of a state may be non-zero, [2, m, l]."""
        _, m, l = np.indices(self.modal_shape)  # noqa: E741
        part = np.indices(self.modal_shape)[0]
        return (l >= m) & (l <= self.grid.truncation) & ((part == 0) | (m > 0))

    @property
    def sec2_latitude(self) -> jax.Array:
        """1 / cos^2(latitude), [latitude, 1]."""
        return (1 / (1 - self.sin_latitude**2))[:, None]

    # ---- transforms

    def synthesis(self, modal: jax.Array) -> jax.Array:
        """[..., 2, m, l] -> [..., latitude, longitude]."""
        fourier = jnp.einsum(
            "mlj,...cml->...cmj", self.legendre, modal, precision=self.precision
        )
        return jnp.einsum(
            "cmi,...cmj->...ji", self.fourier, fourier, precision=self.precision
        )

    def analysis(self, nodal: jax.Array, clip: bool = True) -> jax.Array:
        """[..., latitude, longitude] -> [..., 2, m, l], by Gauss quadrature.

        Without `clip` the row l = n+1 keeps what a derivative of the result needs.
        """
        weighted = nodal * self.weights[:, None]
        fourier = jnp.einsum(
            "cmi,...ji->...cmj", self.fourier, weighted, precision=self.precision
        )
        modal = jnp.einsum(
            "mlj,...cmj->...cml", self.legendre, fourier, precision=self.precision
        )
        return self.clip(modal) if clip else modal

    def clip(self, modal: jax.Array) -> jax.Array:
        """Sets the row l = n+1 to zero."""
        return modal * np.asarray(self.total_wavenumber <= self.grid.truncation)

    # ---- derivatives, in spectral space

    def d_dlon(self, x: jax.Array) -> jax.Array:
        """Derivative in longitude."""
        m = jnp.arange(self.grid.truncation + 1, dtype=x.dtype)[:, None]
        cosine, sine = x[..., 0, :, :], x[..., 1, :, :]
        return jnp.stack([m * sine, -m * cosine], axis=-3)

    def cos_d_dlat(self, x: jax.Array) -> jax.Array:
        """cos(lat) d/dlat."""
        l = jnp.arange(self.grid.truncation + 2, dtype=x.dtype)  # noqa: E741
        return (l + 2) * self.eps_up * _from_above(x) - (
            (l - 1) * self.eps_down * _from_below(x)
        )

    def sec_d_dlat_cos2(self, x: jax.Array) -> jax.Array:
        """1/cos(lat) d/dlat (cos^2(lat) x)."""
        l = jnp.arange(self.grid.truncation + 2, dtype=x.dtype)  # noqa: E741
        return l * self.eps_up * _from_above(x) - (
            (l + 1) * self.eps_down * _from_below(x)
        )

    def laplacian(self, x: jax.Array) -> jax.Array:
        return x * jnp.asarray(self.laplacian_eigenvalues, x.dtype)

    def inverse_laplacian(self, x: jax.Array) -> jax.Array:
        """Inverse of the Laplacian among fields of zero mean."""
        eigenvalues = self.laplacian_eigenvalues
        inverse = np.divide(1, eigenvalues, where=eigenvalues != 0, out=0 * eigenvalues)
        return x * jnp.asarray(inverse, x.dtype)

    # ---- vectors

    def cos_gradient(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """cos(lat) times the gradient (east, north), spectral."""
        return self.d_dlon(x), self.cos_d_dlat(x)

    def cos_wind(
        self, vorticity: jax.Array, divergence: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """cos(lat) times the wind (u, v), spectral, by Helmholtz decomposition."""
        psi = self.inverse_laplacian(vorticity)
        chi = self.inverse_laplacian(divergence)
        u = self.d_dlon(chi) - self.cos_d_dlat(psi)
        v = self.cos_d_dlat(chi) + self.d_dlon(psi)
        return u, v

    def divergence(self, u_sec: jax.Array, v_sec: jax.Array) -> jax.Array:
        """Divergence of a vector given by unclipped analyses of (u, v) / cos(lat)."""
        return self.d_dlon(u_sec) + self.sec_d_dlat_cos2(v_sec)

    def curl(self, u_sec: jax.Array, v_sec: jax.Array) -> jax.Array:
        """Curl of a vector given by unclipped analyses of (u, v) / cos(lat)."""
        return self.d_dlon(v_sec) - self.sec_d_dlat_cos2(u_sec)

    def wind(
        self, vorticity: jax.Array, divergence: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Spectral vorticity and divergence -> wind (u, v) at the grid points."""
        cos_wind = jnp.stack(self.cos_wind(vorticity, divergence))
        return tuple(
            jnp.unstack(self.synthesis(cos_wind) * jnp.sqrt(self.sec2_latitude))
        )

    def vorticity_divergence(
        self, u: jax.Array, v: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Wind (u, v) at the grid points -> spectral vorticity and divergence."""
        sec_wind = jnp.stack([u, v]) * jnp.sqrt(self.sec2_latitude)
        u_sec, v_sec = jnp.unstack(self.analysis(sec_wind, clip=False))
        return (
            self.clip(self.curl(u_sec, v_sec)),
            self.clip(self.divergence(u_sec, v_sec)),
        )

    def mean(self, nodal: jax.Array) -> jax.Array:
        """Area mean over the sphere of [..., latitude, longitude]."""
        return jnp.sum(nodal * self.weights[:, None], axis=(-2, -1)) / (4 * np.pi)


def _from_above(x: jax.Array) -> jax.Array:
    """x[l + 1] at l."""
    return jnp.pad(x[..., 1:], [(0, 0)] * (x.ndim - 1) + [(0, 1)])


def _from_below(x: jax.Array) -> jax.Array:
    """x[l - 1] at l."""
    return jnp.pad(x[..., :-1], [(0, 0)] * (x.ndim - 1) + [(1, 0)])


def resample(modal: jax.Array, source: GaussianGrid, target: GaussianGrid) -> jax.Array:
    """Spectral pad or truncation: coefficients of one grid on another.

    [..., 2, m, l] of `source` -> [..., 2, m', l'] of `target`, with the row
    l = n'+1 zero.
    """
    n = min(source.truncation, target.truncation)
    pad = target.truncation - n
    kept = modal[..., : n + 1, : n + 1]
    return jnp.pad(kept, [(0, 0)] * (modal.ndim - 2) + [(0, pad), (0, pad + 1)])
