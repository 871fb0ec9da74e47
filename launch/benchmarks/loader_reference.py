"""The reference design of a loader: blocks of a Zarr, read by xarray and threads.

After the reader of Kochkov et al. (2024): time is cut into overlapping blocks, every
variable of a block is read in a thread of its own, windows are cut from blocks, and
mixed in a buffer. It used tf.data; here the same is made of threads and a queue.
"""

import functools
import itertools
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures

import jax
import numpy as np
import xarray

from pipeline.store import Store

Fields = dict[str, np.ndarray]
"""[time, level, latitude, longitude] by variable, or without level."""

READ_THREADS = 100  # of variables
REQUEST_BYTES = 1e8  # of one variable of a block
_AHEAD = 2  # batches


def write_reference_store(store: Store, path: str) -> None:
    """The store's fields as one Zarr: a chunk is a field of one time; no shards."""
    for first in range(0, len(store.times), 16):
        times = np.arange(first, min(first + 16, len(store.times)))
        read = store.read_many(dict.fromkeys(store.variables, (times, slice(None))))
        places = ("latitude", "longitude")
        dataset = xarray.Dataset(
            {
                name: (("time", *(("level",) if x.ndim == 4 else ()), *places), x)
                for name, x in read.items()
            },
            coords={"time": store.times[times]},
        )
        if first:
            dataset.to_zarr(path, append_dim="time", consolidated=False)
        else:
            encoding = {n: {"chunks": (1, *x.shape[1:])} for n, x in read.items()}
            dataset.to_zarr(path, encoding=encoding, consolidated=False)


class Blocks:
    """Reads blocks of times, each variable in a thread of its own.

    Attributes:
      times: that there are.
      frames_read, windows_cut: so far.
    """

    def __init__(self, path: str) -> None:
        dataset = xarray.open_zarr(path, chunks=None, consolidated=False)
        self.times = dataset.sizes["time"]
        self._variables = dict(dataset.data_vars)
        self._pool = futures.ThreadPoolExecutor(READ_THREADS)
        self.frames_read = self.windows_cut = 0

    def windows(self, first: int, count: int, frames: int) -> list[Fields]:
        """All windows of so many frames in a block of `count` times."""
        block = self._read(first, count)
        cut = [
            {name: x[i : i + frames] for name, x in block.items()}
            for i in range(count - frames + 1)
        ]
        self.frames_read += count
        self.windows_cut += len(cut)
        return cut

    def _read(self, first: int, count: int) -> Fields:
        times = slice(first, first + count)
        pending = {
            name: self._pool.submit(lambda x=x: x.isel(time=times).values)
            for name, x in self._variables.items()
        }
        return {name: future.result() for name, future in pending.items()}

    @property
    def largest_frame(self) -> int:
        """Bytes of the largest variable at one time."""
        return max(x.nbytes for x in self._variables.values()) // self.times


Read = Callable[[], list[Fields]]
"""Reads a block and cuts it."""


def given_windows(blocks: Blocks, starts: Sequence[int], frames: int) -> Iterator[Read]:
    """These windows in this order: every one is a block."""
    for start in starts:
        yield functools.partial(blocks.windows, start, frames, frames)


def block_length(blocks: Blocks, frames: int) -> int:
    """Times of a block, at least those of a window."""
    return max(frames, int(REQUEST_BYTES / blocks.largest_frame))


def shuffled_blocks(blocks: Blocks, frames: int, seed: int) -> Iterator[Read]:
    """Endless blocks in random order; each gives all windows that begin in it."""
    length = block_length(blocks, frames)
    own = length - frames + 1  # windows; the next block repeats the other frames
    firsts = list(range(0, blocks.times - frames + 1, own))
    draw = random.Random(seed)
    while True:
        for first in draw.sample(firsts, len(firsts)):
            count = min(length, blocks.times - first)
            yield functools.partial(blocks.windows, first, count, frames)


def mixed(windows: Iterator[Fields], size: int, seed: int) -> Iterator[Fields]:
    """Windows in the random order of a buffer of so many."""
    draw = random.Random(seed)
    buffer = list(itertools.islice(windows, size))
    for window in windows:
        place = draw.randrange(size)
        yield buffer[place]
        buffer[place] = window


def batches(windows: Iterator[Fields], size: int) -> Iterator[dict[str, jax.Array]]:
    """Batches on the device, assembled ahead by a thread."""

    def make() -> dict[str, jax.Array]:
        some = [next(windows) for _ in range(size)]
        return jax.device_put({n: np.stack([w[n] for w in some]) for n in some[0]})

    with futures.ThreadPoolExecutor(1) as pool:
        pending = deque(pool.submit(make) for _ in range(_AHEAD))
        while True:
            batch = pending.popleft().result()
            pending.append(pool.submit(make))
            yield batch


def in_parallel(reads: Iterator[Read], at_once: int) -> Iterator[Fields]:
    """Windows of blocks, so many of which are read at a time, in their order."""
    with futures.ThreadPoolExecutor(at_once) as pool:
        pending = deque(pool.submit(read) for read in itertools.islice(reads, at_once))
        while pending:
            yield from pending.popleft().result()
            for read in itertools.islice(reads, 1):
                pending.append(pool.submit(read))
