"""What `podgcm plan` and `podgcm bench` are asked, before anything is compiled."""

import dataclasses
import os
import re
import subprocess
import sys

import pytest

from launch import benchmarks, plan, plan_search
from launch.object_store import ObjectStore
from launch.plan_page import format_plan
from launch.plan_search import sensible_meshes
from launch.plan_stages import Stage, curriculum, parse_stages
from launch.tpu import topology
from launch.tpu.chips import CHIPS
from launch.tpu.collectives import DCN, ICI, Collective
from launch.tpu.cost import Cost
from launch.tpu.measure import Measurement
from model.sphere.grids import parse_grid
from pipeline.errors import UserError
from train import build
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
    with pytest.raises(UserError, match="the slice has 4|number of devices .4."):
        plan.mesh_shape(demo(), mesh, 4)


def test_an_axis_of_the_config_may_fill_instead_of_data():
    config = demo("mesh.data=2", "mesh.level=-1", "mesh.lat=1")
    assert plan.mesh_shape(config, None, 8) == MeshShape(data=2, level=4)


# ---- curricula


def test_stages():
    assert parse_stages("6:20000,120:5", demo()) == [Stage(6, 20000), Stage(120, 5)]
    for text in ("", "6", "6:", "0:5", "6:0", "6:5,", "a:b", "6:5:4"):
        with pytest.raises(UserError, match="write HOURS:STEPS"):
            parse_stages(text, demo())
    with pytest.raises(UserError, match="9 hours are not a whole number of frames"):
        parse_stages("6:5,9:5", demo())


def test_stages_of_a_configuration():
    found = parse_stages("config", load_config("configs/tl63.py"))
    assert found[:2] == [Stage(12, 2000), Stage(24, 5000)]
    assert (found[-1].hours, sum(stage.steps for stage in found)) == (72, 45_000)


def measured(seconds, peak, fits=True):
    memory = dict.fromkeys(
        ("arguments", "outputs", "temporaries", "program", "host"), 0.0
    )
    memory |= {"aliased": 2.0**20, "peak": peak, "available": 10.0}
    compiler = {"flops": 1.0, "bytes": 1.0, "optimal_seconds": 1e-3}
    return Measurement(fits, memory, Cost(seconds=seconds), compiler, 12.0)


def test_time_and_memory_of_a_curriculum_are_affine_in_frames():
    asked = []

    def measure(frames):
        asked.append(frames)
        return measured(seconds=1.0 + 0.5 * frames, peak=3.0 + frames)

    stages = [Stage(6, 100), Stage(12, 10), Stage(120, 2)]
    found = curriculum(stages, 6, measure)
    assert asked == [2, 3]  # two programs for all stages
    assert [row["frames"] for row in found["stages"]] == [2, 3, 21]
    assert [row["seconds_per_step"] for row in found["stages"]] == [2.0, 2.5, 11.5]
    assert found["seconds"] == 100 * 2.0 + 10 * 2.5 + 2 * 11.5
    assert [row["peak"] for row in found["stages"]] == [5.0, 6.0, 24.0]
    assert [row["fits"] for row in found["stages"]] == [True, True, False]


def test_curricula_of_programs_that_do_not_fit():
    small = measured(1.0, 1.0), measured(0.0, 20.0, fits=False)
    found = curriculum([Stage(6, 1)], 6, lambda frames: small[frames - 2])
    assert found == {"too_many_frames": 3}


def test_pace():
    config = demo("data.frames=5", "data.hours=6", "train.batch=8")
    assert plan.pace(config, 2.0) == {
        "rollout_days": 1.0,
        "seconds_per_simulated_day": 2.0,
        "samples_per_second": 4.0,
    }


# ---- searches


def of_tl63(*overrides):
    return load_config("configs/tl63.py", ["data.store=", *overrides])


def test_sensible_meshes():
    config = of_tl63()
    spec = build.build_spec(config, *plan.data_grid(config))

    def meshes(*case):
        return [
            dataclasses.astuple(s) for s in sensible_meshes(*case[:2], spec, case[2])
        ]

    # The batch as far as it goes, or half as far; layers and latitudes divide.
    assert meshes(16, 1, 16) == [(16, 1, 1, 1), (8, 1, 2, 1), (8, 1, 1, 2)]
    assert meshes(4, 1, 1) == [(1, 1, 4, 1), (1, 1, 2, 2), (1, 1, 1, 4)]
    assert meshes(8, 2, 6) == [(2, 1, 4, 1), (2, 1, 2, 2), (2, 1, 1, 4)]
    assert meshes(12, 8, 16) == []  # 8 slices of 1.5 devices
    assert all(data % 4 == 0 for data, *_ in meshes(64, 4, 16))


@pytest.fixture
def planned(monkeypatch):
    """Programs that are not compiled: the more levels the quicker, lat=4 does not fit.

    A list of their slices and meshes.
    """
    asked = []

    def measure(self, frames):
        asked.append((self.slice_name, dict(self.mesh.shape)))
        shape = self.mesh.shape
        found = measured(seconds=1 / (shape["data"] * shape["level"]), peak=2.0**30)
        if shape["lat"] < 4:
            return found
        memory = {"peak": 2.0**34, "available": 2.0**33, "missing": 2.0**33}
        return dataclasses.replace(found, fits=False, memory=memory, cost=None)

    pytest.importorskip("libtpu", reason="needs the extra `plan`")
    topology.prepare()
    monkeypatch.setattr(plan.Planned, "measure", measure)
    return asked


