"""A run on a mesh of 8 that is killed and restarted ends as if it had never stopped."""

import json
import random
import signal

import pytest

from tests.train.pods import Pod, assert_equal_runs
from train.config import to_json

STEPS = 8


@pytest.fixture(scope="module")
def start(tmp_path_factory, make_tiny_config):
    """A function that starts a run in a folder, in one process."""
    folder = tmp_path_factory.mktemp("resume")
    config = make_tiny_config()
    config.train.steps = config.train.eval_every = STEPS
    config.train.checkpoint_every = 2
    config.mesh.data = config.mesh.level = config.mesh.lat = 2
    config.model.step_minutes = 360
    config.data.frames = 2
    file = folder / "config.json"
    file.write_text(json.dumps(to_json(config)))
    return lambda workdir: Pod(
        *(file, workdir, folder / "cache"), processes=1, devices=8
    )


# The drills in a bucket do the same on the same mesh.
@pytest.mark.slow
def test_killed_and_resumed_run_is_bit_identical(tmp_path, start):
    whole = start(tmp_path / "whole")
    assert whole.end() == 0
    step = random.randint(1, STEPS - 1)
    print("to be killed after step", step)
    killed = start(tmp_path / "killed")
    killed.until_step(step)
    killed.kill(0, signal.SIGKILL)
    assert killed.end() == 0
    assert "restart 1 of" in killed.log
    assert_equal_runs(killed.workdir, whole.workdir, STEPS)
