"""The benchmark of preprocessing: its source, its judge, its figures."""

import argparse
import json

import numpy as np
import pytest
import xarray

from launch import benchmarks
from launch.benchmarks import synthetic_source
from launch.cli import main
from model.sphere.grids import parse_grid
from pipeline.preprocess import DEFAULT_RUNNER, preprocess
from pipeline.regrid import Regridder
from pipeline.variables import VARIABLES

pytestmark = pytest.mark.drill

GRIDS = ("TL31", "10@36x18")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "source.zarr"
    synthetic_source.make_source(path, 5, 10)
    return path


def test_source_is_as_era5(source):
    dataset = xarray.open_zarr(source)
    assert dict(dataset.sizes) == dict(time=10, level=37, latitude=37, longitude=72)
    np.testing.assert_array_equal(dataset.latitude[[0, -1]], [90, -90])
    assert np.unique(np.diff(dataset.time)) == np.timedelta64(6, "h")
    for name in synthetic_source.VARIABLES_MADE:
        array = dataset[name]
        assert array.encoding["chunks"][-2:] == (37, 72)
        least, largest = VARIABLES[name].plausible
        assert least <= array.min() and array.max() <= largest
        assert array.attrs["units"]
    sea = dataset.sea_surface_temperature
    np.testing.assert_array_equal(
        np.isnan(sea), np.broadcast_to(dataset.land_sea_mask == 1, sea.shape)
    )
    # Later times are the same files; the first ones differ.
    temperature = dataset.temperature.values
    assert (source / "temperature/8.0.0.0").samefile(source / "temperature/6.0.0.0")
    np.testing.assert_array_equal(temperature[8:], temperature[[6, 5]])
    assert (temperature[0] != temperature[1]).mean() > 0.9


@pytest.fixture(scope="module")
def stores(source, tmp_path_factory):
    """What ours and the judge make of it."""
    judge = pytest.importorskip(
        "launch.benchmarks.preprocess_judge",
        reason="needs the extra `judges`",
        exc_type=Exception,
    )
    folder = tmp_path_factory.mktemp("made")
    names = ",".join(synthetic_source.VARIABLES_MADE)
    preprocess(str(source), str(folder / "ours"), ",".join(GRIDS), variables=names)
    judge.preprocess(
        judge.SETTINGS[0], DEFAULT_RUNNER, str(source), str(folder / "judge"), GRIDS
    )
    return folder


def made(stores, who, grid, name):
    """What is in a store, [..., latitude, longitude]."""
    array = xarray.open_zarr(stores / who / grid)[name]
    return array.transpose(..., "latitude", "longitude")


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", synthetic_source.VARIABLES_MADE)
def test_judge_makes_the_same(stores, source, grid, name):
    ours, judges = (made(stores, who, grid, name) for who in ("ours", "judge"))
    assert ours.dtype == judges.dtype == np.float32 and ours.shape == judges.shape
    for axis in ("latitude", "longitude"):
        np.testing.assert_allclose(ours[axis], judges[axis], atol=1e-5)
    scale = np.abs(judges.values).max((-2, -1), keepdims=True)
    differ = np.abs(ours.values - judges.values) > 5e-6 * scale
    if name != "sea_surface_temperature":
        assert not differ.any()
        return
    # Undefined cells take the value of the nearest that is not. Where several are
    # equally near, ours takes the first, the judge any.
    dataset = xarray.open_zarr(source)
    regridder = Regridder(
        dataset.latitude.values, dataset.longitude.values, parse_grid(grid)
    )
    defined = regridder.coverage(np.isnan(dataset[name][0].values)) > 0
    assert not (differ & defined).any() and differ.mean() < 0.01
    latitude, longitude = np.meshgrid(
        np.deg2rad(ours.latitude), np.deg2rad(ours.longitude), indexing="ij"
    )
    for time, *cell in np.argwhere(differ):
        cell = tuple(cell)
        cosine = np.sin(latitude) * np.sin(latitude[cell]) + np.cos(latitude) * np.cos(
            latitude[cell]
        ) * np.cos(longitude - longitude[cell])
        nearest = defined & (cosine > cosine[defined].max() - 1e-7)
        assert nearest.sum() > 1
        for store in (ours, judges):
            values = store[int(time)].values
            assert np.isclose(values[nearest], values[cell], rtol=1e-6).any()


@pytest.mark.slow
def test_figures(tmp_path, capsys):
    pytest.importorskip("dinosaur", reason="needs the extra `judges`")
    flags = ["--degrees=5", "--steps=2", "--rounds=1", f"--folder={tmp_path}"]
    with pytest.raises(SystemExit) as ended:
        main(["bench", "preprocess", "--grids=TL31", "--json", *flags])
    assert not ended.value.code
    figures = json.loads(capsys.readouterr().out)
    case, ours, judge, ratio = (
        figures[key] for key in ("case", "ours", "judge", "ratio")
    )
    assert case["source_bytes"] == 2 * (2 * 37 + 1) * 37 * 72 * 4
    assert case["distinct_steps"] == 2
    for name in ("regrid_ms", "mb_s", "wall_s", "cpu_s", "peak_memory"):
        assert ours[name]["TL31"] > 0 and judge[name]["TL31"] > 0
        better = judge[name]["TL31"] / ours[name]["TL31"]
        if name == "mb_s":
            better = 1 / better
        np.testing.assert_allclose(ratio[name]["TL31"], better)
    # A process that has imported nothing of this needs more than that.
    assert ours["peak_memory"]["TL31"] > 5e7
    assert set(ours["split"]) == {
        *("read_and_decode", "check", "regrid", "encode_and_write", "statistics")
    }
    assert ours["limiting"] in ours["split"]
    seconds = {name: run["wall_s"] for name, run in judge["tried_once"].items()}
    assert len(seconds) > 1 and judge["settings"] == min(seconds, key=seconds.get)
    # The source is kept, what was made of it is not.
    assert [path.name for path in tmp_path.iterdir()] == ["source_5_2.zarr"]


@pytest.mark.parametrize(
    "flag, told",
    [
        ("--grids=TL31,TX", "--grids=TL31,TX"),
        ("--steps=0", "--steps=0 must be at least 1"),
        ("--degrees=0.7", "--degrees=0.7 must divide 180"),
    ],
)
def test_mistakes_are_told(flag, told, capsys):
    pytest.importorskip("dinosaur", reason="needs the extra `judges`")
    with pytest.raises(SystemExit) as ended:
        main(["bench", "preprocess", flag])
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


def test_defaults():
    parser = argparse.ArgumentParser()
    benchmarks.BENCHMARKS["preprocess"][1](parser)
    assert parser.parse_args([]).grids == "TL63,TL127"
