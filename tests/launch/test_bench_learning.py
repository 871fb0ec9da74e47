"""What the benchmarks of learning measure, against closed forms and by tiny runs."""

import json

import jax
import numpy as np
import pytest

from launch.benchmarks import ensemble, hidden_physics, initial_shock, learning
from launch.cli import main
from model.sphere.grids import parse_grid
from model.vertical.sigma import SigmaLevels
from train.config import to_json


def test_weighted_correlation_and_slope():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 50))
    counts = rng.integers(1, 4, 50)
    xs, ys = np.repeat(x, counts), np.repeat(y, counts)
    expected = np.corrcoef(xs, ys)[0, 1]
    assert hidden_physics.correlation(x, y, counts / counts.sum()) == pytest.approx(
        expected
    )
    assert hidden_physics.slope(x, y, counts) == pytest.approx(np.polyfit(xs, ys, 1)[0])


def test_weights_are_of_mass_and_area_between_ground_and_200_hpa():
    grid, sigma = parse_grid("TL31"), SigmaLevels.equidistant(10)
    weights = hidden_physics.mass_weights(sigma, grid)
    assert weights.sum() == pytest.approx(1)
    layers = weights.sum(axis=1)
    np.testing.assert_allclose(layers, [0, 0, *[1 / 8] * 8], atol=1e-12)


def test_the_gap_is_closed_between_silenced_and_oracle():
    def errors(value):
        return {
            name: {"rmse": [[9.0], [value]]}
            for name in (*learning.VARIABLES, "geopotential")
        }

    scores = {
        "lead_hours": [0, 24],
        "levels_hpa": [850.0],
        "scores": {
            "silenced": errors(5.0),
            "trained": errors(2.0),
            "oracle": errors(1.0),
        },
    }
    closed = learning.gaps_closed(scores, "trained", 24)
    assert closed == {f"{name} 850 hPa": 0.75 for name in learning.VARIABLES}


def test_scores_of_a_reliable_ensemble():
    """Observed and members of one normal distribution, with a mean that varies."""
    rng = np.random.default_rng(0)
    mean = rng.normal(size=200_000)
    observed = mean + rng.normal(size=mean.shape)
    members = mean + rng.normal(size=(ensemble.MEMBERS, *mean.shape))
    x = {k: v.mean() for k, v in ensemble.scores(members, observed).items()}
    spread = np.sqrt((1 + 1 / ensemble.MEMBERS) * x["variance"])
    assert spread == pytest.approx(np.sqrt(x["mean_square"]), rel=0.01)
    # Gneiting and Raftery (2007): E|X - Y| - E|X - X'| / 2, of normal ones.
    assert x["crps"] == pytest.approx(1 / np.sqrt(np.pi), rel=0.01)


@pytest.mark.slow
def test_a_tiny_run_is_measured(make_tiny_config, tiny_store, planet, tmp_path):
    config = make_tiny_config()
    config.model.noise = ((2000.0, 6.0),)
    config.train.steps = config.train.checkpoint_every = 1
    config.train.eval_every, config.data.frames = 1, 2
    config.model.step_minutes = 180
    file = tmp_path / "config.json"
    file.write_text(json.dumps(to_json(config)))
    with jax.enable_x64(False):
        for name in ("curriculum", "ensemble"):
            with pytest.raises(SystemExit, match="0"):
                main(["train", f"--config={file}", f"--workdir={tmp_path / name}"])
        workdir = str(tmp_path / "curriculum")
        physics = hidden_physics.compare_with_planet(
            workdir, tiny_store.path, planet, tmp_path
        )
        shock = initial_shock.compare_beginnings(workdir, tiny_store.path, tmp_path)
    for name in hidden_physics.WHAT:
        assert -1 <= physics[name]["zonal_mean"] <= 1
    for rates in shock.values():
        assert 0 < rates["first_12h"] < 50
    for picture in ("hidden_physics", "initial_shock"):
        assert (tmp_path / f"{picture}.png").stat().st_size > 10_000
