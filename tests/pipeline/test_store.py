"""The reader: bytes as xarray sees them, damage, pickling."""

import pickle
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
import xarray

from pipeline import store as store_lib
from pipeline.errors import UserError
from pipeline.plan import Plan
from pipeline.statistics import shard_moments, write_statistics
from pipeline.store import DamagedStoreError, Store, open_store

STEPS = 7


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(path, fields) of a store of 7 times in shards of 3."""
    path = tmp_path_factory.mktemp("store") / "store"
    plan = Plan(
        source="nowhere",
        static_source=None,
        grid="T21",
        start="1990-01-01T00",
        steps=STEPS,
        step_hours=6,
        levels=(500.0, 850.0),
        variables=("temperature", "sea_ice_cover", "land_sea_mask"),
        shard_steps=3,
        latitude_chunks=2,
        stats_times=("1990-01-01T00", "1990-01-02T12"),
        attributes={"title": "random"},
    )
    random = np.random.default_rng(0)
    fields = {
        name: random.normal(size=plan.shape(name)).astype(np.float32)
        for name in plan.variables
    }
    fields["temperature"][2] = 0  # A field of one value must not be left out.
    store_lib.create(path, plan)
    for name, shard in plan.items():
        static = plan.kind(name) == "static"
        part = slice(None) if static else slice(*plan.shard_times(shard))
        store_lib.write_shard(path, plan, name, shard, fields[name][part])
    store = Store(str(path), plan)
    moments = {name: shard_moments(store, name, 0) for name in plan.variables}
    write_statistics(path, plan, moments)
    with pytest.raises(UserError, match="is not finished: run the same"):
        open_store(path)
    store_lib.finish(path, plan)
    return path, fields


@pytest.fixture
def copy(finished, tmp_path):
    path = tmp_path / "copy"
    shutil.copytree(finished[0], path)
    return path


def test_describes_itself(finished):
    store = open_store(finished[0])
    assert str(store.grid) == "T21" and store.step == np.timedelta64(6, "h")
    assert store.times[-1] == np.datetime64("1990-01-02T12")
    assert store.times.dtype == "datetime64[ns]" and store.levels.tolist() == [500, 850]
    assert store.variables == ("temperature", "sea_ice_cover", "land_sea_mask")
    assert [store.kind(n) for n in store.variables] == ["levels", "surface", "static"]
    assert store.attrs["title"] == "random"
    with pytest.raises(UserError, match="has no temprature: it has temperature"):
        store.read("temprature", np.arange(1))


def test_reads_any_times_and_rows(finished):
    path, fields = finished
    store = open_store(path)
    times = np.array([5, 0, 2, 5, 6])
    rows = slice(4, 20)
    read = store.read_many(
        {
            "temperature": (times, rows),
            "sea_ice_cover": (times[:2], slice(None)),
            "land_sea_mask": (None, rows),
        }
    )
    expected = fields["temperature"][times][:, :, rows]
    np.testing.assert_array_equal(read["temperature"], expected)
    assert read["temperature"].dtype == np.float32
    np.testing.assert_array_equal(
        read["sea_ice_cover"], fields["sea_ice_cover"][times[:2]]
    )
    np.testing.assert_array_equal(read["land_sea_mask"], fields["land_sea_mask"][rows])
    band = store.read("temperature", np.array([1]), slice(-8, None))
    np.testing.assert_array_equal(band, fields["temperature"][1:2, :, -8:])
    assert store.read("temperature", np.array([], int)).shape == (0, 2, 32, 64)
    for outside in (-1, STEPS):
        with pytest.raises(IndexError, match="the store has 7"):
            store.read("temperature", np.array([outside]))


def test_xarray_reads_the_same(finished, recwarn):
    path, fields = finished
    dataset = xarray.open_zarr(path, consolidated=False, chunks=None)
    assert not [w for w in recwarn if "Zarr" in str(w.message)]
    store = open_store(path)
    for name, field in fields.items():
        np.testing.assert_array_equal(dataset[name].values, field)
        times = None if store.kind(name) == "static" else np.arange(STEPS)
        np.testing.assert_array_equal(store.read(name, times), field)
    np.testing.assert_array_equal(dataset.time.values, store.times)
    np.testing.assert_array_equal(dataset.level.values, store.levels)
    np.testing.assert_array_equal(dataset.latitude, store.grid.latitude_degrees)
    np.testing.assert_array_equal(dataset.longitude, store.grid.longitude_degrees)
    assert dataset.temperature.dims == ("time", "level", "latitude", "longitude")
    assert dataset.temperature.attrs == {"units": "K", "long_name": "Temperature"}
    assert dataset.attrs["grid"] == "T21" and dataset.attrs["title"] == "random"


def test_pickles_without_handles_and_serves_threads(finished):
    path, fields = finished
    store = open_store(path)
    store.read("temperature", np.arange(2))
    text = pickle.dumps(store)
    assert len(text) < 2000
    copy = pickle.loads(text)
    results = {}

    def read(index):
        results[index] = copy.read("temperature", np.array([index % STEPS]))

    threads = [threading.Thread(target=read, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, result in results.items():
        np.testing.assert_array_equal(result[0], fields["temperature"][index % STEPS])
    assert len(results) == 16 and copy.fingerprint == store.fingerprint


def test_missing_shard_is_an_error_and_never_nan(copy):
    store = open_store(copy)
    (copy / "temperature/c/1/0/0/0").unlink()
    with pytest.raises(DamagedStoreError, match="shard 1 of temperature is missing"):
        store.read("temperature", np.array([0, 4]))
    assert np.isfinite(store.read("temperature", np.array([0, 2]))).all()
    with pytest.raises(DamagedStoreError, match="shard 1 of temperature is missing"):
        open_store(copy)


def test_truncated_shard_is_an_error(copy):
    file = copy / "sea_ice_cover/c/2/0/0"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(DamagedStoreError, match="shard 2 of sea_ice_cover has") as info:
        open_store(copy)
    assert "\n" not in str(info.value)


def test_flipped_bits_are_errors(copy):
    file = copy / "temperature/c/0/0/0/0"
    sound = file.read_bytes()
    random = np.random.default_rng(0)
    for position in random.integers(0, len(sound) * 8, 40):
        damaged = bytearray(sound)
        damaged[position // 8] ^= 1 << (position % 8)
        file.write_bytes(damaged)
        with pytest.raises(DamagedStoreError, match="shard 0 of temperature"):
            open_store(copy).read("temperature", np.arange(3))
    file.write_bytes(sound)
    open_store(copy).read("temperature", np.arange(3))


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("_build/plan.json", "is not a PodGCM store"),
        ("_build/READY", "is not finished"),
        ("stats/statistics.json", "statistics.json is missing"),
        ("_build/done/temperature/0.json", "shard 0 of temperature is not done"),
        ("temperature/zarr.json", "temperature/zarr.json is missing"),
    ],
)
def test_missing_parts(copy, file, message):
    (copy / file).unlink()
    with pytest.raises(UserError, match=message) as info:
        open_store(copy)
    assert "\n" not in str(info.value)


def test_altered_plan(copy):
    file = copy / "_build/plan.json"
    file.write_text(file.read_text().replace("T21", "T31"))
    with pytest.raises(UserError, match="was altered"):
        open_store(copy)


def test_needs_no_beam():
    code = (
        "import sys, pipeline.store, pipeline.variables, pipeline.errors\n"
        "import pipeline.inspect\n"
        "assert not {'apache_beam', 'jax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
