"""Conservative regridding from latitude-longitude points to a Gaussian grid.

A field is taken as constant over the cells around its points. The value of a target
cell is the mean over its area, so the mean over the sphere is kept. Cells are
products of a latitude and a longitude interval, so the weights are too: one sparse
matrix for each direction. Cell edges lie midway between points, latitudes end at the
poles; these are the rules of the data that NeuralGCM was trained on (Kochkov et al.
2024, supplement; the scheme is that of Jones 1999, Mon. Wea. Rev. 127, 2204-2210).
"""

import hashlib
from typing import Literal, get_args

import numpy as np
from scipy import sparse, spatial

from model.sphere.grids import GaussianGrid, latitude_edges
from pipeline.errors import UserError

Edges = Literal["midpoint", "gauss"]
EDGES: tuple[Edges, ...] = get_args(Edges)

# Overlaps below this fraction of a cell are rounding of coincident edges. They would
# smear a field that is already on the target grid, and count as coverage.
_NEGLIGIBLE = 1e-9


class Regridder:
    """Regrids fields whose last two axes are latitude and longitude.

    The source latitudes may run either way and may include the poles; longitudes
    may start anywhere. Output latitudes ascend, output longitudes start at 0.

    Products are summed in float64: float32 would not keep a constant field to
    4 ulp where hundreds of source points meet in one cell.
    """

    def __init__(
        self,
        latitude: np.ndarray,
        longitude: np.ndarray,
        grid: GaussianGrid,
        edges: Edges = "midpoint",
    ) -> None:
        """Builds the weights.

        Args:
          latitude: [latitude], degrees north, monotonic, of the whole sphere.
          longitude: [longitude], degrees east, ascending but for one wrap.
          grid: the target.
          edges: of the target's cells in latitude: midway between its points, or
            such that their areas are exactly its Gauss weights.

        Raises:
          UserError: if the points do not cover the sphere or are not in order.
        """
        check_points(latitude, longitude)
        self.grid = grid
        self._source_latitude_edges = latitude_edges(latitude)
        self._target_latitude_edges = latitude_edges(
            grid.latitude_degrees, grid.latitude_weights if edges == "gauss" else None
        )
        self._source_longitude_edges = longitude_edges(longitude)
        self._latitude = _latitude_weights(
            self._source_latitude_edges, self._target_latitude_edges
        )
        self._longitude = _longitude_weights(
            self._source_longitude_edges, longitude_edges(grid.longitude_degrees)
        )
        self._masks: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}

    @property
    def source_areas(self) -> np.ndarray:
        """Fraction of the sphere of each source cell, [latitude, longitude]."""
        width = np.diff(self._source_longitude_edges, axis=-1)[:, 0] / 360
        return np.outer(_latitude_areas(self._source_latitude_edges), width)

    @property
    def target_areas(self) -> np.ndarray:
        """Fraction of the sphere of each target cell, [latitude, longitude]."""
        width = np.full(self.grid.longitudes, 1 / self.grid.longitudes)
        return np.outer(_latitude_areas(self._target_latitude_edges), width)

    def __call__(self, fields: np.ndarray) -> np.ndarray:
        """Area means of `fields`, [..., latitude, longitude], as float32.

        NaN spreads over whole rows and columns; `fill` is for fields that have some.
        """
        means = [self._mean(field) for field in _planes(fields)]
        return np.reshape(means, self._shape(fields)).astype(np.float32)

    def fill(self, fields: np.ndarray) -> np.ndarray:
        """Like a call, for fields that are undefined (NaN) at some points.

        A target cell takes the mean over the part of it that is defined, or, where
        no part is, the value of the nearest cell that has one. This does not keep
        the mean over the sphere.

        Raises:
          ValueError: if a field is NaN everywhere.
        """
        filled = []
        for field in _planes(fields):
            undefined = np.isnan(field)
            coverage, nearest = self._coverage_and_nearest(undefined)
            total = self._mean(np.where(undefined, 0, field))
            mean = np.divide(total, coverage, where=coverage > 0, out=total)
            filled.append(mean.ravel()[nearest])
        return np.reshape(filled, self._shape(fields)).astype(np.float32)

    def _shape(self, fields: np.ndarray) -> tuple[int, ...]:
        return *fields.shape[:-2], *self.grid.shape

    def _mean(self, field: np.ndarray) -> np.ndarray:
        return (self._longitude @ (self._latitude @ field).T).T

    def _coverage_and_nearest(self, undefined: np.ndarray):
        """Defined part of each target cell, and the flat index of its value."""
        # Masks hardly change from one time to the next, and trees are slow to build.
        key = hashlib.blake2b(np.packbits(undefined).tobytes()).digest()
        if key not in self._masks:
            if undefined.all():
                raise ValueError("a field is NaN everywhere")
            if len(self._masks) >= 16:
                self._masks.clear()
            coverage = self._mean(~undefined).copy()
            coverage[coverage < _NEGLIGIBLE] = 0
            self._masks[key] = coverage, nearest_defined(coverage > 0, self.grid)
        return self._masks[key]


