"""Scales: what makes the inputs and outputs of the networks of order one.

They come from the data (`train.calibration`), are constant in training and belong to
a checkpoint as much as the parameters do.
"""

import dataclasses

import jax
import jax.numpy as jnp

from model.physics.columns import Columns, Surroundings
from model.spec import LEVEL_VARIABLES


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Scales:
    """All in model units, float32.

    Attributes:
      data_mean, data_std: of `LEVEL_VARIABLES` by name, each [level].
      data_change: standard deviation of 24-h differences, by name, each [level].
      column_mean, column_std: of a `Columns`' fields by name, [layer] or [] for the
        surface pressure.
      column_change: standard deviation of 24-h differences of u, v, temperature and
        tracers, by name, each [layer].
    """

    data_mean: dict[str, jax.Array]
    data_std: dict[str, jax.Array]
    data_change: dict[str, jax.Array]
    column_mean: dict[str, jax.Array]
    column_std: dict[str, jax.Array]
    column_change: dict[str, jax.Array]


def column_fields(columns: Columns) -> dict[str, jax.Array]:
    """The fields of columns by name, [layer, ...] or without layer."""
    fields = {f.name: getattr(columns, f.name) for f in dataclasses.fields(columns)}
    tracers = fields.pop("tracers")
    return fields | tracers


def _standardise(x: jax.Array, mean: jax.Array, std: jax.Array) -> jax.Array:
    """[layer, 2, lat, lon] or [2, lat, lon], standardised; [feature, 2, lat, lon]."""
    standardised = (x - mean[..., None, None, None]) / std[..., None, None, None]
    return standardised.reshape(-1, *x.shape[-3:])


def column_features(columns: Columns, scales: Scales) -> jax.Array:
    """[feature, 2, latitude, longitude]: every field of the model state."""
    fields = column_fields(columns)
    return jnp.concatenate(
        [
            _standardise(x, scales.column_mean[name], scales.column_std[name])
            for name, x in fields.items()
        ]
    )


def data_features(frame: dict[str, jax.Array], scales: Scales) -> jax.Array:
    """[feature, 2, latitude, longitude]: every field on pressure levels."""
    return jnp.concatenate(
        [
            _standardise(frame[name], scales.data_mean[name], scales.data_std[name])
            for name in LEVEL_VARIABLES
        ]
    )


def surroundings_features(surroundings: Surroundings) -> jax.Array:
    """[7, 2, latitude, longitude]: what bounds a column, and its latitude.

    Means and deviations are round numbers near those of the Earth.
    """
    shape = surroundings.land_sea_mask.shape
    sin = jnp.broadcast_to(surroundings.sin_latitude, shape)
    return jnp.stack(
        [
            (surroundings.sea_surface_temperature - 285.0) / 12.0,
            (surroundings.sea_ice_cover - 0.24) / 0.39,
            (surroundings.land_sea_mask - 0.33) / 0.45,
            surroundings.surface_geopotential / 0.01 - 0.4,
            (surroundings.solar_flux - 0.21) / 0.29,
            sin / 0.7,
            (jnp.sqrt(1 - sin**2) - 0.64) / 0.3,
        ]
    )


SURROUNDINGS_FEATURES = 7
