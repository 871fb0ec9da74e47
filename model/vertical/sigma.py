"""The sigma coordinate, sigma = p / ps, and its discrete calculus.

Layers are counted from the top (index 0) to the ground. Formulas: Simmons and
Burridge (1981) on sigma layers with centre-to-centre trapezoids in ln(sigma), as in
Hoskins and Simmons (1975).
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class SigmaLevels:
    """Layers between `boundaries`, which rise from 0 to 1.

    Raises:
      ValueError: if the boundaries are not strictly ascending from 0 to 1.
    """

    boundaries: tuple[float, ...]

    def __post_init__(self) -> None:
        edges = np.asarray(self.boundaries)
        if (
            len(edges) < 3
            or edges[0] != 0
            or edges[-1] != 1
            or np.any(np.diff(edges) <= 0)
        ):
            raise ValueError(
                "sigma boundaries must rise strictly from 0 to 1, two layers or more"
            )

    @classmethod
    def equidistant(cls, layers: int) -> "SigmaLevels":
        """`layers` layers of equal thickness."""
        return cls(tuple(float(b) for b in np.linspace(0, 1, layers + 1)))

    @property
    def layers(self) -> int:
        return len(self.boundaries) - 1

    @property
    def centers(self) -> np.ndarray:
        """sigma at mid-layer, float64 [level]."""
        edges = np.asarray(self.boundaries)
        return (edges[1:] + edges[:-1]) / 2

    @property
    def thickness(self) -> np.ndarray:
        """Thickness of the layers in sigma, float64 [level]."""
        return np.diff(self.boundaries)

    @property
    def alpha(self) -> np.ndarray:
        """Half the differences of ln(sigma) between centres, float64 [level].

        The last one is the whole difference from the lowest centre to the ground.
        """
        centers = self.centers
        inner = np.log(centers[1:] / centers[:-1]) / 2
        return np.append(inner, -np.log(centers[-1]))

    @property
    def geopotential_matrix(self) -> np.ndarray:
        """G with Phi = Phi_surface + R G T, float64 [level, level]."""
        alpha = self.alpha
        matrix = np.triu(alpha + np.append(0, alpha[:-1]), 1)
        return matrix + np.diag(alpha)

    @property
    def cumulative_matrix(self) -> np.ndarray:
        """C with (C x)_k = sum of x_j ds_j over j <= k, float64 [level, level]."""
        return np.tril(np.broadcast_to(self.thickness, (self.layers, self.layers)))

    @property
    def sigma_dot_matrix(self) -> np.ndarray:
        """S with (S x)_k = sigma-dot at the lower edge of layer k, [level, level].

        x is divergence + v . grad(ln ps); sigma-dot vanishes at the ground, the last
        row.
        """
        matrix = np.outer(self.boundaries[1:], self.thickness) - self.cumulative_matrix
        matrix[-1] = 0
        return matrix

    @property
    def omega_matrix(self) -> np.ndarray:
        """W with omega / p = v . grad(ln ps) - W (divergence + v . grad(ln ps)).

        Float64 [level, level].
        """
        alpha = self.alpha[:, None]
        cumulative = self.cumulative_matrix
        above = np.zeros_like(cumulative)
        above[1:] = alpha[:-1] * cumulative[:-1]
        return (alpha * cumulative + above) / self.thickness[:, None]

    def advection_matrix(self, profile: np.ndarray) -> np.ndarray:
        """V with V x = - w d(profile)/d(sigma), w = S x, float64 [level, level]."""
        gradient = np.zeros(self.layers)
        gradient[:-1] = np.diff(profile) / np.diff(self.centers)
        flux = gradient[:, None] * self.sigma_dot_matrix
        above = np.concatenate([np.zeros((1, self.layers)), flux[:-1]])
        return -(flux + above) / 2
