"""Errors of decoded fields in SI units, on held-out windows."""

import jax
import jax.numpy as jnp
import numpy as np

from model.neural_gcm import Frame, NeuralGCM
from model.spec import LEVEL_VARIABLES
from train.losses.scores import mean_over_points

# Maps that are drawn of every evaluation: variable, and hPa (the nearest level is).
MAPS = (("temperature", 850.0), ("geopotential", 500.0), ("u_component_of_wind", 250.0))


def map_levels(levels: tuple[float, ...]) -> list[int]:
    """Index of the pressure level of each of `MAPS`."""
    return [int(np.argmin(np.abs(np.asarray(levels) - p))) for _, p in MAPS]


def errors_of_frame(
    model: NeuralGCM, decoded: Frame, target: Frame
) -> tuple[dict[str, dict[str, jax.Array]], jax.Array]:
    """This device's part of the errors of a frame.

    Returns:
      `square` and `mean` of the error over the sphere, by variable, [level]; and `MAPS`
      of errors at own columns, [map, 2, latitude, longitude].
    """
    weights = model.harmonics.own_weights
    errors = {name: decoded[name] - target[name] for name in LEVEL_VARIABLES}
    maps = zip(MAPS, map_levels(model.spec.levels), strict=True)
    return {
        "square": {n: mean_over_points(x**2, weights) for n, x in errors.items()},
        "mean": {n: mean_over_points(x, weights) for n, x in errors.items()},
    }, jnp.stack([errors[name][k] for (name, _), k in maps])
