"""Reading and writing regridded stores, through TensorStore.

`plan` describes the schema. Nothing here imports Beam: training reads stores by
`open_store`, preprocessing writes them by `create` and `write_shard`.
"""

import dataclasses
import functools
import hashlib
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from model.sphere.grids import GaussianGrid
from pipeline.errors import UserError
from pipeline.plan import PART_SUFFIX, PLAN_FILE, Plan, read_json, write_json
from pipeline.variables import VARIABLES, Kind

READY_FILE = "_build/READY"
STATISTICS_FILE = "stats/statistics.json"
# Room for the indices of shards, which every read needs, and little else: decoded
# fields are read once in an epoch.
_CACHE_BYTES = 2**26


class DamagedStoreError(UserError):
    """Bytes of a store are missing, or are not what was written."""


def open_store(path: str | Path) -> "Store":
    """Opens a finished store for reading.

    Raises:
      UserError: if there is no store at `path` or it is not finished.
      DamagedStoreError: if an object is missing or has another size than it was
        written with. (Damage that keeps the size is found when it is read.)
    """
    plan = Plan.load(path)
    ready = Path(path) / READY_FILE
    if not ready.exists():
        raise UserError(
            f"{path} is not finished: run the same `podgcm preprocess` command again, "
            "or see `podgcm inspect`"
        )
    if read_json(ready)["config_hash"] != plan.config_hash:
        raise DamagedStoreError(f"{ready} belongs to another store than {PLAN_FILE}")
    _check_objects(path, plan)
    return Store(str(path), plan)


class Store:
    """A finished store. May be pickled, and shared by threads.

    Attributes:
      path: where it is.
      plan: what it is made of.
      grid: its Gaussian grid.
      times: [time], datetime64[ns]; empty if all variables are static.
      step: distance of times; not-a-time if there are fewer than two.
      levels: pressure in hPa, [level], float64.
      variables: names of all arrays.
      attrs: attributes of the group, among them what the source says of itself.
      fingerprint: hash of all that decides the content.
    """

    def __init__(self, path: str, plan: Plan) -> None:
        self.path = path
        self.plan = plan
        self.grid: GaussianGrid = plan.target
        self.times = plan.times
        self.step = np.timedelta64(plan.step_hours or "NaT", "h")
        self.levels = np.array(plan.levels, np.float64)
        self.variables = plan.variables
        self.attrs = group_attributes(plan)
        self.fingerprint = plan.config_hash
        self._arrays: dict[str, ts.TensorStore] = {}
        self._lock = threading.Lock()

    def __reduce__(self):
        # Handles stay behind: every process opens its own when it first reads.
        return Store, (self.path, self.plan)

    def kind(self, name: str) -> Kind:
        """`levels`, `surface` or `static`."""
        self._check(name)
        return self.plan.kind(name)

    def read(
        self, name: str, times: np.ndarray | None, rows: slice = slice(None)
    ) -> np.ndarray:
        """Reads one variable; see `read_many`."""
        return self.read_many({name: (times, rows)})[name]

    def read_many(
        self, requests: Mapping[str, tuple[np.ndarray | None, slice]]
    ) -> dict[str, np.ndarray]:
        """Reads several variables, all in flight at once.

        Args:
          requests: for each variable the indices of times, [n], in any order and
            with repeats (None for static variables), and a slice of latitudes.

        Returns:
          float32 arrays [n, level, rows, longitude], [n, rows, longitude] for surface
          and [rows, longitude] for static variables.

        Raises:
          UserError: if a variable is not in the store.
          IndexError: if a time is not.
          DamagedStoreError: if a shard is missing or fails its checksum.
        """
        pending = {}
        for name, (times, rows) in requests.items():
            array = self._array(name)
            band = slice(*rows.indices(self.grid.latitudes))
            if self.plan.kind(name) == "static":
                if times is not None:
                    raise ValueError(f"{name} is static: read it with times=None")
                pending[name] = array[band].read()
                continue
            index = np.asarray(times, np.int64)
            if index.size and not (0 <= index.min() and index.max() < len(self.times)):
                raise IndexError(
                    f"times {index.min()} to {index.max()} of {name}: the store has "
                    f"{len(self.times)}"
                )
            pending[name] = array[index][(slice(None), ..., band, slice(None))].read()
        results = {}
        for name, future in pending.items():
            try:
                results[name] = future.result()
            except ValueError as error:
                found = re.search(r"/c/(\d+)", str(error))
                shard = f"shard {found[1]}" if found else "a shard"
                reason = " ".join(str(error).split())
                raise DamagedStoreError(
                    f"{self.path}: {shard} of {name} is missing or damaged: {reason}"
                ) from error
        return results

    def statistics(self, name: str) -> dict[str, np.ndarray | None]:
        """Statistics of a variable over the window that `preprocess` was given.

        Returns:
          `mean`, `std`, `min`, `max`, `count`, `std_6h_difference` and
          `std_24h_difference`, each float64, [level], or a scalar array for surface
          and static variables. Means are weighted by area. Differences are None
          where the store has no two times of that distance.
        """
        self._check(name)
        return {
            key: None if value is None else np.array(value, np.float64)
            for key, value in self._statistics[name].items()
        }

    @functools.cached_property
    def _statistics(self) -> dict[str, Any]:
        return read_json(Path(self.path) / STATISTICS_FILE)["variables"]

    def _check(self, name: str) -> None:
        if name not in self.variables:
            raise UserError(
                f"{self.path} has no {name}: it has {', '.join(self.variables)}"
            )

    def _array(self, name: str) -> ts.TensorStore:
        self._check(name)
        with self._lock:
            if name not in self._arrays:
                self._arrays[name] = _open(self.path, name)
            return self._arrays[name]


