"""The benchmark of forecasts, with a tiny model."""

import argparse
import json

import jax
import pytest
import xarray

from launch.benchmarks import forecast
from tests.train.test_forecast import make_run


@pytest.mark.slow
def test_figures(tmp_path, make_tiny_config, tiny_store, monkeypatch):
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "1")  # of the forecasts' processes
    with jax.enable_x64(False):
        workdir = make_run(tmp_path / "run", make_tiny_config(), tiny_store)
    arguments = argparse.Namespace(
        workdir=workdir,
        output=str(tmp_path / "figures"),
        first="2001-01-02",
        times=3,
        days=5,
        batch=1,
        years=1,
    )
    figures = forecast.run(arguments)
    assert json.loads((tmp_path / "figures/figures.json").read_text()) == figures
    assert figures["equal"]
    assert figures["many"]["simulated_days_per_hour"] > 0
    assert 0.5 < figures["memory_ratio"] < 1.2
    climate = figures["climate"]
    assert climate["of_days"] >= 365
    assert (climate["exit_code"] == 0) == (
        climate["finite_until_day"] == climate["of_days"]
    )
    assert (tmp_path / "figures/climate.png").stat().st_size > 10_000
    found = xarray.open_zarr(tmp_path / "figures/climate.zarr", consolidated=False)
    assert found.sizes["month"] == 13