def check_points(latitude: np.ndarray, longitude: np.ndarray) -> None:
    """Raises UserError unless the points are in order and cover the sphere."""
    latitude = np.asarray(latitude, np.float64)
    longitude = np.asarray(longitude, np.float64)
    try:
        latitude_edges(latitude)
    except ValueError as error:
        raise UserError(f"{error}: sort the source by latitude") from error
    reach = 90 - 1.01 * np.abs(np.diff(latitude)).max()
    if latitude.max() < reach or latitude.min() > -reach:
        raise UserError(
            f"latitudes {latitude.min():g} to {latitude.max():g} are a region: "
            "a source must cover the whole sphere"
        )
    gaps = np.diff(longitude, append=longitude[0]) % 360
    if len(longitude) < 4 or not np.isclose(gaps.sum(), 360) or gaps.min() < 1e-3:
        raise UserError(
            "longitudes do not run eastward once around the globe without repeats: "
            "sort the source by longitude and drop a repeated last column"
        )
    if gaps.max() > 1.5 * np.median(gaps):
        raise UserError(
            f"longitudes {longitude[0]:g} to {longitude[-1]:g} leave a gap of "
            f"{gaps.max():g} degrees: a source must cover the whole sphere"
        )


def longitude_edges(longitude: np.ndarray) -> np.ndarray:
    """West and east edges of cells around points in degrees, [longitude, 2].

    East edges are larger than west edges; both may lie outside 0 to 360.
    """
    longitude = np.asarray(longitude, np.float64)
    to_next = np.diff(longitude, append=longitude[0]) % 360
    to_last = np.roll(to_next, 1)
    return np.stack([longitude - to_last / 2, longitude + to_next / 2], -1)


def nearest_defined(defined: np.ndarray, grid: GaussianGrid) -> np.ndarray:
    """Flat index of the nearest defined point for each point of a grid.

    Args:
      defined: [latitude, longitude], bool, at least one of them true.
      grid: the grid of `defined`.

    Returns:
      [latitude * longitude], int. Distance is along great circles; of several
      nearest points the first, in the order of the array, is taken.
    """
    latitude = np.deg2rad(grid.latitude_degrees)[:, None]
    longitude = np.deg2rad(grid.longitude_degrees)
    x, y, z = np.broadcast_arrays(
        np.cos(latitude) * np.cos(longitude),
        np.cos(latitude) * np.sin(longitude),
        np.sin(latitude),
    )
    points = np.stack([x.ravel(), y.ravel(), z.ravel()], -1)
    index = np.arange(defined.size)
    known = np.flatnonzero(defined)
    holes = np.flatnonzero(~defined)
    # Chords order points as great circles do. Points east and west of a hole are
    # equally far but for rounding, which must not decide.
    rank = range(1, min(4, len(known)) + 1)
    distance, candidates = spatial.cKDTree(points[known]).query(points[holes], k=rank)
    tied = distance <= distance[:, :1] * (1 + 1e-9)
    index[holes] = known[np.where(tied, candidates, defined.size).min(-1)]
    return index


def _planes(fields: np.ndarray) -> np.ndarray:
    return fields.reshape(-1, *fields.shape[-2:])


def _latitude_areas(edges: np.ndarray) -> np.ndarray:
    return np.abs(np.diff(np.sin(np.deg2rad(edges)))) / 2


def _latitude_weights(source: np.ndarray, target: np.ndarray) -> sparse.csr_array:
    """Overlap of cells from edges in degrees, in the measure of area."""
    source, target = (np.sin(np.deg2rad(edges)) for edges in (source, target))
    south, north = (
        np.minimum(source[1:], source[:-1]),
        np.maximum(source[1:], source[:-1]),
    )
    upper = np.minimum(target[1:, None], north)
    lower = np.maximum(target[:-1, None], south)
    return _normalised(upper - lower)


def _longitude_weights(source: np.ndarray, target: np.ndarray) -> sparse.csr_array:
    """Overlap of cells from (west, east) edges in degrees, around the globe."""
    overlap = np.zeros((len(target), len(source)))
    for turn in (-720, -360, 0, 360, 720):
        upper = np.minimum(target[:, None, 1], source[:, 1] + turn)
        lower = np.maximum(target[:, None, 0], source[:, 0] + turn)
        overlap += np.maximum(upper - lower, 0)
    return _normalised(overlap)


def _normalised(overlap: np.ndarray) -> sparse.csr_array:
    overlap = np.where(overlap > _NEGLIGIBLE * overlap.max(), overlap, 0)
    return sparse.csr_array(overlap / overlap.sum(1, keepdims=True))
