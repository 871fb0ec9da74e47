"""What the backward pass computes again rather than keep in memory."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

T = TypeVar("T")

WAYS = {
    "sample": ("keep", "recompute"),
    "step": ("recompute", "offload", "keep"),
    "substep": ("keep", "recompute"),
    "tower": ("products", "keep", "recompute"),
    "decode": ("recompute", "keep"),
}
_STATE = "state at the beginning of a step"


@dataclasses.dataclass(frozen=True)
class Remat:
    """How the intermediate values of each part are treated.

    `keep` holds them until the backward pass, `recompute` holds what the part began
    with and computes it twice, `products` holds results of matrix products alone, and
    `offload` is `recompute` from states that wait in the memory of the host.

    Attributes:
      sample: the whole rollout of a sample; recomputed, the samples of a device go one
        after another, and what one of them holds is all that there is.
      step: a physics step: networks and the dycore steps with their tendency.
      substep: a dycore step.
      tower: a block of a network.
      decode: decoding, encoding of the target, and errors, of a frame.

    Raises:
      ValueError: if a part cannot be treated so.
    """

    sample: str = WAYS["sample"][0]
    step: str = WAYS["step"][0]
    substep: str = WAYS["substep"][0]
    tower: str = WAYS["tower"][0]
    decode: str = WAYS["decode"][0]

    def __post_init__(self) -> None:
        for name, ways in WAYS.items():
            if getattr(self, name) not in ways:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} is none of {', '.join(ways)}"
                )


def treated(function: Callable[..., Any], way: str) -> Callable[..., Any]:
    """`function`, whose intermediate values are treated so."""
    policies = jax.checkpoint_policies
    match way:
        case "keep":
            return function
        case "recompute":
            return jax.checkpoint(function)
        case "products":
            # Between loop rounds there is nothing to be shared with the first pass.
            return jax.checkpoint(
                function, policy=policies.dots_saveable, prevent_cse=False
            )
        case "offload":
            policy = policies.save_and_offload_only_these_names(
                names_which_can_be_saved=[],
                names_which_can_be_offloaded=[_STATE],
                offload_src="device",
                offload_dst="pinned_host",
            )
            return jax.checkpoint(function, policy=policy)
    raise ValueError(f"{way!r} is no way to treat intermediate values")


def packed(tree: T, axes: int = 0) -> T:
    """Arrays as vectors, behind so many leading axes: as they wait for their use.

    Among many of them that wait in one array, a TPU's compiler would else make an axis
    the last one that is much shorter than a tile, such as that of layers, and pad it.
    """
    return jax.tree.map(
        lambda x: x.reshape(*x.shape[:axes], -1) if x.ndim > axes else x, tree
    )


def unpacked(tree: T, like: T) -> T:
    """The inverse of `packed`, in the shapes of `like`."""
    return jax.tree.map(lambda x, y: x.reshape(y.shape), tree, like)


def beginning(states: T) -> T:
    """Marks what a step begins with, which `offload` moves to the host."""

    def marked(x: jax.Array) -> jax.Array:
        real = jnp.issubdtype(x.dtype, jnp.floating)
        return checkpoint_name(x, _STATE) if real else x

    return jax.tree.map(marked, states)
