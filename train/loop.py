"""Training, from the first step to the last, whatever interrupts it.

The only start path is resuming: the same command on the same folder goes on from the
newest checkpoint, or starts afresh if there is none.
"""

import functools
import json
import math
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from clu import metrics as clu_metrics
from clu import parameter_overview
from jax.sharding import Mesh
from ml_collections import ConfigDict

from model.neural_gcm import NeuralGCM
from pipeline.errors import UserError
from pipeline.progress import progress
from pipeline.store import open_store
from train import build
from train.calibration import calibrate, with_scales
from train.checkpoint import Checkpoints
from train.config import leaves, to_json
from train.data import Batch, BatchReader, Loader, Windows, check_store, parse_window
from train.mesh import make_mesh, state_shardings, tree_shardings
from train.metrics import MetricWriter
from train.step import Metrics, Params, initial_state, make_eval_step, make_train_step

# What may differ when a run goes on: it does not change what is computed.
MAY_CHANGE = (
    "mesh.",
    "data.grid",  # the store's own grid is used
    "train.log_every",
    "train.checkpoint_every",
    "train.steps",
)


def train(config: ConfigDict, workdir: str) -> None:
    """Trains the model of `config` in the folder `workdir`, or goes on with it.

    Writes checkpoints, `config.json`, `parameters.txt`, `metrics.jsonl` and
    TensorBoard events.

    Raises:
      UserError: if the configuration, the store or the folder cannot be used, or the
        loss is no longer finite.
    """
    # ---- data, model, mesh
    store = open_store(config.data.store)
    check_store(store)
    build.check_rollout(config)
    spec = build.build_spec(config, store.grid, store.levels)
    shape = build.build_mesh_shape(config)
    shape.check(spec, config.train.batch)
    mesh = make_mesh(shape)
    span = parse_window(store, config.data.train_times)
    hours = config.data.hours
    windows = Windows(store, *span, config.data.frames, hours)
    held_out = Windows(
        store,
        *parse_window(store, config.data.eval_times),
        config.data.frames,
        hours,
    )
    folder = prepare_workdir(workdir, config, store.fingerprint)

    model = build.build_model(spec, store, shape.lat)
    optimizer = build.build_optimizer(config)
    weights = build.build_loss_weights(config)
    schedule = build.build_schedule(config)
    loader = Loader(windows, mesh, config.train.batch, config.seed)

    fresh = functools.partial(initial_state, spec, optimizer, config.seed)
    rules = config.mesh.parameters
    shardings = state_shardings(mesh, jax.eval_shape(fresh), rules)

    with Checkpoints(folder, config.train.keep_checkpoints) as saved:
        # ---- state: restored, or fresh
        start = saved.latest_step or 0
        if start:
            state, scales, position = saved.restore(start, spec, optimizer, mesh, rules)
            loader.state = position["delivered"]
        else:
            state = jax.jit(fresh, out_shardings=shardings)()
            scales = calibrate(model, store, *span)
        model = with_scales(model, scales)
        model = jax.device_put(model, tree_shardings(mesh, model.layout()))
        overview = parameter_overview.get_parameter_overview(state.params)
        (folder / "parameters.txt").write_text(overview + "\n")
        say(
            f"{'resuming at step' if start else 'training from step'} {start} of "
            f"{config.train.steps}: "
            f"{parameter_overview.count_parameters(state.params):,} parameters, "
            f"{len(windows)} windows, mesh {dict(mesh.shape)} of "
            f"{mesh.devices.flat[0].platform} devices"
        )

        def save(step: int) -> None:
            position = {"delivered": loader.state}
            saved.save(step, state, scales, position, to_json(config))

        # ---- loop
        train_step = make_train_step(
            optimizer, weights, hours, config.optimizer.ema_decay, mesh, shardings
        )
        eval_step = make_eval_step(weights, hours, mesh)
        latest = {"loss": math.nan}
        with MetricWriter(folder, start) as writer:

            def log(step: int, values: dict[str, Any], seconds: float) -> None:
                latest.update({k: float(v) for k, v in values.items()})
                if not math.isfinite(latest["loss"]):
                    raise UserError(
                        f"the loss is {latest['loss']} at step {step}: lower "
                        "optimizer.learning_rate or model.step_minutes, and run again "
                        f"from the last checkpoint in {folder}"
                    )
                if step % config.train.log_every == 0:
                    writer.write(
                        step, {**latest, "learning_rate": float(schedule(step))}
                    )
                    writer.show(step, {"seconds_per_step": seconds})

            def status() -> str:
                return f"loss {latest['loss']:.4f}"

            pending: tuple[int, dict, float] | None = None
            steps = range(start + 1, config.train.steps + 1)
            for step in progress(steps, "train: steps", status=status):
                begun = time.monotonic()
                state, values = train_step(model, state, next(loader))
                # Fetched one step late, so that the devices never wait for the log.
                if pending is not None:
                    log(*pending)
                pending = (step, values, time.monotonic() - begun)
                last = step == config.train.steps
                evaluating = last or step % config.train.eval_every == 0
                saving = last or step % config.train.checkpoint_every == 0
                if evaluating or saving:
                    # No step is saved before its line is written and its loss checked.
                    log(*pending)
                    pending = None
                if evaluating:
                    scores = evaluate(
                        eval_step, model, state.ema, held_out, config, mesh
                    )
                    writer.write(step, scores)
                    say(f"step {step}: held-out loss {scores['eval_loss']:.4f}")
                if saving:
                    save(step)


def evaluate(
    eval_step: Callable[[NeuralGCM, Params, Batch], Metrics],
    model: NeuralGCM,
    params: Params,
    windows: Windows,
    config: ConfigDict,
    mesh: Mesh,
) -> dict[str, float]:
    """Mean metrics over held-out windows, evenly spread; names begin with `eval_`."""
    batch, count = config.train.batch, config.train.eval_batches
    total = np.linspace(0, len(windows) - 1, batch * count).round().astype(int)
    averages: dict[str, clu_metrics.Average] = {}
    reader = BatchReader(windows, mesh, batch)
    for numbers in total.reshape(count, batch):
        loaded = reader.to_devices(reader.read(numbers))
        for name, value in eval_step(model, params, loaded).items():
            average = clu_metrics.Average.from_model_output(value)
            known = averages.get(name)
            averages[name] = known.merge(average) if known else average
    return {f"eval_{name}": float(a.compute()) for name, a in averages.items()}


def prepare_workdir(workdir: str, config: ConfigDict, fingerprint: str) -> pathlib.Path:
    """Makes a run's folder, or checks that it is of the same run.

    Raises:
      UserError: if it holds a run of another configuration or other data.
    """
    folder = pathlib.Path(workdir)
    file = folder / "config.json"
    ours = {**to_json(config), "data_fingerprint": fingerprint}
    if file.exists():
        theirs = json.loads(file.read_text())
        differences = [
            key
            for key in sorted(_flat(ours).keys() | _flat(theirs).keys())
            if _flat(ours).get(key) != _flat(theirs).get(key)
            and not key.startswith(MAY_CHANGE)
        ]
        if differences:
            key = differences[0]
            raise UserError(
                f"{folder} belongs to another run: {key} is "
                f"{_flat(theirs).get(key)!r} there and {_flat(ours).get(key)!r} here"
                f" ({len(differences)} differences); give another --workdir"
            )
    elif folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty and no run: give another --workdir")
    folder.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(ours, indent=2) + "\n")
    temporary.replace(file)
    return folder


def _flat(nested: dict[str, Any]) -> dict[str, Any]:
    return dict(leaves(ConfigDict(nested)))


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
