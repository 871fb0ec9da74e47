"""Pictures of scores, fields and spectra, each one file."""

import pathlib
from collections.abc import Callable, Sequence

import matplotlib
import numpy as np

from launch.report.names import GLOBAL, SHORT, main_fields
from pipeline.verification.chunks import TRUTH
from pipeline.verification.run import Verification

matplotlib.use("agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import MaxNLocator  # noqa: E402

_STYLES = {
    "persistence": ("0.45", ":"),
    "climatology": ("0.65", "--"),
    TRUTH: ("k", "-"),
}


def draw_all(
    made: Verification, folder: pathlib.Path, baseline: str, times: Sequence[int]
) -> dict[str, str]:
    """Draws all pictures there is something for; title by file name.

    Maps are of the initial times with these indices.
    """
    pictures: dict[str, tuple[str, Callable[[], Figure | None]]] = {
        "scorecard.png": (
            f"RMSE against {baseline}",
            lambda: scorecard(made, baseline),
        ),
        "rmse.png": ("RMSE by lead", lambda: curves(made, "rmse")),
        "acc.png": ("Anomaly correlation by lead", lambda: curves(made, "acc")),
        "bias.png": ("Bias by lead", lambda: curves(made, "bias")),
        "ensemble.png": ("Members: spread, CRPS, ranks", lambda: ensemble(made)),
        "maps.png": ("Forecast, truth and error", lambda: maps(made, times)),
        "profiles.png": ("Profiles at the last lead", lambda: profiles(made)),
        "zonal.png": ("Zonal means of errors", lambda: zonal(made)),
        "spectra.png": ("Power spectra", lambda: spectra(made)),
        "budgets.png": ("Global budgets", lambda: budgets(made)),
    }
    drawn = {}
    for name, (title, draw) in pictures.items():
        figure = draw()
        if figure is None:
            continue
        note = f" ({made.note})" if made.note else ""
        figure.suptitle(title + note)
        figure.savefig(folder / name, dpi=110)
        plt.close(figure)
        drawn[name] = title
    return drawn


def _style(made: Verification, label: str) -> dict:
    if label in _STYLES:
        color, line = _STYLES[label]
        return {"color": color, "linestyle": line, "label": label}
    place = [f.label for f in made.forecasts].index(label)
    return {"color": f"C{place}", "linestyle": "-", "label": label}


def _shown(made: Verification) -> list[tuple[str, float, int]]:
    return main_fields(made.scores.variables, list(made.scores.levels))


def _days(made: Verification) -> np.ndarray:
    return made.scores.leads / 24


def _panels(rows: int, columns: int, width: float, height: float, **options):
    return plt.subplots(
        rows,
        columns,
        figsize=(width * columns, height * rows + 0.6),
        squeeze=False,
        layout="constrained",
        **options,
    )


def scorecard(made: Verification, baseline: str) -> Figure | None:
    """Relative difference of the rmse from another forecast's, by lead."""
    scores, shown = made.scores, _shown(made)
    labels = [f.label for f in made.forecasts if f.label != baseline]
    if not labels or not shown:
        return None
    columns = np.flatnonzero(scores.leads > 0)
    figure, axes = _panels(
        1, len(labels), 1.5 + 0.42 * max(len(columns), 6), 0.26 * len(shown)
    )
    for axis, label in zip(axes[0], labels, strict=True):
        rows, sure = [], []
        for name, _, k in shown:
            difference = scores.difference(label, baseline, name)
            rows.append(100 * difference.relative[columns, k, GLOBAL])
            sure.append(difference.sure[columns, k, GLOBAL])
        values = np.array(rows)
        limit = max(5.0, min(100.0, float(np.nanmax(np.abs(values)))))
        image = axis.imshow(
            values, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto"
        )
        for (i, j), x in np.ndenumerate(values):
            if np.isfinite(x) and len(columns) <= 20:
                weight = "bold" if sure[i][j] else "normal"
                dark = abs(x) > 0.6 * limit
                axis.text(
                    *(j, i, f"{x:+.0f}"),
                    ha="center",
                    va="center",
                    fontsize=6,
                    weight=weight,
                    color="w" if dark else "k",
                )
        axis.set_yticks(
            range(len(shown)), [f"{SHORT[n][0]}{level:g}" for n, level, _ in shown]
        )
        every = max(1, len(columns) // 10)
        axis.set_xticks(
            range(0, len(columns), every),
            [f"{scores.leads[c]:g}" for c in columns[::every]],
        )
        axis.set_xlabel("lead (h)")
        axis.set_title(f"{label}: percent; bold: sure at 95 %", fontsize=9)
        figure.colorbar(image, ax=axis)
    return figure


def curves(made: Verification, score: str) -> Figure | None:
    """A score against lead, a panel for each main variable and level."""
    scores, shown = made.scores, _shown(made)
    names = list(dict.fromkeys(name for name, _, _ in shown))
    levels = list(dict.fromkeys(level for _, level, _ in shown))
    if not shown:
        return None
    figure, axes = _panels(len(names), len(levels), 3.6, 2.1, sharex=True)
    for name, level, k in shown:
        axis = axes[names.index(name), levels.index(level)]
        short, unit, factor = SHORT[name]
        factor = 1.0 if score == "acc" else factor
        for label in scores.labels:
            if score == "acc" and label == "climatology":
                continue
            x = scores.values[label][name][score][:, k, GLOBAL] * factor
            style = _style(made, label)
            axis.plot(_days(made), x, marker=".", ms=4, **style)
            if score in scores.low[label][name]:
                low, high = (
                    bounds[label][name][score][:, k, GLOBAL] * factor
                    for bounds in (scores.low, scores.high)
                )
                axis.fill_between(
                    _days(made), low, high, color=style["color"], alpha=0.15, lw=0
                )
        axis.set_title(f"{short}{level:g}", fontsize=9)
        axis.set_ylabel("" if score == "acc" else unit)
        axis.grid(alpha=0.3)
        if score == "rmse":
            axis.set_ylim(bottom=0)
    axes[0, 0].legend(fontsize="x-small")
    for axis in axes[-1]:
        axis.set_xlabel("lead (days)")
    return figure


def ensemble(made: Verification) -> Figure | None:
    """Spread and skill, CRPS and rank histograms of forecasts with members."""
    scores = made.scores
    labels = [f.label for f in made.forecasts if f.members > 1]
    shown = [x for x in _shown(made) if x[1] in (850.0, 500.0)][:6]
    if not labels or not shown:
        return None
    figure, axes = _panels(3, len(shown), 2.9, 2.3)
    for column, (name, level, k) in zip(axes.T, shown, strict=True):
        short, unit, factor = SHORT[name]
        for label in labels:
            values, style = scores.values[label][name], _style(made, label)
            color = style["color"]
            # A perfect ensemble of few members has less spread than error.
            few = np.sqrt((scores.members[label] + 1) / scores.members[label])
            for key, line, scale in (("rmse", "-", 1.0), ("spread", "--", few)):
                x = values[key][:, k, GLOBAL] * factor * scale
                column[0].plot(
                    *(_days(made), x, line), color=color, label=f"{label} {key}"
                )
            column[1].plot(_days(made), values["crps"][:, k, GLOBAL] * factor, **style)
            ranks = scores.looks[label][name]["ranks"][-1, k, GLOBAL]
            column[2].step(np.arange(len(ranks)), ranks, where="mid", color=color)
            column[2].axhline(1 / len(ranks), color="0.6", lw=0.8)
        column[0].set_title(f"{short}{level:g} ({unit})", fontsize=9)
        column[0].set_ylim(bottom=0)
        column[2].set_ylim(bottom=0)
        column[2].set_xlabel("rank of the truth")
        column[1].set_xlabel("lead (days)")
    for axis, what in zip(axes[:, 0], ("spread, rmse", "CRPS", "area"), strict=True):
        axis.set_ylabel(what)
    axes[0, 0].legend(fontsize="x-small")
    return figure


def maps(made: Verification, chosen: Sequence[int]) -> Figure | None:
    """Truth, forecast and error at the last lead, of some initial times."""
    panels = [(n, p, k) for n, p, k in _shown(made) if (n, p) in _MAPS]
    if not panels:
        return None
    first, truth = made.forecasts[0], made.truth
    times = first.times
    count = len(made.forecasts)
    figure, axes = _panels(
        (1 + 2 * count) * len(chosen), len(panels), 5.2, 2.6, sharex=True, sharey=True
    )
    land = (
        truth.read("land_sea_mask", None)
        if "land_sea_mask" in truth.variables
        else None
    )
    grid = truth.grid
    lead = len(first.leads) - 1
    for block, index in enumerate(chosen):
        valid = times[index] + np.timedelta64(int(first.leads[lead]), "h")
        place = int(np.searchsorted(truth.times, valid))
        rows = axes[block * (1 + 2 * count) : (block + 1) * (1 + 2 * count)]
        for column, (name, level, _) in enumerate(panels):
            short, unit, factor = SHORT[name]
            known = list(truth.levels).index(level)
            real = truth.read(name, np.array([place]))[0, known] * factor
            limits = float(real.min()), float(real.max())
            day = np.datetime_as_string(valid, "h")
            _map(
                *(rows[0, column], figure, grid, real, land, limits, "viridis"),
                f"truth {day}: {short}{level:g} ({unit})",
            )
            fields = []
            for forecast in made.forecasts:
                array = forecast.dataset[name].isel(time=index)
                array = array.isel(prediction_timedelta=lead).sel(level=level)
                if "number" in array.dims:
                    array = array.isel(number=0)
                fields.append(array.sortby("latitude").values * factor)
            same = [x.shape == real.shape for x in fields]
            errors = [x - real for x, ok in zip(fields, same, strict=True) if ok]
            largest = max(
                (float(np.nanquantile(np.abs(e), 0.995)) for e in errors), default=1.0
            )
            for number, (forecast, x) in enumerate(
                zip(made.forecasts, fields, strict=True)
            ):
                what = f"{short}{level:g} ({unit})"
                hours = int(first.leads[lead])
                _map(
                    *(rows[1 + 2 * number, column], figure, forecast.points, x),
                    *(land, limits, "viridis", f"{forecast.label}, {hours} h: {what}"),
                )
                if x.shape == real.shape:
                    _map(
                        *(rows[2 + 2 * number, column], figure, grid, x - real, land),
                        *((-largest, largest), "RdBu_r"),
                        f"{forecast.label}: error of {what}",
                    )
                else:
                    rows[2 + 2 * number, column].set_axis_off()
    return figure


_MAPS = (("temperature", 850.0), ("geopotential", 500.0))


def _map(
    axis: Axes,
    figure: Figure,
    points,
    field: np.ndarray,
    land: np.ndarray | None,
    limits: tuple[float, float],
    colors: str,
    title: str,
) -> None:
    x, y = points.longitude_degrees, points.latitude_degrees
    image = axis.pcolormesh(
        *(x, y, field),
        cmap=colors,
        vmin=limits[0],
        vmax=limits[1],
        shading="nearest",
        rasterized=True,
    )
    if land is not None and land.shape == field.shape:
        axis.contour(x, y, land, [0.5], colors="k", linewidths=0.5)
    axis.set_title(title, fontsize=8)
    figure.colorbar(image, ax=axis)


def profiles(made: Verification) -> Figure | None:
    """RMSE and bias of the last lead against pressure."""
    scores = made.scores
    names = [name for name in SHORT if name in scores.variables][:5]
    figure, axes = _panels(2, len(names), 2.8, 3.0, sharey=True)
    for row, key in zip(axes, ("rmse", "bias"), strict=True):
        for axis, name in zip(row, names, strict=True):
            short, unit, factor = SHORT[name]
            for label in scores.labels:
                x = scores.values[label][name][key][-1, :, GLOBAL] * factor
                axis.plot(x, scores.levels, **_style(made, label))
            axis.set_xlabel(f"{key} of {short} ({unit})")
            axis.set_yscale("log")
            axis.grid(alpha=0.3)
        row[0].set_ylabel("pressure (hPa)")
    axes[0, 0].invert_yaxis()
    axes[0, 0].legend(fontsize="x-small")
    return figure


def zonal(made: Verification) -> Figure | None:
    """Zonal mean of forecast minus truth at the last lead, mean of initial times."""
    scores = made.scores
    names = [name for name in SHORT if name in scores.variables][:5]
    labels = [f.label for f in made.forecasts]
    if len(scores.levels) < 2:
        return None
    figure, axes = _panels(len(labels), len(names), 3.1, 2.5, sharex=True, sharey=True)
    for column, name in enumerate(names):
        short, unit, factor = SHORT[name]
        real = scores.looks[TRUTH][name]["zonal"][-1] * factor
        errors = [scores.looks[x][name]["zonal"][-1] * factor - real for x in labels]
        sizes = [np.abs(error) for error in errors if np.isfinite(error).any()]
        limit = max((float(np.nanquantile(x, 0.99)) for x in sizes), default=0) or 1.0
        for axis, label, error in zip(axes[:, column], labels, errors, strict=True):
            image = axis.contourf(
                *(scores.latitude, scores.levels, error),
                levels=MaxNLocator(14, symmetric=True).tick_values(-limit, limit),
                cmap="RdBu_r",
                extend="both",
            )
            contours = axis.contour(
                scores.latitude, scores.levels, real, 8, colors="0.4", linewidths=0.5
            )
            axis.clabel(contours, fontsize=5)
            axis.set_title(f"{label}: {short} ({unit})", fontsize=8)
            figure.colorbar(image, ax=axis)
    axes[0, 0].invert_yaxis()
    for axis in axes[-1]:
        axis.set_xlabel("latitude")
    for axis in axes[:, 0]:
        axis.set_ylabel("hPa")
    return figure


def spectra(made: Verification) -> Figure | None:
    """Power by total wavenumber at the first and the last lead, beside the truth's."""
    scores = made.scores
    shown = [x for x in _shown(made) if x[1] in (850.0, 500.0)]
    if not shown or "spectrum" not in scores.looks[TRUTH][shown[0][0]]:
        return None
    shown = shown[:8]
    columns = min(4, len(shown))
    rows = -(-len(shown) // columns)
    figure, axes = _panels(rows, columns, 3.3, 2.6)
    for axis, (name, level, k) in zip(axes.flat, shown, strict=False):
        short, unit, factor = SHORT[name]
        for label in (TRUTH, *(f.label for f in made.forecasts)):
            x = scores.looks[label][name]["spectrum"][:, k] * factor**2
            l = np.arange(1, x.shape[-1])  # noqa: E741
            axis.loglog(l, x[-1, 1:], **_style(made, label))
            if label != TRUTH:
                color = _style(made, label)["color"]
                axis.loglog(l, x[0, 1:], color=color, ls=":", lw=0.8)
        axis.set_title(f"{short}{level:g} ({unit})^2; dotted: lead 0", fontsize=8)
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(shown) :]:
        axis.set_axis_off()
    axes[0, 0].legend(fontsize="x-small")
    for axis in axes[-1]:
        axis.set_xlabel("total wavenumber")
    return figure


_BUDGETS = {
    "energy": ("energy (MJ/m2)", 1e-6),
    "water": ("water vapour (kg/m2)", 1.0),
    "surface_pressure": ("surface pressure (hPa)", 1e-2),
}


def budgets(made: Verification) -> Figure | None:
    """Global means against lead, mean of initial times."""
    scores = made.scores
    kinds = [k for k in _BUDGETS if any(k in x for x in scores.budgets.values())]
    if not kinds:
        return None
    figure, axes = _panels(1, len(kinds), 4.2, 3.0)
    for axis, kind in zip(axes[0], kinds, strict=True):
        what, factor = _BUDGETS[kind]
        for label, of_label in scores.budgets.items():
            if kind in of_label:
                axis.plot(
                    *(_days(made), of_label[kind] * factor), **_style(made, label)
                )
        axis.set_title(what, fontsize=9)
        axis.set_xlabel("lead (days)")
        axis.grid(alpha=0.3)
        axis.legend(fontsize="x-small")
    return figure
