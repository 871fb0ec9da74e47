"""Forecasts: equal on every mesh, after every kill; and what they hold."""

import copy
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import xarray

from launch.cli import main
from pipeline.errors import UserError
from pipeline.files import Folder
from pipeline.verification.run import verify
from train import build
from train.calibration import calibrate
from train.checkpoint import Checkpoints
from train.config import to_json
from train.data import Windows
from train.forecast.output import Axes, Output
from train.forecast.records import Months
from train.forecast.request import Request, initial_times, parse_hours
from train.forecast.run import forecast
from train.step import initial_state

INIT = "2001-01-02/2001-01-03/12h"


def make_run(folder, config, store):
    """The folder of a run that has taken no step, with weights that matter."""
    config.train.checkpoint_every = 1
    spec = build.build_spec(config, store.grid, store.levels)
    model = build.build_model(spec, store)
    state = initial_state(spec, build.build_optimizer(config), config.seed)
    rng = np.random.default_rng(0)
    state.ema = jax.tree.map(
        lambda x: x + 0.02 * rng.standard_normal(x.shape).astype(x.dtype), state.ema
    )
    windows = Windows(store, 0, len(store.times) - 1, 2, 6)
    scales = calibrate(model, store, windows.first, windows.last)
    folder.mkdir()
    content = {**to_json(config), "data_fingerprint": store.fingerprint}
    (folder / "config.json").write_text(json.dumps(content))
    about = {"order": 0, "evaluated": True, "config": to_json(config)}
    with Checkpoints(folder, 1, 0, 20.0, 0) as checkpoints:
        checkpoints.save(0, state, scales, about)
    return str(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory, make_whole_config, tiny_store):
    """Of a model with noise and memory."""
    with jax.enable_x64(False):
        folder = tmp_path_factory.mktemp("run") / "whole"
        return make_run(folder, make_whole_config(), tiny_store)


@pytest.fixture(autouse=True)
def single_precision():
    with jax.enable_x64(False):
        yield


def opened(path):
    return xarray.open_zarr(path, consolidated=False, decode_timedelta=False)


