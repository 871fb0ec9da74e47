"""Pictures of a run: how it learns, and where its forecasts are wrong."""

import pathlib
from collections.abc import Sequence

import matplotlib
import numpy as np

from model.sphere.grids import GaussianGrid, unfold
from train.errors import MAPS, map_levels

matplotlib.use("agg")
import matplotlib.pyplot as plt  # noqa: E402

CURVES = ("temperature", "geopotential", "u_component_of_wind")


def learning_curves(
    lines: Sequence[dict], stages: Sequence[tuple[int, str]], file: pathlib.Path
) -> None:
    """Losses, the gradient, the learning rate and errors by step.

    Args:
      lines: of `metrics.jsonl`.
      stages: first step and description of each.
      file: to write.
    """
    steps = [line for line in lines if "loss" in line]
    evaluations = [line for line in lines if "eval_loss" in line]
    rmse = sorted(
        {k for line in evaluations for k in line if k.startswith("eval_rmse/")}
    )
    leads = sorted({int(k.split("/")[1].removesuffix("h")) for k in rmse})
    figure, axes = plt.subplots(2, 3, figsize=(15, 8), squeeze=False)
    (losses, terms, gradient), errors = axes

    x = [line["step"] for line in steps]
    losses.plot(x, [line["loss"] for line in steps], color="0.7", lw=1, label="step")
    for key, label in (("eval_loss", "held out, average"), ("eval_raw_loss", "raw")):
        known = [line for line in evaluations if key in line]
        losses.plot(
            [e["step"] for e in known], [e[key] for e in known], "o-", ms=3, label=label
        )
    losses.set_title("loss", loc="right")
    for key in (k for k in (steps[-1] if steps else {}) if k.startswith("share/")):
        if key.count("/") == 1:
            terms.plot(x, [s.get(key, np.nan) for s in steps], lw=1, label=key[6:])
    terms.set_title("share of the loss")
    gradient.plot(
        x, [line["gradient_norm"] for line in steps], lw=1, label="norm of it"
    )
    rate = [line["learning_rate"] for line in steps]
    gradient.plot(x, rate, lw=1, label="learning rate")
    skipped = [line["step"] for line in steps if line["skipped"]]
    for axis in (losses, gradient):
        for step in skipped:
            axis.axvline(step, color="red", lw=0.5)
        axis.set_yscale("log")
    gradient.set_title("gradient" + f" (red: {len(skipped)} skipped)" * bool(skipped))

    for axis, name in zip(errors, CURVES, strict=True):
        for lead in leads:
            for key in (k for k in rmse if k.startswith(f"eval_rmse/{lead}h/{name}/")):
                known = [e for e in evaluations if key in e]
                line = axis.plot(
                    [e["step"] for e in known],
                    [e[key] for e in known],
                    "o-",
                    ms=3,
                    label=f"{lead} h, {key.split('/')[-1]}",
                )
                raw = key.replace("eval_", "eval_raw_")
                axis.plot(
                    [e["step"] for e in known],
                    [e.get(raw, np.nan) for e in known],
                    ":",
                    color=line[0].get_color(),
                )
        axis.set_title(f"RMSE of {name} (dotted: raw)")
        axis.set_yscale("log")
    for axis in axes.flat:
        for first, _ in stages[1:]:
            axis.axvline(first, color="0.5", ls="--", lw=0.8)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize="x-small")
    for first, name in stages:
        losses.text(
            first, 1, f" {name}", transform=losses.get_xaxis_transform(), va="bottom"
        )
    figure.tight_layout()
    figure.savefig(file, dpi=90)
    plt.close(figure)


def error_maps(
    maps: np.ndarray,
    grid: GaussianGrid,
    levels: tuple[float, ...],
    leads: Sequence[int],
    title: str,
    file: pathlib.Path,
) -> None:
    """Mean errors of `train.errors.MAPS`, a row for each of them, a column for a lead.

    Args:
      maps: mean errors, [lead, map, 2, latitude, longitude], latitudes in pairs.
      grid: of the maps.
      levels: pressure levels of the data.
      leads: hours of each.
      title: of the picture.
      file: to write.
    """
    figure, axes = plt.subplots(
        len(MAPS),
        len(leads),
        figsize=(5 * len(leads), 2.6 * len(MAPS)),
        squeeze=False,
        sharex=True,
        sharey=True,
        layout="constrained",
    )
    x, y = grid.longitude_degrees, grid.latitude_degrees
    for row, (name, _), k, errors in zip(
        axes, MAPS, map_levels(levels), np.moveaxis(maps, 0, 1), strict=True
    ):
        largest = max(np.quantile(np.abs(errors), 0.99), 1e-30)
        for axis, lead, error in zip(row, leads, errors, strict=True):
            image = axis.pcolormesh(
                x, y, unfold(error), cmap="RdBu_r", vmin=-largest, vmax=largest
            )
            axis.set_title(f"{name} {levels[k]:g} hPa, {lead} h", fontsize="small")
        figure.colorbar(image, ax=list(row))
    figure.suptitle(title)
    figure.savefig(file, dpi=90)
    plt.close(figure)
