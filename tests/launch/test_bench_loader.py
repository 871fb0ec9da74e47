"""The benchmark of the loader: the reference delivers the same, and its figures."""

import itertools
import json
from collections import Counter

import numpy as np
import pytest

from launch import cli
from launch.benchmarks import loader_reference as reference
from launch.benchmarks.store import FRAMES, all_windows
from launch.benchmarks.synthetic_store import make_store
from model.sphere.grids import fold
from train.data import Loader
from train.mesh import MeshShape, make_mesh

BATCH = 3


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("synthetic") / "store"
    return make_store(str(path), "15@32x16", frames=30)


@pytest.fixture(scope="module")
def zarr(store, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("zarr") / "reference.zarr")
    reference.write_reference_store(store, path)
    return path


@pytest.mark.parametrize("at_once", [1, 3])
def test_the_reference_delivers_what_the_loader_does(store, zarr, at_once):
    windows = all_windows(store)
    loader = Loader(windows, make_mesh(MeshShape()), BATCH, seed=0)
    starts = windows.starts[np.concatenate([loader.numbers(i) for i in range(6)])]
    blocks = reference.Blocks(zarr)
    reads = reference.given_windows(blocks, starts, FRAMES)
    theirs = reference.batches(reference.in_parallel(reads, at_once), BATCH)
    for ours, other in itertools.islice(zip(loader, theirs, strict=False), 4):
        assert set(ours["frames"]) == set(other)
        for name, x in ours["frames"].items():
            np.testing.assert_array_equal(x, fold(np.asarray(other[name])))


def test_shuffled_blocks_have_every_window_once_in_an_epoch(zarr, monkeypatch):
    blocks = reference.Blocks(zarr)
    monkeypatch.setattr(reference, "REQUEST_BYTES", 17 * blocks.largest_frame)
    count = blocks.times - FRAMES + 1
    reads = reference.shuffled_blocks(blocks, FRAMES, seed=0)
    windows = itertools.islice(reference.in_parallel(reads, 1), count)
    seen = Counter(w["temperature"].tobytes() for w in windows)
    assert len(seen) == count and set(seen.values()) == {1}
    # 5 windows of 17 frames, and the last three of what is left.
    assert blocks.frames_read == 3 * 17 + 15 and blocks.windows_cut == count


def test_the_buffer_loses_nothing_and_mixes():
    windows = [{"number": n} for n in range(100)]
    mixed = [w["number"] for w in reference.mixed(iter(windows), 10, seed=0)]
    assert len(mixed) == len(set(mixed)) == 90
    assert mixed != sorted(mixed)


@pytest.mark.drill
def test_figures(capsys):
    options = ["--grid=15@32x16", "--frames=30", "--rounds=1", "--batches=2", "--json"]
    with pytest.raises(SystemExit) as end:
        cli.main(["bench", "loader", *options])
    out = capsys.readouterr().out
    assert end.value.code == 0 and out.count("\n") == 1
    figures = json.loads(out)
    judge, ratio = figures["judge"], figures["ratio"]
    assert ratio["same_order"] == ratio[judge["same_order"]]
    window_mb = 4 * FRAMES * (7 * 37 + 2) * 16 * 32 / 1e6
    for reader in (figures["ours"], judge["reference_blocks"]):
        speed = reader["megabytes_per_second"] / reader["samples_per_second"]
        assert speed == pytest.approx(window_mb)
    assert figures["ours"]["frames_read_per_window"] == FRAMES
    assert judge["reference_blocks"]["frames_read_per_window"] < FRAMES


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--grid=TL64", "unknown grid 'TL64'"),
        ("--frames=15", "--frames=15 must be at least 16"),
        ("--batches=0", "--batches=0 must be at least 1"),
        ("--folder=/nowhere", "--folder=/nowhere is not a folder"),
    ],
)
def test_mistakes_are_told(option, message, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["bench", "loader", option])
    assert end.value.code == 2
    assert message in capsys.readouterr().err