def contents(folder):
    """All bytes of a store."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """Three initial times, two members, all fields, on one device."""
    output = tmp_path_factory.mktemp("forecast") / "whole.zarr"
    fields = (
        *("levels", "sigma", "tendencies", "drift"),
        *("wind_speed", "vorticity", "divergence"),
        *("mean_sea_level_pressure", "total_column_water_vapour"),
    )
    request = Request(run, INIT, str(output), "36h", members=2, fields=fields)
    with jax.enable_x64(False):
        forecast(request, {"data": 1}, batch=2)
    return request, output


def test_what_it_holds(whole, tiny_store):
    request, output = whole
    found = opened(output)
    assert dict(found.temperature.sizes) == dict(
        time=3, number=2, prediction_timedelta=7, level=8, latitude=16, longitude=32
    )
    assert found.temperature_on_sigma.dims[3] == "sigma"
    assert found.temperature_on_sigma.attrs["standard_name"] == "air_temperature"
    assert found.sigma.attrs["formula_terms"].split()[1::2] == [
        *("sigma", "surface_pressure", "ptop")
    ]
    assert found.temperature.encoding["chunks"] == (1, 1, 4, 8, 16, 32)
    assert found.attrs["finished"] and found.attrs["checkpoint"] == 0
    assert not (output / "_progress").exists()
    for name, x in found.items():
        assert np.isfinite(x.values).all(), name
        if name != "finite":
            assert x.attrs["units"] and x.attrs["long_name"]
    assert (found.finite.values == 1).all()
    # Members differ, and all of them from their beginnings.
    t = found.temperature.values
    assert (t[:, 0] != t[:, 1]).any() and (t[:, :, 0] != t[:, :, 3]).any()
    wind = np.hypot(found.u_component_of_wind, found.v_component_of_wind)
    np.testing.assert_allclose(found.wind_speed, wind, rtol=1e-5, atol=1e-5)
    mean = ps_mean(found.surface_pressure, tiny_store.grid)
    drift = found.global_surface_pressure
    np.testing.assert_allclose(drift[..., 1:], mean[..., 1:], rtol=2e-6)
    # The core's budget, without what its grid does not hold of the first state.
    np.testing.assert_allclose(drift[..., 0], mean[..., 0], rtol=2e-4)
    # Mass of vapour: the sum over layers of equal thickness.
    q, ps = found.specific_humidity_on_sigma, found.surface_pressure
    vapour = ps * q.mean("sigma") / 9.80616
    np.testing.assert_allclose(
        found.total_column_water_vapour, vapour, rtol=1e-4, atol=1e-6
    )
    ground = tiny_store.read("geopotential_at_surface", None) / 9.80616
    reduced = found.mean_sea_level_pressure / ps
    low = np.abs(ground) < 1 / 9.80616
    assert (reduced.values[..., low] == 1).all()
    high = ground > 500
    expected = np.exp(9.80616 * ground[high] / (287.05 * 280))
    np.testing.assert_allclose(
        reduced.values[..., high], expected + 0 * reduced.values[..., high], rtol=0.03
    )


def ps_mean(pressure, grid):
    weights = xarray.DataArray(grid.latitude_weights, dims="latitude")
    return pressure.weighted(weights).mean(["latitude", "longitude"])


def test_means_of_months(run, tiny_store, tmp_path):
    """Of the bare core: those of all outputs; the last month is not a whole one."""
    asked = dict(workdir=run, lead="40d", every=24, physics="none", members=1)
    init = "2001-01-02,2001-01-03"
    forecast(Request(init=init, output=str(tmp_path / "all"), **asked), {"data": 1})
    means = Request(init=init, output=str(tmp_path / "x"), mean="month", **asked)
    forecast(means, {"data": 1}, batch=2)
    every, found = opened(tmp_path / "all"), opened(tmp_path / "x")
    assert dict(found.temperature.sizes)["month"] == 2
    valid = found.time.values[:, None] + every.prediction_timedelta.values.astype(
        "timedelta64[h]"
    )
    months = valid.astype("datetime64[M]")
    expected = np.array([[30, 11], [29, 12]])
    assert np.array_equal(found.samples.values, expected)
    assert np.array_equal(
        found.valid_month.values.astype("datetime64[M]"),
        np.array([["2001-01", "2001-02"]] * 2, "datetime64[M]"),
    )
    for row in (0, 1):
        for month in (0, 1):
            some = months[row] == found.valid_month.values[row, month].astype(
                "datetime64[M]"
            )
            for name in ("temperature", "u_component_of_wind"):
                np.testing.assert_allclose(
                    found[name].values[row, month],
                    every[name].values[row, some].mean(0),
                    rtol=0,
                    atol=2e-3 * np.abs(every[name].values).max(),
                )
    bounds = found.valid_month_bounds.values.astype("datetime64[h]")
    start = found.time.values.astype("datetime64[h]")
    assert np.array_equal(bounds[:, 0, 0], start)
    assert np.array_equal(bounds[:, 1, 1], start + np.timedelta64(40, "D"))
    assert (bounds[:, 0, 1] == np.datetime64("2001-02-01")).all()
    assert "valid_month" in found.temperature.coords
    assert found.temperature.attrs["cell_methods"] == "month: mean"
    with pytest.raises(UserError, match="holds means of geopotential"):
        verify([str(tmp_path / "x")], tiny_store.path, str(tmp_path / "scores"))
    assert found.global_surface_pressure.sizes["prediction_timedelta"] == 41
    pressure = found.global_surface_pressure.values
    np.testing.assert_allclose(pressure, every.global_surface_pressure, rtol=1e-5)


def test_tendencies_are_per_second(whole):
    found = opened(whole[1])
    heating = found.tendency_of_temperature_on_sigma.values
    assert 1e-9 < np.abs(heating).mean() < 1e-2  # K/s; a day has 86,400
    assert found.tendency_of_temperature_on_sigma.attrs["units"] == "K s-1"
    assert found.tendency_of_u_component_of_wind_on_sigma.attrs["units"] == "m s-2"


@pytest.mark.drill
@pytest.mark.parametrize(
    "mesh", [{"data": 2}, {"level": 2, "lat": 2}, {"ensemble": 2, "lat": 2}], ids=str
)
def test_equal_on_every_mesh(whole, tmp_path, mesh):
    request, output = whole
    other = tmp_path / "other.zarr"
    forecast(Request(request.workdir, INIT, str(other), "36h", members=2), mesh)
    ours, theirs = opened(other), opened(output)
    for name in ours:
        scale = np.abs(theirs[name].values).max()
        np.testing.assert_allclose(
            ours[name].values,
            theirs[name].values,
            rtol=0,
            atol=2e-4 * scale,
            err_msg=name,
        )


@pytest.mark.drill
def test_killed_it_goes_on(whole, tmp_path):
    """At several moments; the store is the same to the byte."""
    request, expected = whole
    output = tmp_path / "killed.zarr"
    command = [sys.executable, "-m", "launch.cli", "forecast"]
    command += [f"--workdir={request.workdir}", f"--init={INIT}", "--lead=36h"]
    command += ["--members=2", f"--output={output}", "--batch=2", "--mesh=data=1"]
    command += [f"--fields={','.join(request.fields)}"]
    env = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
    for row in (0, 2):  # the first of a batch
        process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE)
        end = time.monotonic() + 600
        while not (output / f"_progress/{row}.npz").exists():
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not opened(output).attrs["finished"]
        done = (output / f"_progress/{row}.npz").read_bytes()
    with pytest.raises(UserError, match="holds another forecast: lead is '36h'"):
        forecast(Request(request.workdir, INIT, str(output), "12h", members=2))
    assert (output / f"_progress/{row}.npz").read_bytes() == done
    said = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert "going on: " in said.stderr
    assert contents(output) == contents(expected)
    said = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert "is finished" in said.stderr


def test_others_batches_go_on(run, tmp_path, monkeypatch):
    """What is finished is left alone, whatever it was made in; no row is forgotten."""
    asked = Request(run, INIT, str(tmp_path / "x"), "24h", every=12, physics="none")
    whole = dataclasses.replace(asked, output=str(tmp_path / "whole"))
    forecast(whole, {"data": 1}, batch=3)
    save = Output.save
    saved = []

    def killed_after_two(self, batch, *more):
        save(self, batch, *more)
        saved.append(batch)
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Output, "save", killed_after_two)
    with pytest.raises(KeyboardInterrupt):
        forecast(asked, {"data": 1}, batch=1)
    assert saved == [(0,), (1,)]
    forecast(asked, {"data": 2}, batch=2)
    assert saved[2:] == [(2,)]
    ours, theirs = opened(tmp_path / "x"), opened(tmp_path / "whole")
    assert ours.attrs["finished"] and (ours.finite.values == 1).all()
    t = theirs.temperature.values
    np.testing.assert_allclose(ours.temperature.values, t, rtol=0, atol=1e-3)


def test_a_store_whose_beginning_was_killed(run, tmp_path, monkeypatch):
    """Some of its files are there, and not the one that tells what it is."""
    asked = Request(run, INIT, str(tmp_path / "x"), "0", physics="none")
    write = Folder.write

    def killed(self, name, content):
        if name == "zarr.json" and str(self) == asked.output:
            raise KeyboardInterrupt
        write(self, name, content)

    monkeypatch.setattr(Folder, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        forecast(asked, {"data": 1})
    monkeypatch.undo()
    assert (tmp_path / "x/temperature/zarr.json").exists()
    with pytest.raises(UserError, match="is no forecast: give another --output"):
        forecast(dataclasses.replace(asked, lead="6h"), {"data": 1})
    forecast(asked, {"data": 1})
    assert opened(tmp_path / "x").attrs["finished"]


def test_months_go_on_in_every_process():
    """Sums of other processes' rows are in what process 0 saves."""
    times = np.array(["2001-01-20", "2001-01-25"], "datetime64[ns]")
    axes = Axes(times, 1, np.arange(0, 24 * 60, 24), spec=None, monthly=True)
    values = np.random.default_rng(0).standard_normal((len(axes.leads), 2, 1))

    class Written(dict):
        chunk = 1

        def write_leads(self, *_):
            pass

        def write_month(self, time, member, month, mean, count):
            self[time, month] = float(mean["temperature"][0]), count

    def take(records, leads):
        for lead in leads:
            for record in records:
                fields = {"temperature": values[lead]}
                record.take(lead, fields, np.ones(2, bool))

    places, leads = [(0, 0), (1, 0)], range(len(axes.leads))
    whole, split = Written(), Written()
    take([Months(whole, axes, places, range(2), {})], leads)
    mine = [range(0, 1), range(1, 2)]
    take(records := [Months(split, axes, places, x, {}) for x in mine], leads[:30])
    saved = records[0].arrays()
    again = [Months(split, axes, places, x, copy.deepcopy(saved)) for x in mine]
    take(again, leads[30:])
    assert whole == split and len(whole) == 6
    assert sum(count for _, count in whole.values()) == 2 * len(leads)


