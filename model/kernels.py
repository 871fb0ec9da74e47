"""A vectorised function whose body is one Pallas kernel, on TPUs.

XLA writes what a matrix product makes to a TPU's main memory, and reads it once more
for whatever follows. In a kernel it stays on the chip.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from model import partitioning

Function = Callable[[Any, Any, Any], Any]

SUBLANES, LANES = 8, 128  # by which a TPU's memory tiles the last two axes of an array
# Bytes of a core's own memory:
BUFFERS = 8 * 2**20  # that blocks are to take, unless they cannot be smaller
INNER = 8 * 2**20  # that may be taken besides


class Mapping(NamedTuple):
    """How a function is mapped over its arrays.

    Attributes:
      arrays: the axis of all arguments that have a gradient; not the last.
      results: the axis of all results; not the last.
      linear: whether the function is linear in what has a gradient.
    """

    arrays: int
    results: int
    linear: bool = False


def mapped(
    function: Function, how: Mapping, whole: Any, tables: Any, arrays: Any
) -> Any:
    """`jax.vmap(function, (None, 0, how.arrays), how.results)`, on TPUs in a kernel.

    Unless the kernel needs more memory than a core has: then it is left to XLA.

    Args:
      function: of the other arguments, each of two axes or more, to a tree of arrays;
        without loops.
      how: see there.
      whole: tree of arrays that every call gets; without a gradient.
      tables: tree of arrays that are mapped over their first axis; without a gradient.
      arrays: tree of arrays that are mapped over.
    """
    whole, tables, arrays = partitioning.varying((whole, tables, arrays))
    if partitioning.platform() == "tpu":
        call, shapes = _call(function, how, False, (whole, tables, arrays))
        _, memory = call.block(shapes, whole, tables, arrays)
        if memory <= pltpu.get_tpu_info().vmem_capacity_bytes:
            return in_kernel(function, how, False, whole, tables, arrays)
    return _vmapped(function, how)(*jax.lax.stop_gradient((whole, tables)), arrays)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def in_kernel(
    function: Function,
    how: Mapping,
    interpret: bool,
    whole: Any,
    tables: Any,
    arrays: Any,
) -> Any:
    """As `mapped`, on a TPU or, if `interpret`, as its kernel would be run by one.

    Its gradient is another kernel, which evaluates the function once more unless that
    is linear.
    """
    call, shapes = _call(function, how, interpret, (whole, tables, arrays))
    return call(shapes, whole, tables, arrays)


def _call(
    function: Function, how: Mapping, interpret: bool, arguments: tuple
) -> tuple["_Call", Any]:
    """The kernel of a function, and shapes of its results."""
    shapes = jax.eval_shape(_vmapped(function, how), *arguments)
    axes = [how.arrays] * len(jax.tree.leaves(arguments[-1]))
    return _Call(function, axes, how.results, interpret), shapes


def _forward(
    function: Function, how: Mapping, interpret: bool, *arguments: Any
) -> tuple[Any, tuple]:
    results = in_kernel(function, how, interpret, *arguments)
    whole, tables, arrays = arguments
    return results, (whole, tables, _Shapes.of(arrays) if how.linear else arrays)


def _backward(
    function: Function, how: Mapping, interpret: bool, known: tuple, gradients: Any
) -> tuple[None, None, Any]:
    whole, tables, arrays = known
    axes = [how.results] * len(jax.tree.leaves(gradients))

    def named(gradient: Function) -> Function:
        gradient.__name__ = f"{function.__name__}_gradient"
        return gradient

    if how.linear:
        shapes = arrays.tree()
        of_call = jax.tree.map(lambda x: _without(x, how.arrays), shapes)

        def gradient(whole: Any, tables: Any, gradients: Any) -> Any:
            # Anywhere, for it is the same everywhere.
            nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), of_call)
            _, pulled = jax.vjp(functools.partial(function, whole, tables), nothing)
            return pulled(gradients)[0]

        call = _Call(named(gradient), axes, how.arrays, interpret)
        return None, None, call(shapes, whole, tables, gradients)

    def gradient(whole: Any, tables: Any, both: tuple) -> Any:
        arrays, gradients = both
        _, pulled = jax.vjp(functools.partial(function, whole, tables), arrays)
        return pulled(gradients)[0]

    axes = [how.arrays] * len(jax.tree.leaves(arrays)) + axes
    call = _Call(named(gradient), axes, how.arrays, interpret)
    return None, None, call(arrays, whole, tables, (arrays, gradients))


in_kernel.defvjp(_forward, _backward)


def _vmapped(function: Function, how: Mapping) -> Function:
    return jax.vmap(function, (None, 0, how.arrays), how.results)


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class _Shapes:
    """Shapes of a tree's arrays, as something that is known before anything runs."""

    structure: Any
    leaves: tuple[jax.ShapeDtypeStruct, ...]

    @classmethod
    def of(cls, tree: Any) -> "_Shapes":
        leaves, structure = jax.tree.flatten(tree)
        shapes = (jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves)
        return cls(structure, tuple(shapes))

    def tree(self) -> Any:
        return self.structure.unflatten(self.leaves)


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
        like, result_structure = jax.tree.flatten(shapes)
        every = [*leaves, *like]
        every_axis = self._axes(shapes, whole, tables)
        axes = every_axis[: len(leaves)]
        count = like[0].shape[self.result_axis]
        block, memory = self.block(shapes, whole, tables, arrays)

        def kernel(*refs: Any) -> None:
            def one(i: jax.Array, _: None) -> None:
                taken = [
                    _view(ref, axis, i)[...]
                    for ref, axis in zip(refs[: len(leaves)], axes, strict=True)
                ]
                results = jax.tree.leaves(self.function(*structure.unflatten(taken)))
                for ref, x in zip(refs[len(leaves) :], results, strict=True):
                    # What interprets kernels cannot write to rows that lie apart.
                    view = _index if self.interpret else _view
                    view(ref, self.result_axis, i)[...] = x

            jax.lax.fori_loop(0, block, one, None, unroll=2)

        def spec(x: jax.Array, axis: int | None) -> pl.BlockSpec:
            return pl.BlockSpec(
                _of_block(x, axis, block),
                lambda i: tuple(i * (d == axis) for d in range(x.ndim)),
            )

        specs = [spec(x, axis) for x, axis in zip(every, every_axis, strict=True)]
        of_call = [_without(x, axis) for x, axis in zip(leaves, axes, strict=True)]
        cost = operations(self.function, *structure.unflatten(of_call))
        cost = Operations(*(count * n for n in cost))
        elements = sum(x.size for x in like)
        varying = frozenset().union(*(jax.typeof(x).mat.varying for x in leaves))
        kind = jax.sharding.ManualAxisType(varying=varying)
        results = pl.pallas_call(
            kernel,
            grid=(pl.cdiv(count, block),),
            in_specs=specs[: len(leaves)],
            out_specs=specs[len(leaves) :],
            out_shape=[
                jax.ShapeDtypeStruct(x.shape, x.dtype, manual_axis_type=kind)
                for x in like
            ],
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel",), vmem_limit_bytes=memory
            ),
            interpret=self.interpret,
            name=self.function.__name__,
            cost_estimate=pl.CostEstimate(
                flops=cost.flops,
                transcendentals=0,
                bytes_accessed=sum(x.size * x.dtype.itemsize for x in every),
            ),
            # With `jax.vmap` results become larger, and what is told here does not.
            metadata={name: str(n) for name, n in cost._asdict().items()}
            | {"elements": str(elements)},
        )(*leaves)
        return result_structure.unflatten(results)

    def block(
        self, shapes: Any, whole: Any, tables: Any, arrays: Any
    ) -> tuple[int, int]:
        """How many calls have their arrays in a core's memory at once; bytes of it."""
        axes = self._axes(shapes, whole, tables)
        every = jax.tree.leaves((whole, tables, arrays, shapes))

        def bytes_of(block: int) -> int:
            # Of the block that is computed and of the one that is moved meanwhile.
            return 2 * sum(
                _padded_bytes(_of_block(x, axis, block), x.dtype)
                for x, axis in zip(every, axes, strict=True)
            )

        block = min(SUBLANES, jax.tree.leaves(shapes)[0].shape[self.result_axis])
        tiled = any(axis == x.ndim - 2 for x, axis in zip(every, axes, strict=True))
        while not tiled and block > 1 and bytes_of(block) > BUFFERS:
            block //= 2
        return block, bytes_of(block) + INNER

    def _axes(self, shapes: Any, whole: Any, tables: Any) -> list[int | None]:
        """Over which all arguments and then all results are mapped."""
        axes = [None] * len(jax.tree.leaves(whole)) + [0] * len(jax.tree.leaves(tables))
        results = [self.result_axis] * len(jax.tree.leaves(shapes))
        return axes + self.array_axes + results


