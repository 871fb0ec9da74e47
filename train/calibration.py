"""Scales from the data: the store's statistics, and a few encoded frames."""

import dataclasses

import jax
import jax.numpy as jnp
import jax_datetime
import numpy as np

from model import units
from model.neural_gcm import NeuralGCM
from model.scales import Scales, column_fields
from model.spec import LEVEL_VARIABLES, TRACERS, ModelSpec
from pipeline.store import Store
from train.data import Windows

FRAMES = 12
# No scale is below this part of the largest of its variable: fields that hardly vary
# at some level (clouds in the stratosphere) must not be blown up.
FLOOR = 0.02


def _floored(scale: np.ndarray) -> jax.Array:
    scale = np.asarray(scale, np.float64)
    return jnp.asarray(np.maximum(scale, max(FLOOR * scale.max(), 1e-12)), jnp.float32)


def data_scales(store: Store) -> dict[str, dict[str, jax.Array]]:
    """Mean, deviation and 24-h change of every variable on levels, model units."""
    statistics = {name: store.statistics(name) for name in LEVEL_VARIABLES}

    def of(key: str, finish) -> dict[str, jax.Array]:
        return {
            name: finish(units.to_model(name, s[key])) for name, s in statistics.items()
        }

    return {
        "data_mean": of("mean", lambda x: jnp.asarray(x, jnp.float32)),
        "data_std": of("std", _floored),
        "data_change": of("std_24h_difference", _floored),
    }


def calibrate(model: NeuralGCM, store: Store, first: int, last: int) -> Scales:
    """Scales from times `first` to `last` of the store, always the same for a store.

    Column scales are those of `FRAMES` pairs of frames, 24 h apart and evenly spread,
    encoded by interpolation alone.
    """
    pairs = Windows(store, first, last, frames=2, hours=24)
    numbers = np.unique(np.linspace(0, len(pairs) - 1, FRAMES).round().astype(int))

    @jax.jit
    def columns(model, frame, time):
        return column_fields(model.columns(model.encode(frame, time, None)))

    fields: dict[str, list[np.ndarray]] = {}
    for number in numbers:
        window = pairs.read(np.array([number]))
        time = jax_datetime.to_datetime(store.times[pairs.starts[number]])
        both = [
            columns(model, {k: x[0, i] for k, x in window["frames"].items()}, time)
            for i in range(2)
        ]
        for name in both[0]:
            fields.setdefault(name, []).append(np.stack([b[name] for b in both]))

    weights = np.asarray(model.harmonics.weights) / (4 * np.pi)

    def area_mean(x: np.ndarray) -> np.ndarray:
        mean = np.sum(x * weights, axis=(-3, -2, -1), dtype=np.float64)
        return np.mean(mean, axis=0)

    mean, std, change = {}, {}, {}
    for name, values in fields.items():
        x = np.stack(values)  # [pair, 2, (layer,) 2, latitude, longitude]
        both = x.reshape(-1, *x.shape[2:])
        m = area_mean(both)
        deviation = both - m[..., None, None, None]
        mean[name] = jnp.asarray(m, jnp.float32)
        std[name] = _floored(np.sqrt(area_mean(deviation**2)))
        change[name] = _floored(np.sqrt(area_mean((x[:, 1] - x[:, 0]) ** 2)))
    return Scales(
        **data_scales(store), column_mean=mean, column_std=std, column_change=change
    )


def abstract_scales(spec: ModelSpec) -> Scales:
    """Shapes of the scales of a model."""
    levels = jax.ShapeDtypeStruct((len(spec.levels),), jnp.float32)
    layers = jax.ShapeDtypeStruct((spec.sigma.layers,), jnp.float32)
    data = dict.fromkeys(LEVEL_VARIABLES, levels)
    names = ("u", "v", "vorticity", "divergence", "temperature", *TRACERS)
    column = dict.fromkeys(names, layers)
    column["log_surface_pressure"] = jax.ShapeDtypeStruct((), jnp.float32)
    return Scales(data, data, data, column, column, column)


def with_scales(model: NeuralGCM, scales: Scales) -> NeuralGCM:
    """The model with these scales, in its own precision."""
    dtype = model.harmonics.dtype
    return dataclasses.replace(
        model, scales=jax.tree.map(lambda x: jnp.asarray(x, dtype), scales)
    )
