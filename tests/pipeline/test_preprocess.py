"""The whole pipeline, on real Beam: real data, kills, bad input, resumption."""

import argparse
import json
import os
from pathlib import Path

import numpy as np
import pytest
import xarray

from model.sphere.grids import parse_grid
from pipeline import vertical
from pipeline.errors import UserError
from pipeline.inspect import describe, format_description
from pipeline.preprocess import add_arguments, preprocess, run
from pipeline.regrid import Regridder
from pipeline.shards import span, work_items
from pipeline.store import open_store
from tests.pipeline.test_store import make_plan
from train.data import Windows, check_store

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


def test_several_grids_from_one_reading(source, tmp_path):
    """Each is the store that it would be alone; shards may be of different length."""
    together = options(source, tmp_path / "both", grid="T21,TL31", shard_steps=None)
    first = preprocess(**together)
    assert first.path == str(tmp_path / "both/T21")
    for grid in ("T21", "TL31"):
        alone = options(source, tmp_path / grid, grid=grid, shard_steps=None)
        preprocess(**alone)
        assert content(tmp_path / "both" / grid) == content(tmp_path / grid)
    (run,) = (tmp_path / "both/T21/_build/runs").glob("*")
    (alone,) = (tmp_path / "T21/_build/runs").glob("*")
    sizes = [json.loads(file.read_text())["source_bytes"] for file in (run, alone)]
    assert sizes[0] == sizes[1] > 0


def test_blocks_hold_whole_shards_of_all_grids():
    plans = [
        make_plan(grid="T21", shard_steps=4, stop="1990-01-04T00"),
        make_plan(grid="TL63", shard_steps=1, stop="1990-01-04T00"),
    ]
    targets = [("a", plans[0]), ("b", plans[1])]
    every = work_items(targets, [set(plan.items()) for plan in plans])
    assert [len(item.shards) for item in every if item.array == "temperature"] == [
        *(1 + 4, 1 + 4, 1 + 4),
        1 + 1,
    ]
    assert sorted(s for item in every for s in item.shards) == sorted(
        (t, shard) for t in (0, 1) for _, shard in plans[t].items()
    )
    (one,) = work_items(targets, [set(), {("temperature", 6)}])
    assert one.shards == ((1, 6),) and span(targets, one) == (6, 7)


@pytest.mark.parametrize("layout", ["variables", "stacked"])
def test_extended_store_is_that_made_at_once(source, tmp_path, layout):
    arguments = options(source, tmp_path / "store", layout=layout)
    before = preprocess(**arguments, times="1990-01-01/1990-01-02T06")
    assert len(before.times) == 6  # The second shard of four holds two.
    known = before.read("temperature", np.arange(6))
    kept = tmp_path / "store" / "temperature/c/0/0/0/0"
    if layout == "stacked":
        kept = tmp_path / "store" / "fields/c/0/0/0/0"
    age = kept.stat().st_mtime_ns
    # Begun and not finished: readers go on with what there was.
    preprocess(**arguments, part="1/2")
    old = open_store(tmp_path / "store")
    assert len(old.times) == 6
    np.testing.assert_array_equal(old.read("temperature", np.arange(6)), known)
    after = preprocess(**arguments)
    assert len(after.times) == 10 and kept.stat().st_mtime_ns == age
    preprocess(**options(source, tmp_path / "fresh", layout=layout))
    assert content(tmp_path / "store") == content(tmp_path / "fresh")
    with pytest.raises(UserError, match="stop: 1990-01-03T06, not 1990-01-02T06"):
        preprocess(**arguments, times="1990-01-01/1990-01-02T06")


