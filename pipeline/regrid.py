"""Conservative regridding from latitude-longitude points to a Gaussian grid.

A field is taken as constant over the cells around its points. The value of a target
cell is the mean over its area, so the mean over the sphere is kept. Cells are
products of a latitude and a longitude interval, so the weights are too: one sparse
matrix for each direction. Cell edges lie midway between points, latitudes end at the
poles; these are the rules of the data that NeuralGCM was trained on (Kochkov et al.
2024, supplement; the scheme is that of Jones 1999, Mon. Wea. Rev. 127, 2204-2210).

Areas of such cells differ a little from the Gauss weights that models integrate with.
"gauss" edges of the target make them equal, so that means under Gauss weights are
kept; a point of the grid still lies inside its cell.
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

# The longest sum in float32. Constant fields are to be kept to 4 ulp: of 20000 random
# ones, sums of 15 terms kept all, sums of 29 did not.
_FLOAT32_TERMS = 16


class Regridder:
    """Regrids fields whose last two axes are latitude and longitude.

    The source latitudes may run either way and may include the poles; longitudes
    may start anywhere. Output latitudes ascend, output longitudes start at 0.

    A result depends on its field only, not on the other fields or on earlier ones.
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
          edges: latitude edges of target cells: "midpoint", midway between points,
            or "gauss", such that areas are Gauss weights. Those of source cells are
            always midway.

        Raises:
          UserError: if the points do not cover the sphere or are not in order, or
            the rule for edges is unknown.
        """
        check_points(latitude, longitude)
        if edges not in EDGES:
            raise UserError(f"unknown edges {edges!r}: use one of {', '.join(EDGES)}")
        self.grid = grid
        self._source_latitude_edges = latitude_edges(latitude)
        self._target_latitude_edges = latitude_edges(
            grid.latitude_degrees, grid.latitude_weights if edges == "gauss" else None
        )
        self._source_longitude_edges = longitude_edges(longitude)
        self._latitude = _latitude_weights(
            self._source_latitude_edges, self._target_latitude_edges
        )
        # Almost all time goes into reading fields. Sums over latitude see all of a
        # field: float32 halves their traffic, if they are short enough for it.
        terms = np.diff(self._latitude.indptr).max()
        dtype = np.float32 if terms <= _FLOAT32_TERMS else np.float64
        self._fast_latitude = self._latitude.astype(dtype)
        # Repeated for each row of a flattened field: nothing need be transposed.
        weights = _longitude_weights(
            self._source_longitude_edges, longitude_edges(grid.longitude_degrees)
        )
        rows = sparse.eye_array(grid.latitudes)
        self._longitude = sparse.kron(rows, weights, format="csr")
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

        Cells that touch a NaN become NaN; `fill` is for fields that have some.
        """
        means = np.empty((*fields.shape[:-2], *self.grid.shape), np.float32)
        for mean, field in zip(_planes(means), _planes(fields), strict=True):
            mean[:] = self._mean(field, self._fast_latitude)
        return means

    def fill(self, fields: np.ndarray) -> np.ndarray:
        """Like a call, for fields that are undefined (NaN) at some points.

        A target cell takes the mean over the part of it that is defined, or, where
        no part is, the value of the nearest cell that has one. This does not keep
        the mean over the sphere. Cells without NaN are as a call gives them.

        Raises:
          ValueError: if a field is NaN everywhere.
        """
        means = self(fields)
        for mean, field in zip(_planes(means), _planes(fields), strict=True):
            holes = np.isnan(mean)
            if not holes.any():
                continue
            undefined = np.isnan(field)
            coverage, nearest = self._coverage_and_nearest(undefined)
            total = self._mean(np.where(undefined, 0, field), self._fast_latitude)
            np.divide(total, coverage, out=total, where=coverage > 0)
            mean[holes] = total[holes]
            mean[:] = mean.ravel()[nearest].reshape(mean.shape)
        return means

    def change(self, fields: np.ndarray, means: np.ndarray) -> float:
        """By how much regridding has changed area means over the sphere.

        Args:
          fields: [..., latitude, longitude], without NaN.
          means: what a call made of them.

        Returns:
          The largest difference of a field, as a part of its mean absolute value.
        """
        # Cells of the source are as wide as they are, those of the target alike.
        latitude = _latitude_areas(self._source_latitude_edges)
        width = np.diff(self._source_longitude_edges, axis=-1)[:, 0] / 360
        changes = []
        for field, mean in zip(_planes(fields), _planes(means), strict=True):
            before = latitude @ (field @ width)
            rows = mean.sum(-1, dtype=np.float64) / self.grid.longitudes
            after = _latitude_areas(self._target_latitude_edges) @ rows
            size = latitude @ (np.abs(field) @ width)
            changes.append(abs(after - before) / size if size > 0 else 0.0)
        return float(max(changes))

    def coverage(self, undefined: np.ndarray) -> np.ndarray:
        """Fraction of each target cell that is defined.

        Args:
          undefined: [latitude, longitude] of the source, bool.

        Returns:
          [latitude, longitude], float64: 0 where `fill` takes the nearest cell.
        """
        coverage = self._mean(~undefined, self._latitude)
        return np.where(coverage < _NEGLIGIBLE, 0, np.minimum(coverage, 1))

    def _mean(self, field: np.ndarray, latitude: sparse.csr_array) -> np.ndarray:
        """Area means of [latitude, longitude], in float64."""
        rows = latitude @ field
        return (self._longitude @ rows.ravel()).reshape(self.grid.shape)

    def _coverage_and_nearest(
        self, undefined: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Defined part of each target cell, and the flat index of its value."""
        # Masks hardly change from one time to the next, and trees are slow to build.
        key = hashlib.blake2b(np.packbits(undefined).tobytes()).digest()
        known = self._masks.get(key)
        if known is None:
            if undefined.all():
                raise ValueError("a field is NaN everywhere")
            coverage = self.coverage(undefined)
            known = coverage, nearest_defined(coverage > 0, self.grid)
            if len(self._masks) >= 16:
                self._masks.clear()
            self._masks[key] = known
        return known


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
