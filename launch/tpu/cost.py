"""What a compiled program costs on a TPU: operations, bytes, collectives, and a time.

The time is modelled, not measured. For every instruction, times the number of times
that it runs,

  matrix products     passes x operations / peak
  memory              bytes to and from HBM / bandwidth of HBM
  collectives         bytes / bandwidth of a link, as on a ring, plus a latency
  between slices      bytes / this chip's share of its host's network, plus a latency

of which the larger of the first two counts, and the others are added: nothing is
taken to overlap with a collective. A float32 product takes 6 passes at precision
`highest`, 3 at `high`; bytes are those of whole tiles, without what stays in VMEM.
Vector operations cost their bytes alone, but those of this project's own kernels, which
tell what they do, can take longer than both; where devices lie on the torus is not
considered. Custom calls of unknown cost are named and cost their bytes. It is a
roofline: real programs are slower, and comparisons of two programs are what it is for.
"""

import dataclasses
import re
from collections.abc import Mapping

from launch.tpu import hlo
from launch.tpu.chips import Chip
from launch.tpu.collectives import DCN, Collective, between_slices, within_slice
from launch.tpu.memory import memory_bytes
from launch.tpu.operations import operations_of, told_by_kernel
from launch.tpu.parts import PHASES, part_of

_FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "after-all",
    "partition-id",
    "replica-id",
    "opt-barrier",
    "domain",
}
_FREE_CALLS = {"AllocateBuffer", "ConsumeBuffer", "Sharding"}


@dataclasses.dataclass
class Cost:
    """Of one run of a program, on one device.

    Attributes:
      flops: of all matrix products, a multiplication and an addition being two.
      mxu_flops: the same, times the passes that their precision takes.
      bytes: read from and written to HBM, also by collectives.
      collectives: by network, axes and kind.
      compute_seconds, memory_seconds, collective_seconds: each kind alone; the last of
        both networks.
      seconds: modelled time.
      parts: the same by part of a training step and phase (`part_of`).
      unknown: custom calls of unknown cost, by target, and how many run.
    """

    flops: float = 0.0
    mxu_flops: float = 0.0
    bytes: float = 0.0
    collectives: list[Collective] = dataclasses.field(default_factory=list)
    compute_seconds: float = 0.0
    memory_seconds: float = 0.0
    collective_seconds: float = 0.0
    seconds: float = 0.0
    parts: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    unknown: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def collective_bytes(self) -> float:
        """Received, over both networks."""
        return sum(c.bytes for c in self.collectives)

    @property
    def network_bytes(self) -> float:
        """Received from other slices."""
        return sum(c.bytes for c in self.collectives if c.network == DCN)

    @property
    def network_seconds(self) -> float:
        return sum(c.seconds for c in self.collectives if c.network == DCN)


def cost(text: str, chip: Chip, mesh: Mapping[str, int], slices: int = 1) -> Cost:
    """The cost of a compiled program.

    Args:
      text: of the program, `Compiled.as_text()`.
      chip: that it is to run on.
      mesh: sizes of the mesh axes by name, in their order.
      slices: over which the first axis is spread.

    Raises:
      ValueError: if a loop's number of rounds is decided only at run time.
    """
    program = hlo.parse(text)
    total = Cost()
    collectives: dict[tuple[str, str, str], Collective] = {}

    def add_seconds(instruction: hlo.Instruction, seconds: float) -> None:
        part, phase = part_of(instruction.name_in_model)
        total.seconds += seconds
        phases = total.parts.setdefault(part, dict.fromkeys(PHASES, 0.0))
        phases[phase] += seconds

    def record(
        collective: Collective, instruction: hlo.Instruction, times: int
    ) -> None:
        """Adds one collective, which runs `times`."""
        key = collective.kind, collective.axes, collective.network
        known = collectives.setdefault(key, Collective(*key))
        known.count += times
        known.bytes += times * collective.bytes
        known.seconds += times * collective.seconds
        total.collective_seconds += times * collective.seconds
        add_seconds(instruction, times * collective.seconds)

    for computation, instruction, times in program.executed():
        if instruction.opcode in _FREE or instruction.opcode.endswith("-done"):
            continue
        if instruction.opcode == "custom-call":
            target = re.search(r'custom_call_target="([^"]*)"', instruction.attributes)
            name = target.group(1) if target else "?"
            if name in _FREE_CALLS:
                continue
            if told_by_kernel(instruction) is None:
                total.unknown[name] = total.unknown.get(name, 0) + times
        moved = memory_bytes(program, computation, instruction)
        total.bytes += times * moved
        if between := between_slices(computation, instruction, chip, slices):
            record(between, instruction, times)
            continue
        if within := within_slice(program, computation, instruction, chip, mesh):
            record(within, instruction, times)
            continue
        flops, mxu_flops, vector = operations_of(program, computation, instruction)
        compute = max(mxu_flops / chip.peak, vector / chip.vector_peak)
        memory = moved / chip.memory_bandwidth
        total.flops += times * flops
        total.mxu_flops += times * mxu_flops
        total.compute_seconds += times * compute
        total.memory_seconds += times * memory
        add_seconds(instruction, times * max(compute, memory))
    total.collectives = sorted(
        collectives.values(), key=lambda c: (c.network, c.axes, c.kind)
    )
    return total
