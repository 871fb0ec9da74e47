"""The loss of rollouts, accumulated frame by frame: no trajectory is ever held."""

import dataclasses
import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
import jax_datetime

from model import partitioning, remat
from model.networks import Networks
from model.neural_gcm import Frame, ModelState, NeuralGCM
from model.partitioning import ENSEMBLE, SAMPLES
from model.spec import LEVEL_VARIABLES
from train.losses import scores
from train.losses.terms import TERMS, Loss, lead_weights, low_pass
from train.losses.views import (
    Planes,
    View,
    data_planes,
    data_view,
    model_planes,
    model_view,
)

Observe = Callable[[Frame, Frame], Any]
"""Of a decoded frame and its target: what else is wanted, as a tree of arrays."""


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["tables", "biases", "by_lead", "observed"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class Sums:
    """What a rollout adds up to; of several, the sum is meant.

    Attributes:
      tables: mean over frames of every term's scores, by term, [all planes].
      biases: mean over frames of what biases are made of (`scores.amplitude_bias`), by
        term, [plane, m, l].
      by_lead: scores of every frame without weights of lead time, summed over planes,
        by term, [frame].
      observed: of every frame, [frame, ...].
    """

    tables: dict[str, jax.Array]
    biases: dict[str, jax.Array]
    by_lead: dict[str, jax.Array]
    observed: Any = None

    def plus(self, new: "Sums", index: jax.Array) -> "Sums":
        """With what a frame adds, whose own `by_lead` and `observed` have no axis."""
        add = functools.partial(jax.tree.map, jnp.add)
        place = functools.partial(jax.tree.map, lambda x, y: x.at[index].add(y))
        return Sums(
            tables=add(self.tables, new.tables),
            biases=add(self.biases, new.biases),
            by_lead=place(self.by_lead, new.by_lead),
            observed=place(self.observed, new.observed),
        )


def planes_of(model: NeuralGCM, loss: Loss) -> dict[str, Planes]:
    """Of both spaces."""
    return {"data": data_planes(model, loss), "model": model_planes(model)}


def rollout_sums(
    model: NeuralGCM,
    networks: Networks,
    loss: Loss,
    frames: Frame,
    time: jax_datetime.Datetime,
    hours: int,
    keys: jax.Array,
    observe: Observe = lambda decoded, target: None,
) -> Sums:
    """Scores of one sample, from its first frame over all that follow.

    Args:
      model, networks: the model.
      loss: which terms to compute.
      frames: by ERA5 name [frame, (level,) 2, latitude, longitude], SI units, `hours`
        apart. Sea and ice of the first one are kept: the future is not known.
      time: of the first frame.
      hours: between frames.
      keys: of all that is random in each member's forecast, [member]. Of two members
        one may be here, and the other on the next device along `ensemble`.
      observe: makes `Sums.observed`.

    Returns:
      Sums over the members that are here.
    """
    first = {name: x[0] for name, x in frames.items()}
    surface = {name: x for name, x in first.items() if name not in LEVEL_VARIABLES}
    count = len(frames[LEVEL_VARIABLES[0]])
    leads = [float(i * hours) for i in range(count)]
    planes = planes_of(model, loss)
    dtype = model.harmonics.dtype
    frame_weights = {
        name: jnp.asarray(lead_weights(loss, TERMS[name].score, leads) / count, dtype)
        for name, _ in loss.weights
    }
    passes = jnp.asarray(low_pass(loss, model.harmonics.total_wavenumber, leads), dtype)

    def views_of(
        state: ModelState, key: jax.Array, target: Frame, now: jax_datetime.Datetime
    ) -> tuple[dict[str, View], Any]:
        """Of one member, with what is observed."""
        decoded = model.decode(state, model.surroundings(first, now), networks)
        inputs = target | surface
        temperature, decoded_first = inputs["temperature"], decoded["geopotential"]
        inputs["temperature"] = partitioning.after(temperature, decoded_first)
        encoded = model.encode(inputs, now, networks, key)
        return {
            "data": data_view(model, loss, decoded, target),
            "model": model_view(model, loss, state.atmosphere, encoded.atmosphere),
        }, observe(decoded, target)

    @jax.named_scope("loss")
    def compared(states: ModelState, target: Frame, index: jax.Array) -> Sums:
        """What a frame adds; `by_lead` and `observed` are its own."""
        now = time + index * jax_datetime.to_timedelta(hours, "h")
        views, observed = jax.vmap(views_of, (0, 0, None, None))(
            states, keys, target, now
        )
        tables, biases, by_lead = {}, {}, {}
        for name, _ in loss.weights:
            view, of = views[TERMS[name].space], planes[TERMS[name].space]
            weight = frame_weights[name][index]
            if TERMS[name].score == "bias":
                bias = scores.amplitude_bias(view.target, view.error)
                biases[name] = weight * jnp.sum(bias, axis=0)
                continue
            table = _table(model, loss, name, view, of, passes[index])
            tables[name] = weight * table
            by_lead[name] = table.sum()
        observed = jax.tree.map(lambda x: jnp.sum(x, axis=0), observed)
        return partitioning.varying(Sums(tables, biases, by_lead, observed))

    def advanced(states: ModelState, index: jax.Array) -> ModelState:
        """One physics step, that many steps after the first frame."""
        start = time + index * jax_datetime.to_timedelta(model.spec.step_minutes, "m")
        surroundings = model.surroundings(first, start)
        return jax.vmap(lambda x: model.advance(x, surroundings, networks))(states)

    steps = hours * 60 // model.spec.step_minutes  # between frames
    rounds = (count - 1) * steps + 1
    encode = functools.partial(model.encode, first, time, networks)
    begun = jax.vmap(encode)(keys)
    new = jax.eval_shape(compared, begun, first, jnp.asarray(0))
    nothing = partitioning.varying(
        jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), new)
    )

    def advance_and_compare(
        waiting: ModelState, index: jax.Array
    ) -> tuple[ModelState, Sums]:
        """A step, but before the first frame; and what it adds, if it ends in one."""
        states = remat.unpacked(remat.beginning(waiting), begun)
        with taken_in(rounds - 1, rounds):
            states = jax.lax.cond(
                index > 0, lambda x: advanced(x, index - 1), lambda x: x, states
            )
        # Taken here: a scan over frames, or a branch that takes one, would copy all.
        target = {name: x[index // steps] for name, x in frames.items()}
        with taken_in(count, rounds):
            new = jax.lax.cond(
                index % steps == 0,
                remat.treated(compared, model.spec.remat.decode),
                lambda *_: nothing,
                *(states, target, index // steps),
            )
        return remat.packed(states, axes=1), new

    def to_round(carry, index):
        waiting, sums = carry
        treated = remat.treated(advance_and_compare, model.spec.remat.step)
        waiting, new = treated(waiting, index)
        return (waiting, sums.plus(new, index // steps)), None

    of_frames = jax.tree.map(
        lambda x: jnp.zeros((count, *x.shape), x.dtype), (new.by_lead, new.observed)
    )
    sums = Sums(nothing.tables, nothing.biases, *of_frames)
    carry = partitioning.varying((remat.packed(begun, axes=1), sums))
    (_, sums), _ = jax.lax.scan(to_round, carry, jnp.arange(rounds))
    return sums


def taken_in(taken: int, rounds: int) -> AbstractContextManager:
    """Names a branch that a loop takes in some of its rounds, for models of cost."""
    return jax.named_scope(f"taken_in_{taken}_of_{rounds}_rounds")


def _table(
    model: NeuralGCM,
    loss: Loss,
    name: str,
    view: View,
    planes: Planes,
    passes: jax.Array,
) -> jax.Array:
    """A term's scores of one frame, [all planes], summed over members."""
    truncation = model.spec.grid.truncation
    passes = passes[: view.error.shape[-1]]
    match TERMS[name].score:
        case "mse":
            by_plane = scores.mean_square(view.error * passes)
        case "spectrum":
            cutoff = int(loss.spectrum_cutoff * truncation)
            by_plane = scores.spectrum(view.target, view.error, cutoff)
        case "crps":
            error = view.error * passes
            by_wave = scores.crps(error, other_members(error))
            cutoff = int(loss.crps_cutoff * truncation)
            by_plane = scores.mean_over_waves(by_wave, cutoff)
        case "crps_grid":
            by_point = scores.crps(view.columns, other_members(view.columns))
            by_plane = scores.mean_over_points(by_point, model.harmonics.own_weights)
            return planes.whole_table(by_plane.sum(axis=0))
    return planes.table(by_plane.sum(axis=0))


def other_members(x: jax.Array) -> jax.Array:
    """What the other member of two has, in the place of each that is here; [member]."""
    if len(x) == 2:
        return jnp.flip(x, axis=0)
    return jax.lax.ppermute(x, ENSEMBLE, [(0, 1), (1, 0)])


def batch_tables(
    model: NeuralGCM, loss: Loss, sums: Sums, rows: int
) -> dict[str, jax.Array]:
    """Every term's scores over a batch, by term, [all planes].

    Args:
      model: the model.
      loss: its terms.
      sums: of this device's rows (samples, or members of samples).
      rows: how many there are in the whole batch.

    Returns:
      This device's part, biases included, which are those of the whole batch.
    """
    planes = planes_of(model, loss)
    devices = partitioning.size(SAMPLES[0]) * partitioning.size(SAMPLES[1])
    tables = {}
    for name, _ in loss.weights:
        if name in sums.tables:
            tables[name] = sums.tables[name] / rows
            continue
        bias = sums.biases[name] / rows
        for axis in SAMPLES:
            bias = partitioning.sum_over(bias, axis)
        of = planes[TERMS[name].space]
        tables[name] = of.table(scores.mean_square_bias(bias)) / devices
    return tables


def total(loss: Loss, tables: dict[str, jax.Array]) -> jax.Array:
    """The weighted sum of all terms, over variables and means over levels."""
    return sum(weight * tables[name].sum() for name, weight in loss.weights)
