"""Losses of rollouts against their definitions, and what they are made of."""

import dataclasses

import jax
import jax_datetime
import numpy as np
import pytest

from model import units
from model.neural_gcm import NeuralGCM
from model.remat import WAYS, Remat
from model.spec import LEVEL_VARIABLES
from train import build, report
from train.calibration import calibrate, with_scales
from train.data import BatchReader, Windows, abstract_batch
from train.losses.terms import TERMS, lead_weights
from train.mesh import MeshShape, make_mesh
from train.step import (
    initial_state,
    loss_and_gradient,
    make_eval_step,
    merge_networks,
    scores_of_batch,
)

HOURS, FRAMES, SAMPLES = 6, 3, 4
ONE = MeshShape()


@dataclasses.dataclass
class Case:
    model: NeuralGCM
    params: dict
    objective: object
    windows: Windows

    def batch(self, shape):
        mesh = make_mesh(shape)
        reader = BatchReader(self.windows, mesh, SAMPLES)
        batch = reader.to_devices(reader.read(np.arange(SAMPLES)))
        batch["frames"] = jax.tree.map(lambda x: x.astype("float64"), batch["frames"])
        return mesh, batch


@pytest.fixture(scope="module")
def case(tiny_store, make_tiny_config):
    config = make_tiny_config()
    config.model.step_minutes = 180
    for name in config.loss:
        if name in TERMS and not name.startswith("crps"):
            config.loss[name] = 1.5
    spec = build.build_spec(config, tiny_store.grid, tiny_store.levels)
    last = len(tiny_store.times) - 1
    scales = calibrate(build.build_model(spec, tiny_store), tiny_store, 0, last)
    model = NeuralGCM.create(
        spec,
        tiny_store.read("geopotential_at_surface", None),
        tiny_store.read("land_sea_mask", None),
        dtype="float64",
    )
    state = initial_state(spec, build.build_optimizer(config), seed=0)
    params = jax.tree.map(lambda x: x.astype("float64"), state.params)
    windows = Windows(tiny_store, 0, last, frames=FRAMES, hours=HOURS)
    return Case(
        with_scales(model, scales), params, build.build_objective(config), windows
    )


@pytest.fixture(scope="module")
def value_and_parts(case):
    """The loss, and what it is made of."""
    mesh, batch = case.batch(ONE)
    key = jax.random.key(0)
    return jax.jit(
        lambda *x: loss_and_gradient(*x, case.objective, batch, mesh, key)[0]
    )(case.model, case.params)


def test_terms_are_what_they_are_defined_to_be(case, value_and_parts):
    """Mean squares, spectra and biases of T, from forecasts made one by one."""
    model, loss = case.model, case.objective.loss
    _, batch = case.batch(ONE)
    value, parts = value_and_parts
    networks = merge_networks(model.spec, case.params)

    @jax.jit
    def forecast(frame, time):
        state = model.encode(frame, time, networks, None)
        decoded = []
        for i in range(FRAMES):
            if i:
                state = model.rollout(state, frame, time, HOURS, networks)
                time = time + jax_datetime.to_timedelta(HOURS, "h")
            surroundings = model.surroundings(frame, time)
            decoded.append(model.decode(state, surroundings, networks)["temperature"])
        return decoded

    counted = np.asarray(model.spec.levels) >= loss.least_level
    change = np.asarray(model.scales.data_change["temperature"])
    weight = counted / np.sqrt(np.mean(change[counted] ** 2))

    def scaled(temperature):
        modal = units.to_model("temperature", temperature)
        modal = model.harmonics.clip(model.harmonics.to_modal(modal))
        return np.asarray(modal) * weight[:, None, None, None]

    scores = ("mse", "spectrum", "bias")
    leads = HOURS * np.arange(FRAMES)
    of_leads = {score: lead_weights(loss, score, leads) for score in scores}
    last = int(loss.spectrum_cutoff * model.spec.grid.truncation) + 1
    sums = dict.fromkeys(scores, 0.0)
    for sample in range(SAMPLES):
        frames = jax.tree.map(lambda x, i=sample: x[i], batch["frames"])
        days, seconds = batch["days"][sample], batch["seconds"][sample]
        time = jax_datetime.Datetime(jax_datetime.Timedelta(days=days, seconds=seconds))
        predicted = forecast(jax.tree.map(lambda x: x[0], frames), time)
        for i in range(FRAMES):
            ours, theirs = scaled(predicted[i]), scaled(frames["temperature"][i])
            square = np.sum((ours - theirs) ** 2, axis=(1, 2, 3))
            spectra = (np.linalg.norm(x, axis=(1, 2))[:, :last] for x in (ours, theirs))
            spectrum = np.sum(np.subtract(*spectra) ** 2, axis=1)
            bias = np.hypot(*ours.swapaxes(0, 1)) - np.hypot(*theirs.swapaxes(0, 1))
            for score, x in zip(scores, (square, spectrum, bias), strict=True):
                sums[score] = sums[score] + of_leads[score][i] * x / SAMPLES / FRAMES
    sums["bias"] = np.sum(sums["bias"] ** 2, axis=(1, 2))
    for score in scores:
        table = parts["tables"][f"{score}_data"]
        found = report.by_variable(model.spec, f"{score}_data", table)["temperature"]
        expected = sums[score] / (4 * np.pi * counted.sum())
        np.testing.assert_allclose(found, expected, 1e-9, 1e-20, err_msg=score)
    whole = sum(w * float(parts["tables"][name].sum()) for name, w in loss.weights)
    assert float(value) == pytest.approx(whole, rel=1e-12)


