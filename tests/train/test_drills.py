"""Whatever happens to a pod, its run ends with the bits of an undisturbed one.

Real processes, real signals, real damage.
"""

import json
import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.train.pods import Pod, assert_equal_runs
from train.config import to_json

pytestmark = pytest.mark.drill

STEPS = 12
HALF = 6  # an evaluation and a checkpoint


@pytest.fixture(scope="module")
def start(tmp_path_factory, make_tiny_config):
    """A function that starts a pod of two devices in a folder."""
    folder = tmp_path_factory.mktemp("pods")
    config = make_tiny_config()
    config.train.steps = STEPS
    config.train.checkpoint_every = 3
    config.train.eval_every = HALF
    config.train.eval_batches = 12
    # Short lines, for the disk that is nearly full.
    config.train.eval_levels = ()
    config.loss.spectrum_data = config.loss.spectrum_model = 0.0
    config.mesh.data = -1
    config.model.step_minutes = 360
    config.data.frames = 2
    file = folder / "config.json"
    file.write_text(json.dumps(to_json(config)))

    def start(workdir, *overrides, processes=2):
        return Pod(
            *(file, workdir, folder / "cache", *overrides),
            processes=processes,
            devices=2 // processes,
        )

    start.config = file
    return start


@pytest.fixture(scope="module")
def whole(tmp_path_factory, start):
    """Folder of a run that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    assert start(workdir).end() == 0
    return workdir


@pytest.fixture(scope="module")
def alone(tmp_path_factory, start):
    """The same of one process."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    assert start(workdir, processes=1).end() == 0
    return workdir


@pytest.fixture(scope="module")
def half(tmp_path_factory, start, alone):
    """Folder of a run of one process that ended half-way."""
    workdir = tmp_path_factory.mktemp("half") / "run"
    assert start(workdir, f"--config.train.steps={HALF}", processes=1).end() == 0
    return workdir


@pytest.mark.parametrize(
    "victim",
    [
        pytest.param(0, id="coordinator"),
        pytest.param(1, id="other", marks=pytest.mark.slow),
    ],
)
def test_sigkill_at_a_random_step(start, whole, tmp_path, victim):
    step = random.randint(1, STEPS - 2)
    print("killed after step", step)
    pod = start(tmp_path / "run")
    pod.until_step(step)
    pod.kill(victim, signal.SIGKILL)
    assert pod.end() == 0
    assert "restart 1 of" in pod.log
    assert_equal_runs(pod.workdir, whole, STEPS)


@pytest.mark.slow
def test_sigterm_in_training(start, whole, tmp_path):
    pod = start(tmp_path / "run")
    pod.until_step(random.choice([1, 4, 7]))
    pod.kill(random.randint(0, 1), signal.SIGTERM)
    assert pod.end() == 0
    assert "told to stop, saved at step" in pod.log and "preempted (75)" in pod.log
    assert_equal_runs(pod.workdir, whole, STEPS)


@pytest.mark.slow
def test_sigterm_in_evaluation(start, whole, tmp_path):
    pod = start(tmp_path / "run")
    pod.until_step(HALF)
    pod.kill(1, signal.SIGTERM)
    assert pod.end() == 0
    stopped = pod.log.index(f"told to stop, saved at step {HALF};")
    assert pod.log.index(f"step {HALF}: held-out loss") > stopped
    assert_equal_runs(pod.workdir, whole, STEPS)


@pytest.mark.slow
def test_sigterm_during_compilation(start, whole, tmp_path):
    pod = start(tmp_path / "run")
    pod.until(lambda: "training from step 0" in pod.log)
    assert "compiled" not in pod.log
    pod.kill(0, signal.SIGTERM)
    assert pod.end() == 0
    assert "told to stop, saved at step" in pod.log
    assert_equal_runs(pod.workdir, whole, STEPS)


def test_sigterm_while_importing(start, whole, tmp_path):
    pod = start(tmp_path / "run")
    pod.kill(1, signal.SIGTERM)
    assert pod.end() == 0
    assert "attempt 0: preempted (75)" in pod.log
    assert_equal_runs(pod.workdir, whole, STEPS)


