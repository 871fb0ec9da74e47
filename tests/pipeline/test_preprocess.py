"""The whole pipeline, on real Beam: real data, kills, bad input, resumption."""

import argparse
import glob
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray

from model.sphere.grids import parse_grid
from pipeline.errors import UserError
from pipeline.inspect import describe, format_description
from pipeline.plan import read_json
from pipeline.preprocess import add_arguments, preprocess, run
from pipeline.regrid import Regridder
from pipeline.store import open_store

NAMES = "temperature,sea_surface_temperature,land_sea_mask"


def options(source, output, **changes):
    default = {
        "source": str(source),
        "output": str(output),
        "grid": "T21",
        "variables": NAMES,
        "levels": "500,850",
        "shard_steps": 4,
    }
    return default | changes


@pytest.fixture(scope="module")
def source(make_dataset, tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "source.zarr"
    make_dataset().to_zarr(path, zarr_format=2)
    return path


def content(path):
    """Bytes of all files of a store but the reports of runs."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in Path(path).rglob("*")
        if file.is_file() and "runs" not in file.parts
    }


def test_regrids_what_it_says(source, make_dataset, tmp_path):
    store = preprocess(**options(source, tmp_path / "store"))
    dataset = make_dataset()
    regridder = Regridder(dataset.latitude, dataset.longitude, parse_grid("T21"))
    times = np.arange(10)
    np.testing.assert_array_equal(
        store.read("temperature", times), regridder(dataset.temperature.values)
    )
    np.testing.assert_array_equal(
        store.read("sea_surface_temperature", times),
        regridder.fill(dataset.sea_surface_temperature.values),
    )
    np.testing.assert_array_equal(
        store.read("land_sea_mask", None), regridder(dataset.land_sea_mask.values)
    )
    np.testing.assert_array_equal(store.times, dataset.time.values)
    assert store.attrs["source"] == "a test" and store.attrs["grid"] == "T21"
    assert "other" not in store.attrs
    # A second run of the same finds nothing to do.
    before = content(tmp_path / "store")
    assert preprocess(**options(source, tmp_path / "store")).path == store.path
    assert content(tmp_path / "store") == before


def test_threads_and_flags_give_the_same_bytes(source, tmp_path):
    """By the flags of the command line, Beam's behind a lone `--`."""
    preprocess(**options(source, tmp_path / "one"))
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    flags = [f"--{k}={v}" for k, v in options(source, tmp_path / "two").items()]
    beam = ["--direct_running_mode=multi_threading", "--direct_num_workers=2"]
    run(parser.parse_args([*flags, "--", *beam]))
    assert content(tmp_path / "one") == content(tmp_path / "two")


RUN = """
import sys
from pipeline.preprocess import preprocess
preprocess(sys.argv[1], sys.argv[2], "T21", levels="500,850", shard_steps=2,
           variables="temperature,sea_surface_temperature,land_sea_mask")
"""


def test_killed_run_is_completed(make_dataset, tmp_path):
    """SIGKILL half-way; the second run redoes nothing and ends in the same bytes."""
    source = tmp_path / "source.zarr"
    make_dataset(steps=60, latitudes=121, longitudes=240).to_zarr(source, zarr_format=2)
    arguments = options(source, tmp_path / "sound", shard_steps=2)
    preprocess(**arguments)
    undisturbed = content(tmp_path / "sound")

    output = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(source), str(output)],
        stderr=subprocess.DEVNULL,
    )
    markers = str(output / "_build/done/*/[0-9]*.json")
    while len(glob.glob(markers)) < 12 and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL

    done = {path: os.stat(path).st_mtime_ns for path in glob.glob(markers)}
    assert 12 <= len(done) < 61
    with pytest.raises(UserError, match="is not finished: run the same"):
        open_store(output)
    description = describe(output)
    assert not description["whole"]
    assert len(description["faults"]) == 61 - len(done)
    assert "is not done" in format_description(description)
    preprocess(**arguments | {"output": str(output)})
    assert content(output) == undisturbed
    assert {path: os.stat(path).st_mtime_ns for path in done} == done
    reports = [read_json(f) for f in sorted((output / "_build/runs").glob("*"))]
    assert len(reports[-1]["done"]) == 61 - len(done)
    assert describe(output)["whole"]


