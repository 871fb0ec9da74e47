"""Bytes that a compiled program's instructions move to and from HBM."""

import itertools
import math

from launch.tpu import hlo
from launch.tpu.collectives import COLLECTIVES

_PARTIAL = ("dynamic-slice", "slice", "gather")


def memory_bytes(
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
