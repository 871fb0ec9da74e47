"""From a configuration to the objects that it describes."""

import dataclasses
import re
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from model.neural_gcm import NeuralGCM
from model.partitioning import AXES
from model.remat import Remat
from model.spec import Filter, ModelSpec, NetworkSpec, StateFilter
from model.sphere.grids import GaussianGrid, parse_grid
from model.vertical.sigma import SigmaLevels
from pipeline.errors import UserError
from pipeline.store import Store
from train.folder import Ground
from train.losses.terms import TERMS, Loss
from train.mesh import MeshShape
from train.stages import stages
from train.step import Objective


def build_spec(
    config: ConfigDict, grid: GaussianGrid, levels: Sequence[float]
) -> ModelSpec:
    """The specification of the model, on the grid and pressure levels of the data."""
    model = config.model
    try:
        return ModelSpec(
            grid=grid,
            dycore_grid=parse_grid(model.dycore_grid),
            sigma=SigmaLevels.equidistant(model.layers),
            levels=tuple(float(level) for level in levels),
            step_minutes=model.step_minutes,
            substeps=model.substeps,
            filters=tuple(Filter(*f) for f in model.filters),
            fixers=tuple(model.fixers),
            geopotential_interpolation=model.geopotential_interpolation,
            networks=_build_networks(model),
            tendency_filters=tuple(Filter(*f) for f in model.tendency_filters),
            encoder_filters=tuple(StateFilter(*f) for f in model.encoder_filters),
            as_published=model.as_published,
            reference_temperature=tuple(model.reference_temperature),
            remat=build_remat(config),
        )
    except (ValueError, TypeError) as error:
        raise UserError(f"config.model: {error}") from error


def build_remat(config: ConfigDict) -> Remat:
    try:
        return Remat(**config.remat)
    except ValueError as error:
        raise UserError(f"config.remat: {error}") from error


def _build_networks(model: ConfigDict) -> NetworkSpec:
    """The learned part; `model` has its fields by their names."""
    names = {f.name for f in dataclasses.fields(NetworkSpec)} - {"layers", "noise"}
    fields = {
        name: tuple(value) if isinstance(value, tuple | list) else value
        for name, value in model.items()
        if name in names
    }
    noise = tuple((float(length), float(time)) for length, time in model.noise)
    return NetworkSpec(layers=model.hidden_layers, noise=noise, **fields)


def build_model(
    spec: ModelSpec, store: Store, shards: int = 1, ground: Ground | None = None
) -> NeuralGCM:
    """The model's tables with the ground of `store`, still without scales.

    Their shapes fit `shards` devices along `lat`, and one on its own. A run may bring
    its own `ground`.
    """
    if ground is None:
        ground = Ground(
            store.read("geopotential_at_surface", None),
            store.read("land_sea_mask", None),
        )
    return NeuralGCM.create(
        spec, ground.geopotential_at_surface, ground.land_sea_mask, shards=shards
    )


def build_mesh_shape(config: ConfigDict) -> MeshShape:
    return MeshShape(**{axis: config.mesh[axis] for axis in AXES})


def build_objective(config: ConfigDict) -> Objective:
    """What a step minimises; `config` is that of a stage.

    Raises:
      UserError: if the loss makes no sense, or needs members that there are not.
    """
    options = config.loss.to_dict()
    weights = {name: options.pop(name) for name in TERMS}
    try:
        loss = Loss(
            weights=tuple((n, weight) for n, weight in weights.items() if weight),
            amplitudes=tuple(options.pop("amplitudes").items()),
            low_pass=tuple(tuple(x) for x in options.pop("low_pass")),
            **options,
        )
    except (ValueError, TypeError) as error:
        raise UserError(f"config.loss: {error}") from error
    if loss.needs_members and config.train.members != 2:
        raise UserError(
            "config.loss: crps terms compare two members of every sample: set "
            f"config.train.members=2, not {config.train.members}"
        )
    return Objective(loss, config.data.hours, config.train.members)


def build_schedule(config: ConfigDict) -> optax.Schedule:
    """Learning rate by step: that of the stage, times what all stages share.

    A linear warm-up, and from `decay_start` on a decay: `cosine`, to 0 at
    `decay_steps`; `halving`, by half in so many steps; or `none`.

    Raises:
      UserError: if the rate would decay before it has risen, or not end.
    """
    optimizer = config.optimizer
    warmup, start, steps = (
        optimizer[name] for name in ("warmup_steps", "decay_start", "decay_steps")
    )
    start = max(start, warmup)
    match optimizer.decay:
        case "cosine":
            if start >= steps:
                raise UserError(
                    f"config.optimizer.warmup_steps={warmup} and decay_start="
                    f"{optimizer.decay_start} must be less than decay_steps={steps}"
                )
            decay = optax.cosine_decay_schedule(1.0, steps - start)
        case "halving":
            if steps < 1:
                raise UserError(
                    f"config.optimizer.decay_steps={steps} must be at least 1"
                )
            decay = optax.exponential_decay(1.0, steps, 0.5)
        case "none":
            decay = optax.constant_schedule(1.0)
        case other:
            raise UserError(
                f"config.optimizer.decay={other!r} is none of cosine, halving, none"
            )
    shape = optax.join_schedules(
        [
            optax.linear_schedule(0.0, 1.0, warmup) if warmup else decay,
            optax.constant_schedule(1.0),
            decay,
        ],
        [warmup, start],
    )
    of_stages = stages(config)
    firsts = [stage.first for stage in of_stages]
    rates = [stage.config.optimizer.learning_rate for stage in of_stages]

    def rate(step: jax.Array) -> jax.Array:
        stage = jnp.searchsorted(jnp.asarray(firsts), step, side="right") - 1
        return jnp.asarray(rates, jnp.float32)[stage] * shape(step)

    return rate


