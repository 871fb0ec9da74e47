"""Loading windows of a store with Grain.

The pipeline is a pure function of (seed, index of the batch), so its position is one
integer, is the same on every process, and does not depend on threads. Every process
reads only the samples and columns that its own devices hold.
"""

import ctypes
import dataclasses
import functools
from typing import Any

import grain
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from model.spec import (
    LEVEL_VARIABLES,
    STATIC_VARIABLES,
    SURFACE_VARIABLES,
    ModelSpec,
)
from pipeline.errors import UserError
from pipeline.store import Store
from train.mesh import batch_layout

# Of malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8

Batch = dict[str, Any]
"""`frames`: by ERA5 name [sample, frame, (level,) 2, latitude, longitude], latitudes in
mirror pairs (`model.sphere.grids.fold`); `days` and `seconds` since 1970-01-01 of each
sample's first frame, [sample]; `sample` and `member`, the number of a sample in the
batch and of a member of it, [sample]. With members every sample is there so often."""


def data_seed(seed: int, stage: int, order: int) -> int:
    """Of the order of windows in a stage, which is another one after every rollback."""
    return int(np.random.SeedSequence((seed, stage, order)).generate_state(1)[0])


def check_store(store: Store) -> None:
    """Raises UserError if the store lacks what a model needs."""
    if store.sigma.size:
        raise UserError(
            f"{store.path} is on sigma layers: train on a store of pressure levels, "
            "made without --sigma_layers"
        )
    needed = (*LEVEL_VARIABLES, *SURFACE_VARIABLES, *STATIC_VARIABLES)
    missing = [name for name in needed if name not in store.variables]
    if missing:
        raise UserError(
            f"{store.path} lacks {', '.join(missing)}: preprocess it again with all of "
            f"{', '.join(needed)}"
        )


def parse_window(store: Store, times: str) -> tuple[int, int]:
    """First and last index of the store's times within START/STOP, inclusive."""
    try:
        start, stop = (np.datetime64(t, "ns") for t in times.split("/"))
    except ValueError:
        raise UserError(
            f"times {times!r} are not START/STOP, such as 2001-01-01/2001-01-31"
        ) from None
    if len(times.split("/")[1]) <= 10:  # a day stands for all of it
        stop += np.timedelta64(23, "h")
    inside = np.flatnonzero((store.times >= start) & (store.times <= stop))
    if inside.size == 0:
        raise UserError(
            f"{store.path} has nothing within {times}: it holds {store.times[0]} to "
            f"{store.times[-1]}"
        )
    return int(inside[0]), int(inside[-1])


