"""Reading regridded stores, through TensorStore: what training opens.

`plan` describes the schema, `writer` writes it. Nothing here imports Beam.
"""

import dataclasses
import functools
import math
import os
import re
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorstore as ts

from model.sphere.grids import GaussianGrid
from pipeline.errors import Unavailable, UserError, is_outage
from pipeline.files import Folder, one_line
from pipeline.layout import array_metadata, shard_name
from pipeline.plan import STACKED_ARRAY, Plan
from pipeline.variables import Kind
from pipeline.writer import READY_FILE, STATISTICS_FILE, read_markers

# Requests in flight hide the latency of object stores.
_REQUESTS = 128
# Later ones wait twice as long each. By default it is a second, in which a batch waits
# for one request in many.
_FIRST_RETRY = "100ms"
_ALIGNMENT = 64  # bytes


class DamagedStoreError(UserError):
    """Bytes of a store are missing, or are not what was written."""


def open_store(path: str | os.PathLike[str]) -> "Store":
    """Opens a finished store for reading.

    A store that is being extended is read as it was before.

    Raises:
      UserError: if there is no store at `path` or it is not finished.
      DamagedStoreError: if an object is missing or has another size than it was
        written with. (Damage that keeps the size is found when it is read.)
    """
    folder = Folder(path)
    ready = folder.read_json(READY_FILE)
    if ready is None:
        Plan.load(folder)
        raise UserError(
            f"{path} is not finished: run the same `podgcm preprocess` command again, "
            "or see `podgcm inspect`"
        )
    plan = Plan.from_json(ready, f"{path}/{READY_FILE}")
    fault = _missing(folder, plan, ready.get("objects", {}))
    if fault is not None:
        raise DamagedStoreError(
            f"{path}: {fault}; run the same `podgcm preprocess` command again with "
            "--repair, and see `podgcm inspect`"
        )
    return Store(folder.address, plan)


def _missing(folder: Folder, plan: Plan, objects: dict[str, list]) -> str | None:
    """The first object that is not there as it was written."""
    for array in plan.arrays:
        if len(objects.get(array, ())) != plan.shards(array):
            return f"{READY_FILE} does not name the shards of {array}"
        found = folder.sizes(f"{array}/c")
        for shard, (size, _) in enumerate(objects[array]):
            name = shard_name(plan, array, shard)
            if name not in found:
                return f"shard {shard} of {array} is missing"
            if found[name] in (None, size):
                continue
            # An extension rewrites the last shard, if it was not full.
            (marker,) = read_markers(folder, [(array, shard)]).values()
            if marker is None or marker.object_bytes != found[name]:
                return (
                    f"shard {shard} of {array} has {found[name]} bytes, {size} bytes "
                    "were written"
                )
    for file in (
        STATISTICS_FILE,
        "zarr.json",
        *(f"{a}/zarr.json" for a in plan.arrays),
    ):
        if not folder.exists(file):
            return f"{file} is missing"
    return None


