"""The training step: one pure function, jitted in one place."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax_datetime
import optax
from flax import nnx
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from model import partitioning, remat
from model.networks import Networks
from model.neural_gcm import NeuralGCM
from model.partitioning import (
    AXES,
    COLUMN_SURFACE,
    ENSEMBLE,
    SAMPLES,
    varying,
)
from model.spec import LEVEL_VARIABLES, ModelSpec
from train.data import Batch
from train.errors import errors_of_frame
from train.losses.rollout import (
    Observe,
    Sums,
    batch_tables,
    rollout_sums,
    total,
)
from train.losses.terms import Loss
from train.mesh import batch_layout, replicated

Params = dict
Metrics = dict[str, Any]
_USUAL = 0.98  # the running mean's decay, of about the last 50 steps
_EVALUATION = 2**32 - 1  # in place of a step, in what keys are made of


@dataclasses.dataclass(frozen=True)
class Objective:
    """What a step makes of a batch.

    Attributes:
      loss: what is minimised.
      hours: between the frames of a window.
      members: of every sample.
    """

    loss: Loss
    hours: int
    members: int = 1


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class TrainState:
    """Everything that training changes.

    Attributes:
      step: number of steps taken.
      skipped: how many of the last steps, in a row, changed nothing else.
      usual_norm: of the gradient: running geometric mean over steps; 0 at first.
      params: of the networks, a nested dict.
      ema: exponential moving average of `params`, which forecasts use.
      optimizer: state of the optimizer.
    """

    step: jax.Array
    skipped: jax.Array
    usual_norm: jax.Array
    params: Params
    ema: Params
    optimizer: optax.OptState


def split_networks(networks: Networks) -> tuple[nnx.GraphDef, Params]:
    """The structure of the networks, and their parameters as a nested dict."""
    structure, state = nnx.split(networks, nnx.Param)
    return structure, nnx.to_pure_dict(state)


@functools.cache
def networks_structure(spec: ModelSpec) -> nnx.GraphDef:
    """Structure of the networks of `spec`, without making their parameters."""
    networks = nnx.eval_shape(lambda: Networks(spec, nnx.Rngs(0)))
    return split_networks(networks)[0]


def merge_networks(spec: ModelSpec, params: Params) -> Networks:
    """Networks with these parameters."""
    return nnx.merge(networks_structure(spec), nnx.State(params))


def initial_state(
    spec: ModelSpec, optimizer: optax.GradientTransformation, seed: int
) -> TrainState:
    """Before the first step, with freshly drawn parameters.

    Call it within `jax.jit`, or within `jax.eval_shape` for the shapes alone.
    """
    _, params = split_networks(Networks(spec, nnx.Rngs(seed)))
    return state_from(params, optimizer)


def state_from(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """Before the first step, with these parameters."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        usual_norm=jnp.zeros(()),
        params=params,
        ema=jax.tree.map(jnp.copy, params),
        optimizer=optimizer.init(params),
    )


