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

BLOCK = 8  # by how many a TPU's memory tiles the second last axis of an array
MEMORY = 48 * 2**20  # bytes of a core's own memory, of 64 on the smallest (v5p)


class Axes(NamedTuple):
    """Over which of its arrays' axes a function is mapped: not the last.

    Attributes:
      arrays: of all arguments that have a gradient.
      results: of all results.
    """

    arrays: int
    results: int


def mapped(function: Function, axes: Axes, whole: T, tables: T, arrays: T) -> Any:
    """`jax.vmap(function, (None, 0, axes.arrays), axes.results)`, on TPUs in a kernel.

    Args:
      function: of the other arguments, each of two axes or more, to a tree of arrays.
      axes: see there.
      whole: tree of arrays that every call gets; without a gradient.
      tables: tree of arrays that are mapped over their first axis; without a gradient.
      arrays: tree of arrays that are mapped over.
    """
    if partitioning.platform() == "tpu":
        return in_kernel(function, axes, False, whole, tables, arrays)
    return _vmapped(function, axes)(*jax.lax.stop_gradient((whole, tables)), arrays)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def in_kernel(
    function: Function, axes: Axes, interpret: bool, whole: T, tables: T, arrays: T
) -> Any:
    """As `mapped`, on a TPU or, if `interpret`, as its kernel would be run by one.

    Its gradient is another kernel, which evaluates the function once more.
    """
    shapes = jax.eval_shape(_vmapped(function, axes), whole, tables, arrays)
    in_axes = [axes.arrays] * len(jax.tree.leaves(arrays))
    call = _Call(function, in_axes, axes.results, interpret)
    return call(shapes, whole, tables, arrays)


def _forward(
    function: Function, axes: Axes, interpret: bool, *arguments: Any
) -> tuple[Any, tuple]:
    return in_kernel(function, axes, interpret, *arguments), arguments


def _backward(
    function: Function, axes: Axes, interpret: bool, arguments: tuple, gradients: Any
) -> tuple[None, None, Any]:
    whole, tables, arrays = arguments

    def gradient(whole: Any, tables: Any, both: tuple) -> Any:
        arrays, gradients = both
        _, pulled = jax.vjp(functools.partial(function, whole, tables), arrays)
        return pulled(gradients)[0]

    in_axes = [axes.arrays] * len(jax.tree.leaves(arrays))
    in_axes += [axes.results] * len(jax.tree.leaves(gradients))
    call = _Call(gradient, in_axes, axes.arrays, interpret)
    return None, None, call(arrays, whole, tables, (arrays, gradients))


in_kernel.defvjp(_forward, _backward)


def _vmapped(function: Function, axes: Axes) -> Function:
    return jax.vmap(function, (None, 0, axes.arrays), axes.results)


class _Call(NamedTuple):
    """One kernel.

    Attributes:
      function: of one call.
      array_axes: over which it is mapped, of every array.
      result_axis: the same of results.
      interpret: see `in_kernel`.
    """

    function: Function
    array_axes: list[int]
    result_axis: int
    interpret: bool

    def __call__(self, shapes: Any, whole: Any, tables: Any, arrays: Any) -> Any:
        """Results, like those of `shapes`."""
        leaves, structure = jax.tree.flatten((whole, tables, arrays))
        axes = [None] * len(jax.tree.leaves(whole))
        axes += [0] * len(jax.tree.leaves(tables)) + self.array_axes
        like, result_structure = jax.tree.flatten(shapes)
        count = like[0].shape[self.result_axis]
        block = min(BLOCK, count)

        def kernel(*refs: Any) -> None:
            def one(i: jax.Array, _: None) -> None:
                taken = map(_taken, refs[: len(leaves)], axes, [i] * len(leaves))
                results = self.function(*structure.unflatten(taken))
                made = zip(refs[len(leaves) :], jax.tree.leaves(results), strict=True)
                for ref, x in made:
                    ref[_place(self.result_axis, i)] = x

            jax.lax.fori_loop(0, block, one, None)

        def spec(x: jax.Array, axis: int | None) -> pl.BlockSpec:
            shape = [block if d == axis else n for d, n in enumerate(x.shape)]
            return pl.BlockSpec(
                shape, lambda i: tuple(i * (d == axis) for d in range(x.ndim))
            )

        one = [_without(x, axis) for x, axis in zip(leaves, axes, strict=True)]
        of_one = operations(self.function, *structure.unflatten(one))
        cost = Operations(*(count * n for n in of_one))
        varying = frozenset().union(*(jax.typeof(x).mat.varying for x in leaves))
        kind = jax.sharding.ManualAxisType(varying=varying)
        results = pl.pallas_call(
            kernel,
            grid=(pl.cdiv(count, block),),
            in_specs=[spec(x, axis) for x, axis in zip(leaves, axes, strict=True)],
            out_specs=[spec(x, self.result_axis) for x in like],
            out_shape=[
                jax.ShapeDtypeStruct(x.shape, x.dtype, manual_axis_type=kind)
                for x in like
            ],
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel",), vmem_limit_bytes=MEMORY
            ),
            interpret=self.interpret,
            name=getattr(self.function, "__name__", None),
            cost_estimate=pl.CostEstimate(
                flops=cost.flops,
                transcendentals=0,
                bytes_accessed=sum(x.size * x.dtype.itemsize for x in leaves + like),
            ),
            metadata={name: str(n) for name, n in cost._asdict().items()},
        )(*leaves)
        return result_structure.unflatten(results)


def _place(axis: int | None, i: jax.Array) -> tuple:
    return (...,) if axis is None else (slice(None),) * axis + (i,)


def _taken(ref: Any, axis: int | None, i: jax.Array) -> jax.Array:
    return ref[_place(axis, i)]


def _without(x: jax.Array, axis: int | None) -> jax.ShapeDtypeStruct:
    """The shape of what one call gets of an array."""
    shape = [n for d, n in enumerate(x.shape) if d != axis]
    return jax.ShapeDtypeStruct(shape, x.dtype)


# ---- cost


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


def operations(function: Function, *arguments: Any) -> Operations:
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
