"""Precision of matrix products: the policy, in one place.

Everything is stored, added and stepped in float32 (float64 in tests). Only the
products of the spherical harmonic transforms may be formed with less, and only so much
less that a free-running core does not notice:

  platform   products of the transforms                         all others
  tpu        three bfloat16 passes ("bf16_3x", float32 sums)    float32 (six passes)
  cpu, gpu   float32, or float64 if the arrays are              the same

Never TF32: ten bits in one pass leave noise of metres a second in a steady flow. The
word "high" that means three passes on a TPU means TF32 on an NVIDIA GPU, so that it is
chosen for TPUs only.
"""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

Precision = Literal["highest", "bf16_3x", "bf16_3x_emulated"]
"""Of the transforms' products. `bf16_3x_emulated` rounds as a TPU does, anywhere."""
NETWORKS = "highest"  # of the networks' products, in JAX's terms


def transform_precision(platform: str | None = None) -> Precision:
    """The policy for the transforms on a platform, default that of JAX's devices."""
    return "bf16_3x" if (platform or jax.default_backend()) == "tpu" else "highest"


def einsum(
    subscripts: str, x: jax.Array, y: jax.Array, precision: Precision = "highest"
) -> jax.Array:
    """`jnp.einsum` of two arrays in a stated precision."""
    if precision == "bf16_3x_emulated":
        (x, x_rest), (y, y_rest) = _halves(x), _halves(y)
        return sum(
            jnp.einsum(subscripts, a, b, precision="highest")
            for a, b in [(x, y), (x, y_rest), (x_rest, y)]
        )
    name = "high" if precision == "bf16_3x" else "highest"
    return jnp.einsum(subscripts, x, y, precision=name)


def _halves(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x as a sum of two bfloat16 numbers, its leading and its next eight bits."""
    leading = jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)
    return leading, jax.lax.reduce_precision(x - leading, 8, 7)


# ---- products in a kernel, where three passes have to be written out


@jax.custom_vjp
def along(table: jax.Array, x: jax.Array) -> jax.Array:
    """Tables [a, b] and arrays [k, b] -> [a, k], in three bfloat16 passes.

    The array alone has a gradient. Both have two axes; float64 is not rounded.
    """
    return _three_passes(table, x, ((1,), (1,)))


@jax.custom_vjp
def across(table: jax.Array, x: jax.Array) -> jax.Array:
    """Tables [a, b] and arrays [a, k] -> [k, b]; as `along`, of which it is adjoint."""
    return _three_passes(x, table, ((0,), (0,)))


along.defvjp(
    lambda table, x: (along(table, x), table), lambda t, g: (None, across(t, g))
)
across.defvjp(
    lambda table, x: (across(table, x), table), lambda t, g: (None, along(t, g))
)


# (By conversions, for Pallas knows no other; outside, XLA may leave such away.)
def _three_passes(
    x: jax.Array, y: jax.Array, contracting: tuple[tuple[int], tuple[int]]
) -> jax.Array:
    def split(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        leading = x.astype(jnp.bfloat16)
        return leading, (x - leading.astype(x.dtype)).astype(jnp.bfloat16)

    def product(x: jax.Array, y: jax.Array) -> jax.Array:
        return jax.lax.dot_general(
            x, y, (contracting, ((), ())), preferred_element_type=dtype
        )

    dtype = x.dtype
    if dtype == jnp.float64:
        return product(x, y)
    (x, x_rest), (y, y_rest) = split(x), split(y)
    return product(x, y) + product(x, y_rest) + product(x_rest, y)


# ---- tables


class Table(NamedTuple):
    """A matrix [..., k, j] by which arrays are multiplied, and its transpose.

    The gradient of what was multiplied by a matrix is a product with its transpose, and
    XLA's fast products on a CPU want that laid out in memory.
    """

    matrix: jax.Array
    transpose: jax.Array

    @classmethod
    def of(cls, matrix: jax.Array) -> "Table":
        return cls(matrix, matrix.swapaxes(-1, -2))

    @property
    def T(self) -> "Table":
        return Table(self.transpose, self.matrix)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def of_table(table: Table, x: jax.Array, precision: Precision = "highest") -> jax.Array:
    """A table [..., k, j] times an array [..., j, *others] -> [..., k, *others].

    The array alone has a gradient. A single column is no product, but on a CPU, whose
    tables have leading axes, one is faster.
    """
    if table.matrix.ndim == 2 and table.matrix.shape[1] == 1:
        return table.matrix.reshape(-1, *[1] * (x.ndim - 1)) * x
    leading = "abcdefgh"[: table.matrix.ndim - 2]
    subscripts = f"{leading}yz,{leading}z...->{leading}y..."
    return einsum(subscripts, table.matrix, x, precision)


def _of_table_forward(
    table: Table, x: jax.Array, precision: Precision
) -> tuple[jax.Array, Table]:
    return of_table(table, x, precision), table


def _of_table_backward(
    precision: Precision, table: Table, gradient: jax.Array
) -> tuple[None, jax.Array]:
    return None, of_table(table.T, gradient, precision)


of_table.defvjp(_of_table_forward, _of_table_backward)
