"""The plan of a store: everything that decides its bytes, written before them.

The schema of a store, of which `store` is the reader and writer:

    OUT/zarr.json                      group with CF attributes
    OUT/VARIABLE/c/SHARD/...           (time, level, latitude, longitude) float32
    OUT/{time,level,latitude,longitude}
    OUT/stats/statistics.json          see `statistics`
    OUT/_build/plan.json               this plan and its hash; first of all
    OUT/_build/done/VARIABLE/SHARD.json   after the shard of that number
    OUT/_build/runs/*.json             reports of runs
    OUT/_build/READY                   last of all

A shard holds `shard_steps` times of one variable. Inside, a chunk is one time and
one of `latitude_chunks` bands of latitude, so that whoever needs half of the globe
reads half of the bytes.
"""

import dataclasses
import functools
import hashlib
import json
import os
import uuid
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from model.sphere.grids import GaussianGrid, parse_grid
from pipeline.errors import UserError
from pipeline.variables import VARIABLES, Kind

# Raised whenever the same plan would give other bytes than before.
SCHEMA = 1
SHARD_BYTES = 150_000_000
REGRIDDING = (
    "conservative, cell edges midway between points; where fields are undefined, the "
    "mean of the defined part of a cell, else the nearest cell's"
)
PLAN_FILE = "_build/plan.json"
# Of files being written; a killed run leaves some behind.
PART_SUFFIX = ".part"


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a store is made of.

    Attributes:
      source: where the fields come from, as stated by the user.
      static_source: where static fields come from that `source` does not hold.
      grid: name of the Gaussian grid.
      start: first time, ISO 8601 in hours; None if all variables are static.
      steps: number of times.
      step_hours: distance of times; 0 if there is only one.
      levels: pressure levels in hPa, in the order of the source.
      variables: names of the arrays.
      shard_steps: times in a shard.
      latitude_chunks: bands of latitude in a shard.
      stats_times: first and last time of the statistics; None without times.
      attributes: global attributes of the source that say what it is.
      regridding: the method, in words.
      schema: version of this schema.
    """

    source: str
    static_source: str | None
    grid: str
    start: str | None
    steps: int
    step_hours: int
    levels: tuple[float, ...]
    variables: tuple[str, ...]
    shard_steps: int
    latitude_chunks: int
    stats_times: tuple[str, str] | None
    attributes: dict[str, str]
    regridding: str = REGRIDDING
    schema: int = SCHEMA

    @functools.cached_property
    def config_hash(self) -> str:
        """Hash of all of the above; stores with the same hash hold the same bytes."""
        return hashlib.blake2b(
            json.dumps(dataclasses.asdict(self), sort_keys=True).encode(),
            digest_size=16,
        ).hexdigest()

    @functools.cached_property
    def target(self) -> GaussianGrid:
        return parse_grid(self.grid)

    @functools.cached_property
    def times(self) -> np.ndarray:
        """[time], datetime64[ns]."""
        if self.start is None:
            return np.array([], "datetime64[ns]")
        hours = np.arange(self.steps) * self.step_hours
        return np.datetime64(self.start, "ns") + hours.astype("timedelta64[h]")

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

    def kind(self, name: str) -> Kind:
        return VARIABLES[name].kind

    def dimensions(self, name: str) -> tuple[str, ...]:
        return {
            "levels": ("time", "level", "latitude", "longitude"),
            "surface": ("time", "latitude", "longitude"),
            "static": ("latitude", "longitude"),
        }[self.kind(name)]

    def shape(self, name: str) -> tuple[int, ...]:
        sizes = {
            "time": self.steps,
            "level": len(self.levels),
            "latitude": self.target.latitudes,
            "longitude": self.target.longitudes,
        }
        return tuple(sizes[dimension] for dimension in self.dimensions(name))

    def shards(self, name: str) -> int:
        """Number of shards of an array."""
        if self.kind(name) == "static":
            return 1
        return -(-self.steps // self.shard_steps)

    def shard_times(self, shard: int) -> tuple[int, int]:
        """Indices of the times of a shard, first and behind the last."""
        first = shard * self.shard_steps
        return first, min(first + self.shard_steps, self.steps)

    def items(self) -> list[tuple[str, int]]:
        """All (array, shard)."""
        return [(n, shard) for n in self.variables for shard in range(self.shards(n))]

    def save(self, path: str | Path) -> None:
        content = dataclasses.asdict(self)
        write_json(
            Path(path) / PLAN_FILE,
            {
                "config": content,
                "config_hash": self.config_hash,
                "code_version": metadata.version("podgcm"),
            },
        )

    @classmethod
    def load(cls, path: str | Path) -> "Plan":
        """The plan of the store at `path`.

        Raises:
          UserError: if there is none, or it is damaged or of another schema.
        """
        file = Path(path) / PLAN_FILE
        if not file.exists():
            raise UserError(
                f"{path} is not a PodGCM store (no {PLAN_FILE}): make one by "
                "`podgcm preprocess`"
            )
        content = read_json(file)
        config = content["config"]
        if config["schema"] != SCHEMA:
            raise UserError(
                f"{path} has schema {config['schema']}, this version reads {SCHEMA}: "
                "preprocess it again"
            )
        for name in ("levels", "variables", "stats_times"):
            config[name] = config[name] and tuple(config[name])
        plan = cls(**config)
        if plan.config_hash != content["config_hash"]:
            raise UserError(f"{file} was altered: its hash is not that of its content")
        return plan

    def differences(self, other: "Plan") -> list[str]:
        """`what: ours, not theirs` for all that differs."""
        mine, theirs = dataclasses.asdict(self), dataclasses.asdict(other)
        return [
            f"{name}: {theirs[name]}, not {mine[name]}"
            for name in mine
            if mine[name] != theirs[name]
        ]


def default_shard_steps(grid: GaussianGrid, levels: int, steps: int) -> int:
    """Times in a shard of at most `SHARD_BYTES` of a variable with `levels`."""
    step_bytes = 4 * max(1, levels) * grid.latitudes * grid.longitudes
    return max(1, min(steps, SHARD_BYTES // step_bytes))


def read_json(file: Path) -> dict[str, Any]:
    """Raises UserError if the file is damaged."""
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"{file} is damaged: {error}") from error


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Writes the whole file or, if interrupted, nothing under its name."""
    file.parent.mkdir(parents=True, exist_ok=True)
    # Two workers may write the same file, with the same content.
    part = file.with_name(f".{file.name}.{uuid.uuid4().hex}{PART_SUFFIX}")
    with part.open("w") as stream:
        stream.write(json.dumps(content, indent=1, sort_keys=True) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(file)
