"""Windows and their loading."""

import jax
import numpy as np
import pytest

from model.spec import LEVEL_VARIABLES, SURFACE_VARIABLES
from model.sphere.grids import fold
from pipeline.errors import UserError
from train.data import BatchReader, Loader, Windows, check_store, parse_window
from train.mesh import MeshShape, make_mesh


@pytest.fixture(scope="module")
def windows(tiny_store):
    return Windows(tiny_store, 2, 13, frames=3, hours=12)


def test_windows_hold_the_stores_bytes(windows, tiny_store):
    assert len(windows) == 12 - 2 * 2
    window = windows.read(np.array([3]))
    times = np.array([5, 7, 9])
    for name in (*LEVEL_VARIABLES, *SURFACE_VARIABLES):
        np.testing.assert_array_equal(
            window["frames"][name][0], fold(tiny_store.read(name, times))
        )
        part = windows.read(np.array([3]), slice(2, 5), slice(8, 12))["frames"][name]
        np.testing.assert_array_equal(part, window["frames"][name][..., 2:5, 8:12])
    seconds = int(window["days"][0]) * 86400 + int(window["seconds"][0])
    assert np.datetime64(seconds, "s") == tiny_store.times[5]


@pytest.mark.parametrize("shape", [MeshShape(), MeshShape(data=2, level=2, lat=2)])
def test_loader_does_not_depend_on_the_mesh(windows, shape):
    batches = [
        Loader(windows, make_mesh(s), batch=4, seed=1) for s in (shape, MeshShape())
    ]
    for _ in range(3):
        a, b = (next(loader) for loader in batches)
        jax.tree.map(np.testing.assert_array_equal, a, b)


def test_loader_splits_fields_over_the_mesh(windows):
    batch = next(Loader(windows, make_mesh(MeshShape(2, 1, 2, 2)), batch=4, seed=1))
    shard = batch["frames"]["temperature"].addressable_shards[0].data
    assert shard.shape == (2, 3, 8, 2, 4, 16)


def test_a_cpu_device_takes_what_was_read_without_a_copy(windows):
    reader = BatchReader(windows, make_mesh(MeshShape()), batch=2)
    local = reader.read(np.array([0, 3]))
    for name, x in reader.to_devices(local)["frames"].items():
        place = x.addressable_data(0).unsafe_buffer_pointer()
        assert place == local["frames"][name].ctypes.data, name


@pytest.mark.parametrize("size", [1, 4])
def test_every_epoch_holds_every_window_once_in_another_order(windows, size):
    loader = Loader(windows, make_mesh(MeshShape()), batch=size, seed=1)

    def epoch():
        batches = [next(loader) for _ in range(len(windows) // size)]
        stamps = [
            np.asarray(b["days"]).astype(int) * 86400 + np.asarray(b["seconds"])
            for b in batches
        ]
        return np.concatenate(stamps).tolist()

    first, second = epoch(), epoch()
    assert len(set(first)) == len(windows)
    assert sorted(first) == sorted(second)
    assert first != second


def test_the_position_is_what_was_delivered(windows):
    loader = Loader(windows, make_mesh(MeshShape()), batch=2, seed=1)
    for _ in range(5):
        next(loader)
        loader.read_ahead()  # which delivers nothing
    assert loader.delivered == 5
    expected = [next(loader) for _ in range(3)]
    again = Loader(windows, make_mesh(MeshShape()), batch=2, seed=1, delivered=5)
    for batch in expected:
        jax.tree.map(np.testing.assert_array_equal, next(again), batch)


def test_mistakes_are_told(tiny_store):
    with pytest.raises(UserError, match="every 6 h"):
        Windows(tiny_store, 0, 9, frames=2, hours=7)
    with pytest.raises(UserError, match="shorter than a window"):
        Windows(tiny_store, 0, 3, frames=10, hours=6)
    with pytest.raises(UserError, match="START/STOP"):
        parse_window(tiny_store, "yesterday")
    with pytest.raises(UserError, match="nothing within"):
        parse_window(tiny_store, "1999-01-01/1999-02-01")
    short = Windows(tiny_store, 0, 3, frames=2, hours=6)
    with pytest.raises(UserError, match="train.batch"):
        Loader(short, make_mesh(MeshShape()), batch=9, seed=0)


def test_a_store_without_a_needed_variable_is_refused(planet, tmp_path):
    from pipeline.preprocess import preprocess

    store = preprocess(
        planet,
        str(tmp_path / "store"),
        "15@32x16",
        times="2001-01-01/2001-01-02",
        variables="temperature,land_sea_mask",
    )
    with pytest.raises(UserError, match="lacks geopotential"):
        check_store(store)