def test_damaged_shards_of_an_unfinished_store_are_redone(source, tmp_path):
    preprocess(**options(source, tmp_path / "store"))
    sound = content(tmp_path / "store")
    (tmp_path / "store/_build/READY").unlink()
    file = tmp_path / "store/temperature/c/1/0/0/0"
    file.write_bytes(file.read_bytes()[:100])
    (tmp_path / "store/temperature/c/2/0/0/0").unlink()
    preprocess(**options(source, tmp_path / "store"))
    assert content(tmp_path / "store") == sound


def test_another_configuration_is_refused(source, tmp_path):
    preprocess(**options(source, tmp_path / "store"))
    before = content(tmp_path / "store")
    for change, said in (
        ({"grid": "TL31"}, "grid: T21, not TL31"),
        ({"shard_steps": 5}, "shard_steps: 4, not 5"),
        ({"times": "1990-01-01/1990-01-02"}, "steps: 10, not 5"),
    ):
        with pytest.raises(UserError, match=f"another configuration .*{said}"):
            preprocess(**options(source, tmp_path / "store", **change))
    assert content(tmp_path / "store") == before


def test_output_that_is_no_store_is_left_alone(source, tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="exists and is not a store"):
        preprocess(**options(source, tmp_path))
    assert [file.name for file in tmp_path.iterdir()] == ["letter.txt"]


def test_bad_values_fail_their_shard_only(make_dataset, tmp_path):
    dataset = make_dataset()
    sound = dataset.temperature[5, 1, 3, 4].item()
    dataset.temperature[5, 1, 3, 4] = np.nan
    dataset.to_zarr(tmp_path / "source", zarr_format=2)
    arguments = options(tmp_path / "source", tmp_path / "store")
    message = (
        "1 of 7 shards failed: shard 1 of temperature: temperature has NaN at "
        "1990-01-02T06:00, 850 hPa"
    )
    with pytest.raises(UserError, match=message) as info:
        preprocess(**arguments)
    assert "\n" not in str(info.value)
    description = describe(tmp_path / "store")
    assert description["faults"] == ["shard 1 of temperature is not done"]
    # Nothing of the bad shard got in; mended, the rest is done alone.
    assert not (tmp_path / "store/temperature/c/1").exists()
    dataset.temperature[5, 1, 3, 4] = sound
    dataset.to_zarr(tmp_path / "source", zarr_format=2, mode="w")
    store = preprocess(**arguments)
    runs = sorted((tmp_path / "store/_build/runs").glob("*"))
    assert read_json(runs[-1])["done"] == [["temperature", 1]]
    assert np.isfinite(store.read("temperature", np.arange(10))).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": "TL32"}, "unknown grid 'TL32'"),
        ({"variables": "temperatur"}, "unknown variable temperatur: know geopot"),
        ({"variables": "land_sea_mask,land_sea_mask"}, "names a variable twice"),
        ({"variables": None}, "has no geopotential; .*it has land_sea_mask"),
        ({"levels": None}, "has no level 1 hPa: .*--levels=500,850"),
        ({"levels": "high"}, "are not numbers"),
        ({"latitude_chunks": 3}, "does not divide the 32 latitudes"),
        ({"shard_steps": 0}, "must be at least 1"),
        ({"stats_times": "2000-01-01/2001-01-01"}, "none of the store's times"),
        ({"source": "nowhere"}, "nowhere does not exist"),
        ({"static_source": "nowhere"}, "nowhere does not exist"),
        ({"runner": "NoRunner"}, "--runner=NoRunner cannot be used"),
        ({"beam_options": ["--runner=DirectRunner"]}, "give --runner before"),
    ],
)
def test_bad_arguments(source, tmp_path, changes, message):
    with pytest.raises(UserError, match=message) as info:
        preprocess(**options(source, tmp_path / "store") | changes)
    assert "\n" not in str(info.value)
    assert not (tmp_path / "store/_build/READY").exists()


