"""The whole model: silent at first, differentiable, true to real fields."""

import os
import pathlib

import jax
import jax.numpy as jnp
import jax_datetime
import numpy as np
import pytest
from flax import nnx

from model import units
from model.networks import Networks
from model.neural_gcm import NeuralGCM
from model.spec import (
    LEVEL_VARIABLES,
    SURFACE_VARIABLES,
    TRACERS,
    Filter,
    ModelSpec,
    NetworkSpec,
)
from model.sphere.grids import fold, parse_grid, unfold
from model.vertical.sigma import SigmaLevels
from train import build
from train.calibration import calibrate, with_scales
from train.losses.rollout import batch_tables, rollout_sums, total


def first_frame(store, dtype=np.float32):
    names = (*LEVEL_VARIABLES, *SURFACE_VARIABLES)
    frame = {n: fold(store.read(n, np.array([0]))[0].astype(dtype)) for n in names}
    return jax.tree.map(jnp.asarray, frame), jax_datetime.to_datetime(store.times[0])


@pytest.fixture
def tiny(tiny_store, tiny_config):
    spec = build.build_spec(tiny_config, tiny_store.grid, tiny_store.levels)
    model = NeuralGCM.create(
        spec,
        tiny_store.read("geopotential_at_surface", None),
        tiny_store.read("land_sea_mask", None),
        dtype=jnp.float64,
    )
    plain = build.build_model(spec, tiny_store)
    scales = calibrate(plain, tiny_store, 0, len(tiny_store.times) - 1)
    return with_scales(model, scales), spec


def test_untrained_networks_are_almost_silent(tiny, tiny_store):
    model, spec = tiny
    frame, time = first_frame(tiny_store, np.float64)
    networks = Networks(spec, nnx.Rngs(0))
    state = model.encode(frame, time, None)
    surroundings = model.surroundings(frame, time)
    silent = model.advance(state, surroundings, None)
    learned = model.advance(state, surroundings, networks)
    hours = spec.step_minutes / 60
    learned, silent = (model.columns(x.atmosphere).u for x in (learned, silent))
    change = np.abs(learned - silent) / units.VELOCITY
    day = model.scales.column_change["u"].max() / units.VELOCITY
    assert 0 < np.sqrt(np.mean(change**2)) < 0.5 * day * hours / 24


def test_loss_gradient_agrees_with_finite_differences(tiny, tiny_store, tiny_config):
    model, spec = tiny
    names = (*LEVEL_VARIABLES, *SURFACE_VARIABLES)
    frames = {
        n: jnp.asarray(fold(tiny_store.read(n, np.array([0, 1]))), jnp.float64)
        for n in names
    }
    time = jax_datetime.to_datetime(tiny_store.times[0])
    loss_ = build.build_objective(tiny_config).loss
    structure, params = nnx.split(Networks(spec, nnx.Rngs(0)))
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), params)

    @jax.jit
    def loss(params):
        networks = nnx.merge(structure, params)
        sums = rollout_sums(
            model, networks, loss_, frames, time, 6, jax.random.key(0)[None]
        )
        return total(loss_, batch_tables(model, loss_, sums, rows=1))

    key = jax.random.key(0)
    direction = jax.tree.map(lambda x: jax.random.normal(key, x.shape, x.dtype), params)
    gradient = jax.jit(jax.grad(loss))(params)
    slope = sum(
        jnp.vdot(g, d)
        for g, d in zip(
            jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True
        )
    )
    eps = 1e-6

    def shifted(distance):
        return loss(jax.tree.map(lambda p, d: p + distance * d, params, direction))

    assert (shifted(eps) - shifted(-eps)) / (2 * eps) == pytest.approx(
        float(slope), rel=1e-5
    )


def test_states_have_the_datas_waves_and_steps_those_of_the_core(tiny, tiny_store):
    model, spec = tiny
    frame, time = first_frame(tiny_store, np.float64)
    state = model.encode(frame, time, None)
    assert state.atmosphere.temperature.shape[1:] == model.harmonics.modal_shape
    assert np.any(state.atmosphere.temperature[..., spec.grid.truncation] != 0)
    after = model.advance(state, model.surroundings(frame, time), None).atmosphere
    beyond = spec.dycore_grid.truncation + 1
    assert np.all(after.temperature[..., beyond:] == 0)
    assert np.any(after.temperature[..., beyond - 1] != 0)


# Interpolation alone, real ERA5 analysis, 32 layers: root mean square errors of
# encode and decode by variable and level in hPa, with a fifth to spare. Most of it at
# 850 hPa and below is ground below which ERA5 and we extrapolate differently.
ROUND_TRIP = {
    "temperature": {100: 2.0, 250: 0.7, 500: 0.4, 850: 1.1},
    "u_component_of_wind": {100: 2.0, 250: 1.6, 500: 1.3, 850: 1.1},
    "v_component_of_wind": {100: 1.8, 250: 1.9, 500: 1.6, 850: 1.4},
    "geopotential": {100: 130.0, 250: 150.0, 500: 95.0, 850: 160.0},
    "specific_humidity": {250: 1.6e-5, 500: 1.7e-4, 850: 5.2e-4},
}