@dataclasses.dataclass(frozen=True)
class Written:
    """What is noted of a shard: its marker."""

    config_hash: str
    blake2b: str
    object_bytes: int


def create(path: str | Path, plan: Plan) -> None:
    """Makes a store without data: plan, group, coordinates, empty arrays.

    All of it may be there already, of the same plan.
    """
    root = Path(path)
    if not (root / PLAN_FILE).exists():
        plan.save(root)
    _write_group(root, group_attributes(plan))
    # Zarr libraries warn of folders that are not groups.
    for folder in ("_build", "stats"):
        _write_group(root / folder, {})
    for name, (values, attributes) in _coordinates(plan).items():
        metadata = {
            "shape": values.shape,
            "data_type": values.dtype.name,
            "dimension_names": [name],
            "attributes": attributes,
        }
        _open(root, name, metadata).write(values).result()
    for name in plan.variables:
        _open(root, name, _array_metadata(plan, name))


def write_shard(path: str | Path, plan: Plan, name: str, shard: int, data: np.ndarray):
    """Writes a whole shard, then its marker.

    Doing it again gives the same bytes. Whoever reads meanwhile sees the old object
    or the new one.

    Args:
      data: float32, [time, level, latitude, longitude] without the axes that the
        variable does not have.
    """
    array = _open(path, name, _array_metadata(plan, name))
    if plan.kind(name) != "static":
        array = array[slice(*plan.shard_times(shard))]
    if array.shape != data.shape:
        raise ValueError(f"shard of {name} has shape {array.shape}, not {data.shape}")
    data = np.ascontiguousarray(data, np.float32)
    array.write(data).result()
    written = Written(
        config_hash=plan.config_hash,
        blake2b=hashlib.blake2b(data, digest_size=16).hexdigest(),
        object_bytes=object_file(path, plan, name, shard).stat().st_size,
    )
    write_json(marker_file(path, name, shard), dataclasses.asdict(written))


def finish(path: str | Path, plan: Plan) -> None:
    """Declares a store finished, whose shards and statistics are all written.

    Raises:
      DamagedStoreError: if they are not.
    """
    _check_objects(path, plan)
    for folder in ("", "_build", "_build/done/*", "_build/runs", "stats"):
        for part in Path(path).glob(f"{folder}/.*{PART_SUFFIX}".lstrip("/")):
            part.unlink()
    write_json(Path(path, READY_FILE), {"config_hash": plan.config_hash})


def object_file(path: str | Path, plan: Plan, name: str, shard: int) -> Path:
    """The file of a shard."""
    first = 0 if plan.kind(name) == "static" else shard
    zeros = ["0"] * (len(plan.shape(name)) - 1)
    return Path(path, name, "c", str(first), *zeros)


def marker_file(path: str | Path, name: str, shard: int) -> Path:
    """The file that says that a shard is done."""
    return Path(path, "_build", "done", name, f"{shard}.json")


def shard_fault(path: str | Path, plan: Plan, name: str, shard: int) -> str | None:
    """What is wrong with a shard, judged without reading it; None if nothing is."""
    which = f"shard {shard} of {name}"
    marker = marker_file(path, name, shard)
    if not marker.exists():
        return f"{which} is not done"
    note = read_json(marker)
    if note["config_hash"] != plan.config_hash:
        return f"{which} belongs to another plan"
    file = object_file(path, plan, name, shard)
    size = file.stat().st_size if file.exists() else None
    if size != note["object_bytes"]:
        found = "is missing" if size is None else f"has {size} bytes"
        return f"{which} {found}, {note['object_bytes']} bytes were written"
    return None


