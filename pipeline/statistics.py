"""Statistics of a store: what training normalises by.

Per variable and level, weighted by area (Gauss weights), in float64: sums of squares
in float32 would give a standard deviation of 0 for geopotential. Partial results of
shards are merged pairwise (Chan et al. 1979).
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from model.sphere.grids import GaussianGrid
from pipeline.plan import Plan, write_json
from pipeline.store import STATISTICS_FILE, Store

DIFFERENCE_HOURS = (6, 24)


@dataclasses.dataclass(frozen=True)
class Moments:
    """Moments of a set of fields, each array [level], float64.

    Attributes:
      fields: number of fields (times).
      count: number of values.
      mean: area-weighted mean.
      square: sum over fields of the area-weighted mean squared deviation from `mean`.
      least: smallest value.
      largest: largest value.
    """

    fields: int
    count: int
    mean: np.ndarray
    square: np.ndarray
    least: np.ndarray
    largest: np.ndarray

    @classmethod
    def of(cls, field: np.ndarray, grid: GaussianGrid) -> "Moments":
        """Moments of one field, [level, latitude, longitude]."""
        weights = np.repeat(grid.latitude_weights, grid.longitudes)
        weights /= weights.sum()
        values = field.reshape(len(field), -1).astype(np.float64)
        mean = values @ weights
        least, largest = values.min(1), values.max(1)
        values -= mean[:, None]
        np.square(values, out=values)
        return cls(1, values.shape[1], mean, values @ weights, least, largest)

    def merge(self, other: "Moments") -> "Moments":
        """Moments of the union of two sets."""
        fields = self.fields + other.fields
        delta = other.mean - self.mean
        return Moments(
            fields,
            self.count + other.count,
            self.mean + delta * (other.fields / fields),
            self.square
            + other.square
            + delta**2 * (self.fields * other.fields / fields),
            np.minimum(self.least, other.least),
            np.maximum(self.largest, other.largest),
        )

    @property
    def std(self) -> np.ndarray:
        return np.sqrt(self.square / self.fields)


def shard_moments(store: Store, name: str, shard: int) -> dict[int, Moments]:
    """Moments of a shard within the window of the statistics.

    A difference belongs to the shard of its earlier time; the later one is read from
    the next shard where it lies there. Both must be in the window.

    Returns:
      Moments of values under 0, of differences over so many hours under 6 and 24;
      without those of which there are none.
    """
    plan = store.plan
    if store.kind(name) == "static":
        return {0: Moments.of(store.read(name, None)[None], plan.target)}
    first, last = plan.shard_times(shard)
    window_first, window_last = plan.stats_window
    first, last = max(first, window_first), min(last, window_last)
    if first >= last:
        return {}
    strides = {
        hours: hours // plan.step_hours
        for hours in DIFFERENCE_HOURS
        if plan.step_hours and hours % plan.step_hours == 0
    }
    halo = max(strides.values(), default=0)
    data = store.read(name, np.arange(first, min(last + halo, window_last)))
    if store.kind(name) == "surface":
        data = data[:, None]
    moments: dict[int, Moments] = {}

    def add(key: int, field: np.ndarray) -> None:
        one = Moments.of(field, plan.target)
        moments[key] = moments[key].merge(one) if key in moments else one

    for index in range(last - first):
        add(0, data[index])
        for hours, stride in strides.items():
            if index + stride < len(data):
                add(hours, data[index + stride].astype(np.float64) - data[index])
    return moments


def write_statistics(
    path: str | Path, plan: Plan, moments: dict[str, dict[int, Moments]]
) -> None:
    """Writes the statistics of all variables, from merged moments of shards."""

    def listed(name: str, values: np.ndarray) -> Any:
        return values.tolist() if plan.kind(name) == "levels" else values.item()

    variables = {}
    for name, parts in moments.items():
        values = parts[0]
        variables[name] = {
            "mean": listed(name, values.mean),
            "std": listed(name, values.std),
            "min": listed(name, values.least),
            "max": listed(name, values.largest),
            "count": listed(name, np.full(values.mean.shape, values.count)),
        }
        for hours in DIFFERENCE_HOURS:
            variables[name][f"std_{hours}h_difference"] = (
                listed(name, parts[hours].std) if hours in parts else None
            )
    write_json(
        Path(path) / STATISTICS_FILE,
        {
            "config_hash": plan.config_hash,
            "times": plan.stats_times,
            "weights": "area (Gauss-Legendre)",
            "variables": variables,
        },
    )
