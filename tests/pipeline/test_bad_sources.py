"""Sources with bad steps, and sources that contradict themselves, are refused."""

import numpy as np
import pytest
import xarray

from pipeline.errors import UserError
from pipeline.inspect import describe
from pipeline.preprocess import preprocess


def bad_step(dataset, name, step, change):
    values = dataset[name].values
    values[step] = change(values[step])
    return dataset


BAD_STEPS = {
    "upside down": (
        "temperature",
        lambda x: x[..., ::-1, :],
        "temperature is upside down against the time before at 2001-01-02T12",
    ),
    "mirrored": (
        "u_component_of_wind",
        lambda x: np.roll(x[..., ::-1], 1, -1),
        "u_component_of_wind is mirrored from east to west .* at 2001-01-02T12",
    ),
    "undefined": (
        "specific_humidity",
        lambda x: x * np.nan,
        "specific_humidity has NaN at 2001-01-02T12",
    ),
    "no sea": (
        "sea_surface_temperature",
        lambda x: x * np.nan,
        "sea_surface_temperature is NaN everywhere at 2001-01-02T12",
    ),
    "constant": (
        "geopotential",
        lambda x: x * 0 + 5e4,
        "geopotential is 50000 everywhere at 2001-01-02T12",
    ),
    "Celsius": (
        "temperature",
        lambda x: x - 273.15,
        "temperature has implausible values .* at 2001-01-02T12",
    ),
}


@pytest.fixture(scope="module")
def planet_dataset(planet):
    with xarray.open_zarr(planet, chunks=None) as dataset:
        return dataset.load()


@pytest.mark.parametrize("kind", BAD_STEPS)
def test_bad_steps_are_named_and_stay_out(planet_dataset, tmp_path, kind):
    """The sample planet with one bad time: its shard fails, the others are done."""
    name, change, message = BAD_STEPS[kind]
    bad_step(planet_dataset.copy(deep=True), name, 6, change).to_zarr(
        tmp_path / "source", zarr_format=2
    )
    arguments = {
        "source": str(tmp_path / "source"),
        "output": str(tmp_path / "store"),
        "grid": "T21",
        "variables": f"{name},land_sea_mask",
        "shard_steps": 4,
    }
    with pytest.raises(UserError, match=f"1 of 5 shards failed: .*{message}"):
        preprocess(**arguments)
    faults = describe(tmp_path / "store")["faults"]
    assert faults == [f"shard 1 of {name} is not done"]
    store = preprocess(**arguments | {"output": str(tmp_path / "short")}, times=FIRST)
    assert len(store.times) == 6


FIRST = "2001-01-01/2001-01-02T06"


def flipped(dataset, *names):
    for name in names:
        dataset[name][:] = dataset[name].values[..., ::-1, :]
    return dataset


BAD_SOURCES = {
    "wind upside down": (
        lambda d: flipped(d, "u_component_of_wind"),
        "u_component_of_wind or geopotential is upside down: the wind is not geostr",
    ),
    "all upside down": (
        lambda d: flipped(d, *d.data_vars),
        "v_component_of_wind has the wrong sign for the geopotential: all fields are",
    ),
    "height": (
        lambda d: d.assign(
            geopotential=(d.geopotential / 9.80665).assign_attrs(units="m2 s-2")
        ),
        "geopotential seems to be geopotential height in m: multiply it by 9.80665",
    ),
    "levels": (
        lambda d: d.assign_coords(level=d.level.values[::-1]),
        "have their levels in reverse order",
    ),
    "sea on land": (
        lambda d: flipped(d, "land_sea_mask"),
        "sea_surface_temperature or land_sea_mask is upside down",
    ),
}


@pytest.mark.parametrize("kind", BAD_SOURCES)
def test_sources_that_contradict_themselves(planet_dataset, tmp_path, kind):
    change, message = BAD_SOURCES[kind]
    dataset = planet_dataset.isel(time=slice(0, 2)).copy(deep=True)
    change(dataset).to_zarr(tmp_path / "source", zarr_format=2)
    with pytest.raises(UserError, match=message) as info:
        preprocess(str(tmp_path / "source"), str(tmp_path / "store"), "T21")
    assert "2001-01-01T00" in str(info.value) and "\n" not in str(info.value)
    assert not (tmp_path / "store").exists()


def test_the_earth_upside_down(real_data, tmp_path):
    """Latitudes that are labelled the wrong way round."""
    for name in ("geopotential", "land_sea_mask"):
        with xarray.open_dataset(real_data / f"era5_static_025_{name}.nc") as dataset:
            turned = dataset.assign_coords(latitude=-dataset.latitude)
            turned.to_netcdf(tmp_path / f"{name}.nc")
    with pytest.raises(UserError, match="upside down: Antarctica is in the north"):
        preprocess(
            f"{tmp_path}/*.nc",
            str(tmp_path / "store"),
            "TL63",
            variables="geopotential_at_surface,land_sea_mask",
        )
    assert not (tmp_path / "store").exists()