def test_a_search_ranks_meshes_by_time(planned, capsys):
    found = plan_search.search(of_tl63("train.batch=1"), "v5e:2x2")
    assert [row["mesh"]["level"] for row in found["rows"]] == [4, 2, 1]
    assert [row["fits"] for row in found["rows"]] == [True, True, False]
    assert len(planned) == 3
    text = plan_search.format_rows(found["rows"])
    assert "level=4" in text.splitlines()[0] and "250.0 ms a step" in text
    assert "lat=4" in text.splitlines()[2] and "8.0 GiB are missing" in text
    progress = capsys.readouterr().err
    assert "plan: 1 of 3: data=1,ensemble=1,level=4,lat=1" in progress
    with pytest.raises(UserError, match="no mesh of 64 devices fits a batch of 1"):
        layers = "model.layers=5", "model.reference_temperature=[]"
        plan_search.search(of_tl63("train.batch=1", *layers), "v5e:8x8")


def test_a_survey_takes_the_slices_that_the_batch_fills(planned):
    found = plan_search.survey(of_tl63("train.batch=8"))
    assert {row["topology"] for row in found["rows"]} == {
        "v4:2x2x1",
        "v4:2x2x2",
        "v5e:2x2",
        "v5e:2x4",
        "v5p:2x2x1",
        "v5p:2x2x2",
        "v6e:2x2",
        "v6e:2x4",
    }
    assert all(row["mesh"]["data"] == row["devices"] for row in found["rows"])
    with pytest.raises(UserError, match="fill no slice"):
        plan_search.survey(of_tl63("train.batch=3"))


# ---- pages


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


def test_grid_of_data_in_a_bucket(tiny_store):
    pytest.importorskip("gcsfs", reason="needs the extra `cloud`")
    program = """
import pathlib, sys
from launch import plan
from train.config import load_config
from train.folder import open_path
for file in pathlib.Path(sys.argv[1]).rglob("*"):
    if file.is_file():
        copy = open_path("gs://bucket/store") / str(file.relative_to(sys.argv[1]))
        copy.write_bytes(file.read_bytes())
config = ["data.store=gs://bucket/store", "data.grid="]
print(plan.data_grid(load_config("configs/demo.py", config))[0].shape)
"""
    with ObjectStore() as store:
        done = subprocess.run(
            [sys.executable, "-c", program, str(tiny_store.path)],
            env={**os.environ, **store.environment},
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.stdout.strip() == str(tiny_store.grid.shape), done.stderr


CASE = {
    "topology": "v5p:2x2x1",
    "slices": 2,
    "devices": 8,
    "mesh": {"data": 2, "level": 4},
    "config": {"train": {"batch": 2}, "mesh": {"data": -1, "level": 4}},
}


def page(state=2**20, **more):
    cost = Cost(flops=2e9, mxu_flops=6e9, bytes=3 * 2.0**20, seconds=1.5e-3)
    cost.collectives = [
        Collective("all-reduce", "slices", DCN, 1, 2.0**30, 2e-4),
        Collective("all-to-all", "level", ICI, 7, 2.0**20, 1e-4),
    ]
    fits = dataclasses.replace(measured(0.0, 2.0**30), cost=cost)
    fits.memory["available"] = CHIPS["v5p"].memory
    figures = {"state": state, "donated": state <= fits.memory["aliased"]}
    figures["pace"] = plan.pace(demo(), cost.seconds)
    return format_plan(CASE | fits.to_json() | figures | more)


def test_page_for_people():
    text = page()
    assert "2 slices of v5p:2x2x1: 8 devices, mesh data=2, level=4, batch 2" in text
    assert "fits: 1.0 GiB of 95.7 GiB" in text and "1.50 ms" in text
    assert re.search(r"all-reduce +slices +DCN +1 +1.0 GiB", text)
    assert re.search(r"all-to-all +level +ICI +7 +1.0 MiB", text)
    assert "1.0 MiB, is overwritten in place" in text
    assert "0.003 s a simulated day, 1,333.33 samples a second" in text


def test_page_tells_the_mesh_that_training_needs():
    assert "--config.mesh" not in page()
    own = {"data": 2, "level": 1}
    text = page(config={"train": {"batch": 2}, "mesh": own})
    assert "to train on this mesh: --config.mesh.level=4\n" in text


def test_page_of_a_state_that_is_copied():
    assert "NOT OVERWRITTEN IN PLACE: the training state is 2.0 MiB" in page(2**21)


def test_page_of_a_curriculum():
    found = curriculum([Stage(6, 3600), Stage(120, 7200)], 6, lambda n: measured(n, n))
    text = page(curriculum=found)
    assert re.search(r"6 h +2 +3,600 +2.000 s +2.0 h +2.0 B\n", text)
    assert re.search(r"120 h +21 +7,200 +21.000 s +42.0 h +21.0 B  DOES NOT FIT", text)
    assert "in all 1.83 days" in text and "1,000.0 ms a frame" in text
    assert "cannot be modelled" in page(curriculum={"too_many_frames": 3})


def test_page_of_what_does_not_fit():
    memory = {"peak": 2.0**40, "available": 2.0**34, "missing": 2.0**40 - 2.0**34}
    small = Measurement(False, memory, None, {}, 1.0)
    text = format_plan(CASE | small.to_json())
    assert "DOES NOT FIT: 1,024.0 GiB of 16.0 GiB a device; 1,008.0 GiB" in text


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
