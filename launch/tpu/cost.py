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
import itertools
import math
import re
from collections.abc import Iterator, Mapping

import numpy as np

from launch.tpu import hlo
from launch.tpu.parts import PHASES, part_of


@dataclasses.dataclass(frozen=True)
class Chip:
    """A TPU chip, which is one JAX device here.

    Attributes:
      peak: bfloat16 operations a second.
      memory_bandwidth: of HBM, bytes a second.
      link_bandwidth: of one link in one direction, bytes a second.
      memory: of HBM that the compiler gives a program, bytes.
      network_bandwidth: of the data-centre network between slices, in one direction,
        bytes a second: a host's, divided by its chips.
      vector_peak: operations a second on single numbers.
    """

    peak: float
    memory_bandwidth: float
    link_bandwidth: float
    memory: float
    network_bandwidth: float
    vector_peak: float


_GIB = 2.0**30
# Speeds from the JAX scaling book (jax-ml.github.io/scaling-book), sizes from the
# compiler's own messages (v4, which was not asked: of its data sheet). Networks: hosts
# of 4 chips, of v5e and v6e 8, with 200 Gbit/s, of v6e 800. Vectors: four operations a
# cycle on each of a core's 1024 lanes; cycles of v6e as of v5p, others from their peak.
CHIPS = {
    "v4": Chip(2.75e14, 1.2e12, 4.5e10, 32 * _GIB, 25e9 / 4, 8.6e12),
    "v5e": Chip(1.97e14, 8.1e11, 4.5e10, 15.75 * _GIB, 25e9 / 8, 6.2e12),
    "v5p": Chip(4.59e14, 2.77e12, 9e10, 95.73 * _GIB, 25e9 / 4, 1.43e13),
    "v6e": Chip(9.2e14, 1.6e12, 9e10, 31.24 * _GIB, 100e9 / 8, 7.2e12),
}
# Assumed, not measured.
COLLECTIVE_LATENCY = 5e-6  # s, to start one
HOP_LATENCY = 1e-6  # s, for every further device on the ring
NETWORK_LATENCY = 1e-4  # s, to start one between slices

_PASSES = {"highest": 6, "high": 3}
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
COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)
_FREE_CALLS = {"AllocateBuffer", "ConsumeBuffer", "Sharding"}
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
            if _told(instruction) is None:
                total.unknown[name] = total.unknown.get(name, 0) + times
        moved = _memory_bytes(program, computation, instruction)
        total.bytes += times * moved
        if between := _between_slices(computation, instruction, chip, slices):
            record(between, instruction, times)
            continue
        if within := _within_slice(program, computation, instruction, chip, mesh):
            record(within, instruction, times)
            continue
        flops, mxu_flops, vector = _operations(program, computation, instruction)
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


# ---- operations


def _operations(
    program: hlo.Program, computation: hlo.Computation, instruction: hlo.Instruction
) -> tuple[float, float, float]:
    """Of matrix products, the same times their passes, and vector operations.

    The last of kernels alone: what the compiler makes costs its bytes.
    """
    told = _told(instruction)
    if told is not None:
        return told
    return *_flops(program, computation, instruction), 0.0


def _told(instruction: hlo.Instruction) -> tuple[float, float, float] | None:
    """What a kernel tells of its operations (`model.kernels.Operations`).

    It tells those of one sample, and how many numbers they make.
    """
    found = [
        re.search(rf'kernel_metadata=\{{[^}}]*"{name}":"(\d+)"', instruction.attributes)
        for name in ("flops", "mxu_flops", "vector", "elements")
    ]
    if instruction.opcode != "custom-call" or not all(found):
        return None
    *operations, elements = (float(x.group(1)) for x in found)
    samples = sum(math.prod(x.shape) for x in instruction.results) / elements
    return tuple(samples * n for n in operations)


def _flops(
    program: hlo.Program, computation: hlo.Computation, instruction: hlo.Instruction
) -> tuple[float, float]:
    """Operations of the matrix products in an instruction, and times their passes."""
    flops = mxu_flops = 0.0
    for inside, product in _products(program, computation, instruction):
        left, right = (o.results[0] for o in inside.operands(product))
        result = product.results[0]
        if product.opcode == "dot":
            contracted = _numbers(product, "lhs_contracting_dims")
            terms = math.prod(left.shape[d] for d in contracted)
            operations = 2.0 * math.prod(result.shape) * terms
        else:
            operations = _convolution_flops(product, left, right, result)
        flops += operations
        mxu_flops += operations * _passes(product, left, right)
    return flops, mxu_flops


def _products(
    program: hlo.Program, computation: hlo.Computation, instruction: hlo.Instruction
) -> Iterator[tuple[hlo.Computation, hlo.Instruction]]:
    if instruction.opcode in ("dot", "convolution"):
        yield computation, instruction
    elif instruction.opcode == "fusion":
        inside = program.computations[instruction.called("calls")]
        for inner in inside.instructions.values():
            yield from _products(program, inside, inner)


def _passes(product: hlo.Instruction, left: hlo.Array, right: hlo.Array) -> int:
    """Of bfloat16 products; only float32 operands need more than one."""
    if "f32" not in (left.kind, right.kind):
        return 1
    precision = re.search(r"operand_precision=\{(\w+),", product.attributes)
    return _PASSES.get(precision.group(1), 1) if precision else 1


