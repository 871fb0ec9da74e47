"""Products of the networks: in float32, or of factors rounded to bfloat16."""

from typing import Literal

import jax
import jax.numpy as jnp

from model.precision import NETWORKS

Dtype = Literal["float32", "bfloat16"]
"""Of the factors of products. Parameters, sums, what passes between layers, and all of
that in the backward pass stay in float32."""


def product(kernel: jax.Array, x: jax.Array, dtype: Dtype) -> jax.Array:
    """The sum over inputs of `kernel` [input, output] and x [input, column].

    Features come first, as everywhere in the model, so that nothing is turned: on a CPU
    turning the inputs of a tower takes longer than its products.

    Returns:
      [output, column].
    """
    if dtype == "bfloat16":
        return _rounded_product(kernel, x)
    # Left to itself, JAX rounds float32 products to bfloat16 on TPUs, to TF32 on GPUs.
    return jnp.tensordot(kernel, x, axes=(0, 0), precision=NETWORKS)


# Differentiated by JAX, it would round the gradients too, each before it is added to
# those of other steps and columns.
@jax.custom_vjp
def _rounded_product(kernel: jax.Array, x: jax.Array) -> jax.Array:
    return _forward(kernel, x)[0]


def _forward(kernel: jax.Array, x: jax.Array) -> tuple[jax.Array, tuple]:
    kernel, x = _rounded(kernel), _rounded(x)
    return _tensordot(kernel, x, (0, 0)), (kernel, x)


def _backward(factors: tuple, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    (kernel, x), gradient = factors, _rounded(gradient)
    return _tensordot(x, gradient, (1, 1)), _tensordot(kernel, gradient, (1, 0))


_rounded_product.defvjp(_forward, _backward)


def _rounded(x: jax.Array) -> jax.Array:
    return x.astype(jnp.bfloat16)


def _tensordot(x: jax.Array, y: jax.Array, axes: tuple[int, int]) -> jax.Array:
    return jnp.tensordot(x, y, axes, preferred_element_type=jnp.float32)
