"""Scales from the data: the store's statistics, and a few encoded frames."""

import dataclasses

import jax
import jax.numpy as jnp
import jax_datetime
import numpy as np

from model import features, units
from model.neural_gcm import Frame, NeuralGCM
from model.scales import AIR, Normal, Scales, input_sizes
from model.spec import (
    COLUMN_FIELDS,
    LEVEL_VARIABLES,
    STATE_FIELDS,
    TENDENCY_FIELDS,
)
from pipeline.errors import UserError
from pipeline.store import Store
from train.data import Windows

FRAMES = 12
# No scale is below this part of the largest of its variable: fields that hardly vary
# at some level (clouds in the stratosphere) must not be blown up. Nor below what is
# lost of its mean in float32.
FLOOR = 0.02
ROUNDING = 1e-5
# Corrections of the coders are measured in this part of a field's deviation, and
# tendencies in this part of a day's change a day.
CORRECTION = 0.1
TENDENCY = 0.2

Moments = dict[str, tuple[np.ndarray, np.ndarray]]
"""Means and variances over the sphere and in time, by name, each [level]."""


def _floored(scale: np.ndarray, mean: np.ndarray | float = 0.0) -> jax.Array:
    scale = np.asarray(scale, np.float64)
    least = max(FLOOR * scale.max(), ROUNDING * np.abs(mean).max(), 1e-12)
    return jnp.asarray(np.maximum(scale, least), jnp.float32)


def _normal(moments: tuple[np.ndarray, np.ndarray]) -> Normal:
    mean, variance = moments
    return Normal(jnp.asarray(mean, jnp.float32), _floored(np.sqrt(variance), mean))


def calibrate(model: NeuralGCM, store: Store, first: int, last: int) -> Scales:
    """Scales from times `first` to `last` of the store, always the same for a store.

    Those of fields on pressure levels are the store's own statistics; all others those
    of `FRAMES` pairs of frames, 24 h apart and evenly spread, encoded by interpolation
    alone. Pairs that are not finite do not count.

    Raises:
      UserError: if none is.
    """
    pairs = Windows(store, first, last, frames=2, hours=24)
    numbers = np.unique(np.linspace(0, len(pairs) - 1, FRAMES).round().astype(int))
    of_pairs = []
    for number in numbers:
        window = pairs.read(np.array([number]))
        time = jax_datetime.to_datetime(store.times[pairs.starts[number]])
        frames = [{k: x[0, i] for k, x in window["frames"].items()} for i in range(2)]
        moments = jax.device_get(_moments_of_pair(model, *frames, time))
        if all(np.isfinite(x).all() for x in jax.tree.leaves(moments)):
            of_pairs.append(moments)
    if not of_pairs:
        raise UserError(
            f"{store.path}: of none of {len(numbers)} pairs of frames all fields are "
            "finite; see `podgcm inspect`"
        )
    data, columns, ground = (
        _combined([moments[kind] for moments in of_pairs])
        for kind in ("data", "columns", "ground")
    )
    changes = [moments["squared_change"] for moments in of_pairs]
    change = {
        name: np.sqrt(np.mean([c[name] for c in changes], axis=0, dtype=np.float64))
        for name in COLUMN_FIELDS
    }
    statistics = {
        name: {
            key: np.atleast_1d(units.to_model(name, x))
            for key, x in store.statistics(name).items()
        }
        for name in LEVEL_VARIABLES
    }
    data |= {name: (s["mean"], s["std"] ** 2) for name, s in statistics.items()}
    columns |= {f"memory_{name}": columns[name] for name in COLUMN_FIELDS}
    lowest = {name: (columns[name][0][-1:], columns[name][1][-1:]) for name in AIR}
    known = {
        "encoder": data | ground,
        "physics": columns | ground,
        "decoder": columns | ground,
        "convolution": columns,
        "surface": ground | lowest,
    }
    std = {name: _normal(columns[name]).std for name in COLUMN_FIELDS}
    return Scales(
        inputs={
            network: {name: _normal(known[network][name]) for name in names}
            for network, names in input_sizes(model.spec).items()
        },
        outputs={
            "encoder": {
                name: CORRECTION * std[name]
                for name in (*STATE_FIELDS, "log_surface_pressure")
            },
            "physics": {
                name: TENDENCY / units.DAY * _floored(change[name])
                for name in TENDENCY_FIELDS
            },
            "decoder": {
                name: CORRECTION * _floored(s["std"]) for name, s in statistics.items()
            },
        },
        data_change={
            name: _floored(s["std_24h_difference"]) for name, s in statistics.items()
        },
        column_change={name: _floored(x) for name, x in change.items()},
    )


@jax.jit
def _moments_of_pair(
    model: NeuralGCM, frame: Frame, later: Frame, time: jax_datetime.Datetime
) -> dict[str, Moments]:
    """Moments of two frames' features by kind, and squares of their differences."""
    weights = model.harmonics.weights / (4 * jnp.pi)

    def mean(x: jax.Array) -> jax.Array:
        return jnp.atleast_1d(jnp.sum(x * weights, axis=(-3, -2, -1)))

    def moments(fields: dict[str, jax.Array]) -> Moments:
        means = {name: mean(x) for name, x in fields.items()}
        return {
            name: (
                means[name],
                mean((x - means[name].reshape(*x.shape[:-3], 1, 1, 1)) ** 2),
            )
            for name, x in fields.items()
        }

    def columns(frame: Frame) -> dict[str, jax.Array]:
        networks = model.spec.networks
        gradients = networks.physics_gradients or networks.decoder_gradients
        state = model.encode(frame, time, None).atmosphere
        sigma = jnp.asarray(model.spec.sigma.centers, model.harmonics.dtype)
        return features.of_columns(model.columns(state, gradients), sigma)

    before, after = columns(frame), columns(later)
    data = {name: units.to_model(name, x) for name, x in frame.items()}
    gradients = model.spec.networks.encoder_gradients
    return {
        "data": moments(features.of_data(data, model.harmonics, gradients)),
        "columns": moments(before),
        "ground": moments(features.of_ground(model.surroundings(frame, time))),
        "squared_change": {
            name: mean((after[name] - before[name]) ** 2) for name in COLUMN_FIELDS
        },
    }


def _combined(several: list[Moments]) -> Moments:
    """Moments of all frames from those of each."""
    combined = {}
    for name in several[0]:
        means = np.array([m[name][0] for m in several], np.float64)
        variances = np.array([m[name][1] for m in several], np.float64)
        mean = means.mean(axis=0)
        combined[name] = mean, (variances + (means - mean) ** 2).mean(axis=0)
    return combined


def with_scales(model: NeuralGCM, scales: Scales) -> NeuralGCM:
    """The model with these scales, in its own precision."""
    dtype = model.harmonics.dtype
    return dataclasses.replace(
        model, scales=jax.tree.map(lambda x: jnp.asarray(x, dtype), scales)
    )
