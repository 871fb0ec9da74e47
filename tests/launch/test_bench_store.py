"""The benchmark of reading: its figures, its judges, and what parts of fields cost."""

import json

import numpy as np
import pytest

from launch import cli
from launch.benchmarks.store import PARTS, all_windows, read_parts
from launch.benchmarks.store_judges import make_judges
from launch.benchmarks.synthetic_store import make_store
from model.sphere.grids import fold, unfold

pytestmark = pytest.mark.drill


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("synthetic") / "store"
    return make_store(str(path), "15@32x16", frames=26)


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        cli.main(["bench", "store", *arguments])
    captured = capsys.readouterr()
    return end.value.code, captured.out, captured.err


def test_figures(capsys):
    options = ["--grid=15@32x16", "--frames=26", "--rounds=1", "--json"]
    code, out, _ = run(capsys, *options, "--object_store")
    assert code == 0 and out.count("\n") == 1
    figures = json.loads(out)
    ours, judge = figures["ours"]["15@32x16"], figures["judge"]["15@32x16"]
    ratios = figures["ratio"]["15@32x16"]
    assert set(ratios) == set(judge)
    assert set(judge["xarray_zarr_sharded"]) <= set(ours)
    assert ratios["fastest_compressed"] == ratios[judge["fastest_compressed"]]
    assert not judge["fastest_compressed"].endswith("uncompressed")
    assert 0.5 < ours["stored_ratio"] < 1
    assert ours["loader"]["batch_bytes"] == 4 * 8 * 13 * (7 * 37 + 2) * 16 * 32
    # The loader holds several batches, which bare reads do not.
    assert 0.5 < ours["loader"]["memory_in_batches_without"]
    assert 2 < ours["loader"]["memory_in_batches"]
    for layout, arrays in (("variables", 9), ("stacked", 1)):
        alone, many, *failing = figures["ours"]["object_store"][layout]
        assert alone["windows_in_flight"] == 1 and many["windows_in_flight"] == 8
        assert alone["failed_requests"] == many["failed_requests"] == 0
        # The index of a shard and one range, of one or two shards.
        assert 2 * arrays <= alone["requests_per_sample"] <= 4 * arrays
        assert {case["failure_rate"] for case in failing} == {0.05}


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--grid=TL64", "unknown grid 'TL64'"),
        ("--frames=25", "--frames=25 must be at least 26"),
        ("--rounds=0", "--rounds=0 must be at least 1"),
        ("--folder=/nowhere", "--folder=/nowhere is not a folder"),
    ],
)
def test_mistakes_are_told(capsys, option, message):
    code, _, err = run(capsys, option)
    assert code == 2 and message in err and err.count("\n") == 1


def test_all_judges_read_the_same_values(store, tmp_path):
    compressed, uncompressed = make_judges(store, str(tmp_path))
    judges = compressed | uncompressed
    assert len(judges) == 7
    for start in (0, 7, 13):
        frames = all_windows(store).read(np.array([start]))["frames"]
        for read in judges.values():
            fields = read(start, start + 13)
            assert set(fields) == set(frames)
            for name, field in fields.items():
                np.testing.assert_array_equal(field, unfold(frames[name][0]))


def test_layouts_hold_the_same_fields(store, tmp_path):
    stacked = make_store(str(tmp_path / "stacked"), "15@32x16", 26, "stacked")
    for name in ("temperature", "sea_ice_cover"):
        fields = [s.read(name, np.arange(26)) for s in (store, stacked)]
        np.testing.assert_array_equal(*fields)


@pytest.mark.parametrize("layout", ["variables", "stacked"])
def test_mirror_pairs_are_folded_while_they_are_read(tmp_path, layout):
    """Of times in any order, and any pairs."""
    store = make_store(str(tmp_path / "store"), "T21", 20, layout)
    times = np.array([3, 5, 7, 7, 2, 3, 4, 1, 0, 19])
    for pairs in (slice(None), slice(3, 9), slice(12, 16), slice(1, 16, 4)):
        for name in ("geopotential", "sea_ice_cover"):
            folded = store.read_many({name: (times, pairs)}, folded=True)[name]
            expected = fold(store.read(name, np.arange(20))[times])[..., pairs, :]
            np.testing.assert_array_equal(folded, expected)


def test_parts_of_fields_cost_little_more_than_their_bytes(tmp_path):
    store = make_store(str(tmp_path / "store"), "TL63", frames=26)
    for parts in PARTS:
        figures = read_parts(store, parts)
        mean = figures["bytes_per_byte_wanted"]
        worst = figures["bytes_per_byte_wanted_at_worst"]
        # Below 1 only if nothing were read, or the counters counted something else.
        assert 0.9 < mean <= worst < 1.3
        # A band is a range a time in each hemisphere; all bands are one range.
        assert figures["requests_per_sample"] <= 9 * (2 * 13 + 2)
