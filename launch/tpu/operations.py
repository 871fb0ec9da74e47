"""Operations of a compiled program's instructions: of matrix products and kernels."""

import math
import re
from collections.abc import Iterator

import numpy as np

from launch.tpu import hlo

_PASSES = {"highest": 6, "high": 3}


def operations_of(
    program: hlo.Program, computation: hlo.Computation, instruction: hlo.Instruction
) -> tuple[float, float, float]:
    """Of matrix products, the same times their passes, and vector operations.

    The last of kernels alone: what the compiler makes costs its bytes.
    """
    told = told_by_kernel(instruction)
    if told is not None:
        return told
    return *_flops(program, computation, instruction), 0.0


def told_by_kernel(instruction: hlo.Instruction) -> tuple[float, float, float] | None:
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
