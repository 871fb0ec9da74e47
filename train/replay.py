"""One step of a run again, alone, to find where a number stops being finite.

The step's batch and parameters are those of the run: of the newest checkpoint before
it, and the steps between. Then every sample is forecast on one device, part after
part, each compiled; the first part whose result is not finite is run again, operation
by operation, under JAX's own check for NaN. Nothing in the run's folder changes.
"""

import functools
import math
import pathlib
import traceback
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax_datetime
import numpy as np
from ml_collections import ConfigDict

import model as model_package
from model.neural_gcm import ModelState, NeuralGCM
from model.scales import abstract_scales
from pipeline.errors import UserError
from train import build, checkpoint, processes
from train.beginning import placed_model
from train.calibration import with_scales
from train.data import Batch, Loader, data_seed
from train.experiment import Experiment, prepare
from train.folder import RunFolder
from train.losses.rollout import batch_tables, rollout_sums, total
from train.mesh import place
from train.processes import say
from train.programs import Programs
from train.stages import Stage, stage_of
from train.step import Params, merge_networks

_ROOT = pathlib.Path(model_package.__file__).parents[1]


def replay(config: ConfigDict, workdir: str, number: int) -> None:
    """Takes the step of this number of a run again, and says what is not finite in it.

    Args:
      config: of the run.
      workdir: its folder.
      number: of the step, from 1.

    Raises:
      UserError: if there is no checkpoint before it, or there are several processes.
    """
    if processes.count() > 1:
        raise UserError("--replay_step is for one process: run it without a pod")
    experiment = prepare(config)
    programs = Programs(experiment)
    folder = RunFolder(workdir)
    earlier = [step for step in checkpoint.steps(folder.path) if step < number]
    if not earlier:
        raise UserError(
            f"{workdir} has no checkpoint of a step before {number}: nothing to replay "
            "it from"
        )
    shapes = abstract_scales(experiment.spec)
    try:
        saved = checkpoint.read(folder.path, max(earlier), programs.shapes, shapes)
    except (checkpoint.Damaged, checkpoint.OtherModel) as error:
        raise UserError(f"checkpoint {max(earlier)} cannot be used: {error}") from error
    state = place(saved.state, programs.shardings)
    placed = placed_model(experiment, saved.scales)
    say(f"replaying steps {saved.step + 1} to {number}, from checkpoint {saved.step}")
    for step in range(saved.step + 1, number + 1):
        stage = stage_of(experiment.stages, step - 1)
        batch = next(_loader(experiment, stage, step, saved.record["order"]))
        before = jax.device_get(state.params)
        model = programs.model_of(stage, placed)
        train_step = programs.train_step(stage, model, state)
        state, metrics = train_step(model, state, batch)
    loss, norm = (metrics[name].item() for name in ("loss", "gradient_norm"))
    say(f"step {number}: the loss is {loss:.6g}, the gradient's norm {norm:.6g}")
    if math.isfinite(loss) and math.isfinite(norm):
        say("all is finite")
        return
    model = build.build_model(experiment.spec, experiment.store)
    examine(
        with_scales(model, saved.scales), before, programs, stage, batch, number - 1
    )


def _loader(experiment: Experiment, stage: Stage, step: int, order: int) -> Loader:
    config = experiment.config
    return Loader(
        experiment.windows[stage.number],
        experiment.mesh,
        stage.config.train.batch,
        data_seed(config.seed, stage.number, order),
        config.train.members,
        delivered=step - 1 - stage.first,
    )


