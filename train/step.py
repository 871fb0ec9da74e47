"""The training step: one pure function, jitted in one place."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax_datetime
import optax
from flax import nnx
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from model.networks import Networks
from model.neural_gcm import NeuralGCM
from model.partitioning import AXES, LAT, LEVEL, SAMPLES, varying
from model.spec import ModelSpec
from train.data import Batch
from train.losses import LossWeights, rollout_loss
from train.mesh import batch_layout, replicated

Params = dict
_EVALUATION = 2**32 - 1  # in place of a step, in what keys are made of
Metrics = dict[str, jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class TrainState:
    """Everything that training changes.

    Attributes:
      step: number of steps taken.
      skipped: how many of the last steps, in a row, changed nothing else.
      params: of the networks, a nested dict.
      ema: exponential moving average of `params`, which forecasts use.
      optimizer: state of the optimizer.
    """

    step: jax.Array
    skipped: jax.Array
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
        params=params,
        ema=jax.tree.map(jnp.copy, params),
        optimizer=optimizer.init(params),
    )


def losses_of_samples(
    model: NeuralGCM,
    params: Params,
    weights: LossWeights,
    batch: Batch,
    hours: int,
    key: jax.Array,
) -> tuple[jax.Array, Metrics]:
    """One device's part of its samples' losses and of their metrics, [sample].

    Every member is a sample; its random numbers depend on `key` and on which it is,
    not on where it is computed.

    Arguments are the device's parts too; the sum over `level` and `lat` is the whole.
    """
    networks = merge_networks(model.spec, params)

    def sample(frames, days, seconds, sample, member):
        own = jax.random.fold_in(jax.random.fold_in(key, sample), member)
        time = jax_datetime.Datetime(jax_datetime.Timedelta(days=days, seconds=seconds))
        return rollout_loss(model, networks, weights, frames, time, hours, own)

    names = ("frames", "days", "seconds", "sample", "member")
    return jax.vmap(sample)(*(batch[name] for name in names))


def loss_and_gradient(
    model: NeuralGCM,
    params: Params,
    weights: LossWeights,
    batch: Batch,
    hours: int,
    mesh: Mesh,
    key: jax.Array,
) -> tuple[tuple[jax.Array, Metrics], Params]:
    """Mean loss over a batch with its metrics, and the gradient by `params`.

    Every device differentiates its own part of the loss; one sum over the whole mesh
    makes losses and gradients complete.
    """
    samples = len(batch["days"])

    def part(model, params, batch, key):
        model, params, batch, key = varying((model, params, batch, key))
        key = jax.random.wrap_key_data(key)

        def loss(params):
            losses = losses_of_samples(model, params, weights, batch, hours, key)
            return jax.tree.map(lambda x: jnp.sum(x) / samples, losses)

        return jax.lax.psum(jax.value_and_grad(loss, has_aux=True)(params), AXES)

    data = jax.random.key_data(key)
    return _on_mesh(part, mesh, model, batch, P())(model, params, batch, data)


def losses_of_batch(
    model: NeuralGCM,
    params: Params,
    weights: LossWeights,
    batch: Batch,
    hours: int,
    mesh: Mesh,
    key: jax.Array,
) -> tuple[jax.Array, Metrics]:
    """Losses of a batch's samples and their metrics, [sample]."""

    def part(model, params, batch, key):
        model, params, batch, key = varying((model, params, batch, key))
        key = jax.random.wrap_key_data(key)
        losses = losses_of_samples(model, params, weights, batch, hours, key)
        return jax.lax.psum(losses, (LEVEL, LAT))

    data = jax.random.key_data(key)
    on_mesh = _on_mesh(part, mesh, model, batch, P(SAMPLES))
    return on_mesh(model, params, batch, data)


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
    weights: LossWeights,
    hours: int,
    ema_decay: float,
    mesh: Mesh,
    shardings: TrainState,
    seed: int = 0,
) -> Callable[[NeuralGCM, TrainState, Batch], tuple[TrainState, Metrics]]:
    """The jitted step (model, state, batch) -> (state, metrics); `state` is donated.

    `shardings` says where the state lies, before and after. `seed` is of all that is
    random; every step has its own numbers. A step whose loss or update is not finite
    changes nothing but the state's counts.
    """

    def train_step(model, state, batch):
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        (value, parts), gradient = loss_and_gradient(
            model, state.params, weights, batch, hours, mesh, key
        )
        gradient = jax.lax.with_sharding_constraint(gradient, shardings.params)
        updates, optimizer_state = optimizer.update(
            gradient, state.optimizer, state.params
        )
        params = optax.apply_updates(state.params, updates)
        # Early on the average follows closely, so that it forgets the first draw.
        decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
        # In this form equal numbers stay equal: frozen ones do not drift.
        ema = jax.tree.map(lambda e, p: e + (1 - decay) * (p - e), state.ema, params)
        finite = jnp.isfinite(value) & _all_finite(updates)
        skipped = jnp.where(finite, 0, state.skipped + 1)
        learned = jax.tree.map(
            functools.partial(jnp.where, finite),
            (params, ema, optimizer_state),
            (state.params, state.ema, state.optimizer),
        )
        metrics = {
            "loss": value,
            **parts,
            "gradient_norm": optax.global_norm(gradient),
            "skipped": skipped,
        }
        return TrainState(state.step + 1, skipped, *learned), metrics

    # Stated output shardings keep the layout of the donated state.
    return jax.jit(
        train_step,
        donate_argnames="state",
        out_shardings=(shardings, replicated(mesh)),
    )


def make_eval_step(
    weights: LossWeights, hours: int, mesh: Mesh, seed: int = 0
) -> Callable[[NeuralGCM, Params, Batch], Metrics]:
    """The jitted evaluation (model, params, batch) -> metrics of each sample."""

    def eval_step(model, params, batch):
        key = jax.random.fold_in(jax.random.key(seed), _EVALUATION)
        loss, parts = losses_of_batch(model, params, weights, batch, hours, mesh, key)
        return {"loss": loss, **parts}

    return jax.jit(eval_step, out_shardings=replicated(mesh))
