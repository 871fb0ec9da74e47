"""Exchanges between devices that a compiled program's instructions are."""

import dataclasses
import math
import re
from collections.abc import Mapping

import numpy as np

from launch.tpu import hlo
from launch.tpu.chips import Chip

# Assumed, not measured.
COLLECTIVE_LATENCY = 5e-6  # s, to start one
HOP_LATENCY = 1e-6  # s, for every further device on the ring
NETWORK_LATENCY = 1e-4  # s, to start one between slices

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)
# Between the chips of a slice, and between slices: the interconnect, and the network of
# the data centre.
ICI, DCN = "ICI", "DCN"


@dataclasses.dataclass
class Collective:
    """All collectives of one kind over the same mesh axes and network.

    Attributes:
      kind: such as `all-gather`.
      axes: of the mesh, joined by `+`; of those between slices, `slices`.
      network: `ICI` or `DCN`.
      count: how many run.
      bytes: that a device receives, of all of them.
      seconds: modelled, of all of them.
    """

    kind: str
    axes: str
    network: str = ICI
    count: int = 0
    bytes: float = 0.0
    seconds: float = 0.0


def within_slice(
    program: hlo.Program,
    computation: hlo.Computation,
    instruction: hlo.Instruction,
    chip: Chip,
    mesh: Mapping[str, int],
) -> Collective | None:
    """The collective that an instruction is, if it is one."""
    found = _collective(program, instruction)
    if found is None:
        return None
    kind, attributes = found
    groups, n = device_groups(attributes, math.prod(mesh.values()))
    sent = [a for o in computation.operands(instruction) for a in o.results]
    moved = sum(a.padded_bytes for a in sent)
    return Collective(
        kind,
        mesh_axes(groups, mesh),
        bytes=_received(kind, sum(a.bytes for a in sent), n),
        seconds=_collective_seconds(kind, moved, n, chip),
    )


def between_slices(
    computation: hlo.Computation, instruction: hlo.Instruction, chip: Chip, slices: int
) -> Collective | None:
    """The exchange with other slices that an instruction begins, if it does.

    The compiler leaves such exchanges to the hosts: a `send` names the collective that
    they are to do with what every slice's device of the same place sends.
    """
    transfer = re.search(
        r'_xla_megascale_transfer_type="(\w+)"', instruction.attributes
    )
    if instruction.opcode != "send" or transfer is None:
        return None
    kind = transfer.group(1).lower().replace("_", "-")
    sent = computation.operands(instruction)[0].results[0].bytes
    received = _received(kind, sent, slices) if kind in COLLECTIVES else sent
    seconds = NETWORK_LATENCY + received / chip.network_bandwidth
    return Collective(kind, "slices", DCN, bytes=received, seconds=seconds)


def _collective(
    program: hlo.Program, instruction: hlo.Instruction
) -> tuple[str, str] | None:
    """Kind and attributes of a collective, also of one within a fusion."""
    kind = instruction.opcode.removesuffix("-start")
    if kind in COLLECTIVES:
        return kind, instruction.attributes
    if instruction.opcode == "fusion":
        inside = program.computations[instruction.called("calls")]
        kinds = {i.opcode: i for i in inside.instructions.values()}
        for kind in COLLECTIVES:
            if kind in kinds:
                # The compiler fuses an all-reduce with the slice that is used of it.
                scatters = kind == "all-reduce" and "dynamic-slice" in kinds
                name = "reduce-scatter" if scatters else kind
                return name, kinds[kind].attributes
    return None


def device_groups(attributes: str, devices: int) -> tuple[np.ndarray, int]:
    """Groups of devices that exchange, [group, member], and how many a group has."""
    if pairs := re.search(r"source_target_pairs=\{(\{[^=]*?\})\}", attributes):
        members = np.array(re.findall(r"\{(\d+),(\d+)\}", pairs.group(1)), int)
        return members, 2
    if iota := re.search(
        r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes
    ):
        shape, dims, order = (
            [int(n) for n in g.split(",")] if g else None for g in iota.groups()
        )
        ids = np.arange(math.prod(dims)).reshape(dims)
        return ids.transpose(order or range(len(dims))).reshape(shape), shape[-1]
    if listed := re.search(r"replica_groups=\{(\{.*?\})\}", attributes):
        groups = re.findall(r"\{([\d,]+)\}", listed.group(1))
        members = np.array([[int(n) for n in g.split(",")] for g in groups])
        return members, members.shape[1]
    return np.arange(devices)[None], devices


def mesh_axes(groups: np.ndarray, mesh: Mapping[str, int]) -> str:
    """The mesh axes along which the members of groups differ."""
    if not groups.size:
        return "none"
    places = np.stack(np.unravel_index(groups, tuple(mesh.values())))
    differ = np.any(places != places[:, :, :1], axis=(1, 2))
    names = [name for name, d in zip(mesh, differ, strict=True) if d]
    return "+".join(names) or "none"


def _received(kind: str, operand_bytes: float, n: int) -> float:
    """Bytes that a device receives, of a collective among n devices."""
    factors = {
        "all-gather": n - 1,
        "reduce-scatter": (n - 1) / n,
        "all-reduce": 2 * (n - 1) / n,
        "all-to-all": (n - 1) / n,
        "collective-permute": 1,
    }
    return operand_bytes * factors[kind]


def _collective_seconds(kind: str, operand_bytes: float, n: int, chip: Chip) -> float:
    """On a ring of n devices, which uses both directions if there are three or more."""
    if n < 2:
        return 0.0
    links = chip.link_bandwidth * min(2, n - 1)
    if kind == "collective-permute":
        return COLLECTIVE_LATENCY + operand_bytes / chip.link_bandwidth
    if kind == "all-to-all":  # every part travels its own distance
        hops = sum(min(i, n - i) for i in range(n))
        moved = operand_bytes / n * hops
    else:
        moved = _received(kind, operand_bytes, n)
    return COLLECTIVE_LATENCY + HOP_LATENCY * (n - 1) + moved / links
