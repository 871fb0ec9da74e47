"""Whether the spread of an ensemble trained by its CRPS is as large as its errors.

`configs/planet_ens.py` is trained on the sample planet and forecasts held-out days with
ten members; the deterministic model of `podgcm bench learning` is beside it.
"""

import argparse
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import jax_datetime
import matplotlib
import numpy as np

from configs import planet_ens
from launch.benchmarks import make_folder
from launch.benchmarks.hidden_physics import one_frame
from launch.benchmarks.learning import CURRICULUM, make_data, train
from model.neural_gcm import Frame, ModelState, NeuralGCM
from model.sphere.grids import unfold
from pipeline.progress import progress
from pipeline.store import Store, open_store
from train.data import Windows, parse_window
from train.forecast.restore import load_run, restore_model
from train.step import Params, merge_networks

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

ENSEMBLE = planet_ens.__file__
MEMBERS = 10
HOURS = 6  # between leads
LEADS = 4  # after the start
EVERY = 2  # of the held-out windows begins a forecast
FIELDS = {  # name, level in hPa: unit
    ("temperature", 850): "K",
    ("temperature", 500): "K",
    ("u_component_of_wind", 850): "m/s",
    ("u_component_of_wind", 500): "m/s",
}
SUMS = ("mean_square", "variance", "crps", "mae")

Fields = dict[tuple[str, int], np.ndarray]


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Trains where that is not done, and measures.

    Returns:
      `seconds` of training by run and kind; by field and lead the `spread` (corrected
      for the finite number of members), the `skill` (error of the mean), their
      `spread_skill` ratio, the fair `crps`, and the `mae` of the deterministic model.

    Raises:
      UserError: if the folder cannot be used.
      Failed: if training fails.
    """
    folder = make_folder(args.output)
    store = make_data(folder)
    configs = {"curriculum": CURRICULUM, "ensemble": ENSEMBLE}
    options = {"data.store": store}
    seconds = {n: train(folder / n, c, options) for n, c in configs.items()}
    figures = measure(folder, open_store(store))
    draw(figures, folder / "ensemble.png")
    result = {
        "seconds": seconds,
        "members": MEMBERS,
        "lead_hours": [HOURS * (n + 1) for n in range(LEADS)],
        "scores": figures,
    }
    (folder / "ensemble.json").write_text(json.dumps(result, indent=2) + "\n")
    return result


def measure(folder: pathlib.Path, store: Store) -> dict[str, dict[str, list[float]]]:
    """Scores by field, [lead]."""
    config = load_run(str(folder / "ensemble"))
    models = {
        name: restore_model(*(str(folder / name), load_run(str(folder / name)), store))
        for name in ("ensemble", "curriculum")
    }
    span = parse_window(store, config.data.eval_times)
    windows = Windows(store, *span, LEADS + 1, HOURS)
    area = store.grid.latitude_weights[:, None] / (2 * store.grid.longitudes)
    sums = {field: {name: 0.0 for name in SUMS} for field in FIELDS}
    numbers = range(0, len(windows), EVERY)
    for number in progress(numbers, "ensemble: initial times"):
        frame, time = one_frame(windows, number)
        keys = jax.random.split(jax.random.key(number), MEMBERS)
        members = [_fields(*models["ensemble"], frame, time, key) for key in keys]
        single = _fields(*models["curriculum"], frame, time, keys[0])
        truth = windows.read(np.array([number]))["frames"]
        for field in FIELDS:
            name, level = field
            k = list(store.levels).index(level)
            observed = unfold(truth[name][0, 1:, k])
            ensemble = np.stack([member[field] for member in members])
            points = scores(ensemble, observed)
            points["mae"] = np.abs(single[field] - observed)
            for what, x in points.items():
                mean = np.sum(x * area, axis=(-2, -1)) / len(numbers)
                sums[field][what] = sums[field][what] + mean
    return {
        f"{name} {level} hPa": {
            "spread": _rounded(np.sqrt((1 + 1 / MEMBERS) * x["variance"])),
            "skill": _rounded(np.sqrt(x["mean_square"])),
            "spread_skill": _rounded(
                np.sqrt((1 + 1 / MEMBERS) * x["variance"] / x["mean_square"])
            ),
            "crps": _rounded(x["crps"]),
            "mae": _rounded(x["mae"]),
        }
        for (name, level), x in sums.items()
    }


def _rounded(x: np.ndarray) -> list[float]:
    return [float(f"{value:.4g}") for value in x]


def scores(members: np.ndarray, observed: np.ndarray) -> dict[str, np.ndarray]:
    """Squared error of the mean, unbiased variance and fair CRPS, of every point.

    The spread of a reliable ensemble of M members is that variance times 1 + 1/M; after
    Fortin et al. (2014), doi:10.1175/JHM-D-14-0008.1.

    Args:
      members: [member, ...].
      observed: [...].
    """
    members = members.astype(np.float64)
    count = len(members)
    pairs = np.abs(members[:, None] - members).sum(axis=(0, 1))
    return {
        "mean_square": (members.mean(axis=0) - observed) ** 2,
        "variance": members.var(axis=0, ddof=1),
        "crps": np.abs(members - observed).mean(axis=0)
        - pairs / (2 * count * (count - 1)),
    }


def _fields(
    model: NeuralGCM,
    params: Params,
    frame: Frame,
    time: jax_datetime.Datetime,
    key: jax.Array,
) -> Fields:
    """A member's forecast of `FIELDS`, [lead, latitude, longitude]."""
    levels = list(model.spec.levels)
    decoded = _forecast(model, params, frame, time, key)
    return {
        (name, level): unfold(np.asarray(decoded[name][:, levels.index(level)]))
        for name, level in FIELDS
    }


