"""Losses of a rollout, on spherical harmonic coefficients.

The mean square error over the sphere is, by Parseval, the sum of squared coefficients
over 4 pi. Errors are measured in deviations of 24-h differences. After Kochkov et al.
(2024), Supplement G.
"""

import dataclasses

import jax
import jax.numpy as jnp
import jax_datetime
import numpy as np

from model import partitioning, units
from model.dynamics.state import State
from model.networks import Networks
from model.neural_gcm import ModelState, NeuralGCM
from model.physics.columns import planes_to_spectral
from model.spec import LEVEL_VARIABLES, TRACERS
from model.vertical.layers import on_layers

HUMIDITY = TRACERS[0]


@dataclasses.dataclass(frozen=True)
class LossWeights:
    """How errors count.

    Attributes:
      data, model: weights of decoded errors and of encoded ones.
      amplitudes: of a variable's errors before squaring, by ERA5 name; default 1.
      log_surface_pressure: the same for ln(ps).
      least_level: hPa; levels above do not count.
      lead_hours: errors after t hours count 1 / (1 + t / lead_hours).
    """

    data: float
    model: float
    amplitudes: tuple[tuple[str, float], ...]
    log_surface_pressure: float
    least_level: float
    lead_hours: float


def _pooled(scale: jax.Array, counted: np.ndarray | slice) -> jax.Array:
    """One scale for all levels: root mean square of those that count."""
    return jnp.sqrt(jnp.mean(scale[counted] ** 2))


def data_error(
    model: NeuralGCM,
    weights: LossWeights,
    prediction: dict[str, jax.Array],
    target: dict[str, jax.Array],
) -> jax.Array:
    """Weighted mean square error on pressure levels, summed over variables.

    `prediction` and `target` hold `LEVEL_VARIABLES`, [level, 2, lat, lon], SI units.
    This device's part, as of all losses here: the sum over the mesh is the whole.
    """
    counted = np.asarray(model.spec.levels) >= weights.least_level
    amplitudes = dict(weights.amplitudes)
    errors = []
    for name in LEVEL_VARIABLES:
        scale = model.scales.data_change[name]
        if name != HUMIDITY:  # which varies by orders of magnitude with height
            scale = jnp.broadcast_to(_pooled(scale, counted), scale.shape)
        error = units.to_model(name, prediction[name] - target[name])
        weight = amplitudes.get(name, 1.0) * counted / scale
        errors.append(error * on_layers(weight, error))
    modal = planes_to_spectral(model.harmonics, jnp.concatenate(errors))
    return jnp.sum(modal**2) / (4 * np.pi * float(counted.sum()))


def model_error(
    model: NeuralGCM, weights: LossWeights, prediction: State, target: State
) -> jax.Array:
    """Weighted mean square error of model states, summed over fields.

    Of the waves that the core has: no forecast has others.
    """
    prediction, target = (
        model.harmonics.with_waves_of(model.equations.harmonics, x)
        for x in (prediction, target)
    )
    amplitudes = dict(weights.amplitudes)
    change = model.scales.column_change
    layers = model.spec.sigma.layers

    def square(x: jax.Array, y: jax.Array, name: str, count: int) -> jax.Array:
        scale = _pooled(jnp.atleast_1d(change[name]), slice(None))
        error = (x - y) * amplitudes.get(name, 1.0) / scale
        return jnp.sum(error**2) / (4 * np.pi * count)

    # Every device along `level` has the same ln(ps), and counts a part of its error.
    total = weights.log_surface_pressure**2 * square(
        prediction.log_surface_pressure,
        target.log_surface_pressure,
        "log_surface_pressure",
        partitioning.size(partitioning.LEVEL),
    )
    for name in ("vorticity", "divergence", "temperature"):
        total += square(getattr(prediction, name), getattr(target, name), name, layers)
    for name in TRACERS:
        total += square(prediction.tracers[name], target.tracers[name], name, layers)
    return total


def rollout_loss(
    model: NeuralGCM,
    networks: Networks,
    weights: LossWeights,
    frames: dict[str, jax.Array],
    time: jax_datetime.Datetime,
    hours: int,
    key: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Loss of one sample, from its first frame over all that follow.

    Args:
      model, networks: the model.
      weights: how errors count.
      frames: by ERA5 name [frame, (level,) 2, latitude, longitude], SI units, `hours`
        apart. Sea and ice of the first one are kept: the future is not known.
      time: of the first frame.
      hours: between frames.
      key: of all that is random in this forecast.

    Returns:
      The loss, and its parts by name, without weights of lead time: `data` and
      `model` averaged over frames, and `data_0h`, `data_6h`, ... of each frame.
    """
    first = {name: x[0] for name, x in frames.items()}
    count = next(iter(frames.values())).shape[0]
    lead = jnp.arange(count) * hours

    @jax.checkpoint
    def errors(state: ModelState, target, lead):
        now = time + lead * jax_datetime.to_timedelta(1, "h")
        decoded = model.decode(state, model.surroundings(first, now), networks)
        encoded = model.encode({**target, **_surface(first)}, now, networks, key)
        return (
            data_error(model, weights, decoded, target),
            model_error(model, weights, state.atmosphere, encoded.atmosphere),
        )

    def advance(state, inputs):
        target, lead = inputs
        start = time + (lead - hours) * jax_datetime.to_timedelta(1, "h")
        state = model.rollout(state, first, start, hours, networks)
        return state, errors(state, target, lead)

    state = model.encode(first, time, networks, key)
    at_start = errors(state, first, lead[0])
    later = {name: x[1:] for name, x in frames.items()}
    _, after = jax.lax.scan(advance, state, (later, lead[1:]))
    data, model_ = (
        jnp.concatenate([a[None], b]) for a, b in zip(at_start, after, strict=True)
    )
    lead_weight = 1 / (1 + lead.astype(data.dtype) / weights.lead_hours)
    loss = jnp.mean(lead_weight * (weights.data * data + weights.model * model_))
    parts = {"data": jnp.mean(data), "model": jnp.mean(model_)}
    parts |= {f"data_{i * hours}h": data[i] for i in range(count)}
    return loss, parts


def _surface(frame: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {name: x for name, x in frame.items() if name not in LEVEL_VARIABLES}
