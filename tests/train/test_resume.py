"""A run that is killed and started again ends as if it had never stopped."""

import json
import os
import random
import shutil
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


@pytest.fixture(scope="module")
def start(tmp_path_factory, make_tiny_config):
    """A function that starts a run in a folder, on a mesh of 8, as a process."""
    folder = tmp_path_factory.mktemp("resume")
    config = make_tiny_config()
    config.train.steps = config.train.eval_every = STEPS
    config.train.checkpoint_every = 2
    config.mesh.data = config.mesh.level = config.mesh.lat = 2
    config.model.step_minutes = 360
    config.data.frames = 2
    file = folder / "config.json"
    file.write_text(json.dumps(to_json(config)))
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "8",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
    }

    def start(workdir, **options):
        command = [sys.executable, "-m", "launch.cli", "train", f"--config={file}"]
        return subprocess.Popen(
            [*command, f"--workdir={workdir}"], env=environment, text=True, **options
        )

    return start


@pytest.fixture(scope="module")
def whole(tmp_path_factory, start):
    """Folder of a run that was never stopped."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    assert start(workdir).wait(timeout=600) == 0
    return workdir


def parameters(workdir, step=STEPS):
    path = workdir / "checkpoints" / str(step) / "state"
    return ocp.StandardCheckpointer().restore(path.resolve())


def test_killed_and_resumed_run_is_bit_identical(tmp_path, start, whole):
    killed = tmp_path / "killed"
    victim_step = random.randint(1, STEPS - 1)
    print("to be killed after step", victim_step)
    process = start(killed)
    metrics = killed / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        if metrics.exists() and metrics.read_text().count("\n") >= victim_step:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.002)
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
    assert start(killed).wait(timeout=300) == 0

    assert metrics.read_text() == (whole / "metrics.jsonl").read_text()
    jax.tree.map(np.testing.assert_array_equal, parameters(killed), parameters(whole))


def test_a_damaged_newest_checkpoint_is_set_aside(tmp_path, start, whole):
    workdir = tmp_path / "damaged"
    shutil.copytree(whole, workdir)
    state = workdir / "checkpoints" / str(STEPS) / "state"
    data = [f for f in state.rglob("*") if f.is_file() and f.parent.name == "d"]
    assert data
    for file in data:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    process = start(workdir, stderr=subprocess.PIPE)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0
    assert f"CHECKPOINT {STEPS} IS DAMAGED" in errors
    assert f"resuming at step {STEPS - 2} " in errors
    aside = [x for x in (workdir / "damaged").iterdir() if x.is_dir()]
    assert len(aside) == 1 and aside[0].name.startswith(f"{STEPS}-")
    jax.tree.map(np.testing.assert_array_equal, parameters(workdir), parameters(whole))
