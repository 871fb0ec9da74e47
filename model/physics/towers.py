"""Encode-process-decode towers: the networks of columns."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from model.precision import NETWORKS

_kernel = nnx.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
# Outputs of an untrained tower are about a hundredth: it is almost silent.
_quiet_kernel = nnx.initializers.variance_scaling(1e-4, "fan_in", "truncated_normal")
# Left to itself, JAX rounds float32 products to bfloat16 on TPUs, to TF32 on GPUs.
_linear = functools.partial(nnx.Linear, precision=NETWORKS)

# Columns that go through a tower together, and groups of them one after another. Of
# more, the TPU compiler makes programs so large that it takes minutes for each tower.
CHUNK = 1024


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
    ) -> None:
        self.encode = _linear(inputs, width, kernel_init=_kernel, rngs=rngs)
        self.blocks = _stacked([Mlp(width, layers, rngs) for _ in range(blocks)])
        self.decode = _linear(
            width, outputs, use_bias=False, kernel_init=_quiet_kernel, rngs=rngs
        )

    def __call__(self, features: jax.Array) -> jax.Array:
        """[feature, ...] -> [output, ...], for columns of any shape [...]."""
        columns = features.shape[1:]
        features = features.reshape(len(features), -1)
        chunk = _largest_divisor(features.shape[1], CHUNK)
        chunks = features.T.reshape(-1, chunk, len(features))
        outputs = jax.lax.map(self._on_chunk, chunks)
        return outputs.reshape(-1, outputs.shape[-1]).T.reshape(-1, *columns)

    def _on_chunk(self, features: jax.Array) -> jax.Array:
        """[column, feature] -> [column, output]."""
        structure, parameters = nnx.split(self.blocks)

        # Products are kept for the backward pass; what lies between is cheap. (Left to
        # itself, a scan keeps every intermediate value of a GELU.)
        @functools.partial(
            jax.checkpoint,
            policy=jax.checkpoint_policies.dots_saveable,
            prevent_cse=False,
        )
        def block(x: jax.Array, parameters: nnx.State) -> tuple[jax.Array, None]:
            return x + nnx.merge(structure, parameters)(x), None

        x, _ = jax.lax.scan(block, self.encode(features), parameters)
        return self.decode(x)


def _stacked(modules: Sequence[Mlp]) -> Mlp:
    """Modules of one structure as one, with an axis in front of every parameter."""
    structures, states = zip(*map(nnx.split, modules), strict=True)
    return nnx.merge(structures[0], jax.tree.map(lambda *x: jnp.stack(x), *states))


def _largest_divisor(number: int, limit: int) -> int:
    """The largest divisor of `number` that is not above `limit`."""
    return next(n for n in range(min(number, limit), 0, -1) if number % n == 0)