class Store:
    """A store. May be pickled, and shared by threads.

    Attributes:
      path: where it is.
      plan: what it is made of.
      grid: its Gaussian grid.
      times: [time], datetime64[ns]; empty if all variables are static. Equally spaced
        but for times that the plan declares missing.
      step: distance of times; not-a-time if there are fewer than two.
      levels: pressure in hPa, [level], float64; empty if there are sigma layers.
      sigma: centres of the sigma layers, from the top; empty if there are levels.
      variables: names of all variables.
      attrs: attributes of the group, among them what the source says of itself.
      fingerprint: hash of all that decides the values at given times, and the
        statistics.
    """

    def __init__(self, path: str, plan: Plan) -> None:
        self.path = path
        self.plan = plan
        self.grid: GaussianGrid = plan.target
        self.times = plan.times
        self.step = np.timedelta64(plan.step_hours or "NaT", "h")
        self.levels = np.array(plan.levels if plan.sigma_layers is None else [])
        self.sigma = plan.sigma
        self.variables = plan.variables
        self.attrs = group_attributes(plan)
        self.fingerprint = plan.fingerprint
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
        self,
        requests: Mapping[str, tuple[np.ndarray | None, slice]],
        folded: bool = False,
        longitudes: slice = slice(None),
    ) -> dict[str, np.ndarray]:
        """Reads several variables, all in flight at once.

        Only the bands of latitude that hold the rows are read and decoded.

        Args:
          requests: for each variable the indices of times, [n], in any order and
            with repeats (None for static variables), and a slice of latitudes.
          folded: rows are mirror pairs of latitudes, counted from the poles, and come
            as `model.sphere.grids.fold` arranges them, at no further cost.
          longitudes: of all variables; others are decoded too, but take no memory.

        Returns:
          float32 arrays [n, level, rows, longitude], [n, rows, longitude] for surface
          and [rows, longitude] for static variables; [..., 2, rows, longitude] if
          folded.

        Raises:
          UserError: if a variable is not in the store.
          IndexError: if a time is not.
          DamagedStoreError: if a shard is missing or fails its checksum.
          Unavailable: if storage does not answer.
        """
        reads = self._reads(requests, folded, longitudes)
        # In one batch, neighbouring chunks are one request, and so is a shard's index.
        with ts.Batch() as batch:
            pending = [self._start(read, batch) for read in reads]
        results: dict[str, np.ndarray] = {}
        for read, values, futures in pending:
            try:
                for future in futures:
                    future.result()
            except ValueError as error:
                found = re.search(r"/c/(\d+)", str(error))
                shard = f"shard {found[1]}" if found else "a shard"
                if is_outage(error):
                    raise Unavailable(
                        f"{self.path}: {shard} of {read.array} cannot be read at "
                        f"present: {one_line(error)}"
                    ) from error
                raise DamagedStoreError(
                    f"{self.path}: {shard} of {read.array} is missing or damaged: "
                    f"{one_line(error)}"
                ) from error
            results |= self._split(read, values)
        return {name: results[name] for name in requests}

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
        content = Folder(self.path).read_json(STATISTICS_FILE)
        if content is None:
            raise DamagedStoreError(f"{self.path}: {STATISTICS_FILE} is missing")
        return content["variables"]

    def _check(self, name: str) -> None:
        if name not in self.variables:
            raise UserError(
                f"{self.path} has no {name}: it has {', '.join(self.variables)}"
            )

    def _array(self, array: str) -> ts.TensorStore:
        with self._lock:
            if array not in self._arrays:
                self._arrays[array] = _open(self.path, self.plan, array)
            return self._arrays[array]

    def _reads(
        self,
        requests: Mapping[str, tuple[np.ndarray | None, slice]],
        folded: bool,
        longitudes: slice,
    ) -> list["_Read"]:
        """Requests by array: what lies in one array, at the same place, is one read."""
        reads: dict[tuple, _Read] = {}
        owner = {n: a for a, names in self.plan.arrays.items() for n in names}
        for name, (times, rows) in requests.items():
            self._check(name)
            static = self.plan.kind(name) == "static"
            if static != (times is None):
                only = "times=None" if static else "indices of times"
                raise ValueError(f"{name} is read with {only}")
            index = None if times is None else np.asarray(times, np.int64)
            if index is not None and index.size:
                if index.min() < 0 or index.max() >= len(self.times):
                    raise IndexError(
                        f"times {index.min()} to {index.max()} of {name}: the store "
                        f"has {len(self.times)}"
                    )
            latitudes = self.grid.latitudes
            band = slice(*rows.indices(latitudes // 2 if folded else latitudes))
            place = None if index is None else index.tobytes()
            key = (owner[name], place, band.start, band.stop, band.step)
            read = _Read(owner[name], index, band, folded, longitudes, (name,))
            if key in reads:
                read = dataclasses.replace(read, names=(*reads[key].names, name))
            reads[key] = read
        return list(reads.values())

    def _start(
        self, read: "_Read", batch: ts.Batch
    ) -> tuple["_Read", np.ndarray, list[ts.WriteFutures]]:
        view = self._array(read.array)
        if read.array == STACKED_ARRAY:
            view = view[:, self._channels(read)]
        if read.folded:
            view = _fold(view, read.rows)
        else:
            view = view[(..., read.rows, slice(None))]
        view = view[(..., read.longitudes)]
        if read.times is None:
            parts = [(slice(None), view)]
            values = _aligned(view.shape)
        else:
            parts = [(place, view[times]) for place, times in _runs(read.times)]
            values = _aligned((len(read.times), *view.shape[1:]))
        # Into memory of NumPy: fresh memory of TensorStore's is slower to get.
        target = ts.array(values)
        futures = [
            target[place].translate_to[0].write(part.translate_to[0], batch=batch)
            for place, part in parts
        ]
        return read, values, futures

    def _channels(self, read: "_Read") -> slice:
        channels = [self.plan.channels(name) for name in read.names]
        return slice(min(c.start for c in channels), max(c.stop for c in channels))

    def _split(self, read: "_Read", values: np.ndarray) -> dict[str, np.ndarray]:
        if read.array != STACKED_ARRAY:
            return {read.array: values}
        first = self._channels(read).start
        parts = {}
        for name in read.names:
            own = self.plan.channels(name)
            part = values[:, own.start - first : own.stop - first]
            parts[name] = part if self.kind(name) == "levels" else part[:, 0]
        return parts


@dataclasses.dataclass(frozen=True)
class _Read:
    """One read of one array: some times, rows and longitudes, of some variables."""

    array: str
    times: np.ndarray | None
    rows: slice
    folded: bool
    longitudes: slice
    names: tuple[str, ...]


def _aligned(shape: tuple[int, ...]) -> np.ndarray:
    """Memory for float32 values, that JAX on a CPU takes for its own without a copy."""
    size = 4 * math.prod(shape)
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    first = -memory.ctypes.data % _ALIGNMENT
    return memory[first : first + size].view(np.float32).reshape(shape)


def _fold(view: ts.TensorStore, pairs: slice) -> ts.TensorStore:
    """Mirror pairs of latitudes, as `model.sphere.grids.fold` arranges them."""
    last = view.shape[-2] - 1
    mirrored = slice(last - pairs.start, last - pairs.stop, -pairs.step)
    halves = [view[(..., rows, slice(None))] for rows in (pairs, mirrored)]
    return ts.stack([half.translate_to[0] for half in halves], axis=view.rank - 2)


def _runs(times: np.ndarray) -> Iterator[tuple[slice, slice]]:
    """Equally spaced times: where they are among `times`, and in the array.

    Slices read faster than lists of times.
    """
    index = times.tolist()
    first = 0
    while first < len(index):
        last = first + 1
        step = max(1, index[last] - index[first]) if last < len(index) else 1
        while last < len(index) and index[last] - index[last - 1] == step:
            last += 1
        yield slice(first, last), slice(index[first], index[last - 1] + 1, step)
        first = last


def group_attributes(plan: Plan) -> dict[str, Any]:
    """Attributes of the store's group."""
    return {
        **plan.attributes,
        "Conventions": "CF-1.11",
        "grid": plan.grid,
        "regridding": plan.regridding,
        "regridded_from": plan.source,
        "forcing_shift_hours": plan.forcing_shift_hours,
        "config_hash": plan.config_hash,
    }


@functools.cache
def _context() -> ts.Context:
    # Nothing is kept: between two reads of a shard's index lie, in random order, far
    # more decoded chunks than memory holds.
    return ts.Context(
        {
            "gcs_request_concurrency": {"limit": _REQUESTS},
            "gcs_request_retries": {"initial_delay": _FIRST_RETRY},
        }
    )


def _open(path: str, plan: Plan, array: str) -> ts.TensorStore:
    spec = {
        "driver": "zarr3",
        "kvstore": f"{Folder(path).url}{array}/",
        "metadata": array_metadata(plan, array),
        # Absent chunks are errors; by default they would read as NaN.
        "fill_missing_data_reads": False,
        "recheck_cached_data": "open",
    }
    # The plan knows the metadata, of a store that is being extended too.
    return ts.open(spec, context=_context(), read=True, assume_metadata=True).result()