def _of_block(x: jax.Array, axis: int | None, block: int) -> list[int]:
    """The shape of a block of an array."""
    return [block if d == axis else n for d, n in enumerate(x.shape)]


def _padded_bytes(shape: list[int], dtype: jnp.dtype) -> int:
    """As they lie in a TPU's memory."""
    *others, rows, columns = shape
    tile = math.prod(others) * pl.cdiv(rows, SUBLANES) * pl.cdiv(columns, LANES)
    return tile * SUBLANES * LANES * dtype.itemsize


def _view(ref: Any, axis: int | None, i: jax.Array) -> Any:
    """One call's part of a block, to be read or written."""
    n, block, *others = ref.shape
    if axis == 1 and block % SUBLANES == 0 and others == [LANES]:
        # Rows that lie a tile apart, which move as fast as neighbours.
        return ref.reshape(n * block, LANES).at[pl.ds(i, n, stride=block), :]
    return _index(ref, axis, i)


def _index(ref: Any, axis: int | None, i: jax.Array) -> Any:
    return ref.at[...] if axis is None else ref.at[(slice(None),) * axis + (i,)]


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
      vector: additions, multiplications and conversions of single numbers.
    """

    flops: int
    mxu_flops: int
    vector: int


_FREE = (
    *("reshape", "broadcast_in_dim", "squeeze"),
    *("slice", "split", "unstack", "concatenate", "pad"),
)


def operations(function: Function, *arguments: Any) -> Operations:
    """Of a call of a function, less what its results do not need."""
    thirds, *others = _of_jaxpr(jax.make_jaxpr(function)(*arguments).jaxpr)
    return Operations(thirds // 3, *others)


def _of_jaxpr(jaxpr: Any) -> Operations:
    """With three times the operations of products: one of three passes is a third."""
    total = Operations(0, 0, 0)
    needed = {id(x) for x in jaxpr.outvars}
    for equation in reversed(jaxpr.eqns):
        if not needed.intersection(map(id, equation.outvars)):
            continue
        needed.update(map(id, equation.invars))
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
    if left.dtype == jnp.bfloat16:  # one of three passes (`model.precision`)
        return Operations(flops, flops, 0)
    return Operations(3 * flops, 6 * flops, 0)  # as Pallas multiplies float32
