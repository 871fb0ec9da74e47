"""How long an asynchronous checkpoint blocks, against the same one waited for.

A state of a given size, spread over all devices, is saved as training saves it, in
turns: once while steps go on, once with nothing else until it is on the disk. A step
is a product of matrices that is waited for.
"""

import argparse
import functools
import pathlib
import statistics
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pipeline.errors import UserError
from train.checkpoint import Checkpoints

_ARRAYS = 20  # the state of a network: some large arrays
_SIZE = 512  # of the matrices of a step


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Medians of the times, and how many steps were made during a save.

    Raises:
      UserError: if an argument makes no sense.
    """
    for name in ("megabytes", "rounds"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name}={getattr(args, name)} must be at least 1")
    state, scales = _make_state(args.megabytes)
    blocking, whole, synchronous, steps = [], [], [], []
    with (
        tempfile.TemporaryDirectory(prefix="podgcm_saves_", dir=args.folder) as folder,
        Checkpoints(pathlib.Path(folder), 1, 0, 10.0, 0) as saves,
    ):
        # The first save compiles the digests, and counts for nothing.
        for number in range(args.rounds + 1):
            begun = time.perf_counter()
            saves.save(2 * number, state, scales, {})
            blocked = time.perf_counter() - begun
            made = 0
            while saves.since is not None:
                _step()
                made += 1
            saves.wait()
            ended = time.perf_counter() - begun

            begun = time.perf_counter()
            saves.save(2 * number + 1, state, scales, {})
            saves.wait()
            if number:
                synchronous.append(time.perf_counter() - begun)
                blocking.append(blocked)
                whole.append(ended)
                steps.append(made)
    begun = time.perf_counter()
    for _ in range(20):
        _step()
    alone = (time.perf_counter() - begun) / 20
    median = statistics.median
    return {
        "blocking_ms": round(1e3 * median(blocking), 2),
        "synchronous_ms": round(1e3 * median(synchronous), 2),
        "ratio": round(median(blocking) / median(synchronous), 4),
        "steps_meanwhile": median(steps),
        "whole_ms": round(1e3 * median(whole), 2),
        "step_alone_ms": round(1e3 * alone, 2),
        "megabytes": args.megabytes,
        "devices": jax.device_count(),
        "rounds": args.rounds,
    }


def _make_state(megabytes: int) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Arrays of so many bytes in all, split over the devices; and small scales."""
    mesh = Mesh(jax.devices(), ("data",))
    count = jax.device_count()
    columns = 256
    rows = count * max(1, megabytes * 10**6 // (4 * columns * _ARRAYS * count))
    split = NamedSharding(mesh, PartitionSpec("data"))
    draw = jax.jit(
        functools.partial(jax.random.normal, shape=(rows, columns)),
        out_shardings=split,
    )
    keys = jax.random.split(jax.random.key(0), _ARRAYS)
    state = {f"array_{n:02d}": draw(key) for n, key in enumerate(keys)}
    everywhere = NamedSharding(mesh, PartitionSpec())
    scales = {"scale": jax.device_put(jnp.ones(8), everywhere)}
    return jax.block_until_ready((state, scales))


@functools.cache
def _matrix() -> jax.Array:
    return jax.random.normal(jax.random.key(1), (_SIZE, _SIZE))


@jax.jit
def _multiplied(x: jax.Array) -> jax.Array:
    return x @ x / _SIZE


def _step() -> None:
    _multiplied(_matrix()).block_until_ready()
