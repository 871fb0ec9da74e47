"""Runs that start from another's weights; modules with rates of their own."""

import json

import jax
import numpy as np
import pytest

from launch.cli import main
from pipeline.errors import UserError
from train import build, checkpoint
from train.config import load_config, to_json
from train.forecast.restore import restore_model
from train.metrics import read_metrics
from train.step import initial_state


def train(config, folder, name):
    file = folder / f"{name}.json"
    file.write_text(json.dumps(to_json(config)))
    with pytest.raises(SystemExit) as end:
        main(["train", f"--config={file}", f"--workdir={folder / name}"])
    return end.value.code or 0


def saved(workdir, config, store):
    spec = build.build_spec(config, store.grid, store.levels)
    model, params = restore_model(str(workdir), config, store)
    assert model.spec == spec
    return model.scales, jax.device_get(params)


@pytest.mark.slow
def test_a_run_starts_from_another_and_leaves_frozen_modules_alone(
    tmp_path, make_tiny_config, tiny_store, capsys
):
    first = make_tiny_config()
    first.model.positional = 2
    first.model.step_minutes, first.data.frames = 360, 2
    first.train.steps = first.train.checkpoint_every = first.train.eval_every = 1
    with jax.enable_x64(False):
        assert train(first, tmp_path, "first") == 0
        later = make_tiny_config()
        later.update(first)
        later.seed = 7  # other random weights, if there were any
        later.data.train_times = "2001-01-02/2001-01-04"
        later.init_from = str(tmp_path / "first")
        later.train.steps = 2  # the first of them with the learning rate 0
        later.optimizer.rates = (("^(encoder|positional)", 0.0), ("^decoder", 0.1))
        later.model.geopotential_interpolation = "sigma"
        assert train(later, tmp_path, "later") == 0
        told = capsys.readouterr().err
        assert "trained with model.geopotential_interpolation=log_sigma" in told
        other = make_tiny_config()
        other.update(later)
        other.model.width *= 2
        assert train(other, tmp_path, "other") == 2
        assert "it is of another model" in capsys.readouterr().err
    scales, before = saved(tmp_path / "first", first, tiny_store)
    their_scales, after = saved(tmp_path / "later", later, tiny_store)
    for name in ("inputs", "outputs"):
        pairs = zip(
            jax.tree.leaves(getattr(scales, name)),
            jax.tree.leaves(getattr(their_scales, name)),
            strict=True,
        )
        assert all(np.array_equal(x, y) for x, y in pairs)
    # Errors are measured in changes of the new data.
    changes = (s.data_change["temperature"] for s in (scales, their_scales))
    assert np.array_equal(*changes)  # the store's own statistics
    columns = (s.column_change["temperature"] for s in (scales, their_scales))
    assert not np.array_equal(*columns)

    def moved(name):
        differences = jax.tree.map(
            lambda x, y: float(np.abs(x - y).max()), before[name], after[name]
        )
        return jax.tree.leaves(differences)

    assert max(moved("encoder")) == max(moved("positional")) == 0
    # Adam's first steps move a parameter by about the rate, whatever its gradient.
    rate = later.optimizer.learning_rate
    assert 0.5 * rate < max(moved("physics")) < 2 * rate
    assert 0.05 * rate < max(moved("decoder")) < 0.2 * rate


def test_weights_of_another_model_are_told(tmp_path, tiny_config, capsys):
    tiny_config.model.step_minutes, tiny_config.data.frames = 360, 2
    tiny_config.train.steps = 1
    tiny_config.init_from = str(tmp_path / "nothing")
    with jax.enable_x64(False):
        assert train(tiny_config, tmp_path, "run") == 2
    assert "has no checkpoint" in capsys.readouterr().err


@pytest.mark.slow
def test_published_weights_learn_a_planet(tmp_path, planet, toy):
    """The toy of the official package, some steps on data that it has never seen."""
    store, published, tuned = (tmp_path / x for x in ("tl63", "published", "tuned"))

    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            main([str(x) for x in arguments])
        assert not end.value.code

    def tune(steps):
        options = {
            "init_from": published,
            "data.store": store,
            "data.train_times": "2001-01-01/2001-01-03T12",
            "data.eval_times": "2001-01-03T18/2001-01-05",
            "data.frames": 2,
            "train.batch": 1,
            "train.eval_batches": 3,
            "train.steps": steps,
            "train.eval_every": 18,
            "train.checkpoint_every": 9,
            "optimizer.learning_rate": 3e-4,
            "optimizer.warmup_steps": 2,
            "optimizer.ema_decay": 0.0,
        }
        flags = [f"--config.{name}={value}" for name, value in options.items()]
        run("train", f"--config={published}/config.json", f"--workdir={tuned}", *flags)

    with jax.enable_x64(False):
        run("preprocess", f"--source={planet}", f"--output={store}", "--grid=TL63")
        run("import-neuralgcm", toy, f"--output={published}")
        tune(18)
        tune(19)
    lines = read_metrics(tuned)
    assert [x["step"] for x in lines if "loss" in x] == list(range(1, 20))
    before, after, _ = (x for x in lines if "eval_loss" in x)
    assert (before["step"], after["step"]) == (0, 18)
    # From some states of this planet the toy blows up at first, or is about to, which
    # rules means of losses, not their median.
    assert 0.5 <= before["eval_finite"] <= after["eval_finite"]
    assert after["eval_median_loss"] < before["eval_median_loss"]
    assert after["eval_mse_data_0h"] < 0.5 * before["eval_mse_data_0h"]
    assert after["eval_mse_model"] < before["eval_mse_model"]


def test_rates_are_read_and_must_match_something(tiny_store, tiny_config):
    spec = build.build_spec(tiny_config, tiny_store.grid, tiny_store.levels)
    for rates, message in [
        ((("(", 0.5),), "no .regular expression, factor"),
        ((("encoder", -1.0),), "no .regular expression, factor"),
        ((("^surface", 0.5),), "nothing is named like '.surface'"),
    ]:
        tiny_config.optimizer.rates = rates
        with pytest.raises(UserError, match=message):
            optimizer = build.build_optimizer(tiny_config)
            shapes = jax.eval_shape(lambda o=optimizer: initial_state(spec, o, 0))
            build.check_rates(tiny_config, shapes.params)


def test_a_runs_own_configuration_is_one(tmp_path, tiny_config):
    """What `config.json` says beside it is left out, and tuples are tuples again."""
    file = tmp_path / "config.json"
    tiny_config.model.noise = ((100.0, 1.0),)
    content = {**to_json(tiny_config), "data_fingerprint": "x"}
    file.write_text(json.dumps(content))
    config = load_config(str(file), ["optimizer.rates=[['^encoder', 0.0]]"])
    assert config.model.noise == ((100.0, 1.0),)
    assert config.optimizer.rates == (("^encoder", 0.0),)
    assert "data_fingerprint" not in config
    assert checkpoint.steps(tmp_path) == []
