"""Errors of a forecast, scaled, in the data's space and in the model's.

An error of 1 is as large as the usual change of a variable in 24 hours, times the
variable's amplitude. Everything is one device's part (`model.partitioning`).
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from model import partitioning, units
from model.dynamics.state import State
from model.neural_gcm import Frame, NeuralGCM
from model.partitioning import LEVEL
from model.physics.columns import planes_to_spectral
from model.spec import LEVEL_VARIABLES, STATE_FIELDS, TRACERS, ModelSpec
from model.vertical.layers import on_layers
from train.losses.terms import Loss

HUMIDITY = TRACERS[0]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["target", "error", "columns"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class View:
    """A target, and how far a prediction is from it.

    Attributes:
      target: spectral coefficients of own planes, [plane, 2, m, l].
      error: of the prediction, the same shape.
      columns: errors at own grid points, of all planes, [all planes, 2, latitude,
        longitude]; None in the model's space.
    """

    target: jax.Array
    error: jax.Array
    columns: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class Planes:
    """Which of a space's planes are here: one of every variable and level.

    Attributes:
      place: of own planes among all, in the order of `plane_levels`, int [plane].
      share: what own planes are multiplied by in a sum over variables of means over
        levels, over all devices, [plane]; as `all_shares` of all planes.
      all_shares: the same of all planes, each of which is here, [all planes].
    """

    place: jax.Array
    share: jax.Array
    all_shares: jax.Array

    def table(self, scores: jax.Array) -> jax.Array:
        """This device's part of all planes' scores, from those of own planes."""
        table = jnp.zeros(len(self.all_shares), scores.dtype)
        return table.at[self.place].add(self.share * scores, mode="drop")

    def whole_table(self, scores: jax.Array) -> jax.Array:
        """The same from scores of own points, [all planes]."""
        return self.all_shares * scores


def plane_levels(spec: ModelSpec) -> dict[str, dict[str, list[str]]]:
    """Names of the levels of every variable of both spaces, in the order of planes."""
    layers = [f"sigma {sigma:.4g}" for sigma in spec.sigma.centers]
    return {
        "data": {name: [f"{p:g} hPa" for p in spec.levels] for name in LEVEL_VARIABLES},
        "model": dict.fromkeys(STATE_FIELDS, layers)
        | {"log_surface_pressure": ["surface"]},
    }


def _counted(model: NeuralGCM, loss: Loss) -> np.ndarray:
    return np.asarray(model.spec.levels) >= loss.least_level


def _scale(change: jax.Array, name: str, counted: np.ndarray | slice) -> jax.Array:
    """Of errors: pooled over the levels that count, but for humidity, [level].

    Humidity varies by orders of magnitude with height.
    """
    if name == HUMIDITY:
        return change
    pooled = jnp.sqrt(jnp.mean(change[counted] ** 2))
    return jnp.broadcast_to(pooled, change.shape)


# ---- the data's space


def data_planes(model: NeuralGCM, loss: Loss) -> Planes:
    """`LEVEL_VARIABLES` on all pressure levels."""
    levels = model.spec.levels
    count = len(LEVEL_VARIABLES) * len(levels)
    own = -(-count // partitioning.size(LEVEL))
    counted = np.tile(_counted(model, loss), len(LEVEL_VARIABLES))
    shares = jnp.asarray(counted / _counted(model, loss).sum(), model.harmonics.dtype)
    place = partitioning.index(LEVEL) * own + jnp.arange(own)
    return Planes(
        place,
        shares.at[place].get(mode="fill", fill_value=0),
        shares,
    )


def data_view(model: NeuralGCM, loss: Loss, prediction: Frame, target: Frame) -> View:
    """Of decoded fields; both hold `LEVEL_VARIABLES`, whole columns, SI units."""
    counted, amplitudes = _counted(model, loss), dict(loss.amplitudes)

    def scaled(name: str, x: jax.Array) -> jax.Array:
        scale = _scale(model.scales.data_change[name], name, counted)
        weight = amplitudes.get(name, 1.0) * counted / scale
        return units.to_model(name, x) * on_layers(weight, x)

    errors = jnp.concatenate(
        [scaled(name, prediction[name] - target[name]) for name in LEVEL_VARIABLES]
    )
    targets = jnp.concatenate([scaled(n, target[n]) for n in LEVEL_VARIABLES])
    return View(
        target=planes_to_spectral(model.harmonics, targets),
        error=planes_to_spectral(model.harmonics, errors),
        columns=errors,
    )


# ---- the model's space


def model_planes(model: NeuralGCM) -> Planes:
    """Fields of the state on all layers, and ln(ps)."""
    sigma, dtype = model.spec.sigma, model.harmonics.dtype
    layers, devices = sigma.layers, partitioning.size(LEVEL)
    own = layers // devices
    first = partitioning.index(LEVEL) * own
    count = len(STATE_FIELDS)
    place = first + layers * np.arange(count)[:, None] + np.arange(own)
    shares = np.full(count * layers + 1, 1 / layers)
    shares[-1] = 1.0
    # Every device along `level` has the same ln(ps), and counts a part of its error.
    share = np.full(count * own + 1, 1 / layers)
    share[-1] = 1 / devices
    return Planes(
        jnp.append(place.ravel(), count * layers),
        jnp.asarray(share, dtype),
        jnp.asarray(shares, dtype),
    )


def model_view(model: NeuralGCM, loss: Loss, prediction: State, target: State) -> View:
    """Of states. Only of the waves that the core has: no forecast has others."""
    prediction, target = (
        model.harmonics.with_waves_of(model.equations.harmonics, x)
        for x in (prediction, target)
    )
    amplitudes = dict(loss.amplitudes)
    amplitudes["log_surface_pressure"] = loss.log_surface_pressure

    def scaled(state: State) -> jax.Array:
        planes = []
        fields = {name: getattr(state, name) for name in STATE_FIELDS[:3]}
        fields |= {name: state.tracers[name] for name in TRACERS}
        fields["log_surface_pressure"] = state.log_surface_pressure[None]
        for name, x in fields.items():
            change = jnp.atleast_1d(model.scales.column_change[name])
            scale = _scale(change, name, slice(None))
            if len(scale) > 1:
                start = partitioning.index(LEVEL) * len(x)
                scale = jax.lax.dynamic_slice_in_dim(scale, start, len(x))
            planes.append(x * on_layers(amplitudes.get(name, 1.0) / scale, x))
        return jnp.concatenate(planes)

    target = scaled(target)
    return View(target=target, error=scaled(prediction) - target)
