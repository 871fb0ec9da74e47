"""The learned heating and drag beside those of the planet, which training never sees.

Both are means over held-out days: the planet's physics in the columns of data as they
are interpolated, the networks in the columns that they encode themselves; both as the
core is given them, without the waves that it does not have.
"""

import pathlib

import jax
import jax.numpy as jnp
import jax_datetime
import matplotlib
import numpy as np

from model import units
from model.dynamics.state import State
from model.neural_gcm import Frame, NeuralGCM
from model.physics.idealised import idealised_physics
from model.sphere.grids import GaussianGrid, unfold
from model.vertical.sigma import SigmaLevels
from pipeline.progress import progress
from pipeline.store import Store, open_store
from train.data import Windows, parse_window
from train.forecast import load_run, restore_model
from train.step import Params, merge_networks

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

HIGHEST = 0.2  # sigma, of what is compared
WHAT = {"heating": "K/day", "drag": "m/s/day"}

Tendencies = dict[str, dict[str, np.ndarray]]
"""By whose they are, `planet` or `learned`, and by name of `WHAT`."""


def compare_with_planet(
    workdir: str, store_path: str, output: pathlib.Path
) -> dict[str, dict[str, float]]:
    """Correlations of a run's tendencies with the planet's; a picture in `output`.

    Returns:
      By name `zonal_mean`: of time and zonal means, over latitudes and layers from
      1000 to 200 hPa, weighted by mass and area; `instantaneous`: mean over times of
      the same over all points; and `amplitude`: the slope of the regression of learned
      on true zonal means.
    """
    config, store = load_run(workdir), open_store(store_path)
    model, params = restore_model(workdir, config, store)
    windows = Windows(store, *parse_window(store, config.data.eval_times), 1, 6)
    weights = mass_weights(model.spec.sigma, store.grid)
    means: Tendencies = {}
    instantaneous = {name: [] for name in WHAT}
    for number in progress(range(len(windows)), "hidden physics: times"):
        frame, time = one_frame(windows, number)
        here = jax.tree.map(
            lambda x: unfold(np.asarray(x, np.float64)),
            _tendencies(model, params, frame, time),
        )
        for name in WHAT:
            pair = here["planet"][name], here["learned"][name]
            everywhere = np.broadcast_to(weights[..., None], pair[0].shape)
            instantaneous[name].append(correlation(*pair, everywhere))
        zonal = jax.tree.map(lambda x: x.mean(axis=-1) / len(windows), here)
        means = jax.tree.map(np.add, means, zonal) if means else zonal
    result = {}
    for name in WHAT:
        planet, learned = means["planet"][name], means["learned"][name]
        result[name] = {
            "zonal_mean": correlation(planet, learned, weights),
            "instantaneous": float(np.mean(instantaneous[name])),
            "amplitude": slope(planet, learned, weights),
        }
    draw(store, model.spec.sigma, means, result, output / "hidden_physics.png")
    return result


def one_frame(windows: Windows, number: int) -> tuple[Frame, jax_datetime.Datetime]:
    """The first frame of a window and its time."""
    batch = windows.read(np.array([number]))
    frame = {name: jnp.asarray(x[0, 0]) for name, x in batch["frames"].items()}
    time = jax_datetime.Timedelta(
        days=int(batch["days"][0]), seconds=int(batch["seconds"][0])
    )
    return frame, jax_datetime.Datetime(time)


@jax.jit
def _tendencies(
    model: NeuralGCM, params: Params, frame: Frame, time: jax_datetime.Datetime
) -> dict[str, dict[str, jax.Array]]:
    networks = merge_networks(model.spec, params)
    surroundings = model.surroundings(frame, time)
    interpolated = model.encode(frame, time, None)
    encoded = model.encode(frame, time, networks, jax.random.key(0))
    planet = idealised_physics(model.spec.sigma)

    def at_points(forcing: State) -> dict[str, jax.Array]:
        core = model.equations.harmonics
        columns = model.columns(core.with_waves_of(model.harmonics, forcing))
        reference = model.equations.reference_temperature[:, None, None, None]
        return {
            "heating": (columns.temperature - reference) * units.DAY,
            "drag": columns.u * units.DAY / units.VELOCITY,
        }

    return {
        "planet": at_points(model.forcing(interpolated, surroundings, planet)),
        "learned": at_points(model.forcing(encoded, surroundings, networks)),
    }


def mass_weights(sigma: SigmaLevels, grid: GaussianGrid) -> np.ndarray:
    """Of layers from the ground to `HIGHEST`, [layer, latitude]; their sum is 1."""
    mass = np.where(sigma.centers >= HIGHEST, sigma.thickness, 0.0)
    weights = mass[:, None] * grid.latitude_weights
    return weights / weights.sum()


def correlation(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
    """Pearson's, with weights."""
    return slope(x, y, weights) * _deviation(x, weights) / _deviation(y, weights)


def slope(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
    """Of the regression of `y` on `x`, with weights."""
    covariance = np.average(_anomaly(x, weights) * _anomaly(y, weights), None, weights)
    return float(covariance / _deviation(x, weights) ** 2)


def _anomaly(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return x - np.average(x, None, weights)


def _deviation(x: np.ndarray, weights: np.ndarray) -> float:
    return float(np.sqrt(np.average(_anomaly(x, weights) ** 2, None, weights)))


def draw(
    store: Store,
    sigma: SigmaLevels,
    means: Tendencies,
    figures: dict[str, dict[str, float]],
    file: pathlib.Path,
) -> None:
    """Zonal means, true and learned side by side on the same scale."""
    figure, axes = plt.subplots(
        len(WHAT), 2, figsize=(11, 7), sharex=True, sharey=True, layout="constrained"
    )
    latitudes = store.grid.latitude_degrees
    for row, (name, unit) in zip(axes, WHAT.items(), strict=True):
        below = sigma.centers >= HIGHEST
        largest = np.abs(means["planet"][name][below]).max()
        for axis, whose in zip(row, ("planet", "learned"), strict=True):
            image = axis.pcolormesh(
                *(latitudes, sigma.centers, means[whose][name]),
                cmap="RdBu_r",
                vmin=-largest,
                vmax=largest,
            )
            axis.axhline(HIGHEST, color="k", lw=0.8, ls=":")
            what = {"planet": f"{name} of the planet", "learned": f"learned {name}"}
            r = figures[name]["zonal_mean"]
            more = f": correlation {r:.2f}" if whose == "learned" else ""
            axis.set_title(what[whose] + more)
        figure.colorbar(image, ax=row, label=unit)
        row[0].set_ylabel("sigma")
    axes[0, 0].invert_yaxis()
    for axis in axes[-1]:
        axis.set_xlabel("latitude")
    figure.suptitle(
        "Zonal and time means over held-out days (simulated data); compared below the "
        "dotted line"
    )
    figure.savefig(file, dpi=110)
    plt.close(figure)
