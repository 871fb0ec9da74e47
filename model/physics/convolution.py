"""Convolution over the levels of a column: its vertical structure as features."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from model import partitioning
from model.physics.products import Dtype, product
from model.physics.towers import KERNEL, in_groups
from model.precision import NETWORKS

BLOCK = 4  # levels; of more, most of a kernel is zeros


class VerticalConvolution(nnx.Module):
    """One-dimensional convolutions with GELU between them, alike for all columns.

    Of Kochkov et al. (2024), Supplement C. Beyond top and bottom there are zeros.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        channels: Sequence[int],
        width: int,
        rngs: nnx.Rngs,
        dtype: Dtype = "float32",
    ) -> None:
        """
        Args:
          inputs, outputs: channels that come in and go out.
          channels: of the layers between.
          width: of the window, levels.
          rngs: for the initial parameters.
          dtype: of the products.
        """
        sizes = [inputs, *channels, outputs]
        self.layers = nnx.List(
            nnx.Conv(
                *(before, after, (width,)),
                kernel_init=KERNEL,
                rngs=rngs,
                precision=NETWORKS,
            )
            for before, after in zip(sizes, sizes[1:], strict=False)
        )
        self.dtype = dtype

    def __call__(self, fields: jax.Array) -> jax.Array:
        """[channel, level, ...] -> [output, level, ...], for columns [...]."""
        channels, levels, *columns = fields.shape
        flat = fields.reshape(channels * levels, *columns)

        # Much is computed from little: recomputed in the backward pass.
        @jax.checkpoint
        def on_group(group: jax.Array) -> jax.Array:
            x = group.reshape(channels, levels, -1)
            *hidden, last = self.layers
            for layer in hidden:
                x = nnx.gelu(over_levels(layer, x, self.dtype))
            return over_levels(last, x, self.dtype).reshape(-1, x.shape[-1])

        outputs = in_groups(on_group, flat)
        return outputs.reshape(-1, levels, *columns)


def over_levels(layer: nnx.Conv, x: jax.Array, dtype: Dtype) -> jax.Array:
    """A convolution, [channel, level, column] -> [output, level, column].

    XLA's own on TPUs, but for bfloat16, whose gradients it would round. Elsewhere one
    product, from what a block of levels sees to what comes out of that block: in loops
    on CPUs the gradients of XLA's convolutions take a hundred times as long.
    """
    if partitioning.platform() == "tpu" and dtype == "float32":
        return layer(x.transpose(2, 1, 0)).transpose(2, 1, 0)
    width, channels, outputs = layer.kernel.shape
    levels = x.shape[1]
    blocks = -(-levels // BLOCK)
    before = (width - 1) // 2
    after = BLOCK * blocks + width - 1 - before - levels
    padded = jnp.pad(x, ((0, 0), (before, after), (0, 0)))
    last = BLOCK * (blocks - 1)
    seen = [
        jax.lax.slice_in_dim(padded, i, i + last + 1, BLOCK, axis=1)
        for i in range(BLOCK + width - 1)
    ]
    kernels = [
        jnp.pad(layer.kernel[...], ((i, BLOCK - 1 - i), (0, 0), (0, 0)))
        for i in range(BLOCK)
    ]
    kernel = jnp.stack(kernels, axis=2).reshape(-1, BLOCK * outputs)
    together = jnp.concatenate(seen).reshape(len(kernel), -1)
    y = product(kernel, together, dtype)
    y = y.reshape(BLOCK, outputs, blocks, -1).transpose(1, 2, 0, 3)
    y = y.reshape(outputs, BLOCK * blocks, -1)[:, :levels]
    return y + layer.bias[:, None, None]
