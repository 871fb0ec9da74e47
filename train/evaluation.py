"""Scores of forecasts against the truth, as tables and pictures.

Root mean square error and bias over the sphere, weighted by the area of Gauss
quadrature, averaged over initial times; by variable, level and lead. Persistence of
the initial state is scored beside the forecasts.
"""

import json
import pathlib
from collections.abc import Sequence

import matplotlib
import numpy as np
import xarray

from model.spec import LEVEL_VARIABLES
from model.sphere.grids import GaussianGrid
from pipeline.errors import UserError
from pipeline.progress import progress
from pipeline.store import Store, open_store

matplotlib.use("agg")
import matplotlib.pyplot as plt  # noqa: E402

SHORT = {
    "temperature": ("T", "K", 1.0),
    "u_component_of_wind": ("u", "m/s", 1.0),
    "v_component_of_wind": ("v", "m/s", 1.0),
    "geopotential": ("z", "m2/s2", 1.0),
    "specific_humidity": ("q", "g/kg", 1e3),
    "specific_cloud_ice_water_content": ("ice", "mg/kg", 1e6),
    "specific_cloud_liquid_water_content": ("liquid", "mg/kg", 1e6),
}
TABLE_VARIABLES = (
    "temperature",
    "u_component_of_wind",
    "v_component_of_wind",
    "geopotential",
    "specific_humidity",
)
TABLE_LEVELS = (850, 500, 250)
TABLE_LEADS = (6, 24)

Scores = dict[str, dict[str, np.ndarray]]
"""By label and variable: [statistic (RMSE, bias), lead, level] in SI units."""


def _open(argument: str) -> tuple[str, xarray.Dataset]:
    label, equals, path = argument.partition("=")
    if not equals:
        path = argument
        label = pathlib.Path(path).stem
    if not pathlib.Path(path).exists():
        raise UserError(f"there is no forecast {path}")
    dataset = xarray.open_zarr(path, consolidated=False, decode_timedelta=False)
    if "prediction_timedelta" not in dataset.dims:
        raise UserError(f"{path} is no forecast: it has no prediction_timedelta")
    return label, dataset


def _match(dataset: xarray.Dataset, label: str, truth: Store) -> np.ndarray:
    """Indices in `truth` of the valid times, [initial time, lead].

    Raises:
      UserError: if grid or levels differ or a time is not in the truth.
    """
    if dataset.attrs.get("grid") != str(truth.grid):
        raise UserError(
            f"forecast {label} is on {dataset.attrs.get('grid')}, the truth on "
            f"{truth.grid}: preprocess the truth to the grid of the forecast"
        )
    if not np.array_equal(dataset.level, truth.levels):
        raise UserError(f"forecast {label} and truth are on different pressure levels")
    leads = dataset.prediction_timedelta.values.astype("timedelta64[h]")
    return _index(truth, dataset.time.values[:, None] + leads, f"forecast {label}")


def _index(truth: Store, times: np.ndarray, what: str) -> np.ndarray:
    """Indices of `times` in the truth; UserError if one is not there."""
    index = np.minimum(np.searchsorted(truth.times, times), len(truth.times) - 1)
    wrong = truth.times[index] != times
    if wrong.any():
        raise UserError(
            f"the truth {truth.path} has no {times[wrong][0]}, which {what} needs: it "
            f"holds {truth.times[0]} to {truth.times[-1]}"
        )
    return index


def _statistics(error: np.ndarray, grid: GaussianGrid) -> np.ndarray:
    """Mean square and mean over the sphere, float64 [2, level]."""
    weights = grid.latitude_weights[:, None] / (2 * grid.longitudes)
    error = error.astype(np.float64)
    return np.stack([np.sum(x * weights, axis=(-2, -1)) for x in (error**2, error)])


