"""Statistics of a store: what training normalises by.

Per variable and level, weighted by area (Gauss weights), in float64: sums of squares
in float32 would give a standard deviation of 0 for geopotential. Partial results of
shards are merged pairwise (Chan et al. 1979).
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np

from model.sphere.grids import GaussianGrid
from pipeline.errors import UserError
from pipeline.files import Folder
from pipeline.plan import Plan
from pipeline.store import Store
from pipeline.writer import STATISTICS_FILE, read_markers

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
        # The mean of equal values is theirs but for rounding.
        varies = self.least < self.largest
        return np.where(varies, np.sqrt(self.square / self.fields), 0)

    def to_json(self) -> dict[str, Any]:
        return {
            key: value.tolist() if isinstance(value, np.ndarray) else value
            for key, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Moments":
        return cls(
            **{k: np.array(v) if isinstance(v, list) else v for k, v in content.items()}
        )


def shard_moments(
    store: Store, array: str, shard: int
) -> dict[str, dict[int, Moments]]:
    """Moments of a shard within the window of the statistics.

    A difference belongs to the shard of its earlier time; the later one is read from
    the next shard where it lies there. Both must be in the window. Where a time is
    missing, so are its differences.

    Returns:
      By variable, moments of values under 0, of differences over so many hours under
      6 and 24; without those of which there are none.
    """
    plan = store.plan
    names = plan.arrays[array]
    if plan.is_static(array):
        return {array: {0: Moments.of(store.read(array, None)[None], plan.target)}}
    first, last, end = _times_to_read(plan, shard)
    if first >= last:
        return {name: {} for name in names}
    index = np.arange(first, end)
    fields = store.read_many(dict.fromkeys(names, (index, slice(None))))
    return {
        name: _moments(
            values if store.kind(name) == "levels" else values[:, None],
            plan.times[first:end],
            last - first,
            plan.target,
        )
        for name, values in fields.items()
    }


def _times_to_read(plan: Plan, shard: int) -> tuple[int, int, int]:
    """First, and behind the last, time of a shard in the window; and with the later
    ones that differences need."""
    first, last = plan.shard_times(shard)
    window_first, window_last = plan.stats_window
    first, last = max(first, window_first), min(last, window_last)
    if first >= last:
        return first, first, first
    reach = plan.times[last - 1] + np.timedelta64(max(DIFFERENCE_HOURS), "h")
    end = int(np.searchsorted(plan.times, reach, side="right"))
    return first, last, min(end, window_last)


def _moments(
    fields: np.ndarray, times: np.ndarray, own: int, grid: GaussianGrid
) -> dict[int, Moments]:
    """Moments of the first `own` of fields [time, level, latitude, longitude]."""
    moments: dict[int, Moments] = {}

    def add(key: int, field: np.ndarray) -> None:
        one = Moments.of(field, grid)
        moments[key] = moments[key].merge(one) if key in moments else one

    for index in range(own):
        add(0, fields[index])
        for hours in DIFFERENCE_HOURS:
            later = times[index] + np.timedelta64(hours, "h")
            other = int(np.searchsorted(times, later))
            if other < len(times) and times[other] == later:
                add(hours, fields[other].astype(np.float64) - fields[index])
    return moments


def saved_moments(
    folder: Folder, plan: Plan, array: str, shard: int
) -> dict[str, dict[int, Moments]]:
    """`shard_moments`, from a file if they were computed before from the same bytes."""
    name = _moments_file(array, shard)
    key = _key(folder, plan, array, shard)
    try:
        known = folder.read_json(name)
    except UserError:  # damaged
        known = None
    if known is not None and known.get("key") == key:
        return _parse(known)
    moments = shard_moments(Store(folder.address, plan), array, shard)
    listed = {
        variable: {str(k): m.to_json() for k, m in parts.items()}
        for variable, parts in moments.items()
    }
    folder.write_json(name, {"key": key, "moments": listed})
    return moments


def collect_moments(folder: Folder, plan: Plan) -> dict[str, dict[int, Moments]]:
    """Moments of all shards of all arrays, which `saved_moments` has all computed."""
    names = {_moments_file(*item): item[1] for item in plan.items()}
    contents = folder.read_many(names)
    parts = []
    for name, shard in names.items():
        content = contents[name]
        if content is None:
            raise UserError(f"{folder}/{name} is missing: run the same command again")
        parts.append((shard, _parse(folder.parse_json(name, content))))
    return merge_moments(parts)


def _moments_file(array: str, shard: int) -> str:
    return f"_build/moments/{array}/{shard}.json"


def _parse(content: dict[str, Any]) -> dict[str, dict[int, Moments]]:
    return {
        variable: {int(k): Moments.from_json(m) for k, m in parts.items()}
        for variable, parts in content["moments"].items()
    }


def _key(folder: Folder, plan: Plan, array: str, shard: int) -> dict[str, Any]:
    """What the moments of a shard depend on: its times, and bytes of its objects."""
    times, shards = [], range(0)
    if plan.is_static(array):
        shards = range(1)
    else:
        first, last, end = _times_to_read(plan, shard)
        if first < last:
            times = [str(time) for time in plan.times[[first, last - 1, end - 1]]]
            shards = range(shard, (end - 1) // plan.shard_steps + 1)
    markers = read_markers(folder, [(array, s) for s in shards])
    digests = [marker and marker.blake2b for marker in markers.values()]
    return {"times": times, "blake2b": digests}


def merge_moments(
    parts: Iterable[tuple[int, dict[str, dict[int, Moments]]]],
) -> dict[str, dict[int, Moments]]:
    """Moments of all shards of all arrays, from (shard, moments of a shard)."""
    merged: dict[str, dict[int, Moments]] = {}
    # In the order of shards, so that rounding does not depend on the workers.
    for _, variables in sorted(parts, key=lambda part: part[0]):
        for name, moments in variables.items():
            known = merged.setdefault(name, {})
            for key, value in moments.items():
                known[key] = known[key].merge(value) if key in known else value
    return merged


def write_statistics(
    folder: Folder, plan: Plan, moments: dict[str, dict[int, Moments]]
) -> None:
    """Writes the statistics of all variables, from merged moments of shards."""
    folder.write_json(STATISTICS_FILE, statistics_content(plan, moments))


def statistics_content(
    plan: Plan, moments: dict[str, dict[int, Moments]]
) -> dict[str, Any]:
    """What is in the file of statistics."""

    def listed(name: str, values: np.ndarray) -> Any:
        return values.tolist() if plan.kind(name) == "levels" else values.item()

    variables, constant = {}, {}
    for name in plan.variables:
        parts = moments[name]
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
        flat = np.flatnonzero(values.std == 0)
        if flat.size:
            axis = plan.levels if plan.sigma_layers is None else plan.sigma
            levels = plan.kind(name) == "levels"
            constant[name] = [float(axis[i]) for i in flat] if levels else True
    return {
        "config_hash": plan.config_hash,
        "times": plan.stats_times and list(plan.stats_times),
        "weights": "area (Gauss-Legendre)",
        "variables": variables,
        # Levels, or whole surface variables, that never vary.
        "constant": constant,
    }
