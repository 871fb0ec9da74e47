"""The loader of training, beside the reference design of blocks and threads.

Both deliver batches of the same windows in the same random order onto the device, in
turns, each turn in a process of its own, from a warm page cache. The reference with its
own order, of shuffled blocks, is shown too: it reads fewer frames for a window, and its
batches are of windows that are near in time.
"""

import argparse
import os
import statistics
import tempfile
import time
from typing import Any

import jax
import numpy as np

from launch.benchmarks import loader_reference as reference
from launch.benchmarks.store import (
    FRAMES,
    all_windows,
    in_new_process,
    peak_memory,
)
from launch.benchmarks.synthetic_store import make_store
from model.sphere.grids import parse_grid
from pipeline.errors import UserError
from pipeline.plan import Plan
from pipeline.progress import progress
from pipeline.store import Store
from train.data import Loader
from train.mesh import MeshShape, make_mesh

FIRST = 3  # batches, that fill what is read ahead, and are not timed
BUFFER_BYTES = 1e9  # of windows that the reference mixes
AT_ONCE = (1, 2, 4)  # windows that the reference reads; its best counts
_BLOCKS = 4  # at least, that are timed
_SEED = 0


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Samples and megabytes in a second, memory, frames read for a window, ratios.

    Raises:
      UserError: if an argument makes no sense.
    """
    try:
        parse_grid(args.grid)
    except ValueError as error:
        raise UserError(str(error)) from error
    for name in ("rounds", "batches", "batch"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name}={getattr(args, name)} must be at least 1")
    needed = args.batch + FRAMES - 1
    if args.frames < needed:
        raise UserError(f"--frames={args.frames} must be at least {needed}")
    if args.folder is not None and not os.path.isdir(args.folder):
        raise UserError(f"--folder={args.folder} is not a folder: make it first")
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        store = make_store(f"{folder}/store", args.grid, args.frames)
        zarr = f"{folder}/reference.zarr"
        reference.write_reference_store(store, zarr)
        case = (store.path, store.plan, zarr, args.batch, args.batches)
        readers = {"ours": ("ours", 1), "reference_blocks": ("blocks", 1)}
        readers |= {f"reference_{n}_at_once": ("windows", n) for n in AT_ONCE}
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in readers}
        for _ in progress(range(args.rounds), f"{args.grid}: rounds of loading"):
            for name, (kind, at_once) in readers.items():
                rounds[name].append(in_new_process(measure, kind, at_once, *case))
    figures = {
        name: {key: statistics.median(x[key] for x in taken) for key in taken[0]}
        for name, taken in rounds.items()
    }
    ratios = {
        name: statistics.median(
            ours["samples_per_second"] / theirs["samples_per_second"]
            for ours, theirs in zip(rounds["ours"], taken, strict=True)
        )
        for name, taken in rounds.items()
        if name != "ours"
    }
    same_order = [f"reference_{n}_at_once" for n in AT_ONCE]
    best = min(same_order, key=lambda name: ratios[name])
    return {
        "case": {
            "what": f"batches of {args.batch} windows of {FRAMES} frames on the "
            "device, 7 variables on 37 levels and 2 on the surface, random waves; page "
            "cache warm; medians over rounds; ratios are of samples in a second",
            "grid": args.grid,
            "frames": args.frames,
            "batches": args.batches,
            "rounds": args.rounds,
            "cores": len(os.sched_getaffinity(0)),
        },
        "ours": figures.pop("ours"),
        "judge": {"same_order": best, **figures},
        "ratio": {"same_order": ratios[best], **ratios},
    }


def measure(
    kind: str, at_once: int, path: str, plan: Plan, zarr: str, batch: int, count: int
) -> dict[str, float]:
    """What `count` batches of a reader take, after the first ones."""
    before = peak_memory()
    windows = all_windows(Store(path, plan))
    frames = windows.frames
    window_bytes = 4 * frames * sum(np.prod(plan.shape(n)[1:]) for n in plan.variables)
    loader = Loader(windows, make_mesh(MeshShape()), batch, _SEED)
    blocks = reference.Blocks(zarr)
    match kind:
        case "ours":
            delivered = iter(loader)
        case "windows":
            numbers = [loader.numbers(i) for i in range(FIRST + count + 2)]
            starts = windows.starts[np.concatenate(numbers)]
            reads = reference.given_windows(blocks, starts, frames)
            delivered = reference.batches(reference.in_parallel(reads, at_once), batch)
        case "blocks":
            reads = reference.shuffled_blocks(blocks, frames, _SEED)
            buffer = max(2 * batch, int(BUFFER_BYTES / window_bytes))
            some = reference.mixed(reference.in_parallel(reads, at_once), buffer, _SEED)
            delivered = reference.batches(some, batch)
            # Windows come by the block: over several, that is a steady stream.
            own = reference.block_length(blocks, frames) - frames + 1
            count = max(count, _BLOCKS * own // batch)
    for _ in range(FIRST):
        next(delivered)
    begun = time.perf_counter()
    for _ in range(count):
        jax.block_until_ready(next(delivered))
    seconds = time.perf_counter() - begun
    result = {
        "samples_per_second": count * batch / seconds,
        "megabytes_per_second": count * batch * window_bytes / seconds / 1e6,
        "memory_gb": (peak_memory() - before) / 1e9,
    }
    if kind == "blocks":
        result["frames_read_per_window"] = blocks.frames_read / blocks.windows_cut
    else:
        result["frames_read_per_window"] = float(frames)
    return result