@jax.jit
def _forecast(
    model: NeuralGCM,
    params: Params,
    frame: Frame,
    time: jax_datetime.Datetime,
    key: jax.Array,
) -> Frame:
    """All leads, [lead, level, 2, latitude, longitude]."""
    networks = merge_networks(model.spec, params)
    state = model.encode(frame, time, networks, key)

    def to_lead(state: ModelState, number: jax.Array) -> tuple[ModelState, Frame]:
        now = time + number * jax_datetime.to_timedelta(HOURS, "h")
        later = now + jax_datetime.to_timedelta(HOURS, "h")
        state = model.rollout(state, frame, now, HOURS, networks)
        return state, model.decode(state, model.surroundings(frame, later), networks)

    return jax.lax.scan(to_lead, state, jnp.arange(LEADS))[1]


def draw(figures: dict[str, dict[str, list[float]]], file: pathlib.Path) -> None:
    """Spread beside skill, and CRPS beside the deterministic error, by lead."""
    figure, axes = plt.subplots(
        2, len(FIELDS), figsize=(14, 6.5), sharex=True, layout="constrained"
    )
    leads = HOURS * np.arange(1, LEADS + 1)
    rows = (
        {"spread": "spread of members", "skill": "error of their mean"},
        {"crps": "CRPS of members", "mae": "mean error of the deterministic model"},
    )
    for column, (field, unit) in zip(axes.T, FIELDS.items(), strict=True):
        name = f"{field[0]} {field[1]} hPa"
        for axis, labels in zip(column, rows, strict=True):
            for what, label in labels.items():
                axis.plot(leads, figures[name][what], "o-", ms=3, label=label)
            axis.set_ylim(bottom=0)
            axis.set_ylabel(unit)
            axis.grid(alpha=0.3)
            axis.set_xticks(leads)
        column[0].set_title(name.replace("u_component_of_wind", "zonal wind"))
        column[1].set_xlabel("lead time (h)")
    for row in axes:
        row[0].legend(fontsize="small")
    figure.suptitle(f"{MEMBERS} members, held-out days (simulated data)")
    figure.savefig(file, dpi=110)
    plt.close(figure)
