"""The sample planet: shape, physics, determinism."""

import jax
import numpy as np
import pytest
import xarray

from launch.sample import make_sample


def test_it_is_shaped_like_era5_and_says_that_it_is_simulated(planet):
    data = xarray.open_zarr(planet)
    sizes = dict(time=16, level=37, latitude=33, longitude=64)
    assert dict(data.temperature.sizes) == sizes
    assert data.latitude[0] == 90 and data.latitude[-1] == -90
    assert data.temperature.attrs["units"] == "K"
    assert "SIMULATED" in data.attrs["source"]
    assert all("SIMULATED" in v.attrs["note"] for v in data.data_vars.values())
    land = data.land_sea_mask.values > 0.5
    assert np.isnan(data.sea_surface_temperature.values[:, land]).all()
    assert np.isfinite(data.sea_surface_temperature.values[:, ~land]).all()
    falling = np.diff(data.geopotential.values, axis=1)
    assert np.all(falling < 0)


def test_it_is_hydrostatic(planet):
    """Thickness of a layer follows its mean virtual temperature."""
    data = xarray.open_zarr(planet).isel(time=-1)
    upper, lower = 300.0, 400.0
    layer = data.sel(level=slice(upper, lower))
    virtual = layer.temperature * (1 + 0.608 * layer.specific_humidity)
    thickness = layer.geopotential.sel(level=upper) - layer.geopotential.sel(
        level=lower
    )
    expected = 286.86 * virtual.mean("level") * np.log(lower / upper)
    assert float(abs(thickness / expected - 1).max()) < 0.01


def test_it_is_decided_by_its_seed(tmp_path):
    def make(name, seed):
        with jax.enable_x64(False):
            make_sample(
                str(tmp_path / name), days=1, spin_up_days=0, seed=seed, longitudes=32
            )
        return xarray.open_zarr(tmp_path / name).load()

    first, again, other = make("first", 3), make("again", 3), make("other", 4)
    xarray.testing.assert_identical(first, again)
    with pytest.raises(AssertionError):
        xarray.testing.assert_allclose(first, other)
