"""How many parameters the networks of a configuration have, by part."""

import math
from typing import Any

import jax
from flax import nnx
from ml_collections import ConfigDict

from launch.plan import data_grid
from model.networks import Networks
from model.spec import ModelSpec
from train import build


def count(config: ConfigDict) -> dict[str, Any]:
    """Numbers of parameters: `total`, and by `parts` (see `model.networks.Networks`).

    Raises:
      UserError: if the configuration describes no model.
    """
    return count_of(build.build_spec(config, *data_grid(config)))


def count_of(spec: ModelSpec) -> dict[str, Any]:
    """The same of a model's specification; no parameter is made."""
    networks = nnx.eval_shape(lambda: Networks(spec, nnx.Rngs(0)))
    shapes = nnx.to_pure_dict(nnx.state(networks, nnx.Param))
    parts = {
        name: sum(math.prod(x.shape) for x in jax.tree.leaves(part))
        for name, part in shapes.items()
    }
    parts = {name: number for name, number in parts.items() if number}
    return {"total": sum(parts.values()), "parts": parts}


def format_count(counted: dict[str, Any]) -> str:
    """The same for people."""
    rows = [*counted["parts"].items(), ("total", counted["total"])]
    return "\n".join(f"{name:16s} {number:>12,}" for name, number in rows)
