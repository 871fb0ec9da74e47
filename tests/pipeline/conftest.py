"""Small ERA5-shaped sources, and real ones."""

import numcodecs
import numpy as np
import pytest
import xarray
import zarr

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


@pytest.fixture(scope="session")
def make_arco():
    """A function that writes a source in the layout of ARCO-ERA5.

    Zarr format 2, consolidated, one time in a chunk; hourly times from 1990-01-01 to
    1990-01-31T23, of which only three days have values: 3 and 4 January are final, 5
    January is preliminary. All other chunks do not exist. Static fields have times.
    """

    def make(path, fill_value=np.nan, **changes):
        hours = np.arange(31 * 24)
        filled = range(2 * 24, 5 * 24)
        coordinates = {
            "time": hours,
            "level": np.array([500, 850]),
            "latitude": np.linspace(90, -90, 33, dtype=np.float32),
            "longitude": np.arange(64, dtype=np.float32) * 5.625,
        }
        units = {
            "time": {
                "units": "hours since 1990-01-01",
                "calendar": "proleptic_gregorian",
            },
            "level": {},
            "latitude": {"units": "degrees_north"},
            "longitude": {"units": "degrees_east"},
        }
        fields = {
            "temperature": ("time", "level", "latitude", "longitude"),
            "sea_surface_temperature": ("time", "latitude", "longitude"),
            "geopotential_at_surface": ("time", "latitude", "longitude"),
            # Of no kind that is known here.
            "leaf_area_index": ("time", "latitude", "longitude"),
        }
        group = zarr.open_group(path, mode="w", zarr_format=2)
        attributes = {
            "valid_time_start": "1990-01-03",
            "valid_time_stop": "1990-01-04",
            "valid_time_stop_era5t": "1990-01-05",
            "last_updated": "1990-01-06 02:50:01.123456+00:00",
        }
        group.attrs.update(attributes | changes)
        for name, values in coordinates.items():
            array = group.create_array(
                name, shape=values.shape, dtype=values.dtype, fill_value=None
            )
            array[...] = values
            array.attrs.update(_ARRAY_DIMENSIONS=[name], **units[name])
        random = np.random.default_rng(0)
        for name, dims in fields.items():
            shape = tuple(len(coordinates[dim]) for dim in dims)
            array = group.create_array(
                name,
                shape=shape,
                chunks=(1, *shape[1:]),
                dtype="float32",
                compressors=numcodecs.Blosc("lz4", 5, numcodecs.Blosc.SHUFFLE),
                fill_value=fill_value,
            )
            units_of = {"geopotential_at_surface": "m**2 s**-2", "leaf_area_index": "1"}
            array.attrs.update(
                _ARRAY_DIMENSIONS=list(dims),
                units=units_of.get(name, "K"),
                long_name=name,
                short_name=name,
            )
            pattern = random.uniform(270, 280, shape[1:]).astype(np.float32)
            for hour in filled:
                moves = 0 if name == "geopotential_at_surface" else hour / 16
                array[hour] = pattern + np.float32(moves)
        zarr.consolidate_metadata(path, zarr_format=2)
        return str(path)

    return make
