"""A year of all variables at TL31, six-hourly: made, looked at, extended by a month."""

import numpy as np
import pytest
import xarray
import zarr

from pipeline.fields import create_fields
from pipeline.inspect import describe
from pipeline.preprocess import preprocess
from pipeline.store import open_store
from pipeline.variables import MODEL_VARIABLES, VARIABLES

STEPS = 396 * 4  # 1990 and January 1991


@pytest.fixture(scope="module")
def year(planet, tmp_path_factory):
    """Four days of the sample planet, again and again, with a seasonal cycle."""
    path = tmp_path_factory.mktemp("year") / "source.zarr"
    with xarray.open_zarr(planet, chunks=None) as days:
        days = days.load()
    start = np.datetime64("1990-01-01", "ns")
    coordinates = {
        "time": start + np.arange(STEPS) * np.timedelta64(6, "h"),
        "level": days.level.values,
        "latitude": days.latitude.values,
        "longitude": days.longitude.values,
    }
    kinds = {
        "levels": ("time", "level", "latitude", "longitude"),
        "surface": ("time", "latitude", "longitude"),
        "static": ("latitude", "longitude"),
    }
    dimensions = {name: kinds[VARIABLES[name].kind] for name in MODEL_VARIABLES}
    group = create_fields(path, coordinates, dimensions, {"title": "a year"}, "test")
    season = 5 * np.sin(2 * np.pi * np.arange(STEPS) / (365 * 4)).astype(np.float32)
    for name in MODEL_VARIABLES:
        values = days[name].values
        if VARIABLES[name].kind == "static":
            group[name][:] = values
            continue
        for step in range(STEPS):
            warmer = season[step] if name == "temperature" else np.float32(0)
            group[name][step] = values[step % len(values)] + warmer
    zarr.consolidate_metadata(path)
    return path


@pytest.mark.slow
def test_year(year, tmp_path):
    arguments = {"source": str(year), "output": str(tmp_path), "grid": "TL31"}
    window = {"stats_times": "1990-01-01/1990-12-31T18"}
    store = preprocess(**arguments, times="1990-01-01/1990-12-31T18", **window)
    assert len(store.times) == 1460 and store.variables == MODEL_VARIABLES
    deep = describe(tmp_path, deep=True)
    assert deep["whole"] and not deep["faults"]
    means = store.statistics("temperature")["mean"]
    year_ends = store.read("temperature", np.arange(1400, 1460))

    longer = preprocess(**arguments, times="1990-01-01/1991-01-31T18", **window)
    assert len(longer.times) == STEPS
    np.testing.assert_array_equal(longer.statistics("temperature")["mean"], means)
    assert longer.fingerprint == store.fingerprint
    same = open_store(tmp_path).read("temperature", np.arange(1400, 1460))
    np.testing.assert_array_equal(same, year_ends)
    assert describe(tmp_path, deep=True)["whole"]
    dataset = xarray.open_zarr(tmp_path)
    assert dataset.sizes["time"] == STEPS
    assert np.isfinite(dataset.temperature[-1].values).all()