def sums_of_samples(
    model: NeuralGCM,
    params: Params,
    objective: Objective,
    batch: Batch,
    key: jax.Array,
    observe: Observe = lambda decoded, target: None,
) -> Sums:
    """One device's part of the scores of its samples, each [sample, ...].

    Every member has its own random numbers, which depend on `key` and on which it is,
    not on where it is computed.

    Arguments are the device's parts too; the sum over `level` and `lat` is the whole,
    and over `ensemble`, where members are spread over it.
    """
    networks = merge_networks(model.spec, params)
    here = -(-objective.members // partitioning.size(ENSEMBLE))
    rows = jax.tree.map(lambda x: x.reshape(-1, here, *x.shape[1:]), batch)

    def sample(rows: Batch) -> Sums:
        frames, days, seconds = (
            jax.tree.map(lambda x: x[0], rows[name])  # the same for all members
            for name in ("frames", "days", "seconds")
        )
        keys = jax.vmap(lambda *numbers: functools.reduce(jax.random.fold_in, numbers))(
            jnp.broadcast_to(key, here), rows["sample"], rows["member"]
        )
        time = jax_datetime.Datetime(jax_datetime.Timedelta(days=days, seconds=seconds))
        return rollout_sums(
            *(model, networks, objective.loss, frames, time, objective.hours, keys),
            observe,
        )

    if model.spec.remat.sample == "recompute":
        return jax.lax.map(remat.treated(sample, "recompute"), rows)
    return jax.vmap(sample)(rows)


def loss_and_gradient(
    model: NeuralGCM,
    params: Params,
    objective: Objective,
    batch: Batch,
    mesh: Mesh,
    key: jax.Array,
) -> tuple[tuple[jax.Array, Metrics], Params]:
    """Loss of a batch with what it is made of, and the gradient by `params`.

    Every device differentiates its own part of the loss; one sum over the whole mesh
    makes losses and gradients complete.

    Returns:
      The loss; every term's scores by plane, `tables`, and by lead, `by_lead`
      (`train.losses.rollout.Sums`), means over the batch; and the gradient.
    """
    rows, loss = len(batch["days"]), objective.loss

    def part(model, params, batch, key):
        model, params, batch, key = varying((model, params, batch, key))
        key = jax.random.wrap_key_data(key)

        def value(params):
            sums = sums_of_samples(model, params, objective, batch, key)
            sums = jax.tree.map(lambda x: jnp.sum(x, axis=0), sums)
            tables = batch_tables(model, loss, sums, rows)
            by_lead = jax.tree.map(lambda x: x / rows, sums.by_lead)
            # Some are sums over the mesh already, of which every device has a part.
            parts = varying({"tables": tables, "by_lead": by_lead})
            return total(loss, parts["tables"]), parts

        return jax.lax.psum(jax.value_and_grad(value, has_aux=True)(params), AXES)

    data = jax.random.key_data(key)
    return _on_mesh(part, mesh, model, batch, P())(model, params, batch, data)


def scores_of_batch(
    model: NeuralGCM,
    params: Params,
    objective: Objective,
    batch: Batch,
    mesh: Mesh,
    key: jax.Array,
) -> Metrics:
    """What a batch's forecasts are worth.

    Returns:
      `losses` of every sample, [sample], without what is of the whole batch (biases).
      Of the `count` samples where they are finite, means of: `tables` and `by_lead` as
      of `loss_and_gradient`, and `errors` and `maps` of decoded fields
      (`train.errors`).
    """
    loss, members = objective.loss, objective.members
    # Along `ensemble` lie members, or other samples.
    of_samples = SAMPLES if members == 1 else ("data",)
    of_losses = tuple(axis for axis in AXES if axis not in of_samples)

    def part(model, params, batch, key):
        model, params, batch, key = varying((model, params, batch, key))
        key = jax.random.wrap_key_data(key)
        observe = functools.partial(errors_of_frame, model)
        sums = sums_of_samples(model, params, objective, batch, key, observe)
        # Decoded fields too, for a loss may be of biases alone, which no sample has.
        losses = jnp.sum(sums.observed[0]["square"][LEVEL_VARIABLES[0]], (-2, -1)) * 0
        for name, weight in loss.weights:
            if name in sums.tables:
                losses += weight * sums.tables[name].sum(-1)
        losses = jax.lax.psum(varying(losses), of_losses) / members
        finite = jnp.isfinite(losses)

        def over_samples(x: jax.Array) -> jax.Array:
            some = finite.reshape(-1, *[1] * (x.ndim - 1))
            return jnp.sum(jnp.where(some, x, 0), axis=0)

        sums = jax.tree.map(over_samples, sums)
        count = jax.lax.psum(jnp.sum(finite), of_samples)
        rows = members * jnp.maximum(count, 1)
        errors, maps = jax.tree.map(lambda x: x / rows, sums.observed)
        means = {
            "tables": batch_tables(model, loss, sums, rows),
            "by_lead": jax.tree.map(lambda x: x / rows, sums.by_lead),
            "errors": errors,
        }
        return (
            {"losses": losses, "count": count, **jax.lax.psum(varying(means), AXES)},
            jax.lax.psum(varying(maps), SAMPLES),
        )

    layout = {"losses": P(of_samples), "count": P(), "tables": P(), "by_lead": P()}
    out = layout | {"errors": P()}, P(None, None, *COLUMN_SURFACE)
    data = jax.random.key_data(key)
    scores, maps = _on_mesh(part, mesh, model, batch, out)(model, params, batch, data)
    return scores | {"maps": maps}


def _on_mesh(
    part: Callable, mesh: Mesh, model: NeuralGCM, batch: Batch, out_specs: P
) -> Callable:
    """`part(model, params, batch, key)` on every device, with parameters whole."""
    layouts = (
        model.layout(),
        P(),
        jax.tree.map(lambda x: batch_layout(x.ndim), batch),
        P(),
    )
    return jax.shard_map(part, mesh=mesh, in_specs=layouts, out_specs=out_specs)


def _all_finite(tree: Params) -> jax.Array:
    return jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(tree)]).all()