def _convolution_flops(
    product: hlo.Instruction, left: hlo.Array, right: hlo.Array, result: hlo.Array
) -> float:
    """The TPU compiler writes products of matrices as convolutions.

    Batches are windows of which one element at a time meets the input, so that the
    pairs of output and window that do meet must be counted.
    """
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", product.attributes).groups()
    window = re.search(r"window=\{([^}]*)\}", product.attributes)
    fields = dict(f.split("=") for f in window.group(1).split()) if window else {}
    inputs, kernel, output = labels
    pairs = 1
    for i in range(sum(c.isdigit() for c in inputs)):
        pairs *= _meetings(
            size_in=left.shape[inputs.index(str(i))],
            size_out=result.shape[output.index(str(i))],
            size=right.shape[kernel.index(str(i))],
            stride=_field(fields, "stride", i, 1),
            padding=int(fields["pad"].split("x")[i].split("_")[0])
            if "pad" in fields
            else 0,
            input_step=_field(fields, "lhs_dilate", i, 1),
            step=_field(fields, "rhs_dilate", i, 1),
        )
    batch = result.shape[output.index("b")]
    features = result.shape[output.index("f")]
    terms = right.shape[kernel.index("i")]
    return 2.0 * batch * features * terms * pairs


def _field(fields: dict[str, str], name: str, i: int, default: int) -> int:
    return int(fields[name].split("x")[i]) if name in fields else default


def _meetings(
    *,
    size_in: int,
    size_out: int,
    size: int,
    stride: int,
    padding: int,
    input_step: int,
    step: int,
) -> int:
    """Pairs of output and window positions of a convolution that meet an input."""
    out = np.arange(size_out)[:, None] * stride
    position = out - padding + np.arange(size)[None, :] * step
    inside = (position >= 0) & (position <= (size_in - 1) * input_step)
    return int(np.sum(inside & (position % input_step == 0)))


def _numbers(instruction: hlo.Instruction, attribute: str) -> list[int]:
    found = re.search(rf"{attribute}=\{{([^}}]*)\}}", instruction.attributes)
    return (
        [int(n) for n in found.group(1).split(",")] if found and found.group(1) else []
    )


# ---- memory


def _memory_bytes(
    program: hlo.Program, computation: hlo.Computation, instruction: hlo.Instruction
) -> float:
    """Bytes that an instruction moves to and from HBM."""
    operands = computation.operands(instruction)
    if instruction.opcode == "fusion":
        inside = program.computations[instruction.called("calls")]
        parameters = {
            int(i.literal): i
            for i in inside.instructions.values()
            if i.opcode == "parameter"
        }
        read = sum(
            min(_in_memory(o), _read_of_parameter(inside, parameters[n]))
            for n, o in enumerate(operands)
        )
        return read + _written_by_fusion(inside, instruction)
    kind = instruction.opcode.removesuffix("-start")
    if kind in _PARTIAL:
        # The results of `slice-start` are its source, then what is taken.
        taken = instruction.results[int(kind != instruction.opcode)]
        from_memory = _in_memory(operands[0]) > 0
        return from_memory * taken.padded_bytes + _in_memory_array(taken)
    if kind == "dynamic-update-slice":
        update = operands[1].results[0]
        written = instruction.results[0].space == 0
        return _in_memory_array(update) + written * update.padded_bytes
    if kind == "send":  # read, and copied no more
        return _in_memory(operands[0])
    results = instruction.results
    if instruction.opcode == "copy-start":  # the copy, then its source
        results = results[:1]
    elif kind in COLLECTIVES and kind != instruction.opcode:  # sources, then copies
        results = results[len(operands) : 2 * len(operands)]
    written = sum(_in_memory_array(r) for r in results)
    return written + sum(_in_memory(o) for o in operands)


def _in_memory_array(array: hlo.Array) -> float:
    return array.padded_bytes if array.space == 0 else 0.0


def _in_memory(instruction: hlo.Instruction) -> float:
    """Bytes of an instruction's results that lie in HBM."""
    return sum(_in_memory_array(r) for r in instruction.results)


_PARTIAL = ("dynamic-slice", "slice", "gather")


def _read_of_parameter(inside: hlo.Computation, parameter: hlo.Instruction) -> float:
    """Bytes that a fusion reads of a parameter, if it takes only slices; or infinity.

    An array that is updated in place is not read.
    """
    users = [i for i in inside.instructions.values() if parameter.name in i.operands]
    total = 0.0
    for user in users:
        if user.opcode in _PARTIAL and user.operands[0] == parameter.name:
            total += sum(r.padded_bytes for r in user.results)
        elif (
            user.opcode == "dynamic-update-slice" and user.operands[0] == parameter.name
        ):
            continue
        elif user.opcode == "bitcast":
            total += _read_of_parameter(inside, user)
        else:
            return math.inf
    return total


def _written_by_fusion(inside: hlo.Computation, fusion: hlo.Instruction) -> float:
    """Bytes that a fusion writes: updates in place count as what they change."""
    root = inside.root
    outputs = inside.operands(root) if root.opcode == "tuple" else [root]
    total = 0.0
    for output, result in itertools.zip_longest(outputs, fusion.results):
        while output is not None and output.opcode == "bitcast":
            output = inside.operands(output)[0]
        if output is not None and output.opcode == "dynamic-update-slice":
            update = inside.instructions[output.operands[1]].results[0]
            total += update.padded_bytes if result.space == 0 else 0.0
        elif result is not None:
            total += _in_memory_array(result)
    return total


# ---- collectives


def _within_slice(
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
    groups, n = _groups(attributes, math.prod(mesh.values()))
    sent = [a for o in computation.operands(instruction) for a in o.results]
    moved = sum(a.padded_bytes for a in sent)
    return Collective(
        kind,
        _axes(groups, mesh),
        bytes=_received(kind, sum(a.bytes for a in sent), n),
        seconds=_collective_seconds(kind, moved, n, chip),
    )


def _between_slices(
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


def _groups(attributes: str, devices: int) -> tuple[np.ndarray, int]:
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


def _axes(groups: np.ndarray, mesh: Mapping[str, int]) -> str:
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
