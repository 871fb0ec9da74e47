"""Small ERA5-shaped sources, and real ones."""

import numpy as np
import pytest
import xarray

from pipeline.variables import VARIABLES

MIDDLE = {
    "geopotential": 5e4,
    "temperature": 250.0,
    "specific_humidity": 0.01,
    "sea_surface_temperature": 290.0,
    "sea_ice_cover": 0.5,
    "land_sea_mask": 0.5,
}


@pytest.fixture(scope="session")
def make_dataset():
    """A function that makes a random lat-lon source."""

    def make(
        names=("temperature", "sea_surface_temperature", "land_sea_mask"),
        steps=10,
        levels=(500, 850),
        latitudes=33,
        longitudes=64,
        seed=0,
    ):
        random = np.random.default_rng(seed)
        start = np.datetime64("1990-01-01", "ns")
        coordinates = {
            "time": start + np.arange(steps) * np.timedelta64(6, "h"),
            "level": np.array(levels),
            "latitude": np.linspace(90, -90, latitudes),
            "longitude": np.arange(longitudes) * 360 / longitudes,
        }
        dataset = xarray.Dataset(coords=coordinates)
        dataset.attrs.update(title="random numbers", source="a test", other="dropped")
        for name in names:
            variable = VARIABLES[name]
            dims = {
                "levels": ("time", "level", "latitude", "longitude"),
                "surface": ("time", "latitude", "longitude"),
                "static": ("latitude", "longitude"),
            }[variable.kind]
            middle = MIDDLE.get(name, 1.0)
            shape = [dataset.sizes[dim] for dim in dims]
            values = middle * random.uniform(0.9, 1.1, shape)
            if variable.fill:
                values[:, 5:20, 10:30] = np.nan
            dataset[name] = (dims, values.astype(np.float32))
            dataset[name].attrs["units"] = variable.units
        return dataset

    return make