def test_sigterm_to_the_pod_is_passed_on(start, alone, tmp_path):
    pod = start(tmp_path / "run", processes=1)
    pod.until_step(2)
    pod.process.send_signal(signal.SIGTERM)
    assert pod.end() == 75
    assert start(tmp_path / "run", processes=1).end() == 0
    assert_equal_runs(pod.workdir, alone, STEPS)


def test_sigkill_during_a_save(start, whole, tmp_path):
    pod = start(tmp_path / "run")
    folder = pod.workdir / "checkpoints"
    pod.until(lambda: list(folder.glob("6.orbax-checkpoint-tmp*")))
    pod.kill(0, signal.SIGKILL)
    pod.kill(1, signal.SIGKILL)
    assert not (folder / "6").exists(), "the save was faster than the kill: run again"
    assert pod.end() == 0
    assert "resuming at step 3" in pod.log
    assert_equal_runs(pod.workdir, whole, STEPS)


def truncate(step):
    for file in (step / "state").rglob("d/*"):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(step):
    # The merged database; files of single processes may hold what it left behind.
    files = [f for f in step.glob("*/d/*") if f.is_file()]
    file = max(files, key=lambda f: f.stat().st_size)
    content = bytearray(file.read_bytes())
    content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    file.write_bytes(content)


def remove_item(step):
    shutil.rmtree(step / "scales")


def change_record(step):
    file = step / "record" / "metadata"
    file.write_text(file.read_text().replace('"delivered": 6', '"delivered": 7'))


def stray(step):
    (step.parent / "9").mkdir()


@pytest.mark.parametrize(
    "harm",
    [
        truncate,
        change_record,
        *(pytest.param(x, marks=pytest.mark.slow) for x in (flip, remove_item, stray)),
    ],
)
def test_damaged_newest_checkpoint(start, alone, half, tmp_path, harm):
    workdir = tmp_path / "run"
    shutil.copytree(half, workdir)
    harm(workdir / "checkpoints" / str(HALF))
    pod = start(workdir, processes=1)
    assert pod.end() == 0
    bad, good = (9, HALF) if harm is stray else (HALF, 3)
    assert f"CHECKPOINT {bad} IS NOT USED: it is damaged" in pod.log
    assert f"resuming at step {good} " in pod.log
    kept = [x.name for x in (workdir / "damaged").iterdir() if x.is_dir()]
    assert len(kept) == 1 and kept[0].startswith(f"{bad}-")
    assert_equal_runs(workdir, alone, STEPS)


