"""Digests of arrays, the same on every mesh and on the host.

A checkpoint carries them, so that what is restored is known to be what was saved,
whatever happened in between: storage that flips bits of uncompressed floats is noticed
by nobody else.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# The digest of an array is the sum of (2 i + 1) w_i over its 32-bit words w_i, modulo
# 2^32. A weight is odd, so that any single word that changes changes the sum; sums of
# integers do not depend on their order, thus not on who holds which part.


def digests(tree: Any) -> Callable[[], dict[str, int]]:
    """Digest of every array of a tree on devices, by its path.

    All processes of a mesh must call it. The devices begin to compute; the arrays may
    be donated to the next step.

    Returns:
      A function that waits for the digests, and may be called in any thread.
    """
    named = jax.tree_util.tree_leaves_with_path(tree)
    names = [_name(path) for path, _ in named]
    values = _digests([x for _, x in named])
    return lambda: dict(zip(names, np.asarray(values).tolist(), strict=True))


@jax.jit
def _digests(arrays: list[jax.Array]) -> jax.Array:
    return jnp.stack([_digest(x) for x in arrays])


def _digest(x: jax.Array) -> jax.Array:
    width = x.dtype.itemsize
    if width >= 4:
        words = jax.lax.bitcast_convert_type(x, jnp.uint32)
    else:
        unsigned = {1: jnp.uint8, 2: jnp.uint16}[width]
        words = jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)
    number = jnp.zeros(words.shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(words.ndim)):
        number += np.uint32(stride % 2**32) * jax.lax.broadcasted_iota(
            jnp.uint32, words.shape, axis
        )
        stride *= words.shape[axis]
    return jnp.sum((2 * number + 1) * words, dtype=jnp.uint32)


def digests_on_host(tree: Any) -> dict[str, int]:
    """The same of a tree of NumPy arrays."""
    named = jax.tree_util.tree_leaves_with_path(tree)
    return {_name(path): _digest_on_host(np.asarray(x)) for path, x in named}


def _digest_on_host(x: np.ndarray) -> int:
    width = min(x.dtype.itemsize, 4)
    words = np.ascontiguousarray(x).reshape(-1).view(f"u{width}").astype(np.uint32)
    weights = 2 * np.arange(words.size, dtype=np.uint32) + np.uint32(1)
    return int(np.sum(weights * words, dtype=np.uint32))


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