def examine(
    model: NeuralGCM,
    params: Params,
    programs: Programs,
    stage: Stage,
    batch: Batch,
    step: int,
) -> None:
    """Says where the samples of a batch stop being finite, on one device.

    Args:
      model: its tables, on one device.
      params: of the networks.
      programs: of the run.
      stage: of the step.
      batch: of the step.
      step: number of steps before it.
    """
    objective = programs.objective(stage)
    batch = jax.device_get(batch)
    key = jax.random.fold_in(jax.random.key(stage.config.seed), step)
    for row, (sample, member) in enumerate(
        zip(batch["sample"], batch["member"], strict=True)
    ):
        days, seconds = (int(batch[name][row]) for name in ("days", "seconds"))
        hour = np.datetime64(days * 24 + seconds // 3600, "h")
        who = f"sample {sample}, member {member}, from {hour}h"
        frames = jax.tree.map(lambda x, i=row: jnp.asarray(x[i]), batch["frames"])
        bad = [name for name, x in frames.items() if not np.isfinite(x).all()]
        if bad:
            say(f"{who}: the data are not finite: {', '.join(bad)}")
            continue
        own = jax.random.fold_in(jax.random.fold_in(key, int(sample)), int(member))
        time = jax_datetime.Datetime(jax_datetime.Timedelta(days=days, seconds=seconds))
        what = _first_bad_part(model, params, objective.hours, frames, time, own)
        if what is None:

            def loss_of(params: Params, frames=frames, time=time, own=own) -> jax.Array:
                networks, loss = merge_networks(model.spec, params), objective.loss
                sums = rollout_sums(
                    *(model, networks, loss, frames, time, objective.hours, own[None])
                )
                return total(loss, batch_tables(model, loss, sums, rows=1))

            one_member = objective.members == 1  # with two, terms want both
            if one_member and not _is_finite(jax.jit(jax.grad(loss_of))(params)):
                what = "the gradient: " + _guilty_operation(jax.grad(loss_of), params)
        say(f"{who}: {what or 'finite'}")


def _first_bad_part(
    model: NeuralGCM,
    params: Params,
    hours: int,
    frames: dict[str, jax.Array],
    time: jax_datetime.Datetime,
    key: jax.Array,
) -> str | None:
    """The first part of a forecast that is not finite, and the operation in it."""
    count = len(next(iter(frames.values())))
    first = {name: x[0] for name, x in frames.items()}
    minutes = model.spec.step_minutes
    networks = functools.partial(merge_networks, model.spec)

    def encode(params: Params) -> ModelState:
        return model.encode(first, time, networks(params), key)

    def advance(params: Params, state: ModelState, now: Any) -> ModelState:
        surroundings = model.surroundings(first, now)
        return model.advance(state, surroundings, networks(params))

    def decode(params: Params, state: ModelState, now: Any) -> Any:
        return model.decode(state, model.surroundings(first, now), networks(params))

    parts = {f: jax.jit(f) for f in (encode, advance, decode)}

    def run(function: Callable, *arguments: Any) -> tuple[Any, str | None]:
        result = parts[function](params, *arguments)
        if _is_finite(result):
            return result, None
        return result, _guilty_operation(function, params, *arguments)

    state, fault = run(encode)
    if fault:
        return f"the encoder: {fault}"
    for step in range((count - 1) * hours * 60 // minutes + 1):
        now = time + step * jax_datetime.to_timedelta(minutes, "m")
        after = f"after {step * minutes / 60:g} h"
        if step * minutes % (60 * hours) == 0:
            _, fault = run(decode, state, now)
            if fault:
                return f"the decoder {after}: {fault}"
        if step < (count - 1) * hours * 60 // minutes:
            state, fault = run(advance, state, now)
            if fault:
                return f"the physics step {after}: {fault}"
    return None


def _is_finite(tree: Any) -> bool:
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    return all(bool(jnp.isfinite(x).all()) for x in leaves)


def _guilty_operation(function: Callable, *arguments: Any) -> str:
    """Runs a function operation by operation; the first that makes a NaN."""
    try:
        # Not of infinite numbers, which the model has on purpose (as bounds).
        with jax.disable_jit(), jax.debug_nans(True):
            function(*arguments)
    except FloatingPointError as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [f for f in frames if pathlib.Path(f.filename).is_relative_to(_ROOT)]
        own = [f for f in own if "site-packages" not in f.filename] or frames
        line = str(error).splitlines()[0]
        where = own[-1]
        file = pathlib.Path(where.filename)
        file = file.relative_to(_ROOT) if file.is_relative_to(_ROOT) else file
        return f"{line} at {file}:{where.lineno}, in {where.name}: {where.line}"
    return "infinite, without an operation that makes NaN"
