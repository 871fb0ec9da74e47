"""Points that forecasts are compared at: their areas, and regions of the sphere."""

import dataclasses
import re

import numpy as np

from model.sphere.grids import GaussianGrid, latitude_edges, parse_grid
from pipeline.errors import UserError

# As WeatherBench 2 draws them: degrees north, ends included.
REGIONS = {
    "global": (-90.0, 90.0),
    "tropics": (-20.0, 20.0),
    "extratropics_north": (20.0, 90.0),
    "extratropics_south": (-90.0, -20.0),
}


@dataclasses.dataclass(frozen=True)
class LatLonGrid:
    """Equally spaced latitudes, poles included, and longitudes from 0.

    Attributes:
      degrees: distance of two points; it divides 180.

    Raises:
      ValueError: if it does not.
    """

    degrees: float

    def __post_init__(self) -> None:
        if not 0 < self.degrees <= 30 or round(180 / self.degrees, 9) % 1:
            raise ValueError(f"{self.degrees:g} degrees do not divide 180")

    def __str__(self) -> str:
        return f"{self.degrees:g} degrees"

    @property
    def latitudes(self) -> int:
        return round(180 / self.degrees) + 1

    @property
    def longitudes(self) -> int:
        return round(360 / self.degrees)

    @property
    def shape(self) -> tuple[int, int]:
        return self.latitudes, self.longitudes

    @property
    def latitude_degrees(self) -> np.ndarray:
        return np.linspace(-90, 90, self.latitudes)

    @property
    def longitude_degrees(self) -> np.ndarray:
        return 360 / self.longitudes * np.arange(self.longitudes)

    @property
    def latitude_weights(self) -> np.ndarray:
        """Areas of the cells around points, [latitude]; they sum to 2."""
        return np.diff(np.sin(np.deg2rad(latitude_edges(self.latitude_degrees))))


Points = GaussianGrid | LatLonGrid


def parse_points(text: str) -> Points:
    """Points of a name: `1.5` degrees, or a Gaussian grid such as `TL31`.

    Raises:
      UserError: if it is none.
    """
    try:
        if re.fullmatch(r"\d+(\.\d+)?", text):
            return LatLonGrid(float(text))
        return parse_grid(text)
    except ValueError as error:
        raise UserError(f"--grid={text}: {error}") from None


def region_weights(points: Points) -> np.ndarray:
    """Weights of points whose sum over each region is 1, [region, latitude]."""
    latitude, weights = points.latitude_degrees, points.latitude_weights
    rows = []
    for south, north in REGIONS.values():
        inside = weights * ((latitude >= south) & (latitude <= north))
        rows.append(inside / inside.sum() / points.longitudes)
    return np.stack(rows)
