"""How calmly forecasts begin: changes of surface pressure in their first hours.

A state that is only interpolated from pressure levels is not in balance and sends out
gravity waves; a learned encoder can avoid that.
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import jax_datetime
import matplotlib
import numpy as np

from launch.benchmarks.hidden_physics import one_frame
from model.neural_gcm import Frame, ModelState, NeuralGCM
from model.sphere.grids import unfold
from pipeline.progress import progress
from pipeline.store import open_store
from train.data import Windows, parse_window
from train.forecast.restore import load_run, restore_model
from train.step import Params, merge_networks

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

HOURS = 12
CASES = {
    "core alone, interpolated": (False, False),
    "learned physics, interpolated": (False, True),
    "learned physics, trained encoder": (True, True),
}
"""Whether the encoder, and the physics, are the learned ones."""


def compare_beginnings(
    workdir: str, store_path: str, output: pathlib.Path
) -> dict[str, dict[str, float]]:
    """Root mean squares of dps/dt over the sphere and held-out times, hPa/h.

    A picture by hour goes to `output`.

    Returns:
      By case, over the `first_12h`, and in the `first_step` and `last_step` of them.
    """
    config, store = load_run(workdir), open_store(store_path)
    model, params = restore_model(workdir, config, store)
    windows = Windows(store, *parse_window(store, config.data.eval_times), 1, 6)
    hours = model.spec.step_minutes / 60
    area = store.grid.latitude_weights[:, None] / (2 * store.grid.longitudes)
    squares: dict[str, list[np.ndarray]] = {case: [] for case in CASES}
    for number in progress(range(0, len(windows), 2), "initial shock: forecasts"):
        frame, time = one_frame(windows, number)
        for case, learned in CASES.items():
            pressure = _pressures(model, params, frame, time, *learned)
            rate = np.diff(unfold(np.asarray(pressure, np.float64)), axis=0) / hours
            squares[case].append(np.sum(rate**2 * area, axis=(-2, -1)))
    means = {case: np.mean(x, axis=0) for case, x in squares.items()}
    draw(means, hours, output / "initial_shock.png")
    return {
        case: {
            "first_12h": float(np.sqrt(x.mean())),
            "first_step": float(np.sqrt(x[0])),
            "last_step": float(np.sqrt(x[-1])),
        }
        for case, x in means.items()
    }


@functools.partial(jax.jit, static_argnums=(4, 5))
def _pressures(
    model: NeuralGCM,
    params: Params,
    frame: Frame,
    time: jax_datetime.Datetime,
    encoder: bool,
    physics: bool,
) -> jax.Array:
    """Surface pressure after every step, hPa, [step, 2, latitude, longitude]."""
    networks = merge_networks(model.spec, params)
    minutes = model.spec.step_minutes
    state = model.encode(
        frame, time, networks if encoder or physics else None, jax.random.key(0)
    )
    if not encoder:  # the learned physics may need the rest, such as noise
        interpolated = model.encode(frame, time, None)
        state = ModelState(interpolated.atmosphere, state.memory, state.noise)

    def pressure(state: ModelState) -> jax.Array:
        return 1000 * jnp.exp(model.columns(state.atmosphere).log_surface_pressure)

    def step(state: ModelState, index: jax.Array) -> tuple[ModelState, jax.Array]:
        now = time + index * jax_datetime.to_timedelta(minutes, "m")
        surroundings = model.surroundings(frame, now)
        state = model.advance(state, surroundings, networks if physics else None)
        return state, pressure(state)

    _, later = jax.lax.scan(step, state, jnp.arange(HOURS * 60 // minutes))
    return jnp.concatenate([pressure(state)[None], later])


def draw(means: dict[str, np.ndarray], hours: float, file: pathlib.Path) -> None:
    figure, axis = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for case, x in means.items():
        axis.plot(hours * (np.arange(len(x)) + 0.5), np.sqrt(x), "o-", ms=3, label=case)
    axis.set_xlabel("hours since the beginning of the forecast")
    axis.set_ylabel("RMS of dps/dt (hPa/h)")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    axis.legend()
    axis.set_title("Changes of surface pressure (simulated data)")
    figure.savefig(file, dpi=110)
    plt.close(figure)