def _check_objects(path: str | Path, plan: Plan) -> None:
    for name, shard in plan.items():
        fault = shard_fault(path, plan, name, shard)
        if fault is not None:
            raise DamagedStoreError(f"{path}: {fault}; see `podgcm inspect`")
    metadata = [f"{name}/zarr.json" for name in plan.variables]
    for file in (STATISTICS_FILE, "zarr.json", *metadata):
        if not Path(path, file).exists():
            raise DamagedStoreError(f"{path}: {file} is missing")


def group_attributes(plan: Plan) -> dict[str, Any]:
    """Attributes of the store's group."""
    return {
        **plan.attributes,
        "Conventions": "CF-1.11",
        "grid": plan.grid,
        "regridding": plan.regridding,
        "regridded_from": plan.source,
        "config_hash": plan.config_hash,
    }


def _write_group(folder: Path, attributes: dict[str, Any]) -> None:
    # TensorStore knows arrays only.
    group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    write_json(folder / "zarr.json", group)


def _coordinates(plan: Plan) -> dict[str, tuple[np.ndarray, dict[str, str]]]:
    """Values and CF attributes of the coordinates."""
    coordinates = {
        "latitude": (
            plan.target.latitude_degrees,
            {"units": "degrees_north", "standard_name": "latitude"},
        ),
        "longitude": (
            plan.target.longitude_degrees,
            {"units": "degrees_east", "standard_name": "longitude"},
        ),
    }
    kinds = {plan.kind(name) for name in plan.variables}
    if kinds - {"static"}:
        coordinates["time"] = (
            plan.times.astype("datetime64[h]").astype(np.int64),
            {
                "units": "hours since 1970-01-01",
                "calendar": "proleptic_gregorian",
                "standard_name": "time",
            },
        )
    if "levels" in kinds:
        coordinates["level"] = (
            np.array(plan.levels),
            {"units": "hPa", "standard_name": "air_pressure", "positive": "down"},
        )
    return coordinates


def _array_metadata(plan: Plan, name: str) -> dict[str, Any]:
    shape = plan.shape(name)
    chunk = list(shape)
    chunk[-2] //= plan.latitude_chunks
    shard = list(shape)
    if plan.kind(name) != "static":
        chunk[0], shard[0] = 1, plan.shard_steps
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    blosc = {
        "name": "blosc",
        "configuration": {
            "cname": "lz4",
            "clevel": 5,
            "shuffle": "bitshuffle",
            "typesize": 4,
        },
    }
    # Blosc alone gives wrong values for most flipped bits.
    checksum = {"name": "crc32c"}
    variable = VARIABLES[name]
    return {
        "shape": shape,
        "data_type": "float32",
        # Defined data never equal it, so that no chunk is left out as 'empty'.
        "fill_value": "NaN",
        "dimension_names": list(plan.dimensions(name)),
        "attributes": {"units": variable.units, "long_name": variable.long_name},
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shard}},
        "codecs": [
            {
                "name": "sharding_indexed",
                "configuration": {
                    "chunk_shape": chunk,
                    "codecs": [little, blosc, checksum],
                    "index_codecs": [little, checksum],
                    "index_location": "end",
                },
            }
        ],
    }


@functools.cache
def _context() -> ts.Context:
    return ts.Context({"cache_pool": {"total_bytes_limit": _CACHE_BYTES}})


def _open(
    path: str | Path, name: str, metadata: dict[str, Any] | None = None
) -> ts.TensorStore:
    """Opens an array for reading, or with `metadata` for writing, making it if new."""
    kvstore = {"driver": "file", "path": f"{Path(path, name)}/"}
    spec: dict[str, Any] = {"driver": "zarr3", "kvstore": kvstore}
    if metadata is None:
        # Absent chunks are errors; by default they would read as NaN.
        spec |= {"fill_missing_data_reads": False, "recheck_cached_data": "open"}
        try:
            return ts.open(spec, context=_context(), read=True).result()
        except ValueError as error:
            reason = " ".join(str(error).split())
            raise DamagedStoreError(f"{path}: cannot open {name}: {reason}") from error
    spec |= {"metadata": metadata, "store_data_equal_to_fill_value": True}
    return ts.open(spec, create=True, open=True).result()
