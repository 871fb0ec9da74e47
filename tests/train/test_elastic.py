"""The same run on other processes and other meshes."""

import json
import shutil

import numpy as np
import pytest

from tests.train.pods import Pod, losses
from train.config import to_json

pytestmark = pytest.mark.slow

STEPS, SAVED = 22, 2


@pytest.fixture(scope="module")
def start(tmp_path_factory, make_tiny_config):
    """A function that starts a run on so many processes and such a mesh."""
    folder = tmp_path_factory.mktemp("elastic")
    config = make_tiny_config()
    config.train.steps = config.train.eval_every = STEPS
    config.train.checkpoint_every = SAVED
    config.train.keep_checkpoints = STEPS
    config.train.batch = 4
    config.model.step_minutes = 360
    config.data.frames = 2
    file = folder / "config.json"
    file.write_text(json.dumps(to_json(config)))

    def start(workdir, processes, devices, **mesh):
        axes = [f"--config.mesh.{axis}={size}" for axis, size in mesh.items()]
        return Pod(
            *(file, workdir, folder / "cache", *axes),
            processes=processes,
            devices=devices,
        )

    return start


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory, start):
    """Folder of a run of two processes with four devices each."""
    workdir = tmp_path_factory.mktemp("two") / "run"
    assert start(workdir, 2, 4, data=2, level=2, lat=2).end() == 0
    return workdir


def resumed(workdir, copy, start, processes, devices, **mesh):
    """Losses of the run continued from its second step, elsewhere."""
    shutil.copytree(workdir, copy)
    for step in (copy / "checkpoints").iterdir():
        if int(step.name) > SAVED:
            shutil.rmtree(step)
    pod = start(copy, processes, devices, **mesh)
    assert pod.end() == 0
    assert f"resuming at step {SAVED} " in pod.log
    return losses(copy)


@pytest.mark.parametrize(
    "mesh", [dict(data=2, level=2, lat=2), dict(data=4, level=2)], ids=str
)
def test_resumed_by_one_process(start, two_processes, tmp_path, mesh):
    """The same samples in the same order: batches differ by far more than 1e-5."""
    expected = losses(two_processes)
    got = resumed(two_processes, tmp_path / "run", start, 1, 8, **mesh)
    assert list(got) == list(expected)
    wanted, found = (np.array(list(x.values())) for x in (expected, got))
    print("largest difference", np.max(np.abs(found / wanted - 1)))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert np.min(np.abs(np.diff(wanted) / wanted[1:])) > 1e-5


def test_one_process_with_as_many_devices(start, two_processes, tmp_path):
    """Sums are added up in another order, already where the scales are computed."""
    pod = start(tmp_path / "run", 1, 8, data=2, level=2, lat=2)
    assert pod.end() == 0
    expected, got = losses(two_processes), losses(pod.workdir)
    wanted, found = (np.array(list(x.values())) for x in (expected, got))
    print("largest difference", np.max(np.abs(found / wanted - 1)))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
