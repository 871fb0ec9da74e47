"""Gaussian grids of the sphere. NumPy only, so that Beam workers need no JAX.

A grid is a set of points (equally spaced longitudes from 0, Gauss-Legendre
latitudes from south to north) together with the triangular truncation that its
spherical harmonics use: all (m, l) with 0 <= m <= l <= `truncation`.
"""

import dataclasses
import functools
import re

import numpy as np

# Longitudes of the named grids; latitudes are half as many. `T` grids resolve
# products of two fields without aliasing (3n + 1 <= longitudes), `TL` grids only
# the fields themselves (2n + 1 <= longitudes).
NAMED_LONGITUDES = {
    "T21": 64,
    "T31": 96,
    "T42": 128,
    "T85": 256,
    "T106": 320,
    "T170": 512,
    "TL31": 64,
    "TL63": 128,
    "TL127": 256,
    "TL255": 512,
}


@dataclasses.dataclass(frozen=True)
class GaussianGrid:
    """Points and truncation of a Gaussian grid.

    Attributes:
      truncation: largest total (and zonal) wavenumber, n.
      longitudes: number of equally spaced longitudes, the first at 0 degrees.
      latitudes: number of Gauss-Legendre latitudes, ascending; none is a pole.

    Raises:
      ValueError: if the points cannot hold the truncation (analysis would not
        invert synthesis), or the number of latitudes is odd (they come in mirror
        pairs, `fold`), or that of longitudes is not divisible by four (they come in
        quarter circles, `model.sphere.quarter_circle`).
    """

    truncation: int
    longitudes: int
    latitudes: int

    def __post_init__(self) -> None:
        n = self.truncation
        if n < 1:
            raise ValueError(f"truncation {n} is below 1")
        if self.longitudes < 2 * n + 1 or self.latitudes < n + 1:
            raise ValueError(
                f"{self.longitudes}x{self.latitudes} points cannot hold {n} waves: "
                f"at least {2 * n + 1}x{n + 1} are needed"
            )
        if self.latitudes % 2:
            raise ValueError(
                f"{self.latitudes} latitudes are an odd number: mirror pairs need an "
                f"even one, such as {self.latitudes + 1}"
            )
        if self.longitudes % 4:
            raise ValueError(
                f"{self.longitudes} longitudes are not four quarter circles: take a "
                f"multiple of 4, such as {-(-self.longitudes // 4) * 4}"
            )

    def __str__(self) -> str:
        for name, longitudes in NAMED_LONGITUDES.items():
            if self == _named_grid(name, longitudes):
                return name
        return f"{self.truncation}@{self.longitudes}x{self.latitudes}"

    @property
    def shape(self) -> tuple[int, int]:
        """(latitudes, longitudes)."""
        return self.latitudes, self.longitudes

    @property
    def resolves_products(self) -> bool:
        """Whether products of two fields are analysed without aliasing."""
        return min(self.longitudes, 2 * self.latitudes) > 3 * self.truncation

    @property
    def longitude_degrees(self) -> np.ndarray:
        """Longitudes in degrees east, [longitude], float64."""
        return 360.0 / self.longitudes * np.arange(self.longitudes)

    @property
    def sin_latitude(self) -> np.ndarray:
        """Gauss-Legendre nodes mu = sin(latitude), [latitude], float64."""
        return _gauss_legendre(self.latitudes)[0]

    @property
    def latitude_degrees(self) -> np.ndarray:
        """Latitudes in degrees north, [latitude], float64, ascending."""
        return np.rad2deg(np.arcsin(self.sin_latitude))

    @property
    def latitude_weights(self) -> np.ndarray:
        """Gauss-Legendre weights, [latitude], float64; they sum to 2."""
        return _gauss_legendre(self.latitudes)[1]


@functools.cache
def _gauss_legendre(size: int) -> tuple[np.ndarray, np.ndarray]:
    # Newton steps in extended precision: transforms are exact to a few units of
    # float64 only if nodes and weights are.
    x = np.cos(np.pi * (np.arange(size, 0, -1) - np.longdouble(0.25)) / (size + 0.5))
    for _ in range(6):
        below, value = np.ones_like(x), x
        for k in range(2, size + 1):
            below, value = value, ((2 * k - 1) * x * value - (k - 1) * below) / k
        slope = size * (below - x * value) / (1 - x**2)
        x = x - value / slope
    nodes = (x - x[::-1]) / 2  # hemispheres mirror each other exactly
    weights = 2 / ((1 - x**2) * slope**2)
    weights = (weights + weights[::-1]) / 2
    return nodes.astype(np.float64), weights.astype(np.float64)


def _named_grid(name: str, longitudes: int) -> GaussianGrid:
    return GaussianGrid(int(name.lstrip("TL")), longitudes, longitudes // 2)


def parse_grid(name: str) -> GaussianGrid:
    """The grid of a name such as `TL63`, `T42`, or `31@96x48`.

    `31@96x48` stands for 31 waves on 96 longitudes and 48 latitudes.

    Raises:
      ValueError: if the name is unknown or the points cannot hold the waves.
    """
    if name in NAMED_LONGITUDES:
        return _named_grid(name, NAMED_LONGITUDES[name])
    match = re.fullmatch(r"(\d+)@(\d+)x(\d+)", name)
    if match is None:
        raise ValueError(
            f"unknown grid {name!r}: use one of {', '.join(NAMED_LONGITUDES)}, or "
            "WAVES@LONGITUDESxLATITUDES such as 31@96x48"
        )
    return GaussianGrid(*(int(group) for group in match.groups()))


def fold(x: np.ndarray) -> np.ndarray:
    """Puts the latitudes of a grid in mirror pairs.

    [..., latitude, longitude] from south to north -> [..., 2, latitude / 2, longitude]:
    the southern and the northern hemisphere, each from its pole to the equator. Split
    along its latitudes, every part holds whole pairs.
    """
    half = x.shape[-2] // 2
    return np.stack([x[..., :half, :], x[..., : half - 1 : -1, :]], axis=-3)


def unfold(x: np.ndarray) -> np.ndarray:
    """The inverse of `fold`."""
    return np.concatenate([x[..., 0, :, :], x[..., 1, ::-1, :]], axis=-2)


def latitude_edges(
    latitude_degrees: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """Edges of latitude cells in degrees, [latitude + 1], in the order of the input.

    Without `weights` an edge lies midway between neighbouring latitudes (the rule of
    the published NeuralGCM data). With Gauss weights, in ascending order, edges are
    such that a cell's area is exactly its quadrature weight. The outer edges are the
    poles in both cases.

    Raises:
      ValueError: if latitudes are not strictly monotonic within +-90 degrees.
    """
    latitude = np.asarray(latitude_degrees, np.float64)
    steps = np.diff(latitude)
    if len(latitude) < 2 or not (np.all(steps > 0) or np.all(steps < 0)):
        raise ValueError("latitudes must be strictly ascending or descending")
    if np.abs(latitude).max() > 90 + 1e-6:
        raise ValueError("latitudes must lie within +-90 degrees")
    if weights is None:
        inner = (latitude[1:] + latitude[:-1]) / 2
    else:
        inner = np.rad2deg(np.arcsin(np.cumsum(weights)[:-1] - 1))
    pole = np.copysign(90.0, steps[0])
    return np.concatenate([[-pole], inner, [pole]])