def score(forecasts: dict[str, xarray.Dataset], truth: Store) -> Scores:
    """Scores of every forecast, and of persistence, over the same times."""
    matches = {label: _match(f, label, truth) for label, f in forecasts.items()}
    first, *others = matches.values()
    if any(not np.array_equal(first, other) for other in others):
        raise UserError("the forecasts differ in their initial times or leads")
    starts = _index(truth, next(iter(forecasts.values())).time.values, "persistence")
    shape = (2, first.shape[1], len(truth.levels))
    labels = ["persistence", *forecasts]
    sums = {
        label: {name: np.zeros(shape) for name in LEVEL_VARIABLES} for label in labels
    }
    for i, times in enumerate(progress(first, "evaluate: initial times")):
        for name in LEVEL_VARIABLES:
            observed = truth.read(name, times)
            predictions = {label: f[name][i].values for label, f in forecasts.items()}
            predictions["persistence"] = truth.read(name, starts[i : i + 1])
            for label, predicted in predictions.items():
                error = predicted - observed
                sums[label][name] += np.stack(
                    [_statistics(e, truth.grid) for e in error], axis=1
                )
    for fields in sums.values():
        for name, total in fields.items():
            mean_square, bias = total / len(first)
            fields[name] = np.stack([np.sqrt(mean_square), bias])
    return sums


def evaluate(
    forecasts: Sequence[str], truth_path: str, output: str
) -> tuple[dict, str]:
    """Scores forecasts and writes `scores.json`, `scores.txt` and pictures.

    Args:
      forecasts: paths, or LABEL=PATH.
      truth_path: store with the truth, on the grid of the forecasts.
      output: folder, made if missing.

    Returns:
      The scores as written, and the table as text.

    Raises:
      UserError: if forecasts and truth do not fit together.
    """
    opened = dict(_open(argument) for argument in forecasts)
    if len(opened) < len(forecasts):
        raise UserError("two forecasts have the same label: write LABEL=PATH for each")
    truth = open_store(truth_path)
    scores = score(opened, truth)
    dataset = next(iter(opened.values()))
    leads = [int(h) for h in dataset.prediction_timedelta.values]
    levels = [float(level) for level in truth.levels]
    folder = pathlib.Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    simulated = str(truth.attrs.get("source", ""))
    written = {
        "truth": truth_path,
        "source": simulated,
        "initial_times": [str(t) for t in dataset.time.values],
        "lead_hours": leads,
        "levels_hpa": levels,
        "scores": {
            label: {
                name: {"rmse": x[0].tolist(), "bias": x[1].tolist()}
                for name, x in fields.items()
            }
            for label, fields in scores.items()
        },
    }
    (folder / "scores.json").write_text(json.dumps(written) + "\n")
    table = format_table(scores, leads, levels)
    (folder / "scores.txt").write_text(table + "\n")
    note = "simulated data" if "SIMULATED" in simulated else ""
    plot_curves(scores, leads, levels, note, folder / "rmse.png")
    plot_profiles(scores, leads, levels, note, folder / "profiles.png")
    plot_maps(opened, truth, note, folder / "maps.png")
    return written, table


def _nearest(values: Sequence[float], wanted: float) -> int | None:
    return list(values).index(wanted) if wanted in values else None


def format_table(scores: Scores, leads: list[int], levels: list[float]) -> str:
    """RMSE of the main variables, levels and leads, one column a forecast."""
    labels = list(scores)
    lines = ["RMSE".ljust(16) + "lead".rjust(6) + "".join(f"{x:>13}" for x in labels)]
    for name in TABLE_VARIABLES:
        short, unit, factor = SHORT[name]
        for level in TABLE_LEVELS:
            k = _nearest(levels, level)
            for lead in TABLE_LEADS:
                j = _nearest(leads, lead)
                if k is None or j is None:
                    continue
                cells = [scores[x][name][0, j, k] * factor for x in labels]
                lines.append(
                    f"{short}{level} ({unit})".ljust(16)
                    + f"{lead} h".rjust(6)
                    + "".join(f"{cell:13.4g}" for cell in cells)
                )
    return "\n".join(lines)


def _title(title: str, note: str) -> str:
    return f"{title} ({note})" if note else title


