"""Encode-process-decode towers: the networks of columns."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from model.precision import NETWORKS

_kernel = nnx.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
# Outputs of an untrained tower are about a hundredth: it is almost silent.
_quiet_kernel = nnx.initializers.variance_scaling(1e-4, "fan_in", "truncated_normal")
# Left to itself, JAX rounds float32 products to bfloat16 on TPUs, to TF32 on GPUs.
_linear = functools.partial(nnx.Linear, precision=NETWORKS)


class Mlp(nnx.Module):
    """`layers` hidden layers of one width, and a linear layer of the same width."""

    def __init__(self, width: int, layers: int, rngs: nnx.Rngs) -> None:
        self.linears = nnx.List(
            _linear(width, width, kernel_init=_kernel, rngs=rngs)
            for _ in range(layers + 1)
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        *hidden, last = self.linears
        for linear in hidden:
            x = nnx.gelu(linear(x))
        return last(x)


class Tower(nnx.Module):
    """Linear encoding, residual blocks, linear decoding; one column at a time.

    The architecture of Kochkov et al. (2024), Supplement C. There is no
    normalisation inside: inputs come standardised, outputs are multiplied by scales.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        width: int,
        blocks: int,
        layers: int,
        rngs: nnx.Rngs,
    ) -> None:
        self.encode = _linear(inputs, width, kernel_init=_kernel, rngs=rngs)
        self.blocks = nnx.List(Mlp(width, layers, rngs) for _ in range(blocks))
        self.decode = _linear(
            width, outputs, use_bias=False, kernel_init=_quiet_kernel, rngs=rngs
        )

    def __call__(self, features: jax.Array) -> jax.Array:
        """[feature, ...] -> [output, ...], for columns of any shape [...]."""
        x = self.encode(jnp.moveaxis(features, 0, -1))
        for block in self.blocks:
            x = x + block(x)
        return jnp.moveaxis(self.decode(x), -1, 0)