def test_rows_that_blow_up_leave_the_others_alone(
    run, whole, tmp_path, monkeypatch, capsys
):
    """One initial state is beyond all bounds."""
    from pipeline.store import Store

    read = Store.read_many

    def poisoned(self, requests, *args, **options):
        fields = read(self, requests, *args, **options)
        if "temperature" in fields:
            index = requests["temperature"][0]
            bad = self.times[index] == np.datetime64("2001-01-02T12")
            fields["temperature"][bad] = np.inf
        return fields

    monkeypatch.setattr(Store, "read_many", poisoned)
    output = tmp_path / "poisoned.zarr"
    forecast(Request(run, INIT, str(output), "36h", members=2), {"data": 1}, batch=3)
    found, theirs = opened(output), opened(whole[1])
    assert found.finite.values[1].max() == 0 and found.finite.values[[0, 2]].min() == 1
    assert np.isnan(found.temperature.values[1]).all()
    assert np.isfinite(found.temperature.values[[0, 2]]).all()
    said = capsys.readouterr().err
    assert "NOT FINITE: 2001-01-02T12 member 0, from 0 h on" in said
    difference = (found.temperature - theirs.temperature).values[[0, 2]]
    assert np.abs(difference).max() < 0.05


@pytest.mark.drill
def test_several_processes_write_one_store(whole, tmp_path):
    """Atmospheres split over processes, and rows too."""
    request, expected = whole
    output = tmp_path / "pod.zarr"
    command = [sys.executable, "-m", "launch.cli", "pod", "--processes=2"]
    command += ["--devices=2", "--restarts=0", "--", "forecast"]
    command += [f"--workdir={request.workdir}", f"--init={INIT}", "--lead=36h"]
    command += ["--members=2", f"--output={output}", "--mesh=data=2,lat=2"]
    subprocess.run(command, check=True, timeout=600)
    ours, theirs = opened(output), opened(expected)
    assert ours.attrs["finished"]
    for name in ours:
        scale = np.abs(theirs[name].values).max()
        np.testing.assert_allclose(
            *(ours[name].values, theirs[name].values),
            rtol=0,
            atol=2e-4 * scale,
            err_msg=name,
        )


