"""What a loss consists of, as numbers with names."""

from collections.abc import Mapping

import numpy as np

from model.spec import ModelSpec
from train.losses.terms import TERMS, Loss
from train.losses.views import plane_levels


def term_scores(
    loss: Loss, hours: int, metrics: Mapping[str, Mapping[str, np.ndarray]]
) -> dict[str, float]:
    """Scores without their weights in the loss, and of every lead.

    Args:
      loss: its terms.
      hours: between frames.
      metrics: `tables` and `by_lead` of `train.step`.

    Returns:
      Such as `mse_data`, and `mse_data_6h` without its weight of lead time either.
    """
    scores = {name: float(metrics["tables"][name].sum()) for name, _ in loss.weights}
    for name, of_frames in metrics["by_lead"].items():
        for frame, score in enumerate(np.asarray(of_frames)):
            scores[f"{name}_{frame * hours}h"] = float(score)
    return scores


def by_variable(spec: ModelSpec, term: str, table: np.ndarray) -> dict[str, np.ndarray]:
    """A term's table [all planes] as [level] by variable."""
    levels = plane_levels(spec)[TERMS[term].space]
    ends = np.cumsum([len(names) for names in levels.values()])
    return dict(zip(levels, np.split(np.asarray(table), ends[:-1]), strict=True))


def shares(
    spec: ModelSpec,
    loss: Loss,
    tables: Mapping[str, np.ndarray],
    of_levels: bool = False,
) -> dict[str, float]:
    """Every term's part of the loss, and of that every variable's and level's.

    Returns:
      Such as `share/mse_data` and `share/mse_data/temperature`, and `of_levels` also
      `share/mse_data/500 hPa`. The shares of terms add up to 1; within each term those
      of variables, and those of levels, to its own.
    """
    weighted = {
        name: weight * np.asarray(tables[name], np.float64)
        for name, weight in loss.weights
    }
    whole = sum(table.sum() for table in weighted.values())
    parts: dict[str, float] = {}
    for name, table in weighted.items():
        parts[f"share/{name}"] = float(table.sum() / whole)
        for variable, shares_ in by_variable(spec, name, table / whole).items():
            parts[f"share/{name}/{variable}"] = float(shares_.sum())
            if of_levels:
                levels = plane_levels(spec)[TERMS[name].space][variable]
                for level, share in zip(levels, shares_, strict=True):
                    key = f"share/{name}/{level}"
                    parts[key] = parts.get(key, 0.0) + float(share)
    return parts
