"""A function that XLA compiles apart from what is around it."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.experimental.xla_metadata import set_xla_metadata

from model import partitioning

Function = Callable[[Any, Any], Any]


def apart(function: Function, tables: Any, arrays: Any) -> Any:
    """A function of both, into which XLA fuses nothing of what is around it.

    For what is around may be in the way: for products of matrices that take an array as
    rows of another length, XLA writes the loop that makes that array over such rows
    too, and a loop over rows that are not those of its operands it does not vectorise
    on a CPU. Its gradient is such a function too, which evaluates this one once more.

    Args:
      function: without exchanges between devices.
      tables: tree of arrays without a gradient.
      arrays: tree of arrays.
    """
    places, structure = [], None

    def distinct(tables: Any, arrays: Any) -> list[jax.Array]:
        """Results, but each array once, however often it occurs."""
        nonlocal structure
        leaves, structure = jax.tree.flatten(function(tables, arrays))
        once = {id(x): x for x in leaves}
        places[:] = [list(once).index(id(x)) for x in leaves]
        return list(once.values())

    results = _apart(distinct, *partitioning.varying((tables, arrays)))
    return structure.unflatten([results[place] for place in places])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _apart(function: Function, tables: Any, arrays: Any) -> Any:
    return _called(function, tables, arrays)


def _forward(function: Function, tables: Any, arrays: Any) -> tuple[Any, tuple]:
    return _apart(function, tables, arrays), (tables, arrays)


def _backward(function: Function, known: tuple, gradients: Any) -> tuple[None, Any]:
    def gradient(known: tuple, gradients: Any) -> Any:
        tables, arrays = known
        _, pulled = jax.vjp(functools.partial(function, tables), arrays)
        return pulled(gradients)[0]

    return None, _called(gradient, known, gradients)


_apart.defvjp(_forward, _backward)


def _called(function: Function, *arguments: Any) -> Any:
    """A call that XLA does not inline."""

    def inner(*arguments: Any) -> Any:
        with set_xla_metadata(inlineable=None):  # what it calls in turn may be
            return function(*arguments)

    with set_xla_metadata(inlineable="false"):
        return jax.jit(inner)(*arguments)
