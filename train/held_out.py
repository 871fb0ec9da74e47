"""Evaluation while training: losses and errors of forecasts from held-out windows."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from model.spec import LEVEL_VARIABLES, ModelSpec
from train import report
from train.data import BatchReader, Windows
from train.step import Metrics, Objective

Scores = dict[str, Any]
"""Means over the windows whose loss is finite: `tables` and `by_lead` of the loss's
terms, `errors` and `maps` of decoded fields (`train.step.scores_of_batch`); `count` of
these windows, and of `all` there were."""


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
    count = total = 0
    for some in numbers:
        of_batch = evaluate(reader.to_devices(reader.read(some)))
        if not between():
            return None
        of_batch = jax.tree.map(lambda x: np.asarray(x, np.float64), of_batch)
        finite = int(of_batch.pop("count"))
        total += of_batch.pop("losses").size
        weighted = jax.tree.map(lambda x, n=finite: n * x, of_batch)
        means = weighted if means is None else jax.tree.map(np.add, means, weighted)
        count += finite
    means = jax.tree.map(lambda x: x / max(count, 1), means)
    return {**means, "count": count, "all": total}


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
      (`report.shares`); `finite`, the part of windows that they are of; and root mean
      square errors and biases at those of `leads` and `levels` that there are, such as
      `rmse/24h/temperature/500 hPa`, in SI units.
    """
    loss, hours = objective.loss, objective.hours
    numbers = {"loss": np.nan, "finite": scores["count"] / scores["all"]}
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
        "finite": scores["count"] / scores["all"],
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