def build_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """Adam on clipped gradients, with a rate of its own for every module.

    The same in all stages.

    Raises:
      UserError: if the schedule, or the rate of a module, makes no sense.
    """
    optimizer = config.optimizer
    factor = _factor_by_path(optimizer.rates)
    return optax.chain(
        _scaled(lambda path: float(factor(path) > 0)),  # frozen ones do not count
        optax.clip_by_global_norm(optimizer.clip),
        optax.adam(build_schedule(config), optimizer.b1, optimizer.b2, optimizer.eps),
        _scaled(factor),
    )


def _factor_by_path(rates: Sequence[Sequence]) -> Callable[[str], float]:
    """Part of the learning rate that a parameter of this path has."""
    for rate in rates:
        try:
            pattern, factor = rate
            re.compile(pattern)
            good = factor >= 0
        except (ValueError, TypeError, re.error):
            good = False
        if not good:
            raise UserError(
                f"config.optimizer.rates: {rate!r} is no (regular expression, factor "
                "from 0)"
            )

    def factor(path: str) -> float:
        matching = (f for pattern, f in rates if re.search(pattern, path))
        return float(next(matching, 1.0))

    return factor


def _scaled(factor: Callable[[str], float]) -> optax.GradientTransformation:
    """Multiplies every parameter's update by a factor that its path decides."""

    def update(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
        def scaled(path: tuple, x: jax.Array) -> jax.Array:
            f = factor(jax.tree_util.keystr(path, simple=True, separator="/"))
            if f == 0:  # whatever the gradient is, infinite ones included
                return jnp.zeros_like(x)
            return x if f == 1 else f * x

        return jax.tree_util.tree_map_with_path(scaled, updates)

    return optax.stateless(update)


def check_rates(config: ConfigDict, params: optax.Params) -> None:
    """Raises UserError if a rule of `config.optimizer.rates` matches no parameter."""
    paths = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(params)
    ]
    for pattern, _ in config.optimizer.rates:
        if not any(re.search(pattern, path) for path in paths):
            raise UserError(
                f"config.optimizer.rates: nothing is named like {pattern!r}; "
                f"parameters are {', '.join(sorted({p.split('/')[0] for p in paths}))}"
                "/..."
            )


def check_run(config: ConfigDict) -> None:
    """Raises UserError if a duration or a number of `config.run` makes no sense."""
    run, train = config.run, config.train
    positive = {
        "run.join_minutes": run.join_minutes,
        "run.heartbeat_seconds": run.heartbeat_seconds,
        "run.first_step_minutes": run.first_step_minutes,
        "run.step_minutes": run.step_minutes,
        "run.save_minutes": run.save_minutes,
        "run.profile_steps": run.profile_steps,
        "train.checkpoint_every": train.checkpoint_every,
        "train.eval_every": train.eval_every,
        "train.eval_batches": train.eval_batches,
        "train.log_every": train.log_every,
        "train.keep_checkpoints": train.keep_checkpoints,
        "train.lookback": train.lookback,
    }
    others = {
        "run.failed_saves": run.failed_saves,
        "run.profile_step": run.profile_step,
        "train.checkpoint_minutes": train.checkpoint_minutes,
        "train.keep_every": train.keep_every,
        "train.skips": train.skips,
        "train.spike": train.spike,
        "train.rollbacks": train.rollbacks,
        "train.eval_hours": train.eval_hours,
    }
    for name, value in positive.items():
        if value <= 0:
            raise UserError(f"config.{name}={value} must be more than 0")
    for name, value in others.items():
        if value < 0:
            raise UserError(f"config.{name}={value} must not be negative")


def eval_hours(config: ConfigDict) -> int:
    """Length of the rollouts of evaluations: as asked for, or the longest of training.

    Raises:
      UserError: if it, or a lead, is no whole number of frames.
    """
    hours = config.train.eval_hours or max(stage.hours for stage in stages(config))
    for name, value in [
        ("eval_hours", hours),
        *(("eval_leads", lead) for lead in config.train.eval_leads),
    ]:
        if value <= 0 or value % config.data.hours:
            raise UserError(
                f"config.train.{name}: {value} h is not a whole number of "
                f"config.data.hours={config.data.hours}"
            )
    return hours


def check_rollout(config: ConfigDict) -> None:
    """Raises UserError if frames do not follow one another by whole physics steps."""
    if config.data.frames < 2:
        raise UserError(
            f"config.data.frames={config.data.frames} must be at least 2: a start and "
            "a target"
        )
    if config.data.hours * 60 % config.model.step_minutes:
        raise UserError(
            f"config.data.hours={config.data.hours} is not a whole number of "
            f"config.model.step_minutes={config.model.step_minutes}"
        )