def test_shares_add_up(case, value_and_parts):
    _, parts = value_and_parts
    loss = case.objective.loss
    shares = report.shares(case.model.spec, loss, parts["tables"], of_levels=True)
    assert sum(shares[f"share/{name}"] for name, _ in loss.weights) == pytest.approx(1)
    for name, _ in loss.weights:
        below = {k.split("/")[-1]: x for k, x in shares.items() if f"/{name}/" in k}
        levels = {k: x for k, x in below.items() if k.split(" ")[0] == "sigma"}
        levels |= {
            k: x for k, x in below.items() if k.endswith("hPa") or k == "surface"
        }
        variables = {k: x for k, x in below.items() if k not in levels}
        for parts_ in (levels, variables):
            assert sum(parts_.values()) == pytest.approx(shares[f"share/{name}"])
        if name.endswith("_data"):
            assert set(variables) == set(LEVEL_VARIABLES)
            assert levels["10 hPa"] == 0  # above `least_level`


@pytest.mark.drill
def test_gradients_are_equal_whatever_is_recomputed(case):
    """Of all ways but the offload, which a CPU has no memory for."""
    mesh, batch = case.batch(MeshShape(data=2))

    @jax.jit
    def gradient(model, params, batch):
        return loss_and_gradient(
            model, params, case.objective, batch, mesh, jax.random.key(0)
        )[1]

    def of(remat):
        spec = dataclasses.replace(case.model.spec, remat=remat)
        return gradient(dataclasses.replace(case.model, spec=spec), case.params, batch)

    expected = of(Remat())
    other = Remat(
        **{name: [x for x in w if x != "offload"][-1] for name, w in WAYS.items()}
    )
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, 1e-9, 1e-12), of(other), expected
    )


def test_evaluation_holds_no_trajectory(case):
    """Longer windows need no more memory but for their targets, which are given."""
    mesh = make_mesh(ONE)

    def needed(frames):
        batch = abstract_batch(case.model.spec, mesh, 1, frames)
        step = make_eval_step(case.objective, mesh)
        compiled = step.lower(case.model, case.params, batch).compile()
        sizes = [x.size * x.dtype.itemsize for x in jax.tree.leaves(batch)]
        return compiled.memory_analysis().temp_size_in_bytes, sum(sizes)

    (short, few), (long, many) = needed(3), needed(9)
    assert long - short < 0.05 * (many - few)


@pytest.mark.parametrize("terms", ["all", "biases alone"])
def test_evaluations_tell_the_errors_of_decoded_fields(case, terms):
    mesh, batch = case.batch(ONE)
    objective = case.objective
    if terms == "biases alone":  # which no sample has
        loss = dataclasses.replace(objective.loss, weights=(("bias_data", 1.0),))
        objective = dataclasses.replace(objective, loss=loss)
    scores = jax.jit(
        lambda *x: scores_of_batch(*x, objective, batch, mesh, jax.random.key(0))
    )(case.model, case.params)
    assert set(scores["tables"]) == {name for name, _ in objective.loss.weights}
    assert scores["count"] == SAMPLES
    for name in LEVEL_VARIABLES:
        square, mean = (scores["errors"][x][name] for x in ("square", "mean"))
        assert square.shape == mean.shape == (FRAMES, len(case.model.spec.levels))
        assert (np.asarray(square) >= np.asarray(mean) ** 2).all()
    weights = np.asarray(case.model.harmonics.weights) / (4 * np.pi)
    k = case.model.spec.levels.index(850.0)
    of_map = np.sum(np.asarray(scores["maps"][:, 0]) * weights, axis=(1, 2, 3))
    mean = scores["errors"]["mean"]["temperature"][:, k]
    np.testing.assert_allclose(of_map, mean, 1e-8)