def test_all_processes_choose_the_same_checkpoint(start, whole, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    flip(workdir / "checkpoints" / str(STEPS))
    pod = start(workdir)
    assert pod.end() == 0
    assert f"resuming at step {STEPS - 3} " in pod.log
    assert_equal_runs(workdir, whole, STEPS)


def test_no_checkpoint_that_is_whole_is_no_fresh_start(start, half, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(half, workdir)
    for step in (workdir / "checkpoints").iterdir():
        truncate(step)
    before = sorted(x.name for x in (workdir / "checkpoints").iterdir())
    command = [sys.executable, "-m", "launch.cli", "train", f"--config={start.config}"]
    ended = subprocess.run(
        [*command, f"--workdir={workdir}"],
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "2"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 1, ended.stderr
    assert "nothing was changed" in ended.stderr
    assert before == sorted(x.name for x in (workdir / "checkpoints").iterdir())


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_disk_full_during_a_background_save(start, request, tmp_path, processes):
    """That of the last process; the other one waits for it, up to a limit."""
    run = {"failed_saves": 3, "save_minutes": 0.3}
    knobs = [f"--config.run.{k}={v}" for k, v in run.items()]
    pod = start(tmp_path / "run", *knobs, processes=processes)
    pod.until_step(1)
    pid = pod.attempts()[-1][-1]
    limit = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    # Room for the lines of the metrics, not for arrays.
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (20_000, limit[1]))
    pod.until(lambda: "COULD NOT BE SAVED" in pod.log)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, limit)
    assert pod.end() == 0
    assert "restart" not in pod.log
    assert not list(pod.workdir.rglob("*orbax-checkpoint-tmp*"))
    undisturbed = request.getfixturevalue("alone" if processes == 1 else "whole")
    assert_equal_runs(pod.workdir, undisturbed, STEPS)


def test_saves_by_the_clock_and_a_profile_by_a_signal(start, alone, tmp_path):
    knobs = ["checkpoint_every=1000", "checkpoint_minutes=0.001"]
    knobs = [f"--config.train.{x}" for x in knobs] + ["--config.run.profile_steps=1"]
    pod = start(tmp_path / "run", *knobs, processes=1)
    pod.until_step(2)
    pod.kill(0, signal.SIGUSR2)
    assert pod.end() == 0
    saved = [int(x.name) for x in (pod.workdir / "checkpoints").iterdir()]
    assert len(saved) > 1 and max(saved) == STEPS
    assert list((pod.workdir / "profile").rglob("*.xplane.pb"))
    assert_equal_runs(pod.workdir, alone, STEPS)


def test_stuck_process_ends_by_the_watchdog(start, whole, tmp_path):
    pod = start(tmp_path / "run", "--config.run.step_minutes=0.4")
    pod.until_step(4)
    pod.kill(1, signal.SIGSTOP)
    assert pod.end() == 0
    assert "Timeout (0:00:24)!" in pod.log and "Thread 0x" in pod.log
    assert "train/loop.py" in pod.log  # the stacks tell where
    assert_equal_runs(pod.workdir, whole, STEPS)


@pytest.mark.slow
def test_goodput_adds_up_over_two_kills(start, alone, tmp_path):
    pod = start(tmp_path / "run", processes=1)
    pod.until(pod.attempts)
    begun = psutil.Process(pod.attempts()[0][0]).create_time()
    for step in (4, 8):
        pod.until_step(step)
        pod.kill(0, signal.SIGKILL)
        pod.until(lambda step=step: f"restart {step // 4} of" in pod.log)
    assert pod.end() == 0
    clock = time.time() - begun
    command = [sys.executable, "-m", "launch.cli", "inspect", "--json"]
    told = subprocess.run(
        [*command, str(pod.workdir)], capture_output=True, text=True, timeout=100
    )
    goodput = json.loads(told.stdout)["goodput"]
    assert goodput["attempts"] == 3
    assert goodput["ended"] == {"cut off": 2, "finished": 1}
    # The supervisor needs a moment to notice the end.
    print("clock", clock, "ledger", goodput)
    assert sum(goodput["seconds"].values()) == pytest.approx(clock, rel=0.05)
    assert goodput["seconds"]["down"] > 0 and goodput["seconds"]["recompute"] > 0
    assert_equal_runs(pod.workdir, alone, STEPS)


def test_workdir_without_permission(start, tiny_store, tmp_path):
    if os.getuid() != 0:
        pytest.skip("only root can give up its rights")
    open_to_all = pathlib.Path("/tmp") / f"podgcm-drill-{os.getpid()}"
    open_to_all.mkdir(mode=0o755)
    try:
        shutil.copytree(tiny_store.path, open_to_all / "store")
        shutil.copy(start.config, open_to_all / "config.json")
        forbidden = open_to_all / "forbidden"
        forbidden.mkdir(mode=0o755)
        # The program itself may be out of the other user's reach: import it before.
        script = """
import os, sys
import train.loop, train.config
from launch import cli
os.setuid(65534)
cli.main(sys.argv[1:])
"""
        ended = subprocess.run(
            [
                *(sys.executable, "-c", script, "train"),
                f"--config={open_to_all / 'config.json'}",
                f"--config.data.store={open_to_all / 'store'}",
                f"--workdir={forbidden / 'run'}",
            ],
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, "HOME": str(open_to_all), "JAX_NUM_CPU_DEVICES": "2"},
        )
    finally:
        shutil.rmtree(open_to_all)
    assert ended.returncode == 2
    told = [x for x in ended.stderr.splitlines() if x.startswith("podgcm train: ")]
    assert len(told) == 1 and "ermission" in told[0], ended.stderr
    assert "Traceback" not in ended.stderr
