"""Reading windows of a store, as training does; other formats and libraries beside it.

All read the same random windows in turns, in one process, from a warm page cache.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import pathlib
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import numpy as np
import tensorstore as ts

from launch import object_store
from launch.benchmarks.store_judges import Reader, make_judges
from launch.benchmarks.synthetic_store import make_store
from model.sphere.grids import parse_grid
from pipeline.errors import UserError
from pipeline.plan import LAYOUTS, Plan
from pipeline.progress import progress
from pipeline.store import Store
from train.data import Loader, Windows, keep_freed_memory
from train.mesh import MeshShape, make_mesh

FRAMES = 13  # of a window
BATCH = 8
BATCH_BYTES = 1e9
"""A batch of the loader holds fewer windows if they are larger: it keeps several."""

PARTS = (1, 2, 4)
"""Into how many parts mirror pairs are split between processes."""

_LATENCY = 0.03
_FAILURE_RATES = (0.0, 0.05)
_IN_FLIGHT = (1, 8)
_LOADED = 6  # batches, after those that were prefetched


def run(args: argparse.Namespace) -> dict[str, Any]:
    """The case, figures of ours and of the judges, and their ratios, by grid."""
    grids = args.grid.split(",")
    for grid in grids:
        try:
            parse_grid(grid)
        except ValueError as error:
            raise UserError(str(error)) from error
    if args.rounds < 1:
        raise UserError(f"--rounds={args.rounds} must be at least 1")
    if args.frames is not None and args.frames < 2 * FRAMES:
        raise UserError(f"--frames={args.frames} must be at least {2 * FRAMES}")
    if args.folder is not None and not os.path.isdir(args.folder):
        raise UserError(f"--folder={args.folder} is not a folder: make it first")
    result: dict[str, Any] = {
        "case": {
            "what": f"random windows of {FRAMES} frames of 7 variables on 37 levels "
            "and 2 on the surface, random waves; page cache warm, freed memory kept; "
            "medians over rounds; `ratio` is the speed of ours by that of a judge in "
            "the same round",
            "cores": len(os.sched_getaffinity(0)),
            "rounds": args.rounds,
            "frames": {grid: args.frames or _default_frames(grid) for grid in grids},
        },
        "ours": {},
        "judge": {},
        "ratio": {},
    }
    for grid in grids:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            frames = result["case"]["frames"][grid]
            store = make_store(f"{folder}/store", grid, frames)
            compressed, uncompressed = make_judges(store, folder)
            taken, ratios = race(store, {**compressed, **uncompressed}, args.rounds)
            best = min(compressed, key=lambda name: ratios[name])
            result["ours"][grid] = {
                **taken.pop("ours"),
                "stored_ratio": stored_ratio(store),
                "parts": {n: read_parts(store, n) for n in PARTS},
                "loader": in_new_process(load, store.path, store.plan),
            }
            result["judge"][grid] = {"fastest_compressed": best, **taken}
            result["ratio"][grid] = {"fastest_compressed": ratios[best], **ratios}
    if args.object_store:
        grid = grids[0]
        frames = result["case"]["frames"][grid]
        result["case"]["object_store"] = {"grid": grid, "latency_s": _LATENCY}
        result["ours"]["object_store"] = read_objects(grid, frames, args.folder)
    return result


def _default_frames(grid: str) -> int:
    """About 1 GB of them on TL63, at least 64."""
    points = np.prod(parse_grid(grid).shape)
    return max(64, int(128 * 64 * 128 / points))


def all_windows(store: Store) -> Windows:
    return Windows(store, 0, len(store.times) - 1, FRAMES, 6)


def race(
    store: Store, judges: dict[str, Reader], rounds: int
) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """What windows take by reader, and how much faster ours is than each judge.

    Processor time is the steadier figure on a machine that others use too.
    """
    keep_freed_memory()  # as the loader of training does; it serves all readers
    windows = all_windows(store)
    draw = random.Random(0)
    readers = {
        name: lambda i, read=read: read(i, i + FRAMES) for name, read in judges.items()
    }
    readers["ours"] = lambda i: windows.read(np.array([i]))
    seconds: dict[str, list[float]] = {name: [] for name in readers}
    processor: dict[str, list[float]] = {name: [] for name in readers}
    for turn in progress(range(rounds + 1), f"{store.grid}: rounds of reading"):
        for name in draw.sample(list(readers), len(readers)):
            window = draw.randrange(len(windows))
            start, used = time.perf_counter(), time.process_time()
            readers[name](window)
            if turn:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
                processor[name].append(time.process_time() - used)
    taken = {
        name: {
            "samples_per_second": 1 / statistics.median(seconds[name]),
            "cpu_ms_per_sample": 1e3 * statistics.median(processor[name]),
        }
        for name in readers
    }
    ratios = {
        name: statistics.median(
            theirs / ours
            for theirs, ours in zip(seconds[name], seconds["ours"], strict=True)
        )
        for name in judges
    }
    return taken, ratios


def stored_ratio(store: Store) -> float:
    """Bytes of all shards by those of their values."""
    files = [
        f for a in store.plan.arrays for f in pathlib.Path(store.path, a).glob("c/**/*")
    ]
    stored = sum(file.stat().st_size for file in files if file.is_file())
    return stored / (4 * len(store.times) * _values(store.plan))


def _values(plan: Plan) -> int:
    """Number of values of one time."""
    return int(sum(np.prod(plan.shape(array)[1:]) for array in plan.arrays))


def read_parts(store: Store, parts: int) -> dict[str, float]:
    """What TensorStore reads for processes that hold a part of all mirror pairs each.

    Returns:
      Bytes read (with indices of shards) by those that the values wanted take, stored,
      on average and at worst; range requests for a window, likewise.
    """
    windows = all_windows(store)
    pairs = store.grid.latitudes // 2
    numbers = np.linspace(0, len(windows) - 1, 4).astype(int)
    wanted = 4 * FRAMES * _values(store.plan) * stored_ratio(store) / parts
    ratios, requests = [], []
    for part in range(parts):
        before = _file_metrics()
        for number in numbers:
            windows.read(
                np.array([number]),
                slice(pairs * part // parts, pairs * (part + 1) // parts),
            )
        after = _file_metrics()
        ratios.append((after[0] - before[0]) / (wanted * len(numbers)))
        requests.append((after[1] - before[1]) / len(numbers))
    return {
        "bytes_per_byte_wanted": float(np.mean(ratios)),
        "bytes_per_byte_wanted_at_worst": float(np.max(ratios)),
        "requests_per_sample": float(np.mean(requests)),
    }


def _file_metrics() -> tuple[int, int]:
    """Bytes that TensorStore has read from files, and range requests."""
    prefix = "/tensorstore/kvstore/file/"
    metrics = {
        metric["name"]: sum(value.get("value", 0) for value in metric["values"])
        for metric in ts.experimental_collect_matching_metrics(prefix)
        if metric["name"] in (f"{prefix}bytes_read", f"{prefix}batch_read")
    }
    return metrics.get(f"{prefix}bytes_read", 0), metrics.get(f"{prefix}batch_read", 0)


def load(path: str, plan: Plan) -> dict[str, float]:
    """Batches through the loader of training, and the same reads without it."""
    windows = all_windows(Store(path, plan))
    draw = np.random.default_rng(0)
    window_bytes = 4 * FRAMES * _values(plan)
    batch_size = max(1, min(BATCH, int(BATCH_BYTES / window_bytes)))
    before = peak_memory()
    taken = []
    for _ in range(_LOADED + 1):
        numbers = draw.integers(0, len(windows), batch_size)
        start = time.perf_counter()
        windows.read(numbers)
        taken.append(time.perf_counter() - start)
    batch_bytes = batch_size * window_bytes
    without = peak_memory()
    loader = Loader(windows, make_mesh(MeshShape()), batch_size, seed=0)
    for _ in range(4):  # what was prefetched while this process had other work
        next(loader)
    start = time.perf_counter()
    for _ in range(_LOADED):
        next(loader)
    seconds = time.perf_counter() - start
    return {
        "samples_per_second": _LOADED * batch_size / seconds,
        "samples_per_second_without": batch_size / statistics.median(taken[1:]),
        "batch": batch_size,
        "batch_bytes": batch_bytes,
        "memory_in_batches": (peak_memory() - before) / batch_bytes,
        "memory_in_batches_without": (without - before) / batch_bytes,
    }


def peak_memory() -> int:
    """Bytes that this process has occupied at most."""
    # getrusage would count the parent's, from before this process was its own.
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", status)[1])


def read_objects(grid: str, frames: int, folder: str | None) -> dict[str, Any]:
    """Windows from a stand-in object store, a process of its own, by layout."""
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=folder) as path:
        stores = {
            layout: make_store(f"{path}/{layout}", grid, frames, layout)
            for layout in LAYOUTS
        }
        with _object_store(path) as url:
            for layout, store in stores.items():
                arguments = (url, f"gs://bucket/{layout}", store.plan)
                result[layout] = in_new_process(read_remote, *arguments)
    return result


def read_remote(url: str, address: str, plan: Plan) -> list[dict[str, float]]:
    """Windows of a store at a gs:// address, which a server stands in for."""
    os.environ.update(object_store.environment(url))
    windows = all_windows(Store(address, plan))
    windows.read(np.array([0]))  # connects
    draw = np.random.default_rng(0)
    result = []
    for failure_rate in _FAILURE_RATES:
        for in_flight in _IN_FLIGHT:
            numbers = draw.integers(0, len(windows), 2 * BATCH)
            settings = {"failure_rate": failure_rate, "reset": True}
            _ask(f"{url}/settings", json.dumps(settings).encode())
            start = time.perf_counter()
            with futures.ThreadPoolExecutor(in_flight) as pool:
                for _ in pool.map(lambda i: windows.read(np.array([i])), numbers):
                    pass
            seconds = time.perf_counter() - start
            counts = _ask(f"{url}/statistics")
            result.append(
                {
                    "failure_rate": failure_rate,
                    "windows_in_flight": in_flight,
                    "samples_per_second": len(numbers) / seconds,
                    "requests_per_sample": counts["get"] / len(numbers),
                    "failed_requests": counts["failed"],
                }
            )
    return result


@contextlib.contextmanager
def _object_store(folder: str) -> Iterator[str]:
    """Address of an object store that serves a folder."""
    command = [sys.executable, "-m", "launch.object_store"]
    options = [f"--folder={folder}", f"--latency={_LATENCY}"]
    with subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, text=True
    ) as it:
        try:
            assert it.stdout is not None
            yield it.stdout.readline().strip()
        finally:
            it.terminate()


def _ask(url: str, body: bytes | None = None) -> dict[str, Any]:
    with urllib.request.urlopen(url, body) as answer:
        return json.load(answer)


def in_new_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Its result, from a process with memory and settings of its own."""
    spawn = multiprocessing.get_context("spawn")
    with futures.ProcessPoolExecutor(1, spawn) as pool:
        return pool.submit(function, *arguments).result()
