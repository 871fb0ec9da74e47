"""Convolution over the levels of a column: its vertical structure as features."""

from collections.abc import Sequence

import jax
from flax import nnx

from model.physics.towers import KERNEL, Dtype, in_groups, products


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
                **products(dtype),
            )
            for before, after in zip(sizes, sizes[1:], strict=False)
        )

    def __call__(self, fields: jax.Array) -> jax.Array:
        """[channel, level, ...] -> [output, level, ...], for columns [...]."""
        channels, levels, *columns = fields.shape
        flat = fields.reshape(channels * levels, *columns)

        # Much is computed from little: recomputed in the backward pass.
        @jax.checkpoint
        def on_group(group: jax.Array) -> jax.Array:
            x = group.reshape(channels, levels, -1).transpose(2, 1, 0)
            *hidden, last = self.layers
            for layer in hidden:
                x = nnx.gelu(layer(x))
            return last(x).transpose(2, 1, 0).reshape(-1, len(x))

        outputs = in_groups(on_group, flat)
        return outputs.reshape(-1, levels, *columns)
