"""The reader: bytes as xarray sees them, damage, pickling."""

import pickle
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
import tensorstore as ts
import xarray

from pipeline.errors import UserError
from pipeline.files import Folder
from pipeline.layout import array_metadata, encode_shard, shard_name
from pipeline.plan import Plan
from pipeline.statistics import merge_moments, saved_moments, write_statistics
from pipeline.store import DamagedStoreError, group_attributes, open_store
from pipeline.writer import begin, finish, write_shard

STEPS = 7


def make_plan(**changes):
    default = {
        "source": "nowhere",
        "static_source": None,
        "member": None,
        "forcing_shift_hours": 0,
        "grid": "T21",
        "edges": "midpoint",
        "sigma_layers": None,
        "start": "1990-01-01T00",
        "stop": "1990-01-02T12",
        "step_hours": 6,
        "skipped": (),
        "levels": (500.0, 850.0),
        "variables": ("temperature", "sea_ice_cover", "land_sea_mask"),
        "layout": "variables",
        "shard_steps": 3,
        "latitude_chunks": 4,
        "keep_bits": None,
        "stats_times": ("1990-01-01T00", "1990-01-02T12"),
        "attributes": {"title": "random"},
    }
    return Plan(**default | changes)


def write_all(path, plan, fields):
    """Writes a whole store, from fields by variable."""
    folder = Folder(path)
    begin(folder, plan)
    for array, shard in plan.items():
        static = plan.is_static(array)
        part = slice(None) if static else slice(*plan.shard_times(shard))
        parts = [fields[name][part] for name in plan.arrays[array]]
        if array not in fields:  # stacked
            parts = [x if x.ndim == 4 else x[:, None] for x in parts]
            parts = [np.concatenate(parts, axis=1)]
        write_shard(folder, plan, array, shard, parts[0])
    moments = [(item[1], saved_moments(folder, plan, *item)) for item in plan.items()]
    write_statistics(folder, plan, merge_moments(moments))
    with pytest.raises(UserError, match="is not finished: run the same"):
        open_store(path)
    finish(folder, plan, group_attributes(plan))


def random_fields(plan):
    random = np.random.default_rng(0)
    shapes = {
        "levels": (STEPS, len(plan.levels), 32, 64),
        "surface": (STEPS, 32, 64),
        "static": (32, 64),
    }
    fields = {
        name: random.normal(size=shapes[plan.kind(name)]).astype(np.float32)
        for name in plan.variables
    }
    fields["temperature"][2] = 0  # A field of one value must not be left out.
    return fields