@dataclasses.dataclass(frozen=True)
class Windows:
    """All windows of equally spaced frames within a span of a store.

    Attributes:
      store: of the data.
      first, last: indices of the span's times, inclusive.
      frames: number of frames in a window.
      hours: between two frames.

    Raises:
      UserError: if `hours` is no multiple of the store's step, or the span is shorter
        than a window.
    """

    store: Store
    first: int
    last: int
    frames: int
    hours: int

    def __post_init__(self) -> None:
        step = int(self.store.step / np.timedelta64(1, "h"))
        if self.hours % step:
            raise UserError(
                f"frames {self.hours} h apart: {self.store.path} has a frame every "
                f"{step} h"
            )
        if len(self) < 1:
            gaps = self.store.plan.skipped
            raise UserError(
                f"the span {self.store.times[self.first]} to "
                f"{self.store.times[self.last]} is shorter than a window of "
                f"{self.frames} frames every {self.hours} h"
                + (", or all of them straddle a missing time" if gaps else "")
            )

    @property
    def stride(self) -> int:
        return self.hours // int(self.store.step / np.timedelta64(1, "h"))

    @functools.cached_property
    def starts(self) -> np.ndarray:
        """Index in the store of each window's first frame, [window].

        Windows that would straddle a time that the store lacks are left out.
        """
        times = self.store.times[self.first : self.last + 1]
        reach = (self.frames - 1) * self.stride
        ends = np.arange(reach, len(times))
        hours = np.timedelta64((self.frames - 1) * self.hours, "h")
        return self.first + np.flatnonzero(times[ends] - times[ends - reach] == hours)

    def __len__(self) -> int:
        return len(self.starts)

    def read(
        self,
        windows: np.ndarray,
        pairs: slice = slice(None),
        longitudes: slice = slice(None),
    ) -> Batch:
        """Reads the windows of these numbers, or of them these columns.

        Pairs of latitudes are counted from the poles.
        """
        starts = self.starts[np.asarray(windows)]
        times = starts[:, None] + self.stride * np.arange(self.frames)
        names = (*LEVEL_VARIABLES, *SURFACE_VARIABLES)
        frames = self.store.read_many(
            dict.fromkeys(names, (times.ravel(), pairs)), True, longitudes
        )
        frames = {k: x.reshape(*times.shape, *x.shape[1:]) for k, x in frames.items()}
        seconds = self.store.times[starts].astype("datetime64[s]").astype(np.int64)
        return {
            "frames": frames,
            "days": (seconds // 86400).astype(np.int32),
            "seconds": (seconds % 86400).astype(np.int32),
        }


@functools.cache
def keep_freed_memory(one_arena: bool = False) -> None:
    """Lets this process reuse the memory of old batches for new ones.

    Else glibc returns it to the kernel, and to get it back, page by page, takes longer
    than to decode what is read into it. Does nothing with another allocator's library.

    Args:
      one_arena: whether all threads share their memory; those arenas that glibc gives
        to other threads than the first return it all the same.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)  # never
        if one_arena:
            mallopt(_M_ARENA_MAX, 1)


class BatchReader:
    """Reads this process's part of a global batch and makes global arrays of it.

    Members of a sample are spread over the `ensemble` axis of the mesh; where there is
    one member of each, that axis has samples as `data` has.
    """

    def __init__(
        self, windows: Windows, mesh: Mesh, batch: int, members: int = 1
    ) -> None:
        """
        Args:
          windows: to read.
          mesh: of the devices.
          batch: samples.
          members: of each; `mesh.ensemble` must divide them, unless there is one.
        """
        self._windows, self._mesh, self._batch = windows, mesh, batch * members
        self._grid = windows.store.grid
        self._sample, self._member = rows_of_batch(mesh, batch, members)
        self._samples, _, self._pairs, self._longitudes = self._local_part()

    @property
    def _folded_shape(self) -> tuple[int, int, int]:
        latitudes, longitudes = self._grid.shape
        return 2, latitudes // 2, longitudes

    def _local_part(self) -> tuple[slice, slice, slice]:
        """Samples, hemispheres, pairs and longitudes of this process's devices."""
        shape = (self._batch, *self._folded_shape)
        sharding = NamedSharding(self._mesh, batch_layout(len(shape)))
        parts = sharding.addressable_devices_indices_map(shape).values()
        return tuple(
            slice(
                min(part[axis].indices(size)[0] for part in parts),
                max(part[axis].indices(size)[1] for part in parts),
            )
            for axis, size in enumerate(shape)
        )

    def read(self, numbers: np.ndarray) -> Batch:
        """This process's part of the batch of these windows, on the host."""
        sample, member = self._sample[self._samples], self._member[self._samples]
        own, place = np.unique(sample, return_inverse=True)
        batch = self._windows.read(numbers[own], self._pairs, self._longitudes)
        if len(own) < len(place):
            batch = jax.tree.map(lambda x: x[place], batch)
        return {**batch, "sample": sample, "member": member}

    def not_finite(self, numbers: np.ndarray) -> list[str]:
        """What is not finite in this process's part of these windows, if anything."""
        batch, windows = self.read(numbers), self._windows
        found = set()
        for name, x in batch["frames"].items():
            bad = ~np.isfinite(x).all(axis=tuple(range(2, x.ndim)))
            for row, frame in np.argwhere(bad):
                seconds = int(batch["days"][row]) * 86400 + int(batch["seconds"][row])
                hour = np.datetime64(seconds // 3600 + int(frame) * windows.hours, "h")
                found.add(f"{name} of {hour}")
        return sorted(found)

    def to_devices(self, local: Batch) -> Batch:
        """Global sharded arrays, from every process's part."""
        return jax.tree.map(self._global_array, local)

    def _global_array(self, local: np.ndarray) -> jax.Array:
        shape = (self._batch, *local.shape[1:])
        if local.ndim >= 4:
            shape = (*shape[:-3], *self._folded_shape)
        sharding = NamedSharding(self._mesh, batch_layout(len(shape)))
        return jax.make_array_from_process_local_data(sharding, local, shape)


def abstract_batch(spec: ModelSpec, mesh: Mesh, rows: int, frames: int) -> Batch:
    """Shapes of a batch of so many rows and frames, and where it lies."""
    latitudes, longitudes = spec.grid.shape
    points = (2, latitudes // 2, longitudes)

    def of(*shape: int, dtype: type = np.float32) -> jax.ShapeDtypeStruct:
        layout = NamedSharding(mesh, batch_layout(1 + len(shape)))
        return jax.ShapeDtypeStruct((rows, *shape), dtype, sharding=layout)

    fields = {n: of(frames, len(spec.levels), *points) for n in LEVEL_VARIABLES}
    fields |= {name: of(frames, *points) for name in SURFACE_VARIABLES}
    numbers = ("days", "seconds", "sample", "member")
    return {"frames": fields} | {name: of(dtype=np.int32) for name in numbers}


def rows_of_batch(
    mesh: Mesh, batch: int, members: int
) -> tuple[np.ndarray, np.ndarray]:
    """Which sample and member each row of a global batch is, int32 [row].

    Rows are split over `data` and `ensemble`, in this order.
    """
    if members == 1:
        return np.arange(batch, dtype=np.int32), np.zeros(batch, np.int32)
    data, ensemble = mesh.shape["data"], mesh.shape["ensemble"]
    rows = np.arange(batch * members, dtype=np.int32)
    by_sample = rows.reshape(data, batch // data, ensemble, members // ensemble)
    rows = by_sample.swapaxes(1, 2).ravel()
    return rows // members, rows % members


class Loader:
    """Endless global batches, shuffled anew in every epoch, as sharded arrays.

    Batches are read ahead into the host's memory, and one onto the devices, while a
    step runs. `delivered`, the number of batches so far, restores the position.
    """

    def __init__(
        self,
        windows: Windows,
        mesh: Mesh,
        batch: int,
        seed: int,
        members: int = 1,
        delivered: int = 0,
    ) -> None:
        """
        Args:
          windows: to read.
          mesh: of the devices.
          batch: samples.
          seed: of their order.
          members: of each sample.
          delivered: where to begin in that order.

        Raises:
          UserError: if there are fewer windows than samples.
        """
        if len(windows) < batch:
            raise UserError(
                f"train.batch={batch} is more than the {len(windows)} windows there are"
            )
        keep_freed_memory()
        self._reader = BatchReader(windows, mesh, batch, members)
        self._numbers = (
            grain.MapDataset.range(len(windows))
            .seed(seed)
            .shuffle()
            .repeat()
            .batch(batch, drop_remainder=True)  # or one sample overflows a length
        )
        batches = self._numbers.map(self._reader.read)
        # TensorStore decodes one batch on all cores; a second at once is slower.
        ahead = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
        self.delivered = delivered
        self._iterator = iter(batches.to_iter_dataset(ahead))
        self._iterator.set_state({"next_index": delivered})
        self._ahead: Batch | None = None

    def __iter__(self) -> "Loader":
        return self

    def __next__(self) -> Batch:
        batch = self._ahead or self._load()
        self._ahead = None
        self.delivered += 1
        return batch

    def read_ahead(self) -> None:
        """Begins to copy the next batch to the devices; call it while they are busy."""
        if self._ahead is None:
            self._ahead = self._load()

    def numbers(self, batch: int) -> np.ndarray:
        """Numbers of the windows of a batch, counted from the start, [sample]."""
        return self._numbers[batch]

    def not_finite(self, batch: int) -> list[str]:
        """What this process reads in a batch that is not finite, variable and time."""
        return self._reader.not_finite(self.numbers(batch))

    def _load(self) -> Batch:
        return self._reader.to_devices(next(self._iterator))
