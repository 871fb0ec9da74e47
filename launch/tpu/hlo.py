"""Reading a compiled XLA program: its text as instructions, shapes and calls.

Only what a cost model needs is kept. The text is that of
`jax.stages.Compiled.as_text()`, of the TPU compiler or of another one.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

_BITS = {"pred": 8, "token": 0, "opaque": 0}
_SHAPE = re.compile(r"(\w+)\[([^\]]*)\](?:\{([^}]*)\})?")
_INSTRUCTION = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = ")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of an instruction's result.

    Attributes:
      kind: of its elements, such as `f32`.
      shape: logical.
      minor_to_major: order of dimensions in memory.
      tile: the last dimensions in memory are padded to multiples of these.
      space: memory that holds it, 0 for the main one (HBM on a TPU), 1 for VMEM.
    """

    kind: str
    shape: tuple[int, ...]
    minor_to_major: tuple[int, ...]
    tile: tuple[int, ...]
    space: int

    @property
    def item_bytes(self) -> float:
        if self.kind in _BITS:
            return _BITS[self.kind] / 8
        digits = re.search(r"\d+", self.kind)
        return int(digits.group()) / 8 if digits else 0

    @property
    def bytes(self) -> float:
        """Of the elements."""
        return math.prod(self.shape) * self.item_bytes

    @property
    def padded_bytes(self) -> float:
        """Of the elements and the padding to whole tiles, which is moved with them."""
        sizes = [self.shape[d] for d in reversed(self.minor_to_major)]
        for i in range(1, min(len(self.tile), len(sizes)) + 1):
            sizes[-i] = -(-sizes[-i] // self.tile[-i]) * self.tile[-i]
        return math.prod(sizes) * self.item_bytes


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
      name, opcode: as in the text.
      results: its arrays; several for a tuple.
      operands: names of instructions of the same computation.
      attributes: what follows the operands, as text.
      is_root: whether it is its computation's result.
      literal: the text between the parentheses.
    """

    name: str
    opcode: str
    results: tuple[Array, ...]
    operands: tuple[str, ...]
    attributes: str
    is_root: bool
    literal: str

    @property
    def name_in_model(self) -> str:
        """What JAX calls it: names of scopes and transformations, and an operation."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found.group(1) if found else ""

    def called(self, attribute: str) -> str | None:
        """Name of the computation that `attribute` (`body`, `calls`, ...) names."""
        match = re.search(rf"\b{attribute}=%?([\w.\-]+)", self.attributes)
        return match.group(1) if match else None


@dataclasses.dataclass(frozen=True)
class Computation:
    """Instructions by name, in the order in which they are executed."""

    name: str
    instructions: dict[str, Instruction]

    @property
    def root(self) -> Instruction:
        return next(i for i in self.instructions.values() if i.is_root)

    def operands(self, instruction: Instruction) -> list[Instruction]:
        return [self.instructions[name] for name in instruction.operands]


@dataclasses.dataclass(frozen=True)
class Program:
    """All computations by name, and the one that runs first."""

    computations: dict[str, Computation]
    entry: Computation

    def executed(self) -> Iterator[tuple[Computation, Instruction, int]]:
        """Every instruction that runs on its own, and how many times.

        Loops, calls and branches are entered: all of them, in all rounds but where
        `train.losses.rollout.taken_in` names a share. Fused computations are not, for
        they run as one instruction.
        """
        yield from self._executed(self.entry, 1)

    def _executed(
        self, computation: Computation, times: int
    ) -> Iterator[tuple[Computation, Instruction, int]]:
        """Of a computation that runs so often."""
        for instruction in computation.instructions.values():
            inner: list[tuple[str, float]] = []
            if instruction.opcode == "while":
                trips = self.trip_count(instruction)
                inner.append((instruction.called("body"), trips))
            elif instruction.opcode == "call":
                inner.append((instruction.called("to_apply"), 1))
            elif instruction.opcode == "conditional":
                share = _share_of_rounds(instruction)
                inner += [(name, share) for name in _branches(instruction)]
            elif instruction.opcode == "async-start":
                inner.append((instruction.called("calls"), 1))
            if not inner:
                yield computation, instruction, times
            for name, trips in inner:
                count = round(times * trips)
                yield from self._executed(self.computations[name], count)

    def trip_count(self, loop: Instruction) -> int:
        """How many times the body of a `while` runs.

        Raises:
          ValueError: if that is decided only at run time.
        """
        known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
        if known:
            return int(known.group(1))
        # A scan counts from 0, and its condition compares with a constant.
        condition = self.computations[loop.called("condition")]
        test, operands = condition.root, condition.operands(condition.root)
        if test.opcode == "fusion":
            inside = self.computations[test.called("calls")]
            test = inside.root
            operands = [
                operands[int(i.literal)] if i.opcode == "parameter" else i
                for i in inside.operands(test)
            ]
        if test.opcode == "compare" and "direction=LT" in test.attributes:
            limit = operands[1]
            if limit.opcode == "constant" and limit.results[0].kind in ("s32", "u32"):
                return int(limit.literal)
        raise ValueError(f"the trip count of loop {loop.name} is not known")


def parse(text: str) -> Program:
    """Reads the text of a compiled program."""
    computations: dict[str, Computation] = {}
    entry = current = None
    # What a kernel tells of itself has lines of its own.
    text = re.sub(
        r"kernel_metadata=\{[^}]*\}", lambda x: x.group().replace("\n", " "), text
    )
    for line in text.splitlines():
        line = re.sub(r"/\*.*?\*/", "", line)
        header = _COMPUTATION.match(line)
        if header and " = " not in line.split("(")[0]:
            current = Computation(header.group(2), {})
            computations[current.name] = current
            if header.group(1):
                entry = current
        elif current and (match := _INSTRUCTION.match(line)):
            instruction = _instruction(match, line[match.end() :])
            current.instructions[instruction.name] = instruction
    if entry is None:
        raise ValueError("this is not the text of a compiled program: it has no ENTRY")
    return Program(computations, entry)


def _instruction(match: re.Match, rest: str) -> Instruction:
    shape_end = _closing(rest, 0) if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:shape_end], rest[shape_end:].lstrip()
    opcode = re.match(r"[\w\-]+", rest).group()
    end = _closing(rest, len(opcode))
    inside, attributes = rest[len(opcode) + 1 : end - 1], rest[end:]
    return Instruction(
        name=match.group(2),
        opcode=opcode,
        results=tuple(_array(m) for m in _SHAPE.finditer(shape)),
        operands=tuple(re.findall(r"%([\w.\-]+)", inside)),
        attributes=attributes,
        is_root=match.group(1) is not None,
        literal=inside,
    )


