"""What `podgcm plan` and `podgcm bench` are asked, before anything is compiled."""

import pytest

from launch import benchmarks, plan
from launch.tpu import topology
from launch.tpu.cost import CHIPS, Collective, Cost
from launch.tpu.measure import Measurement
from model.sphere.grids import parse_grid
from pipeline.errors import UserError
from train.config import load_config
from train.mesh import MeshShape


def demo(*overrides):
    return load_config("configs/demo.py", overrides)


@pytest.mark.parametrize(
    "mesh, devices, expected",
    [
        (None, 8, MeshShape(data=2, level=2, lat=2)),
        (None, 4, MeshShape(data=1, level=2, lat=2)),
        ("level=4,lat=1", 4, MeshShape(level=4)),
        ("level=4", 128, MeshShape(data=32, level=4)),
        ("data=2,ensemble=2,lat=2", 8, MeshShape(data=2, ensemble=2, lat=2)),
    ],
)
def test_the_data_axis_takes_what_is_left(mesh, devices, expected):
    assert plan.mesh_shape(demo(), mesh, devices) == expected


@pytest.mark.parametrize("mesh", ["level=3", "data=2,level=4", "level=8"])
def test_meshes_that_leave_devices_idle_are_told(mesh):
    with pytest.raises(UserError, match="the slice has 4"):
        plan.mesh_shape(demo(), mesh, 4)


@pytest.mark.parametrize("mesh", ["", "4x2", "level", "level=", "level=0", "depth=2"])
def test_meshes_that_cannot_be_read_are_told(mesh):
    with pytest.raises(UserError, match="write AXIS=SIZE"):
        topology.parse_mesh(mesh, ("level", "lat"))


def test_grid_of_the_data(tiny_store):
    grid, levels = plan.data_grid(demo(f"data.store={tiny_store.path}"))
    assert grid == tiny_store.grid and list(levels) == list(tiny_store.levels)
    grid, levels = plan.data_grid(demo("data.store=nowhere", "data.grid=TL63"))
    assert grid == parse_grid("TL63") and len(levels) == 37
    with pytest.raises(UserError, match="data.grid=TL63"):
        plan.data_grid(demo("data.store=nowhere", "data.grid="))
    with pytest.raises(UserError, match="unknown grid"):
        plan.data_grid(demo("data.store=nowhere", "data.grid=TL1"))


def test_page_for_people():
    cost = Cost(flops=2e9, mxu_flops=6e9, bytes=3 * 2.0**20, seconds=1.5e-3)
    cost.collectives = [Collective("all-to-all", "level", 7, 2.0**20, 1e-4)]
    names = ("arguments", "outputs", "aliased", "temporaries", "program", "peak")
    memory = dict.fromkeys(names, 2.0**30) | {"available": CHIPS["v5p"].memory}
    compiler = {"flops": 1.0, "bytes": 1.0, "optimal_seconds": 1e-3}
    fits = Measurement(True, memory, cost, compiler, 12.0).to_json()
    case = {"topology": "v5p:2x2x1", "devices": 4, "mesh": {"level": 4}}
    page = plan.format_plan(case | fits)
    assert "fits: 1.0 GiB of 95.7 GiB" in page
    assert "all-to-all" in page and "1.50 ms" in page
    small = Measurement(False, {"peak": 2.0**40, "available": 2.0**34}, None, {}, 1.0)
    page = plan.format_plan(case | small.to_json())
    assert "DOES NOT FIT: 1,024.0 GiB of 16.0 GiB" in page


@pytest.mark.parametrize(
    "minutes, days", [(0, 1), (-20, 1), (7, 1), (2000, 1), (20, 0)]
)
def test_simulations_of_no_whole_steps_are_told(minutes, days):
    with pytest.raises(UserError, match="--minutes|--days"):
        benchmarks.check_simulation(minutes, days)


@pytest.mark.parametrize("minutes", [0.1, 3.6, 3.75, 20, 1440])
def test_simulations_of_whole_steps_are_not(minutes):
    benchmarks.check_simulation(minutes, 1)


def test_folders_that_cannot_be_made_are_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--output"):
        benchmarks.make_folder(str(tmp_path / "file" / "folder"))
