"""A run that is killed and started again ends as if it had never stopped."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from train.config import to_json

STEPS = 8


@pytest.fixture
def command(tmp_path, tiny_config):
    """A function that gives the command of a run in a folder, on a mesh of 8."""
    tiny_config.train.steps = STEPS
    tiny_config.train.checkpoint_every = 2
    tiny_config.train.eval_every = STEPS
    tiny_config.mesh.data = tiny_config.mesh.level = tiny_config.mesh.lat = 2
    tiny_config.model.step_minutes = 360
    tiny_config.data.frames = 2
    file = tmp_path / "config.json"
    file.write_text(json.dumps(to_json(tiny_config)))

    def make(workdir):
        return [
            *(sys.executable, "-m", "launch.cli", "train"),
            f"--config={file}",
            f"--workdir={workdir}",
        ]

    return make


ENVIRONMENT = {
    **os.environ,
    "JAX_PLATFORMS": "cpu",
    "JAX_NUM_CPU_DEVICES": "8",
}


def parameters(workdir, step=STEPS):
    path = workdir / "checkpoints" / str(step) / "state"
    return ocp.StandardCheckpointer().restore(path.resolve())


def test_killed_and_resumed_run_is_bit_identical(tmp_path, command):
    whole = tmp_path / "whole"
    subprocess.run(command(whole), check=True, env=ENVIRONMENT, timeout=300)

    killed = tmp_path / "killed"
    victim_step = random.randint(1, STEPS - 1)
    print("to be killed after step", victim_step)
    process = subprocess.Popen(command(killed), env=ENVIRONMENT)
    metrics = killed / "metrics.jsonl"
    deadline = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        if metrics.exists() and metrics.read_text().count("\n") >= victim_step:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.002)
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
    subprocess.run(command(killed), check=True, env=ENVIRONMENT, timeout=300)

    assert metrics.read_text() == (whole / "metrics.jsonl").read_text()
    jax.tree.map(np.testing.assert_array_equal, parameters(killed), parameters(whole))


def test_a_damaged_checkpoint_is_told(tmp_path, command):
    workdir = tmp_path / "run"
    subprocess.run(command(workdir), check=True, env=ENVIRONMENT, timeout=300)
    state = workdir / "checkpoints" / str(STEPS) / "state"
    for file in state.rglob("*"):
        if file.is_file() and file.parent.name == "d":
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    again = command(workdir)
    result = subprocess.run(
        again, env=ENVIRONMENT, timeout=300, capture_output=True, text=True
    )
    assert result.returncode == 1
    assert "cannot be restored" in result.stderr.strip().splitlines()[-1]