def plot_curves(
    scores: Scores, leads: list[int], levels: list[float], note: str, file: pathlib.Path
) -> None:
    """RMSE against lead time, a panel for each main variable and level."""
    figure, axes = plt.subplots(
        len(TABLE_VARIABLES), len(TABLE_LEVELS), figsize=(11, 13), sharex=True
    )
    for row, name in zip(axes, TABLE_VARIABLES, strict=True):
        short, unit, factor = SHORT[name]
        for axis, level in zip(row, TABLE_LEVELS, strict=True):
            k = _nearest(levels, level)
            if k is None:
                axis.set_axis_off()
                continue
            for label, fields in scores.items():
                axis.plot(
                    leads, fields[name][0, :, k] * factor, "o-", ms=3, label=label
                )
            axis.set_title(f"{short}{level}")
            axis.set_ylabel(unit)
            axis.set_ylim(bottom=0)
            axis.grid(alpha=0.3)
    axes[0, 0].legend(fontsize="small")
    for axis in axes[-1]:
        axis.set_xlabel("lead time (h)")
        axis.set_xticks(leads)
    figure.suptitle(_title("RMSE by lead time", note))
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)


def plot_profiles(
    scores: Scores, leads: list[int], levels: list[float], note: str, file: pathlib.Path
) -> None:
    """RMSE and bias of the last lead against pressure."""
    figure, axes = plt.subplots(
        2, len(TABLE_VARIABLES), figsize=(15, 8), sharey=True, squeeze=False
    )
    for row, statistic, what in zip(axes, (0, 1), ("RMSE", "bias"), strict=True):
        for axis, name in zip(row, TABLE_VARIABLES, strict=True):
            short, unit, factor = SHORT[name]
            for label, fields in scores.items():
                axis.plot(fields[name][statistic, -1] * factor, levels, label=label)
            axis.set_xlabel(f"{what} of {short} ({unit})")
            axis.set_yscale("log")
            axis.grid(alpha=0.3)
        row[0].set_ylabel("pressure (hPa)")
    axes[0, 0].invert_yaxis()
    axes[0, 0].legend(fontsize="small")
    figure.suptitle(_title(f"Profiles at {leads[-1]} h", note))
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)


def plot_maps(
    forecasts: dict[str, xarray.Dataset], truth: Store, note: str, file: pathlib.Path
) -> None:
    """Truth and errors of the first forecast's last lead, T850 and z500."""
    panels = [("temperature", 850), ("geopotential", 500)]
    panels = [(n, p, _nearest(list(truth.levels), p)) for n, p in panels]
    panels = [panel for panel in panels if panel[2] is not None]
    if not panels:
        return
    dataset = next(iter(forecasts.values()))
    index = _match(dataset, "", truth)[0, -1]
    figure, axes = plt.subplots(
        1 + len(forecasts),
        len(panels),
        figsize=(6.5 * len(panels), 2.7 * (1 + len(forecasts))),
        squeeze=False,
    )
    x, y = truth.grid.longitude_degrees, truth.grid.latitude_degrees
    for column, (name, level, k) in zip(axes.T, panels, strict=True):
        short, unit, factor = SHORT[name]
        observed = truth.read(name, np.array([index]))[0, k] * factor
        errors = {
            label: f[name][0, -1, k].values * factor - observed
            for label, f in forecasts.items()
        }
        largest = max(np.quantile(np.abs(e), 0.995) for e in errors.values())
        image = column[0].pcolormesh(x, y, observed, cmap="viridis")
        column[0].set_title(f"truth: {short}{level} ({unit})")
        figure.colorbar(image, ax=column[0])
        for axis, (label, error) in zip(column[1:], errors.items(), strict=True):
            image = axis.pcolormesh(
                x, y, error, cmap="RdBu_r", vmin=-largest, vmax=largest
            )
            axis.set_title(f"{label}: error of {short}{level} ({unit})")
            figure.colorbar(image, ax=axis)
    lead = int(dataset.prediction_timedelta.values[-1])
    start = np.datetime_as_string(dataset.time.values[0], "h")
    figure.suptitle(_title(f"{lead} h after {start}", note))
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)
