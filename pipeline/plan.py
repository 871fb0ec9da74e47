"""The plan of a store: everything that decides its bytes, written before them.

A store, here or in an object store:

    OUT/zarr.json                      group with CF attributes and all metadata
    OUT/ARRAY/zarr.json                written when the store is finished
    OUT/ARRAY/c/SHARD/...              (time, level, latitude, longitude) float32
    OUT/{time,level,latitude,longitude}
    OUT/stats/statistics.json          see `statistics`
    OUT/_build/plan.json               this plan; first of all
    OUT/_build/done/ARRAY/SHARD.json   marker, after the shard of that number
    OUT/_build/moments/ARRAY/SHARD.json   statistics of one shard
    OUT/_build/runs/*.json             reports of runs
    OUT/_build/READY                   plan and objects of the finished store; last

An array is a variable, or in the layout `stacked`, all variables that have a time
beside each other as channels. A shard holds `shard_steps` times of an array. Inside,
a chunk is one time and one of `latitude_chunks` bands of latitude, so that whoever
needs some bands reads little else.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable
from importlib import metadata
from typing import Any, Literal, get_args

import numpy as np

from model.sphere.grids import GaussianGrid, parse_grid
from pipeline.errors import UserError
from pipeline.files import Folder
from pipeline.regrid import Edges
from pipeline.variables import VARIABLES, Kind

Layout = Literal["variables", "stacked"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)

# Raised whenever the same plan would give other bytes than before.
SCHEMA = 2
PLAN_FILE = "_build/plan.json"
STACKED_ARRAY = "fields"
SURFACE_PRESSURE = "surface_pressure"

_EDGES_IN_WORDS = {
    "midpoint": "cell edges midway between points",
    "gauss": "target cells as large as their Gauss weights",
}


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a store is made of.

    Attributes:
      source: where the fields come from, as stated by the user.
      static_source: where static fields come from that `source` does not hold.
      member: which member of an ensemble; None if the source is none.
      forcing_shift_hours: by how much forcings are older than their time.
      grid: name of the Gaussian grid.
      edges: rule of the target cells' edges, see `regrid`.
      sigma_layers: number of equidistant sigma layers; None for pressure levels.
      start: first time, ISO 8601 in hours; None if all variables are static.
      stop: last time.
      step_hours: distance of times; 0 if there is only one.
      skipped: times in between that are declared missing.
      levels: pressure levels in hPa of the source, in its order.
      variables: names of what the store holds.
      layout: whether an array is a variable, or all of them.
      shard_steps: times in a shard.
      latitude_chunks: bands of latitude in a shard.
      keep_bits: bits of the mantissa that are kept of what depends on time; None
        keeps all.
      stats_times: first and last time of the statistics; None without times.
      attributes: global attributes of the source that say what it is.
      schema: version of this schema.
    """

    source: str
    static_source: str | None
    member: int | None
    forcing_shift_hours: int
    grid: str
    edges: Edges
    sigma_layers: int | None
    start: str | None
    stop: str | None
    step_hours: int
    skipped: tuple[str, ...]
    levels: tuple[float, ...]
    variables: tuple[str, ...]
    layout: Layout
    shard_steps: int
    latitude_chunks: int
    keep_bits: int | None
    stats_times: tuple[str, str] | None
    attributes: dict[str, str]
    schema: int = SCHEMA

    # --- identity -----------------------------------------------------------------

    @functools.cached_property
    def config_hash(self) -> str:
        """Hash of what decides the bytes of shards: all but the extent in time."""
        content = dataclasses.asdict(self)
        for extent in ("source", "stop", "skipped", "stats_times", "attributes"):
            del content[extent]
        # More files may follow the first, with later times.
        return _hash(content | {"first_source": self.source.split(",")[0]})

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of what a reader of given times sees: shards and statistics."""
        return _hash({"config": self.config_hash, "stats_times": self.stats_times})

    def differences(self, later: "Plan") -> list[str]:
        """What keeps a store of this plan from becoming one of another plan.

        It may grow: have further times behind its last, from further sources.

        Returns:
          `name: of this plan, not of the other` for each that differs.
        """
        mine, theirs = dataclasses.asdict(self), dataclasses.asdict(later)
        names = [
            name
            for name in mine
            if name not in ("attributes", "stats_times") and mine[name] != theirs[name]
        ]
        if set(self.source.split(",")) <= set(later.source.split(",")):
            names = [name for name in names if name != "source"]
        if np.array_equal(self.times, later.times[: self.steps]):
            names = [name for name in names if name not in ("stop", "skipped")]
        return [f"{name}: {mine[name]}, not {theirs[name]}" for name in names]

    # --- axes ---------------------------------------------------------------------

    @functools.cached_property
    def target(self) -> GaussianGrid:
        return parse_grid(self.grid)

    @functools.cached_property
    def times(self) -> np.ndarray:
        """[time], datetime64[ns], without those that are skipped."""
        if self.start is None:
            return np.array([], "datetime64[ns]")
        first, last = (np.datetime64(t, "h") for t in (self.start, self.stop))
        step = np.timedelta64(self.step_hours or 1, "h")
        times = np.arange(first, last + step, step)[: 1 + (last - first) // step]
        skipped = np.array(self.skipped, "datetime64[h]")
        return times[~np.isin(times, skipped)].astype("datetime64[ns]")

    @property
    def steps(self) -> int:
        """Number of times."""
        return len(self.times)

    @functools.cached_property
    def stats_window(self) -> tuple[int, int]:
        """Indices of the times of the statistics, first and behind the last."""
        if self.stats_times is None:
            return 0, 0
        first, last = (np.datetime64(time, "ns") for time in self.stats_times)
        return (
            int(np.searchsorted(self.times, first)),
            int(np.searchsorted(self.times, last, side="right")),
        )

    @property
    def vertical(self) -> str:
        """Name of the vertical dimension."""
        return "level" if self.sigma_layers is None else "sigma"

    @functools.cached_property
    def sigma(self) -> np.ndarray:
        """Centres of the sigma layers, from the top, [sigma]; empty without them."""
        layers = self.sigma_layers or 0
        return (np.arange(layers) + 0.5) / max(1, layers)

    @property
    def depth(self) -> int:
        """Number of levels or layers."""
        return len(self.levels) if self.sigma_layers is None else self.sigma_layers

    # --- arrays -------------------------------------------------------------------

    def kind(self, name: str) -> Kind:
        """Of a variable."""
        return VARIABLES[name].kind

    @functools.cached_property
    def arrays(self) -> dict[str, tuple[str, ...]]:
        """Variables in each array."""
        if self.layout == "variables":
            return {name: (name,) for name in self.variables}
        static = [n for n in self.variables if self.kind(n) == "static"]
        others = tuple(n for n in self.variables if n not in static)
        stacked = {STACKED_ARRAY: others} if others else {}
        return stacked | {name: (name,) for name in static}

    def is_static(self, array: str) -> bool:
        return self.kind(self.arrays[array][0]) == "static"

    def dimensions(self, array: str) -> tuple[str, ...]:
        """Names of an array's dimensions."""
        if array == STACKED_ARRAY:
            return ("time", "channel", "latitude", "longitude")
        return {
            "levels": ("time", self.vertical, "latitude", "longitude"),
            "surface": ("time", "latitude", "longitude"),
            "static": ("latitude", "longitude"),
        }[self.kind(array)]

    def shape(self, array: str) -> tuple[int, ...]:
        sizes = {
            "time": self.steps,
            "channel": self.channels(self.arrays[array][-1]).stop,
            self.vertical: self.depth,
            "latitude": self.target.latitudes,
            "longitude": self.target.longitudes,
        }
        return tuple(sizes[dimension] for dimension in self.dimensions(array))

    def channels(self, name: str) -> slice:
        """Where the levels of a variable are along the channels of its array."""
        (array,) = (a for a, names in self.arrays.items() if name in names)
        first = 0
        for before in self.arrays[array]:
            size = self.depth if self.kind(before) == "levels" else 1
            if before == name:
                return slice(first, first + size)
            first += size
        raise KeyError(name)

    # --- shards -------------------------------------------------------------------

    def shards(self, array: str) -> int:
        """Number of shards of an array."""
        return 1 if self.is_static(array) else -(-self.steps // self.shard_steps)

    def shard_times(self, shard: int) -> tuple[int, int]:
        """Indices of the times of a shard, first and behind the last."""
        first = shard * self.shard_steps
        return first, min(first + self.shard_steps, self.steps)

    def shard_steps_of(self, array: str, shard: int) -> int:
        """Number of times in a shard; 1 if it is static."""
        if self.is_static(array):
            return 1
        first, last = self.shard_times(shard)
        return last - first

    def items(self) -> list[tuple[str, int]]:
        """All (array, shard)."""
        return [(a, shard) for a in self.arrays for shard in range(self.shards(a))]

    # --- words --------------------------------------------------------------------

    @property
    def regridding(self) -> str:
        """The method, in words."""
        words = (
            f"conservative, {_EDGES_IN_WORDS[self.edges]}; where fields are undefined, "
            "the mean of the defined part of a cell, else the nearest cell's"
        )
        if self.sigma_layers is not None:
            words += "; then linear in pressure to sigma layers"
        return words

    # --- files --------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        return {
            "config": dataclasses.asdict(self),
            "config_hash": self.config_hash,
            "code_version": metadata.version("podgcm"),
        }

    @classmethod
    def from_json(cls, content: dict[str, Any], file: str) -> "Plan":
        """Raises UserError if it is damaged or of another schema."""
        try:
            config = content["config"]
            if config["schema"] != SCHEMA:
                raise UserError(
                    f"{file} has schema {config['schema']}, this version reads "
                    f"{SCHEMA}: preprocess it again"
                )
            for name in ("levels", "variables", "skipped", "stats_times"):
                config[name] = config[name] and tuple(config[name])
            plan = cls(**config)
            whole = plan.config_hash == content["config_hash"]
        except (KeyError, TypeError) as error:
            raise UserError(f"{file} is damaged: {error!r}") from error
        if not whole:
            raise UserError(f"{file} was altered: its hash is not that of its content")
        return plan

    @classmethod
    def load(cls, folder: Folder) -> "Plan":
        """The plan of the store in `folder`, finished or not.

        Raises:
          UserError: if there is none, or it is damaged or of another schema.
        """
        content = folder.read_json(PLAN_FILE)
        if content is None:
            raise UserError(
                f"{folder} is not a PodGCM store (no {PLAN_FILE}): make one by "
                "`podgcm preprocess`"
            )
        return cls.from_json(content, f"{folder}/{PLAN_FILE}")


def source_parts(name: str, sigma_layers: int | None) -> list[str]:
    """Fields of the source that one variable of a store is made of, its own first."""
    kind = VARIABLES[name].kind
    if sigma_layers is not None and name == SURFACE_PRESSURE:
        return ["geopotential"]
    if sigma_layers is not None and kind == "levels" and name != "geopotential":
        return [name, "geopotential"]
    return [name]


def source_variables(variables: Iterable[str], sigma_layers: int | None) -> list[str]:
    """All fields of the source that a store is made of."""
    names = [part for name in variables for part in source_parts(name, sigma_layers)]
    if sigma_layers is not None:
        names.append("geopotential_at_surface")
    return list(dict.fromkeys(names))


def _hash(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True).encode()
    return hashlib.blake2b(text, digest_size=16).hexdigest()
