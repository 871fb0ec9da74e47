"""What a run would take: `podgcm preprocess --dry_run`.

Shapes of the source's chunks and of the plan's shards say what is read and written;
no value is read. What cannot be known so is assumed, and said.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.axes import Part
from pipeline.plan import Plan, source_parts
from pipeline.shards import (
    READ_AHEAD,
    Target,
    WorkItem,
    source_fields,
    span,
    work_items,
)
from pipeline.source import Field

# Raw bytes that a core reads, checks and regrids in a second. Measured on two cores of
# an AMD EPYC: chunks of 154 MB as ERA5's, packed by lz4, on a local disk.
CORE_BYTES_PER_SECOND = 300e6
# Packed size of what is written. Measured on random fields with the spectra of an
# atmosphere; fields with much zero, or fewer bits, take less.
PACKED_RATIO = 0.8
# A chunk in flight takes so many times its raw size. Measured for blosc.
CHUNK_COPIES = 2
# A shard exists raw, and packed, while it is written.
SHARD_COPIES = 2
# Python, Beam, TensorStore, and the weights of regridding.
PROCESS_BYTES = 0.5e9


def estimate(targets: Sequence[Target]) -> dict[str, Any]:
    """What it takes to make the stores from nothing.

    Args:
      targets: of one run.

    Returns:
      A dictionary that JSON can hold. `targets` lists for each store its shards, its
      objects (with all small files), its bytes raw and packed; the others are of the
      whole run: items of work, chunks and raw bytes that are read from the source,
      requests (chunks read, objects written), hours of cores, and the bytes of memory
      that each thread of a worker needs beside those of its process.
    """
    plan = targets[0][1]
    fields = source_fields(plan)
    items = work_items(targets, [set(plan.items()) for _, plan in targets])
    reads = [_reads(fields, targets, item) for item in items]
    chunks = sum(count for count, _ in reads)
    source_bytes = sum(size for _, size in reads)
    stores = [_store(address, plan) for address, plan in targets]
    objects = sum(store["objects"] for store in stores)
    memory = max(_memory(fields, targets, array) for array in plan.arrays)
    return {
        "items": len(items),
        "source_chunks": chunks,
        "source_bytes": source_bytes,
        "targets": stores,
        "requests": chunks + objects,
        "core_hours": source_bytes / CORE_BYTES_PER_SECOND / 3600,
        "memory_per_thread_bytes": memory,
        "assumed": {
            "core_bytes_per_second": CORE_BYTES_PER_SECOND,
            "packed_ratio": PACKED_RATIO,
            "chunk_copies": CHUNK_COPIES,
            "shard_copies": SHARD_COPIES,
            "process_bytes": PROCESS_BYTES,
        },
    }


def format_estimate(figures: dict[str, Any]) -> str:
    """The same, for people."""
    lines = [
        f"{figures['items']:,} items of work, independent of each other",
        f"reads   {figures['source_chunks']:,} chunks of the source, "
        f"{_size(figures['source_bytes'])} raw",
    ]
    for store in figures["targets"]:
        lines += [
            f"writes  {store['address']}: {store['shards']:,} shards, "
            f"{store['objects']:,} objects, {_size(store['raw_bytes'])} raw, about "
            f"{_size(store['packed_bytes'])} packed",
        ]
    return "\n".join(
        [
            *lines,
            f"takes   {figures['requests']:,} requests, "
            f"{figures['core_hours']:,.1f} hours of one core, "
            f"{_size(PROCESS_BYTES)} of memory for each process of workers and "
            f"{_size(figures['memory_per_thread_bytes'])} for each of its threads",
            "assumed:",
            f"  a core does {CORE_BYTES_PER_SECOND / 1e6:.0f} MB of raw source in a "
            "second, and the source and network keep up (measured with ERA5's chunks, "
            "lz4, on a local disk)",
            f"  packed, stores have {PACKED_RATIO:.0%} of their raw size (measured on "
            "synthetic fields with all bits)",
            f"  a chunk in flight takes {CHUNK_COPIES} times its raw size, and "
            f"{READ_AHEAD + 1} are in flight; a shard {SHARD_COPIES} times",
            "  statistics read what was written once more, which is not counted",
            "nothing was written, and no value was read",
        ]
    )


def _store(address: str, plan: Plan) -> dict[str, Any]:
    raw = sum(4 * math.prod(plan.shape(array)) for array in plan.arrays)
    shards = len(plan.items())
    return {
        "address": address,
        "grid": plan.grid,
        "times": plan.steps,
        "shard_steps": plan.shard_steps,
        "shards": shards,
        # With its marker and its moments.
        "objects": 3 * shards,
        "raw_bytes": raw,
        "packed_bytes": round(PACKED_RATIO * raw),
    }


def _reads(
    fields: dict[str, Field], targets: Sequence[Target], item: WorkItem
) -> tuple[int, int]:
    """Chunks that an item reads from the source, and their raw bytes."""
    plan = targets[0][1]
    count, size = 0, 0
    for variable in plan.arrays[item.array]:
        for name in source_parts(variable, plan.sigma_layers):
            field = fields[name]
            steps = np.array([[0, 0]])
            if field.axis is not None and not plan.is_static(item.array):
                times = plan.times[slice(*span(targets, item))]
                steps = field.axis.locate(times - field.shift)
            for number, part in enumerate(field.parts):
                own = steps[steps[:, 0] == number, 1]
                rows = len(np.unique(own // part.chunk_steps))
                count += rows * math.prod(n for n, _ in _chunks(part))
                size += rows * _block_bytes(part)
    return count, size


def _chunks(part: Part) -> list[tuple[int, int]]:
    """Chunks that are read, and points in each, along all dimensions but time.

    A chunk is read whole: of one level, or one member, too.
    """
    sizes = dict(zip(part.data.dims, part.data.shape, strict=True))
    chunks = part.data.encoding.get("preferred_chunks", {})
    result = []
    for dim in dict.fromkeys([*sizes, *chunks]):
        if part.axes.get(dim) != "time":
            points = chunks.get(dim, sizes.get(dim, 1))
            result.append((math.ceil(sizes.get(dim, 1) / points), points))
    return result


def _memory(fields: dict[str, Field], targets: Sequence[Target], array: str) -> int:
    """Bytes that a thread needs which works on an array."""
    plan = targets[0][1]
    read = 0
    for variable in plan.arrays[array]:
        names = source_parts(variable, plan.sigma_layers)
        read = max(read, sum(max(map(_block_bytes, fields[n].parts)) for n in names))
    shards = 0
    for _, own in targets:
        if not own.is_static(array):
            # One shard after the other; but all of a block, if variable by variable.
            steps = own.shard_steps
            if len(own.arrays[array]) > 1:
                steps = max(other.shard_steps for _, other in targets)
            shards += 4 * math.prod(own.shape(array)[1:]) * steps
    in_flight = CHUNK_COPIES * (READ_AHEAD + 1) * read
    return in_flight + SHARD_COPIES * shards


def _block_bytes(part: Part) -> int:
    return 4 * part.chunk_steps * math.prod(n * points for n, points in _chunks(part))


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} PB"
