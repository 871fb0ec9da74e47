"""Compiling for TPUs that are not there, and what the compiler tells of the program."""

import dataclasses
import math
import re
import time
from typing import Any

import jax
from jax.sharding import Mesh

from launch.compile_anew import compile_anew
from launch.tpu.chips import Chip
from launch.tpu.cost import Cost, cost


@dataclasses.dataclass(frozen=True)
class Measurement:
    """All of one device.

    Attributes:
      fits: whether the program's memory suffices.
      memory: bytes by kind: `arguments`, `outputs`, `aliased` (outputs that overwrite
        arguments), `temporaries`, `program`; `peak` of them all, and `available`;
        `host`, temporaries that wait in the memory of a device's host.
        Of a program that does not fit only the last two, and what is `missing`.
      cost: operations, bytes, collectives and modelled time, if it fits.
      compiler: the compiler's own count of `flops` and `bytes`, loops' bodies counted
        once, and its `optimal_seconds`, which ignore precision and loops too.
      compile_seconds: it took to compile.
    """

    fits: bool
    memory: dict[str, float]
    cost: Cost | None
    compiler: dict[str, float]
    compile_seconds: float

    def to_json(self) -> dict[str, Any]:
        """As nested dicts of numbers."""
        result: dict[str, Any] = {"fits": self.fits, "memory": self.memory}
        if self.cost is not None:
            c = self.cost
            result |= {
                "flops": c.flops,
                "mxu_flops": c.mxu_flops,
                "bytes": c.bytes,
                "collectives": [dataclasses.asdict(x) for x in c.collectives],
                "collective_bytes": c.collective_bytes,
                "network_bytes": c.network_bytes,
                "modelled_seconds": {
                    "total": c.seconds,
                    "compute": c.compute_seconds,
                    "memory": c.memory_seconds,
                    "collectives": c.collective_seconds,
                    "network": c.network_seconds,
                },
                "parts": c.parts,
                "unknown_custom_calls": c.unknown,
                "compiler": self.compiler,
            }
        return result | {"compile_seconds": round(self.compile_seconds, 1)}


def measure(
    program: Any, arguments: tuple, mesh: Mesh, chip: Chip, slices: int = 1
) -> Measurement:
    """Compiles a jitted function for the devices of `mesh`.

    Args:
      program: what `jax.jit` returned.
      arguments: trees of `jax.ShapeDtypeStruct`s with shardings on `mesh`.
      mesh: of TPU devices (`launch.tpu.topology.devices`).
      chip: what they are.
      slices: over which the first axis of `mesh` is spread.
    """
    begun = time.monotonic()
    lowered = program.lower(*arguments)
    try:
        with compile_anew():
            compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        needed = _memory_needed(str(error))
        if needed is None:
            raise
        memory = {
            "peak": needed,
            "available": chip.memory,
            "missing": needed - chip.memory,
        }
        return Measurement(False, memory, None, {}, time.monotonic() - begun)
    seconds = time.monotonic() - begun
    stats = compiled.memory_analysis()
    memory = {
        "arguments": stats.argument_size_in_bytes,
        "outputs": stats.output_size_in_bytes,
        "aliased": stats.alias_size_in_bytes,
        "temporaries": stats.temp_size_in_bytes,
        "program": stats.generated_code_size_in_bytes,
        "host": stats.host_temp_size_in_bytes,
        "peak": stats.peak_memory_in_bytes,
        "available": chip.memory,
    }
    analysis = compiled.cost_analysis()
    compiler = {
        "flops": analysis["flops"],
        "bytes": analysis["bytes accessed"],
        "optimal_seconds": analysis.get("optimal_seconds"),
    }
    return Measurement(
        fits=True,
        memory=memory,
        cost=cost(compiled.as_text(), chip, dict(mesh.shape), slices),
        compiler=compiler,
        compile_seconds=seconds,
    )


def _memory_needed(message: str) -> float | None:
    """Bytes of HBM that a program needs, if the message is that it has too few."""
    if "RESOURCE_EXHAUSTED" not in message:
        return None
    found = re.search(
        r"Used ([\d.]+)([KMGT]?) of [\d.]+[KMGT]? hbm"
        r"|memory required[^(]*\(([\d.]+)([KMGT]?)\)",
        message,
    )
    if found is None:
        return None
    number, unit = (group for group in found.groups() if group is not None)
    return float(number) * 2.0 ** (10 * ("", "K", "M", "G", "T").index(unit))


def device_bytes(tree: Any) -> int:
    """Bytes on one device of a tree of shapes with shardings."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
        for x in jax.tree.leaves(tree)
    )


def abstract(tree: Any, shardings: Any) -> Any:
    """Shapes of arrays (or of their shapes), lying as `shardings` say."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings
    )