@pytest.fixture(scope="module")
def real(real_store):
    spec = ModelSpec(
        grid=real_store.grid,
        dycore_grid=parse_grid("31@96x48"),
        sigma=SigmaLevels.equidistant(32),
        levels=tuple(real_store.levels),
        step_minutes=60,
        substeps=3,
        filters=(Filter(tau_minutes=120.0, order=3),),
        fixers=(),
        geopotential_interpolation="log_sigma",
        networks=NetworkSpec(width=8, blocks=1, layers=1),
    )
    return build.build_model(spec, real_store)


def test_real_analysis_survives_the_coders(real, real_store):
    frame, time = first_frame(real_store)
    state = jax.jit(lambda m, f, t: m.encode(f, t, None))(real, frame, time)
    decoded = jax.jit(lambda m, s, f, t: m.decode(s, m.surroundings(f, t), None))(
        real, state, frame, time
    )
    weights = np.asarray(real.harmonics.weights) / (4 * np.pi)
    for name, bounds in ROUND_TRIP.items():
        error = np.asarray(decoded[name]) - np.asarray(frame[name])
        rmse = np.sqrt(np.sum(error**2 * weights, axis=(1, 2, 3)))
        for level, bound in bounds.items():
            k = list(real_store.levels).index(level)
            print(f"{name} {level} hPa: {rmse[k]:.3g} (below {bound})")
            assert rmse[k] < bound, (name, level)


@pytest.mark.slow
def test_core_runs_ten_days_from_the_real_analysis(real, real_store, tmp_path):
    frame, time = first_frame(real_store)
    state = jax.jit(lambda m, f, t: m.encode(f, t, None))(real, frame, time)
    run = jax.jit(lambda m, s, f, t: m.rollout(s, f, t, 6, None))

    @jax.jit
    def extremes(model, state):
        columns = model.columns(state.atmosphere)
        return dict(
            wind=jnp.sqrt(columns.u**2 + columns.v**2).max() / units.VELOCITY,
            lowest_pressure=jnp.exp(columns.log_surface_pressure).min() * 1000,
            highest_pressure=jnp.exp(columns.log_surface_pressure).max() * 1000,
            coldest=columns.temperature.min(),
            warmest=columns.temperature.max(),
            driest=columns.tracers[TRACERS[0]].min(),
        )

    history = [extremes(real, state)]
    pictures = {"start": real.columns(state.atmosphere)}
    for quarter in range(1, 41):
        state = run(real, state, frame, time)
        history.append(extremes(real, state))
        x = {name: float(value) for name, value in history[-1].items()}
        if quarter % 4 == 0:
            print(f"day {quarter // 4}", {k: round(v, 5) for k, v in x.items()})
        assert x["wind"] < 130
        assert x["lowest_pressure"] > 450 and x["highest_pressure"] < 1090
        assert x["coldest"] > 160 and x["warmest"] < 330
    pictures["after ten days"] = real.columns(state.atmosphere)
    folder = pathlib.Path(os.environ.get("PODGCM_PICTURES", tmp_path))
    draw_ten_days(history, pictures, real.spec.grid, folder / "real_ten_days.png")


def draw_ten_days(history, pictures, grid, file):
    """Pressure and wind at the start and the end, and the extremes in between."""
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(3, 2, figsize=(12, 9))
    x, y = grid.longitude_degrees, grid.latitude_degrees
    for row, (title, columns) in zip(axes, pictures.items(), strict=False):
        aloft = int(0.25 * columns.u.shape[0])
        fields = {
            "surface pressure (hPa)": jnp.exp(columns.log_surface_pressure) * 1000,
            "u at sigma 0.27 (m/s)": columns.u[aloft] / units.VELOCITY,
        }
        for axis, (name, field) in zip(row, fields.items(), strict=True):
            image = axis.pcolormesh(x, y, unfold(np.asarray(field)))
            figure.colorbar(image, ax=axis)
            axis.set_title(f"{name}, {title}")
    days = np.arange(len(history)) / 4
    for names, axis in zip(
        (("lowest_pressure", "highest_pressure"), ("wind", "coldest", "warmest")),
        axes[2],
        strict=True,
    ):
        for name in names:
            axis.plot(days, [float(h[name]) for h in history], label=name)
        axis.set_xlabel("days")
        axis.legend()
    figure.suptitle("Dynamical core alone from ERA5, 1959-01-02 00z (TL31, 32 layers)")
    figure.tight_layout()
    figure.savefig(file, dpi=90)