def test_wrong_grids_are_refused(make_dataset, tmp_path):
    regional = make_dataset().sel(latitude=slice(60, 20))
    regional.to_netcdf(tmp_path / "regional.nc")
    with pytest.raises(UserError, match="latitudes .* are a region"):
        preprocess(**options(tmp_path / "regional.nc", tmp_path / "store"))
    assert not (tmp_path / "store").exists()


# --- real data ---------------------------------------------------------------------


def test_real_era5_with_statics_of_another_grid(real_data, era5_tl31, tmp_path):
    """A Gaussian analysis passes unchanged; orography comes from 0.25 degree."""
    neuralgcm = pytest.importorskip("neuralgcm")
    file = Path(neuralgcm.__file__).parent / "data/era5_tl31_19590102T00.nc"
    statics = f"{real_data}/era5_static_025_*.nc"
    store = preprocess(str(file), str(tmp_path), "TL31", static_source=statics)
    assert len(store.variables) == 11 and len(store.levels) == 37
    assert store.times.tolist() == era5_tl31.time.values[None].tolist()
    assert np.isnat(store.step)
    for name in era5_tl31.data_vars:
        expected = era5_tl31[name].transpose(..., "latitude", "longitude").values
        np.testing.assert_allclose(
            store.read(name, np.array([0]))[0], expected, rtol=1e-6
        )
        assert store.statistics(name)["std_6h_difference"] is None
    # The right way up and the right way round: the Himalaya, and Antarctica.
    orography = store.read("geopotential_at_surface", None) / 9.80665
    row, column = np.unravel_index(orography.argmax(), orography.shape)
    assert 25 < store.grid.latitude_degrees[row] < 40
    assert 70 < store.grid.longitude_degrees[column] < 105
    assert orography[0].mean() > 2000 and orography[-1].mean() < 100
    land = store.read("land_sea_mask", None)
    assert land[0].min() > 0.9 and land[-1].max() < 0.3  # Greenland.
    # Cloud ice is zero on whole levels; their deviation is recorded as 0.
    assert (store.statistics("specific_cloud_ice_water_content")["std"] == 0).any()
    text = format_description(describe(tmp_path))
    assert "whole" in text and "geopotential_at_surface" in text


def test_real_lat_lon_analysis(real_data, tmp_path):
    """Three packed files with short names, 1.5 degree with poles, as one source."""
    store = preprocess(
        f"{real_data}/eraint_2005012300_*.nc",
        str(tmp_path),
        "TL63",
        variables="temperature,u_component_of_wind,v_component_of_wind",
    )
    assert store.times == np.datetime64("2005-01-23")
    temperature = store.statistics("temperature")
    surface = temperature["mean"][-1]
    assert 285 < surface < 290 and temperature["min"].min() > 170
    with xarray.open_dataset(real_data / "eraint_2005012300_t.nc") as dataset:
        regridder = Regridder(dataset.latitude, dataset.longitude, store.grid)
        means = np.sum(dataset.t.values * regridder.source_areas, (1, 2))
        fields = store.read("temperature", np.array([0]))[0]
        after = np.sum(fields * regridder.target_areas, (1, 2))
        np.testing.assert_allclose(after, means, rtol=1e-6)


def test_static_fields_alone(real_data, tmp_path):
    store = preprocess(
        f"{real_data}/era5_static_025_*.nc",
        str(tmp_path),
        "TL127",
        variables="geopotential_at_surface,land_sea_mask",
    )
    assert store.times.size == 0 and store.levels.size == 0
    assert store.read("land_sea_mask", None).shape == (128, 256)
    assert 0.25 < store.statistics("land_sea_mask")["mean"] < 0.35
    dataset = xarray.open_zarr(tmp_path, consolidated=False, chunks=None)
    assert set(dataset.sizes) == {"latitude", "longitude"}
