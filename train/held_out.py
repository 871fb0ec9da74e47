"""Evaluation while training: losses and errors of forecasts from held-out windows."""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from model.neural_gcm import NeuralGCM
from model.spec import LEVEL_VARIABLES, ModelSpec
from train import pictures, processes, report
from train.data import Batch, BatchReader, Windows
from train.experiment import Experiment
from train.folder import RunFolder
from train.metrics import MetricWriter, read_metrics
from train.processes import say
from train.programs import Programs
from train.step import Metrics, Objective, Params, TrainState
from train.votes import Votes
from train.watchdog import Watchdog

Scores = dict[str, Any]
"""Means over the windows whose loss is finite: `tables` and `by_lead` of the loss's
terms, `errors` and `maps` of decoded fields (`train.step.scores_of_batch`); `losses` of
all windows, and the `count` of those where they are finite."""


class Evaluation:
    """Scores a run's parameters on held-out windows, and draws the scores."""

    def __init__(
        self,
        experiment: Experiment,
        programs: Programs,
        model: NeuralGCM,
        params: Params,
        folder: RunFolder,
        dog: Watchdog,
        votes: Votes,
    ) -> None:
        """Compiles it for `model` and parameters such as `params`."""
        self._experiment, self._programs = experiment, programs
        self._folder, self._dog, self._votes = folder, dog, votes
        self._model = programs.model_of(experiment.stages[0], model)
        self._step = programs.eval_step(self._model, params)

    def run(self, step: int, state: TrainState, writer: MetricWriter) -> bool:
        """Scores raw and averaged parameters; False if it was told to stop before."""
        spec, train = self._experiment.spec, self._experiment.config.train
        objective = self._programs.evaluation
        lines, of_all, maps = {}, {}, None
        for name, params in (("raw", state.params), ("ema", state.ema)):
            scores = self._scores(params)
            if scores is None:
                return False
            numbers = summary(
                spec, objective, train.eval_leads, train.eval_levels, scores
            )
            prefix = "eval_raw_" if name == "raw" else "eval_"
            lines |= {f"{prefix}{key}": x for key, x in numbers.items()}
            of_all[name] = tables(spec, objective, scores)
            maps = scores["maps"]
        writer.write(step, lines)
        if processes.is_first():
            try:
                self._draw(step, of_all, maps)
            except OSError as error:  # such as a full disk: the next may do
                say(f"PICTURES OF STEP {step} CANNOT BE WRITTEN: {error}")
        lost = 1 - lines["eval_finite"]
        note = f", without the {lost:.0%} of windows that blew up" if lost else ""
        say(
            f"step {step}: held-out loss {lines['eval_loss']:.4f} (raw "
            f"{lines['eval_raw_loss']:.4f}){note}"
        )
        return True

    def _scores(self, params: Params) -> Scores | None:
        """Of parameters on held-out windows; None if it was told to stop."""
        config = self._experiment.config
        numbers = window_numbers(
            *(self._experiment.held_out, self._programs.eval_batch),
            config.train.eval_batches,
        )

        def evaluate(batch: Batch) -> Metrics:
            self._dog.expect(config.run.step_minutes)
            return self._step(self._model, params, batch)

        def between() -> bool:
            motions = self._votes.cast()
            if not motions.stop:
                self._votes.repeat(motions)
            return not motions.stop

        return mean_scores(self._programs.reader, numbers, evaluate, between)

    def _draw(self, step: int, of_all: dict[str, Any], maps: np.ndarray) -> None:
        """Writes the scores of an evaluation, and pictures."""
        folder = self._folder.local / "evaluations"
        folder.mkdir(exist_ok=True)
        name = f"{step:07d}"
        (folder / f"{name}.json").write_text(json.dumps(of_all) + "\n")
        spec, config = self._experiment.spec, self._experiment.config
        hours = config.data.hours
        leads = [x for x in config.train.eval_leads if x // hours < len(maps)]
        if leads:
            pictures.error_maps(
                maps[[x // hours for x in leads]],
                *(spec.grid, spec.levels, leads),
                f"mean errors on held-out windows, step {step} (average)",
                folder / f"{name}.png",
            )
        stages = [(s.first, f"{s.hours} h") for s in self._experiment.stages]
        lines = read_metrics(self._folder.local)
        pictures.learning_curves(lines, stages, self._folder.local / "curves.png")


def window_numbers(windows: Windows, batch: int, batches: int) -> np.ndarray:
    """Numbers of windows that are evenly spread, [batch number, sample]."""
    count = batch * batches
    numbers = np.linspace(0, len(windows) - 1, count).round().astype(int)
    return numbers.reshape(batches, batch)


def mean_scores(
    reader: BatchReader,
    numbers: np.ndarray,
    evaluate: Callable[[Any], Metrics],
    between: Callable[[], bool] = lambda: True,
) -> Scores | None:
    """Scores over batches of windows.

    Args:
      reader: of their data.
      numbers: of the windows, [batch number, sample].
      evaluate: a batch on the devices -> `scores_of_batch`.
      between: called after each batch; whether to go on.

    Returns:
      The means, or None if it was told not to go on.
    """
    means: Any = None
    count, losses = 0, []
    for some in numbers:
        of_batch = evaluate(reader.to_devices(reader.read(some)))
        if not between():
            return None
        of_batch = jax.tree.map(lambda x: np.asarray(x, np.float64), of_batch)
        finite = int(of_batch.pop("count"))
        losses.append(of_batch.pop("losses"))
        weighted = jax.tree.map(lambda x, n=finite: n * x, of_batch)
        means = weighted if means is None else jax.tree.map(np.add, means, weighted)
        count += finite
    means = jax.tree.map(lambda x: x / max(count, 1), means)
    return {**means, "count": count, "losses": np.concatenate(losses)}


def summary(
    spec: ModelSpec,
    objective: Objective,
    leads: tuple[int, ...],
    levels: tuple[float, ...],
    scores: Scores,
) -> dict[str, float]:
    """Scores as numbers with names.

    Returns:
      `loss`, the terms (`report.term_scores`) and the shares of terms and variables
      (`report.shares`); `finite`, the part of windows that they are of; `median_loss`
      of all windows, infinite where they are not finite, which a few that are about to
      blow up do not rule (without what is of the whole batch); and root mean
      square errors and biases at those of `leads` and `levels` that there are, such as
      `rmse/24h/temperature/500 hPa`, in SI units.
    """
    loss, hours = objective.loss, objective.hours
    losses = scores["losses"]
    numbers = {
        "loss": np.nan,
        "finite": scores["count"] / len(losses),
        "median_loss": float(np.median(np.where(np.isfinite(losses), losses, np.inf))),
    }
    if not scores["count"]:
        return numbers
    value = sum(w * scores["tables"][name].sum() for name, w in loss.weights)
    numbers["loss"] = float(value)
    numbers |= report.term_scores(loss, hours, scores)
    numbers |= report.shares(spec, loss, scores["tables"])
    for lead in leads:
        for level in (p for p in spec.levels if p in levels):
            for name in LEVEL_VARIABLES:
                frame, k = lead // hours, spec.levels.index(level)
                square, mean = (scores["errors"][x][name] for x in ("square", "mean"))
                if frame < len(square):
                    key = f"{lead}h/{name}/{level:g} hPa"
                    numbers[f"rmse/{key}"] = float(np.sqrt(square[frame, k]))
                    numbers[f"bias/{key}"] = float(mean[frame, k])
    return numbers


def tables(spec: ModelSpec, objective: Objective, scores: Scores) -> dict[str, Any]:
    """All of the scores, for machines.

    Returns:
      `lead_hours`, `levels_hpa`; `rmse` and `bias` by variable, [lead, level]; and
      `loss`: what every plane adds to it, by term and variable, [level].
    """
    errors, loss = scores["errors"], objective.loss
    frames = len(errors["mean"][LEVEL_VARIABLES[0]])
    return {
        "lead_hours": [objective.hours * frame for frame in range(frames)],
        "levels_hpa": list(spec.levels),
        "finite": scores["count"] / len(scores["losses"]),
        "rmse": {n: np.sqrt(x).tolist() for n, x in errors["square"].items()},
        "bias": {name: x.tolist() for name, x in errors["mean"].items()},
        "loss": {
            name: {
                variable: x.tolist()
                for variable, x in report.by_variable(
                    spec, name, weight * scores["tables"][name]
                ).items()
            }
            for name, weight in loss.weights
        },
    }