@pytest.fixture(scope="module", params=["variables", "stacked"])
def both(request, tmp_path_factory):
    """(path, fields) of a store of 7 times in shards of 3, in both layouts."""
    path = tmp_path_factory.mktemp(request.param) / "store"
    plan = make_plan(layout=request.param)
    fields = random_fields(plan)
    write_all(path, plan, fields)
    return path, fields


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(path, fields) of a store of 7 times in shards of 3."""
    path = tmp_path_factory.mktemp("store") / "store"
    plan = make_plan()
    fields = random_fields(plan)
    write_all(path, plan, fields)
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


def test_reads_any_times_and_rows(both):
    path, fields = both
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
    dataset = xarray.open_zarr(path)
    assert not [w for w in recwarn if "Zarr" in str(w.message)]
    xarray.testing.assert_identical(
        dataset.load(), xarray.open_zarr(path, consolidated=False).load()
    )
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
        ("_build/READY", "is not finished"),
        ("stats/statistics.json", "statistics.json is missing"),
        ("temperature/zarr.json", "temperature/zarr.json is missing"),
        ("zarr.json", "zarr.json is missing"),
    ],
)
def test_missing_parts(copy, file, message):
    (copy / file).unlink()
    with pytest.raises(UserError, match=message) as info:
        open_store(copy)
    assert "\n" not in str(info.value)


def test_no_store_at_all(tmp_path):
    with pytest.raises(UserError, match="is not a PodGCM store"):
        open_store(tmp_path)


def test_altered_plan(copy):
    file = copy / "_build/READY"
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


def test_shards_are_those_of_the_whole_array(finished):
    """Shards encoded alone are the objects that TensorStore would write."""
    path, fields = finished
    plan = make_plan()
    array = ts.open(
        {
            "driver": "zarr3",
            "kvstore": {"driver": "memory"},
            "metadata": array_metadata(plan, "temperature"),
        },
        create=True,
        context=ts.Context(),
    ).result()
    array.write(fields["temperature"]).result()
    for shard in range(3):
        name = shard_name(plan, "temperature", shard)
        first, last = plan.shard_times(shard)
        data = fields["temperature"][first:last]
        content = array.kvstore.read(name.removeprefix("temperature/")).result().value
        assert encode_shard(plan, "temperature", data) == content
        assert (path / name).read_bytes() == content


def test_undefined_values_cannot_be_written(finished):
    data = np.full((3, 32, 64), np.nan, np.float32)
    with pytest.raises(ValueError, match="sea_ice_cover is not finite"):
        encode_shard(make_plan(), "sea_ice_cover", data)


def test_bit_rounding(tmp_path):
    plan = make_plan(keep_bits=10)
    fields = random_fields(plan)
    write_all(tmp_path / "store", plan, fields)
    store = open_store(tmp_path / "store")
    for name in ("temperature", "sea_ice_cover"):
        got = store.read(name, np.arange(STEPS))
        np.testing.assert_allclose(got, fields[name], rtol=2.0**-11)
        assert not np.any(got.view(np.uint32) & (2**13 - 1))
    got = store.read("land_sea_mask", None)
    np.testing.assert_array_equal(got, fields["land_sea_mask"])
    dataset = xarray.open_zarr(tmp_path / "store")
    key = "_QuantizeBitRoundNumberOfSignificantBits"
    assert (
        dataset.temperature.attrs[key] == 10 and key not in dataset.land_sea_mask.attrs
    )


def test_stacked_channels_are_named(both):
    path, fields = both
    dataset = xarray.open_zarr(path)
    if "fields" not in dataset:
        return
    names = ["temperature_500", "temperature_850", "sea_ice_cover_surface"]
    assert dataset.fields.attrs["channels"] == names
    np.testing.assert_array_equal(dataset.fields[:, 2], fields["sea_ice_cover"])


def test_plans_that_may_follow_each_other():
    plan = make_plan()
    longer = make_plan(stop="1990-01-05T00", source="nowhere,elsewhere")
    assert plan.differences(longer) == []
    assert plan.config_hash == longer.config_hash
    for change, said in (
        ({"stop": "1990-01-02T06"}, "stop: 1990-01-02T12, not 1990-01-02T06"),
        ({"source": "elsewhere"}, "source: nowhere, not elsewhere"),
        ({"start": "1990-01-01T06"}, "start: 1990-01-01T00, not 1990-01-01T06"),
        ({"skipped": ("1990-01-01T06",)}, "skipped: "),
        ({"keep_bits": 12}, "keep_bits: None, not 12"),
        ({"edges": "gauss"}, "edges: midpoint, not gauss"),
    ):
        assert said in "; ".join(plan.differences(make_plan(**change)))
    later = make_plan(stop="1990-01-05T00", skipped=("1990-01-04T06",))
    assert plan.differences(later) == [] and later.steps == 16
    assert later.fingerprint == plan.fingerprint
    assert make_plan(stats_times=None).fingerprint != plan.fingerprint


def test_written_whole_after_a_killed_writer(tmp_path):
    """What one has left behind does not become the end of another's file."""
    (tmp_path / "a.json.__lock").write_text("x" * 100)
    folder = Folder(tmp_path)
    folder.write("a.json", b"{}")
    assert folder.read("a.json") == b"{}"
    assert folder.names() == ["a.json"]
    folder.sweep()
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]
