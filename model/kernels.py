"""A vectorised function whose body is one Pallas kernel, on TPUs.

XLA writes what a matrix product makes to a TPU's main memory, and reads it once more
for whatever follows. In a kernel it stays on the chip.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from model import partitioning

T = TypeVar("T")
Function = Callable[[Any, Any, Any], Any]

BLOCK = 8  # what the second last axis of an array in a TPU's memory is tiled by
_PASSES = {jax.lax.Precision.HIGHEST: 6}  # of bfloat16 products, of float32 numbers


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
        name=function.__name__ if hasattr(function, "__name__") else None,
    )(*leaves)
    return out_structure.unflatten(results)


def _broadcast(axes: Any, tree: Any) -> Any:
    if isinstance(axes, int):
        return jax.tree.map(lambda _: axes, tree)
    return tuple(_broadcast(a, t) for a, t in zip(axes, tree, strict=True))


def _at(axis: int | None, i: jax.Array) -> tuple:
    return (...,) if axis is None else (slice(None),) * axis + (i,)
