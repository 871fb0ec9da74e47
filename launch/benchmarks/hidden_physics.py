"""The learned heating and drag beside those of the planet, which training never sees.

Both are means over held-out days: the planet's physics of its own states, which are
simulated again, and the networks in the columns that they encode from its data; both as
the model's core is given them, without the waves that it does not have. (Physics of
states that are interpolated from the data would be another: condensation, where it is
hardly saturated, does not survive that.)
"""

import functools
import pathlib
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import jax_datetime
import matplotlib
import numpy as np
import xarray

from launch import sample
from model import units
from model.dynamics.primitive_equations import PrimitiveEquations
from model.dynamics.state import State
from model.neural_gcm import Frame, NeuralGCM
from model.sphere.grids import GaussianGrid, unfold
from model.vertical.sigma import SigmaLevels
from pipeline.store import Store, open_store
from train.data import Windows, parse_window
from train.forecast.restore import load_run, restore_model
from train.step import Params, merge_networks

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

HIGHEST = 0.2  # sigma, of what is compared
WHAT = {"heating": "K/day", "drag": "m/s/day"}

Fields = dict[str, jax.Array]
"""By name of `WHAT`, [layer, 2, latitude, longitude]."""

Tendencies = dict[str, dict[str, np.ndarray]]
"""By whose they are, `planet` or `learned`, and by name of `WHAT`."""


def compare_with_planet(
    workdir: str, store_path: str, planet_path: str, output: pathlib.Path
) -> dict[str, dict[str, float]]:
    """Correlations of a run's tendencies with the planet's; a picture in `output`.

    Args:
      workdir: of the run.
      store_path: its data.
      planet_path: what `podgcm sample` has made, of which these data are.
      output: folder.

    Returns:
      By name `zonal_mean`: of time and zonal means, over latitudes and layers from
      1000 to 200 hPa, weighted by mass and area; `instantaneous`: mean over times of
      the same over all points; and `amplitude`: the slope of the regression of learned
      on true zonal means.
    """
    config, store = load_run(workdir), open_store(store_path)
    model, params = restore_model(workdir, config, store)
    windows = Windows(store, *parse_window(store, config.data.eval_times), 1, 6)
    numbers = {store.times[start]: i for i, start in enumerate(windows.starts)}
    weights = mass_weights(model.spec.sigma, store.grid)
    means: Tendencies = {}
    instantaneous = {name: [] for name in WHAT}
    for now, planets in _of_planet(model, planet_path, max(numbers)):
        if now not in numbers:
            continue
        frame, time = one_frame(windows, numbers[now])
        both = {"planet": planets(), "learned": _learned(model, params, frame, time)}
        here = jax.tree.map(lambda x: unfold(np.asarray(x, np.float64)), both)
        for name in WHAT:
            pair = here["planet"][name], here["learned"][name]
            everywhere = np.broadcast_to(weights[..., None], pair[0].shape)
            instantaneous[name].append(correlation(*pair, everywhere))
        zonal = jax.tree.map(lambda x: x.mean(axis=-1) / len(numbers), here)
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


def _of_planet(
    model: NeuralGCM, path: str, last: np.datetime64
) -> Iterator[tuple[np.datetime64, Callable[[], Fields]]]:
    """The planet's times up to the last, and a function that gives its tendencies."""
    data = xarray.open_zarr(path)
    times = data.time.values
    seed, spin_up_days = (data.attrs[name] for name in ("seed", "spin_up_days"))
    equations, planet = sample.make_core(seed)
    states = sample.simulate(
        *(equations, planet, seed, spin_up_days), times[times <= last]
    )
    for now, days, state in states:
        time = jax_datetime.to_datetime(now)
        arguments = (model, equations, planet, state, time, days)
        yield now, functools.partial(_hidden, *arguments)


def one_frame(windows: Windows, number: int) -> tuple[Frame, jax_datetime.Datetime]:
    """The first frame of a window and its time."""
    batch = windows.read(np.array([number]))
    frame = {name: jnp.asarray(x[0, 0]) for name, x in batch["frames"].items()}
    time = jax_datetime.Timedelta(
        days=int(batch["days"][0]), seconds=int(batch["seconds"][0])
    )
    return frame, jax_datetime.Datetime(time)


@jax.jit
def _hidden(
    model: NeuralGCM,
    equations: PrimitiveEquations,
    planet: sample.Planet,
    state: State,
    time: jax_datetime.Datetime,
    days: jax.Array,
) -> Fields:
    """Of the planet, on the model's layers."""
    surroundings = sample.surroundings_of(equations, planet, time, days)
    forcing = sample.hidden_forcing(equations, state, surroundings)
    ours, theirs = model.spec.sigma.centers, sample.SIGMA.centers
    layers = np.stack([np.interp(ours, theirs, row) for row in np.eye(len(theirs))], 1)
    forcing = jax.tree.map(
        lambda x: (
            jnp.tensordot(jnp.asarray(layers, x.dtype), x, 1) if x.ndim == 4 else x
        ),
        forcing,
    )
    core = model.equations.harmonics
    return _at_points(model, equations.harmonics.with_waves_of(core, forcing))


@jax.jit
def _learned(
    model: NeuralGCM, params: Params, frame: Frame, time: jax_datetime.Datetime
) -> Fields:
    networks = merge_networks(model.spec, params)
    state = model.encode(frame, time, networks, jax.random.key(0))
    surroundings = model.surroundings(frame, time)
    return _at_points(model, model.forcing(state, surroundings, networks))


def _at_points(model: NeuralGCM, forcing: State) -> Fields:
    core = model.equations.harmonics
    columns = model.columns(core.with_waves_of(model.harmonics, forcing))
    reference = model.equations.reference_temperature[:, None, None, None]
    return {
        "heating": (columns.temperature - reference) * units.DAY,
        "drag": columns.u * units.DAY / units.VELOCITY,
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