def test_extended_from_further_files(make_dataset, tmp_path):
    dataset = make_dataset()
    dataset.isel(time=slice(0, 6)).to_netcdf(tmp_path / "a.nc")
    dataset.isel(time=slice(6, 10)).drop_vars("land_sea_mask").to_netcdf(
        tmp_path / "b.nc"
    )
    preprocess(**options(tmp_path / "a.nc", tmp_path / "store"))
    both = f"{tmp_path}/a.nc,{tmp_path}/b.nc"
    store = preprocess(**options(both, tmp_path / "store"))
    np.testing.assert_array_equal(store.times, dataset.time)
    dataset.to_netcdf(tmp_path / "c.nc")
    with pytest.raises(UserError, match="source: .*a.nc,.*b.nc, not .*c.nc"):
        preprocess(**options(tmp_path / "c.nc", tmp_path / "store"))


def test_missing_times_are_left_out_if_declared(make_dataset, tmp_path):
    """In no statistic of differences, and no window of training."""
    dataset = make_dataset(steps=12).isel(time=[0, 1, 2, 3, 6, 7, 8, 9, 10, 11])
    dataset.to_zarr(tmp_path / "source", zarr_format=2)
    arguments = options(tmp_path / "source", tmp_path / "store")
    with pytest.raises(UserError, match="no time 1990-01-02T00:00 .*--skip_times"):
        preprocess(**arguments)
    assert not (tmp_path / "store").exists()
    skip = "1990-01-02/1990-01-02T06"
    store = preprocess(**arguments, skip_times=skip)
    np.testing.assert_array_equal(store.times, dataset.time)
    assert store.plan.skipped == ("1990-01-02T00", "1990-01-02T06")
    data = store.read("temperature", np.arange(10)).astype(np.float64)
    weights = np.repeat(store.grid.latitude_weights, 64) / 128

    def std(pairs):
        x = np.stack([data[j] - data[i] for i, j in pairs]).reshape(len(pairs), 2, -1)
        mean = (x @ weights).mean(0)
        return np.sqrt((((x - mean[:, None]) ** 2) @ weights).mean(0))

    got = store.statistics("temperature")
    hours = (dataset.time.values - dataset.time.values[0]) / np.timedelta64(1, "h")
    for distance in (6, 24):
        pairs = [
            (i, j)
            for i in range(10)
            for j in range(10)
            if hours[j] - hours[i] == distance
        ]
        expected = std(pairs)
        np.testing.assert_allclose(got[f"std_{distance}h_difference"], expected)
    assert len(Windows(store, 0, 9, frames=2, hours=6)) == 8
    windows = Windows(store, 0, 9, frames=4, hours=6)
    assert windows.starts.tolist() == [0, 4, 5, 6]
    with pytest.raises(UserError, match="straddle a missing time"):
        Windows(store, 0, 9, frames=8, hours=6)


def test_parts_of_plain_schedulers(source, tmp_path):
    preprocess(**options(source, tmp_path / "whole"))
    arguments = options(source, tmp_path / "parts")
    for part in ("3/3", "1/3"):
        preprocess(**arguments, part=part)
        with pytest.raises(UserError, match="is not finished"):
            open_store(tmp_path / "parts")
    done = len(list((tmp_path / "parts/_build/done").rglob("*.json")))
    assert 0 < done < 7
    preprocess(**arguments, part="2/3")
    preprocess(**arguments)
    assert content(tmp_path / "parts") == content(tmp_path / "whole")
    for wrong in ("0/3", "4/3", "third"):
        with pytest.raises(UserError, match="--part=.* is not I/N"):
            preprocess(**arguments, part=wrong)


@pytest.mark.parametrize("ready", [True, False])
def test_missing_and_truncated_shards_are_redone(source, tmp_path, ready):
    preprocess(**options(source, tmp_path / "store"))
    sound = content(tmp_path / "store")
    if not ready:
        (tmp_path / "store/_build/READY").unlink()
    file = tmp_path / "store/temperature/c/1/0/0/0"
    file.write_bytes(file.read_bytes()[:100])
    (tmp_path / "store/temperature/c/2/0/0/0").unlink()
    preprocess(**options(source, tmp_path / "store"))
    assert content(tmp_path / "store") == sound


