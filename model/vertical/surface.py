"""Surface fields among fields on levels."""

import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def on_levels(surface: jax.Array, count: int) -> jax.Array:
    """Repeats a surface field on every level: [...] -> [count, ...].

    The same as broadcasting, but its gradient, a sum over levels, is written as a
    matrix product: XLA's sum over a leading axis is many times slower on CPUs.
    """
    return jnp.broadcast_to(surface, (count, *surface.shape))


def _forward(surface: jax.Array, count: int) -> tuple[jax.Array, None]:
    return on_levels(surface, count), None


def _backward(count: int, _: None, gradient: jax.Array) -> tuple[jax.Array]:
    ones = jnp.ones(count, gradient.dtype)
    return (jnp.einsum("k,k...->...", ones, gradient, precision="highest"),)


on_levels.defvjp(_forward, _backward)
