"""Meshes: sizes that fill, and which axis lies where on tori, slices and processes."""

import dataclasses

import jax
import numpy as np
import pytest

from pipeline.errors import UserError
from train.mesh import MeshShape, make_mesh

# ---- sizes


@pytest.mark.parametrize(
    "shape, devices, expected",
    [
        (MeshShape(data=-1), 8, MeshShape(data=8)),
        (MeshShape(data=-1, level=4, lat=2), 128, MeshShape(data=16, level=4, lat=2)),
        (MeshShape(data=2, level=-1), 8, MeshShape(data=2, level=4)),
        (MeshShape(data=4, level=2, lat=-1), 8, MeshShape(data=4, level=2)),
        (MeshShape(data=2, level=2), 8, MeshShape(data=2, level=2)),  # nothing to fill
    ],
    ids=str,
)
def test_one_axis_takes_what_the_others_leave(shape, devices, expected):
    assert shape.filled(devices) == expected


@pytest.mark.parametrize(
    "shape, message",
    [
        (
            MeshShape(data=-1, level=-1),
            "mesh.data and mesh.level are -1: only one axis",
        ),
        (MeshShape(data=-1, level=3), "level=3, does not divide .* devices .8."),
        (MeshShape(data=-1, level=4, lat=4), "level=4 . lat=4, does not divide"),
        (MeshShape(data=0, level=-1), "mesh.data=0 must be at least 1"),
        (MeshShape(data=-1, lat=-2), "mesh.lat=-2 must be at least 1"),
    ],
    ids=str,
)
def test_axes_that_cannot_be_filled_are_told(shape, message):
    with pytest.raises(UserError, match=message):
        shape.filled(8)


def test_a_mesh_is_filled_when_it_is_made():
    assert make_mesh(MeshShape(data=-1, lat=2)).shape["data"] == 4


# ---- places

PLACES = ("x", "y", "z")


def places(mesh, axis):
    """Coordinates along which the devices of one line of `axis` differ, with values."""
    line = np.moveaxis(mesh.devices, mesh.axis_names.index(axis), 0)
    coordinates = np.array([d.coords for d in line.reshape(len(line), -1)[:, 0]])
    differ = np.any(coordinates != coordinates[0], axis=0)
    return {
        name: coordinates[:, i].tolist() for i, name in enumerate(PLACES) if differ[i]
    }


@pytest.fixture
def tpus():
    """A function (slice, number of slices) -> its devices, none of which is there."""
    pytest.importorskip("libtpu", reason="needs the extra `plan`")
    from launch.tpu import topology

    topology.prepare()
    return topology.devices


def test_lat_lies_on_neighbours_and_level_on_a_ring(tpus):
    mesh = make_mesh(MeshShape(data=-1, level=4, lat=2), tpus("v5p:4x4x8"))
    assert dict(mesh.shape) == {"data": 16, "ensemble": 1, "level": 4, "lat": 2}
    assert places(mesh, "lat") == {"x": [0, 1]}
    assert places(mesh, "level") == {"y": [0, 1, 2, 3]}  # the whole ring
    assert set(places(mesh, "data")) == {"x", "z"}
    assert len(set(mesh.devices.flat)) == 128


def test_axes_split_a_torus_of_two_dimensions(tpus):
    mesh = make_mesh(MeshShape(data=2, level=4, lat=2), tpus("v5e:4x4"))
    assert places(mesh, "lat") == {"x": [0, 1]}
    assert places(mesh, "level") == {"y": [0, 1, 2, 3]}
    assert places(mesh, "data") == {"x": [0, 2]}


def test_data_alone_is_one_ring_of_neighbours(tpus):
    mesh = make_mesh(MeshShape(data=-1), tpus("v5e:4x4"))
    ring = np.array([d.coords for d in mesh.devices.flat])
    steps = np.abs(ring - np.roll(ring, 1, axis=0)).sum(axis=1)
    assert np.all(steps == 1)


def test_data_crosses_between_slices_and_nothing_else_does(tpus):
    mesh = make_mesh(MeshShape(data=-1, level=4, lat=2), tpus("v5p:4x4x4", 2))
    slices = np.vectorize(lambda d: d.slice_index)(mesh.devices)
    assert mesh.shape["data"] == 16
    assert np.all(slices[:8] == 0) and np.all(slices[8:] == 1)
    assert places(mesh, "level") == {"y": [0, 1, 2, 3]}


def test_slices_that_data_cannot_span_are_told(tpus):
    with pytest.raises(
        UserError, match="mesh.data=1 is not a multiple of the 2 slices"
    ):
        make_mesh(MeshShape(level=8, lat=4), tpus("v5e:4x4", 2))


@dataclasses.dataclass(frozen=True)
class Cpu:
    """What of a CPU device of a process places it."""

    id: int
    process_index: int
    platform: str = "cpu"


def test_data_crosses_between_processes_first():
    cpus = [Cpu(id=i, process_index=i // 4) for i in (5, 2, 7, 0, 1, 6, 3, 4)]
    mesh = make_mesh(MeshShape(data=-1, level=2, lat=2), cpus)
    assert [d.id for d in mesh.devices.flat] == list(range(8))
    assert all(d.process_index == i for i in (0, 1) for d in mesh.devices[i].flat)


def test_processes_may_not_be_left_idle_but_devices_may():
    here = jax.devices()
    assert list(make_mesh(MeshShape(data=2)).devices.flat) == here[:2]
    two = [Cpu(id=i, process_index=i // 4) for i in range(8)]
    with pytest.raises(UserError, match="uses 2 of the 8 devices of 2 processes"):
        make_mesh(MeshShape(data=2), two)