def make_train_step(
    optimizer: optax.GradientTransformation,
    objective: Objective,
    ema_decay: float,
    mesh: Mesh,
    shardings: TrainState,
    seed: int = 0,
    spike: float = 0.0,
) -> Callable[[NeuralGCM, TrainState, Batch], tuple[TrainState, Metrics]]:
    """The jitted step (model, state, batch) -> (state, metrics); `state` is donated.

    A step whose loss or update is not finite changes nothing but the state's counts.

    Args:
      optimizer: makes updates of gradients.
      objective: what a batch is to be.
      ema_decay: of the average.
      mesh: of the devices.
      shardings: where the state lies, before and after.
      seed: of all that is random; every step has its own numbers.
      spike: a step is skipped too if its gradient's norm is more than so many times the
        usual one; 0: never.

    Returns:
      The step. Its metrics are those of `loss_and_gradient`, `gradient_norm` and
      `skipped`.
    """

    @jax.named_scope("optimizer")
    def updated(state, gradient, value, parts):
        gradient = jax.lax.with_sharding_constraint(gradient, shardings.params)
        updates, optimizer_state = optimizer.update(
            gradient, state.optimizer, state.params
        )
        params = optax.apply_updates(state.params, updates)
        # Early on the average follows closely, so that it forgets the first draw.
        decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
        # In this form equal numbers stay equal: frozen ones do not drift.
        ema = jax.tree.map(lambda e, p: e + (1 - decay) * (p - e), state.ema, params)
        norm = optax.global_norm(gradient)
        usual = jnp.where(state.usual_norm > 0, state.usual_norm, norm)
        good = jnp.isfinite(value) & _all_finite(updates)
        if spike:
            good &= norm <= spike * usual
        skipped = jnp.where(good, 0, state.skipped + 1)
        learned = jax.tree.map(
            functools.partial(jnp.where, good),
            (usual**_USUAL * norm ** (1 - _USUAL), params, ema, optimizer_state),
            (state.usual_norm, state.params, state.ema, state.optimizer),
        )
        metrics = {
            "loss": value,
            **parts,
            "gradient_norm": norm,
            "skipped": skipped,
        }
        return TrainState(state.step + 1, skipped, *learned), metrics

    def train_step(model, state, batch):
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        (value, parts), gradient = loss_and_gradient(
            model, state.params, objective, batch, mesh, key
        )
        return updated(state, gradient, value, parts)

    # Stated output shardings keep the layout of the donated state.
    return jax.jit(
        train_step,
        donate_argnames="state",
        out_shardings=(shardings, replicated(mesh)),
    )


def make_eval_step(
    objective: Objective, mesh: Mesh, seed: int = 0
) -> Callable[[NeuralGCM, Params, Batch], Metrics]:
    """The jitted evaluation (model, params, batch) -> `scores_of_batch`."""

    def eval_step(model, params, batch):
        key = jax.random.fold_in(jax.random.key(seed), _EVALUATION)
        return scores_of_batch(model, params, objective, batch, mesh, key)

    return jax.jit(eval_step, out_shardings=replicated(mesh))