def _closing(text: str, start: int) -> int:
    """Index behind the parenthesis that closes the one at `start`."""
    depth = 0
    for i in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[i], 0)
        if depth == 0:
            return i + 1
    raise ValueError(f"unbalanced parentheses: {text[:80]}")


def _array(match: re.Match) -> Array:
    kind, sizes, layout = match.groups()
    shape = tuple(int(s.lstrip("<=")) for s in sizes.split(",") if s.strip())
    order, _, rest = (layout or "").partition(":")
    minor_to_major = tuple(int(d) for d in order.split(",") if d.strip())
    tile = re.search(r"T\(([\d,]+)\)", rest)
    space = re.search(r"S\((\d+)\)", rest)
    return Array(
        kind=kind,
        shape=shape,
        minor_to_major=minor_to_major or tuple(range(len(shape)))[::-1],
        tile=tuple(int(t) for t in tile.group(1).split(",")) if tile else (),
        space=int(space.group(1)) if space else 0,
    )


def _share_of_rounds(conditional: Instruction) -> float:
    name = re.search(r"taken_in_(\d+)_of_(\d+)_rounds", conditional.attributes)
    return int(name.group(1)) / int(name.group(2)) if name else 1


def _branches(instruction: Instruction) -> list[str]:
    listed = re.search(r"branch_computations=\{([^}]*)\}", instruction.attributes)
    if listed:
        return re.findall(r"%?([\w.\-]+)", listed.group(1))
    names = ("true_computation", "false_computation")
    return [instruction.called(name) for name in names]
