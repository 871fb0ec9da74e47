"""A vectorised function whose body is one Pallas kernel, on TPUs.

XLA writes what a matrix product makes to a TPU's main memory, and reads it once more
for whatever follows. In a kernel it stays on the chip.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from model import partitioning

T = TypeVar("T")
Function = Callable[[Any, Any, Any], Any]

BLOCK = 8  # what the second last axis of an array in a TPU's memory is tiled by


class Axes(NamedTuple):
    """Over which of its arrays' axes a function is mapped: not the last.

    Attributes:
      arrays: of all arguments that have a gradient.
      results: of all results.
    """

    arrays: int
    results: int


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def mapped(function: Function, axes: Axes, whole: T, tables: T, arrays: T) -> Any:
    """`jax.vmap(function, (None, 0, axes.arrays), axes.results)`, in one kernel.

    Args:
      function: of the other arguments, of two axes or more each, to a tree of arrays;
        of what Pallas knows. Its gradient is formed from it within a kernel.
      axes: see there.
      whole: tree of arrays that every call gets; without a gradient.
      tables: tree of arrays that are mapped over their first axis; without a gradient.
      arrays: tree of arrays that are mapped over; the same number of each.
    """
    shapes = jax.eval_shape(
        _vmapped(function, axes.arrays, axes.results), whole, tables, arrays
    )
    return _call(function, whole, tables, arrays, shapes, (axes.arrays, axes.results))


def _forward(
    function: Function, axes: Axes, whole: T, tables: T, arrays: T
) -> tuple[Any, tuple]:
    return mapped(function, axes, whole, tables, arrays), (whole, tables, arrays)


def _backward(
    function: Function, axes: Axes, arguments: tuple, gradients: Any
) -> tuple[None, None, Any]:
    whole, tables, arrays = arguments

    def one(whole: Any, tables: Any, both: tuple) -> Any:
        arrays, gradients = both
        return jax.vjp(functools.partial(function, whole, tables), arrays)[1](
            gradients
        )[0]

    shapes = jax.eval_shape(lambda x: x, arrays)
    both = (axes.arrays, axes.results)
    result = _call(one, whole, tables, (arrays, gradients), shapes, (both, both[0]))
    return None, None, result


mapped.defvjp(_forward, _backward)


def _vmapped(function: Function, in_axes: Any, out_axis: int) -> Function:
    return jax.vmap(function, in_axes=(None, 0, in_axes), out_axes=out_axis)


def _call(
    function: Function,
    whole: Any,
    tables: Any,
    arrays: Any,
    shapes: Any,
    axes: tuple[Any, int],
) -> Any:
    """A kernel that maps a function; `axes` are those of `jax.vmap`."""
    array_axes = jax.tree.leaves(_broadcast(axes[0], arrays))
    arguments = (whole, tables, arrays)
    leaves, structure = jax.tree.flatten(arguments)
    in_axes = [None] * len(jax.tree.leaves(whole)) + [0] * len(jax.tree.leaves(tables))
    in_axes += array_axes
    out_leaves, out_structure = jax.tree.flatten(shapes)
    count = jax.tree.leaves(arrays)[0].shape[array_axes[0]]
    block = min(BLOCK, count)

    def kernel(*refs: Any) -> None:
        inputs, outputs = refs[: len(leaves)], refs[len(leaves) :]

        def one(i: jax.Array, _: None) -> None:
            taken = [r[_at(axis, i)] for r, axis in zip(inputs, in_axes, strict=True)]
            results = function(*structure.unflatten(taken))
            for ref, x in zip(outputs, jax.tree.leaves(results), strict=True):
                ref[_at(axes[1], i)] = x

        jax.lax.fori_loop(0, block, one, None)

    def spec(shape: tuple[int, ...], axis: int | None) -> pl.BlockSpec:
        sizes = [block if d == axis else n for d, n in enumerate(shape)]
        return pl.BlockSpec(
            tuple(sizes), lambda i: tuple(i * (d == axis) for d in range(len(shape)))
        )

    one = [_without(axis, x) for axis, x in zip(in_axes, leaves, strict=True)]
    operations = _operations(function, *structure.unflatten(one))
    operations = Operations(*(count * n for n in operations))
    over = frozenset().union(*(jax.typeof(x).mat.varying for x in leaves))
    varying = jax.sharding.ManualAxisType(varying=over)
    results = pl.pallas_call(
        kernel,
        grid=(pl.cdiv(count, block),),
        in_specs=[spec(x.shape, axis) for x, axis in zip(leaves, in_axes, strict=True)],
        out_specs=[spec(x.shape, axes[1]) for x in out_leaves],
        out_shape=[
            jax.ShapeDtypeStruct(x.shape, x.dtype, manual_axis_type=varying)
            for x in out_leaves
        ],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel",), vmem_limit_bytes=100 * 2**20
        ),
        interpret=partitioning.platform() != "tpu",
        name=getattr(function, "__name__", None),
        cost_estimate=pl.CostEstimate(
            flops=operations.flops,
            transcendentals=0,
            bytes_accessed=sum(x.size * x.dtype.itemsize for x in leaves + out_leaves),
        ),
        metadata={k: str(n) for k, n in operations._asdict().items()},
    )(*leaves)
    return out_structure.unflatten(results)


class Operations(NamedTuple):
    """Of a kernel, which no compiler tells.

    Attributes:
      flops: of products of matrices.
      mxu_flops: the same, times the passes that their precision takes.
      vector: additions, multiplications, conversions and moves of single numbers.
    """

    flops: int
    mxu_flops: int
    vector: int


_FREE = ("reshape", "broadcast_in_dim", "squeeze", "slice", "split", "unstack")


def _operations(function: Function, *arguments: Any) -> Operations:
    """Of a call of a function."""
    return _of_jaxpr(jax.make_jaxpr(function)(*arguments).jaxpr)


def _of_jaxpr(jaxpr: Any) -> Operations:
    total = Operations(0, 0, 0)
    for equation in jaxpr.eqns:
        inner = list(jax.core.jaxprs_in_params(equation.params))
        if inner:
            found = _of_jaxpr(inner[0])
        elif equation.primitive.name == "dot_general":
            found = _of_product(equation)
        elif equation.primitive.name in _FREE:
            continue
        else:
            made = sum(math.prod(x.aval.shape) for x in equation.outvars)
            found = Operations(0, 0, made)
        total = Operations(*(x + y for x, y in zip(total, found, strict=True)))
    return total


def _of_product(equation: Any) -> Operations:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval
    terms = math.prod(left.shape[d] for d in contracted)
    flops = 2 * terms * math.prod(equation.outvars[0].aval.shape)
    if left.dtype == jnp.bfloat16:  # one of three (`model.precision`)
        return Operations(flops // 3, flops, 0)
    return Operations(flops, 6 * flops, 0)  # as Pallas multiplies float32


def _broadcast(axes: Any, tree: Any) -> Any:
    if isinstance(axes, int):
        return jax.tree.map(lambda _: axes, tree)
    return tuple(_broadcast(a, t) for a, t in zip(axes, tree, strict=True))


def _without(axis: int | None, x: jax.Array) -> jax.ShapeDtypeStruct:
    """The shape of what one call gets of an array."""
    shape = [n for d, n in enumerate(x.shape) if d != axis]
    return jax.ShapeDtypeStruct(shape, x.dtype)


def _at(axis: int | None, i: jax.Array) -> tuple:
    return (...,) if axis is None else (slice(None),) * axis + (i,)
