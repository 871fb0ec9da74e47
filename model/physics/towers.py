"""Encode-process-decode towers: the networks of columns."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from model import partitioning
from model.physics.products import Dtype, product
from model.remat import treated

KERNEL = nnx.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
# Outputs of an untrained tower are about a hundredth: it is almost silent.
_QUIET_KERNEL = nnx.initializers.variance_scaling(1e-4, "fan_in", "truncated_normal")

# Columns that go through a tower together on a TPU, and groups of them one after
# another. Of more, its compiler makes programs so large that it takes minutes for each
# tower. Elsewhere all go together: groups are copied.
GROUP = 1024


class Mlp(nnx.Module):
    """Linear layers with GELU between them."""

    def __init__(
        self,
        sizes: Sequence[int],
        rngs: nnx.Rngs,
        use_bias: bool = True,
        last_kernel: nnx.Initializer = KERNEL,
        dtype: Dtype = "float32",
    ) -> None:
        """
        Args:
          sizes: of the input, and of what each layer puts out.
          rngs: for the initial parameters.
          use_bias: whether layers add one.
          last_kernel: initializer of the last layer's.
          dtype: of the products.
        """
        kernels = [KERNEL] * (len(sizes) - 2) + [last_kernel]
        self.linears = nnx.List(
            nnx.Linear(
                *(before, after),
                use_bias=use_bias,
                kernel_init=kernel,
                rngs=rngs,
            )
            for before, after, kernel in zip(sizes, sizes[1:], kernels, strict=False)
        )
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """[feature, column] -> [output, column]."""
        *hidden, last = self.linears
        for linear in hidden:
            x = nnx.gelu(on_columns(linear, x, self.dtype))
        return on_columns(last, x, self.dtype)


def on_columns(linear: nnx.Linear, x: jax.Array, dtype: Dtype) -> jax.Array:
    """A linear layer, [feature, column] -> [output, column]."""
    y = product(linear.kernel[...], x, dtype)
    return y + linear.bias[:, None] if linear.use_bias else y


class Tower(nnx.Module):
    """Linear encoding, residual blocks, decoding; one column at a time.

    The architecture of Kochkov et al. (2024), Supplement C. There is no
    normalisation inside: inputs come standardised, outputs are multiplied by scales.
    Blocks are alike and run as a scan, so that one of them is compiled for all: their
    parameters are stacked, [block, ...].
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        width: int,
        blocks: int,
        layers: int,
        rngs: nnx.Rngs,
        decoder_layers: int = 0,
        quiet: bool = True,
        dtype: Dtype = "float32",
        remat: str = "products",
    ) -> None:
        """
        Args:
          inputs, outputs: numbers of features.
          width: of all layers between.
          blocks: how many; each has `layers` hidden layers.
          layers: see `blocks`.
          rngs: for the initial parameters.
          decoder_layers: hidden layers of the decoding, which has no biases.
          quiet: begin with outputs of about a hundredth.
          dtype: of the products.
          remat: how intermediate values of a block are treated (`model.remat`).
        """
        self.dtype, self.remat = dtype, remat
        self.encode = nnx.Linear(inputs, width, kernel_init=KERNEL, rngs=rngs)
        self.blocks = _stacked(
            [Mlp([width] * (layers + 2), rngs, dtype=dtype) for _ in range(blocks)]
        )
        self.decode = Mlp(
            [width] * (decoder_layers + 1) + [outputs],
            rngs,
            use_bias=False,
            last_kernel=_QUIET_KERNEL if quiet else KERNEL,
            dtype=dtype,
        )

    def __call__(self, features: jax.Array) -> jax.Array:
        """[feature, ...] -> [output, ...], for columns of any shape [...]."""
        # Of all columns at once: much goes in, and little comes out.
        x = on_columns(self.encode, features.reshape(len(features), -1), self.dtype)
        return in_groups(self._on_group, x).reshape(-1, *features.shape[1:])

    def _on_group(self, x: jax.Array) -> jax.Array:
        """[width, column] -> [output, column]."""
        structure, parameters = nnx.split(self.blocks)

        # By default the backward pass finds products; what lies between is cheap.
        # (Left to itself, a scan keeps every intermediate value of a GELU.)
        def block(x: jax.Array, parameters: nnx.State) -> tuple[jax.Array, None]:
            return x + nnx.merge(structure, parameters)(x), None

        x, _ = jax.lax.scan(treated(block, self.remat), x, parameters)
        return self.decode(x)


def in_groups(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """Applies a function of [feature, column] to [feature, ...]; in groups on a TPU.

    Returns:
      [output, ...], for columns of any shape [...].
    """
    columns = x.shape[1:]
    flat = x.reshape(len(x), -1)
    if partitioning.platform() != "tpu":
        return function(flat).reshape(-1, *columns)
    group = _largest_divisor(flat.shape[1], GROUP)
    groups = flat.reshape(len(flat), -1, group).swapaxes(0, 1)
    outputs = jax.lax.map(function, groups)
    return outputs.swapaxes(0, 1).reshape(-1, *columns)


def _stacked(modules: Sequence[Mlp]) -> Mlp:
    """Modules of one structure as one, with an axis in front of every parameter."""
    structures, states = zip(*map(nnx.split, modules), strict=True)
    return nnx.merge(structures[0], jax.tree.map(lambda *x: jnp.stack(x), *states))


def _largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of `number` that is not above `limit`."""
    return next(n for n in range(min(number, limit), 0, -1) if number % n == 0)