def test_repair_finds_what_only_reading_tells(source, tmp_path):
    arguments = options(source, tmp_path / "store")
    preprocess(**arguments)
    sound = content(tmp_path / "store")
    ages = {name: os.stat(tmp_path / "store" / name).st_mtime_ns for name in sound}
    random = np.random.default_rng(0)
    shards = [name for name in sound if "/c/" in name and not name.startswith("l")]
    damaged = set(random.choice(shards, 3, replace=False))
    for name in damaged:
        flipped = bytearray(sound[name])
        flipped[random.integers(len(flipped))] ^= 1 << random.integers(8)
        (tmp_path / "store" / name).write_bytes(flipped)
    preprocess(**arguments)  # Sizes are right: nothing to do.
    assert content(tmp_path / "store") != sound
    preprocess(**arguments, repair=True)
    assert content(tmp_path / "store") == sound
    untouched = set(shards) - damaged
    for name in untouched:
        assert os.stat(tmp_path / "store" / name).st_mtime_ns == ages[name]


def test_another_configuration_is_refused(source, tmp_path):
    preprocess(**options(source, tmp_path / "store"))
    before = content(tmp_path / "store")
    for change, said in (
        ({"grid": "TL31"}, "grid: T21, not TL31"),
        ({"shard_steps": 5}, "shard_steps: 4, not 5"),
        ({"times": "1990-01-01/1990-01-02"}, "stop: 1990-01-03T06, not 1990-01-02T00"),
        ({"edges": "gauss"}, "edges: midpoint, not gauss"),
        ({"variables": "temperature"}, "variables: "),
    ):
        with pytest.raises(UserError, match=f"another configuration .*{said}"):
            preprocess(**options(source, tmp_path / "store", **change))
    assert content(tmp_path / "store") == before


def test_forcings_of_a_day_before(make_dataset, tmp_path):
    dataset = make_dataset()
    dataset.to_zarr(tmp_path / "source", zarr_format=2)
    arguments = options(tmp_path / "source", tmp_path / "store", forcing_shift=24)
    with pytest.raises(UserError, match="sea_surface_temperature .*1989-12-31T00:00"):
        preprocess(**arguments, times="1990-01-01/1990-01-03")
    store = preprocess(**arguments, times="1990-01-02/1990-01-03")
    plain = preprocess(**options(tmp_path / "source", tmp_path / "plain"))
    np.testing.assert_array_equal(
        store.read("sea_surface_temperature", np.arange(5)),
        plain.read("sea_surface_temperature", np.arange(5)),
    )
    np.testing.assert_array_equal(
        store.read("temperature", np.arange(5)),
        plain.read("temperature", np.arange(4, 9)),
    )
    assert store.attrs["forcing_shift_hours"] == 24


def test_gauss_edges_keep_gauss_means(make_dataset, tmp_path):
    dataset = make_dataset()
    dataset.to_zarr(tmp_path / "source", zarr_format=2)
    store = preprocess(
        **options(tmp_path / "source", tmp_path / "store", edges="gauss")
    )
    regridder = Regridder(dataset.latitude, dataset.longitude, store.grid)
    source = dataset.temperature.values.astype(np.float64)
    means = np.einsum("tlij,ij->tl", source, regridder.source_areas)
    fields = store.read("temperature", np.arange(10)).astype(np.float64)
    weights = store.grid.latitude_weights / 128
    after = np.einsum("tlij,i->tl", fields, weights)
    np.testing.assert_allclose(after, means, rtol=1e-6)