def test_others_weights_are_told_apart(
    run, whole, tmp_path, make_whole_config, tiny_store
):
    """A run that is at the same step, and asked the same."""
    config = make_whole_config()
    config.seed = 3
    other = make_run(tmp_path / "other", config, tiny_store)
    asked = dataclasses.replace(whole[0], workdir=other)
    before = contents(whole[1])
    with pytest.raises(UserError, match="holds another forecast: weights is"):
        forecast(asked, {"data": 1}, batch=2)
    assert contents(whole[1]) == before


@pytest.mark.drill
def test_from_raw_fields(run, planet, tmp_path):
    """As from the store that was made of them before."""
    init = "2001-01-03T12,2001-01-02T12,2001-01-02T18"  # and none in between
    asked = dict(workdir=run, init=init, lead="0", physics="none")
    forecast(Request(output=str(tmp_path / "raw"), store=planet, **asked), {"data": 1})
    forecast(Request(output=str(tmp_path / "own"), **asked), {"data": 1})
    raw, own = opened(tmp_path / "raw"), opened(tmp_path / "own")
    assert np.array_equal(raw.time, own.time)
    for name in ("temperature", "geopotential"):
        assert np.array_equal(raw[name], own[name])


def test_bad_requests(run, tiny_store, tmp_path):
    (tmp_path / "something").mkdir()
    (tmp_path / "something/else").write_text("x")
    for options, message in [
        ({"lead": "7h"}, "--lead=7h is not a multiple of --every=6"),
        ({"lead": "soon"}, "write hours, days or years"),
        ({"fields": ("rain",)}, "there is no 'rain'"),
        ({"members": 0}, "must be at least 1"),
        ({"members": 2, "physics": "none"}, "all members are equal"),
        ({"every": 1, "lead": "2h"}, "not a multiple of model.step_minutes=120"),
        ({"fields": ("tendencies",), "physics": "none"}, "has no tendencies"),
        ({"init": "2001-01-02,2001-01-02"}, "names a time twice"),
        ({"init": "2001-01-02,1999-01-01"}, "has no 1999-01-01"),
        ({"output": str(tmp_path / "something")}, "exists, and is no forecast"),
        ({"lead": "10d", "sea": "dates"}, "ends at 2001-01-04T18.*--sea=held"),
        ({"workdir": "/nowhere"}, "holds no run"),
    ]:
        known = {"workdir": run, "init": INIT, "output": str(tmp_path / "x")}
        with pytest.raises(UserError, match=message):
            forecast(Request(**known | options))
    with pytest.raises(UserError, match="not a multiple of mesh.data=2"):
        forecast(Request(run, INIT, str(tmp_path / "x")), {"data": 2}, batch=3)
    assert not (tmp_path / "x").exists()
    assert parse_hours("10d") == 240 and parse_hours("2y") == 17532
    assert list(initial_times(tiny_store, "2001-01-02,2001-01-01T06")) == [4, 1]


def test_command_line(run, tmp_path, capsys):
    flags = [f"--workdir={run}", "--init=2001-01-02", f"--output={tmp_path / 'x'}"]
    with pytest.raises(SystemExit) as end:
        main(["forecast", *flags, "--lead=6", "--mesh=lat=3"])
    assert end.value.code == 2
    assert "mesh.lat=3 does not divide" in capsys.readouterr().err