def test_sigma_layers_are_a_store_of_their_own(make_dataset, tmp_path):
    """From pressure levels, or from the store of pressure levels: the same."""
    names = ("temperature", "geopotential", "geopotential_at_surface")
    dataset = make_dataset(names=names, levels=(250, 500, 850, 1000))
    # An atmosphere of 260 K and one of its mountains, so that the answer is known.
    gas, mean = 287.05, 260.0
    log = np.log(dataset.level.values / 1000.0)
    dataset.geopotential[:] = (-gas * mean * log)[:, None, None]
    height = np.abs(dataset.geopotential_at_surface.values % 1) * 5e3
    dataset.geopotential_at_surface[:] = height
    dataset.to_zarr(tmp_path / "source", zarr_format=2)
    arguments = {
        "source": str(tmp_path / "source"),
        "grid": "T21",
        "variables": ",".join(names),
        "levels": "250,500,850,1000",
        "shard_steps": 4,
    }
    pressure = preprocess(**arguments, output=str(tmp_path / "pressure"))
    store = preprocess(**arguments, output=str(tmp_path / "sigma"), sigma_layers=5)
    assert store.variables == (*names, "surface_pressure")
    assert store.levels.size == 0 and store.sigma.tolist() == [0.1, 0.3, 0.5, 0.7, 0.9]
    surface = store.read("surface_pressure", np.arange(10))
    orography = store.read("geopotential_at_surface", None)
    expected = 1e5 * np.exp(-orography / gas / mean)
    np.testing.assert_allclose(surface[3], expected, rtol=0.01)
    times = np.arange(10)
    t = pressure.read("temperature", times)
    z = pressure.read("geopotential", times)
    levels = np.array([250.0, 500, 850, 1000])
    for time in (0, 9):
        p = vertical.surface_pressure(levels, z[time], orography)
        np.testing.assert_allclose(surface[time], p, rtol=1e-6)
        np.testing.assert_allclose(
            store.read("temperature", times)[time],
            vertical.pressure_to_sigma(levels, t[time], p, store.sigma),
            rtol=1e-6,
        )
    again = preprocess(
        **arguments | {"source": str(tmp_path / "pressure")},
        output=str(tmp_path / "again"),
        sigma_layers=5,
    )
    for name in store.variables:
        index = None if store.kind(name) == "static" else times
        np.testing.assert_allclose(
            again.read(name, index), store.read(name, index), rtol=1e-6
        )
    dataset = xarray.open_zarr(tmp_path / "sigma")
    assert dataset.temperature.dims == ("time", "sigma", "latitude", "longitude")
    assert store.statistics("temperature")["mean"].shape == (5,)
    with pytest.raises(UserError, match="is on sigma layers: train on"):
        check_store(store)


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
    assert describe(tmp_path / "store")["faults"] == [
        "shard 1 of temperature is not done"
    ]
    (report,) = (tmp_path / "store/_build/runs").glob("*")
    (failure,) = json.loads(report.read_text())["failed"]
    assert failure["array"] == "temperature" and failure["shard"] == 1
    assert failure["times"] == ["1990-01-02T00", "1990-01-02T18"]
    # Nothing of the bad shard got in; mended, the rest is done alone.
    assert not (tmp_path / "store/temperature/c/1").exists()
    dataset.temperature[5, 1, 3, 4] = sound
    dataset.to_zarr(tmp_path / "source", zarr_format=2, mode="w")
    store = preprocess(**arguments)
    runs = sorted((tmp_path / "store/_build/runs").glob("*"))
    done = json.loads(runs[-1].read_text())["done"]
    assert done == [{"array": "temperature", "shard": 1}]
    assert np.isfinite(store.read("temperature", np.arange(10))).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": "TL32"}, "unknown grid 'TL32'"),
        (
            {"variables": "temperatur"},
            "unknown variable temperatur: did you mean temperature",
        ),
        ({"variables": "land_sea_mask,land_sea_mask"}, "names a variable twice"),
        ({"variables": None}, "has no geopotential; .*it has land_sea_mask"),
        ({"levels": None}, "has no level 1 hPa: .*--levels=500,850"),
        ({"levels": "high"}, "are not numbers"),
        ({"keep_bits": 0}, "must be 1 to 23"),
        ({"sigma_layers": 0}, "must be at least 1"),
        ({"grid": "T21,T21"}, "names a grid twice"),
        ({"levels": "500,500"}, "names a level twice"),
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
