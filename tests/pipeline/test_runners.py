"""Beam's runners: all give the same bytes, whatever is killed, and whenever."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipeline.errors import UserError
from pipeline.preprocess import preprocess

pytestmark = pytest.mark.drill

STEPS = 40
DRILLS = 4
SLOW_DRILLS = 20


@pytest.fixture(scope="module")
def source(make_dataset, tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "source.zarr"
    make_dataset(steps=STEPS).to_zarr(path, zarr_format=2)
    return path


def options(source, output):
    """Of a run that has many small shards: one for each time."""
    return {
        "source": str(source),
        "output": str(output),
        "grid": "T21",
        "variables": "temperature,sea_surface_temperature,land_sea_mask",
        "levels": "500,850",
        "shard_steps": 1,
    }


@pytest.fixture(scope="module")
def expected(source, tmp_path_factory):
    """Bytes of all files of a store that nothing disturbed."""
    path = tmp_path_factory.mktemp("store") / "store"
    preprocess(**options(source, path))
    return content(path)


def content(path):
    """Bytes of all files of a store but the reports of runs."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in Path(path).rglob("*")
        if file.is_file() and "runs" not in file.parts
    }


def start(source, output, *flags):
    """`podgcm preprocess` as a process, the first of a group of its own.

    Its messages go into a file beside the output.
    """
    own = [f"--{key}={value}" for key, value in options(source, output).items()]
    with open(f"{output}.log", "w") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "launch.cli", "preprocess", *own, *flags],
            stderr=log,
            start_new_session=True,
        )


def finish(process, output):
    assert process.wait() == 0, Path(f"{output}.log").read_text()


# --- runners ------------------------------------------------------------------------


def test_direct_runner_stays_in_this_process(
    source, expected, tmp_path, monkeypatch, caplog
):
    """Beam's own would look for a program to download."""

    def refuse(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    caplog.set_level("DEBUG")
    preprocess(**options(source, tmp_path / "store"), runner="DirectRunner")
    assert content(tmp_path / "store") == expected
    assert not (tmp_path / "home").exists()
    assert "fn_api_runner" in " ".join(record.name for record in caplog.records)
    assert "prism" not in caplog.text.lower()


@pytest.mark.parametrize("mode", ["multi_processing", "multi_threading"])
def test_local_workers(source, expected, tmp_path, mode):
    flags = ["--", f"--direct_running_mode={mode}", "--direct_num_workers=2"]
    finish(start(source, tmp_path / "store", *flags), tmp_path / "store")
    assert content(tmp_path / "store") == expected


def test_dask_cluster_that_is_there(source, expected, tmp_path):
    """Its workers share the items; the connection to it is closed at the end."""
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        clients = set(cluster.scheduler.clients)
        with distributed.get_task_stream(client) as stream:
            preprocess(
                **options(source, tmp_path / "store"),
                runner="DaskRunner",
                beam_options=[f"--dask_client_address={cluster.scheduler_address}"],
            )
        assert set(cluster.scheduler.clients) == clients
        assert len(client.scheduler_info()["workers"]) == 2
    assert content(tmp_path / "store") == expected
    items = {}
    for task in stream.data:
        items[task["worker"]] = items.get(task["worker"], 0) + 1
    # Two chains of 81 items, each its own task.
    assert len(items) == 2 and sum(items.values()) >= 2 * (2 * STEPS + 1)
    assert min(items.values()) > STEPS / 2


def test_dask_that_is_not_there(source, tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    arguments = options(source, tmp_path / "store") | {"runner": "DaskRunner"}
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = server.getsockname()[1]
    flags = [
        f"--dask_client_address=tcp://127.0.0.1:{free}",
        "--dask_connection_timeout=1",
    ]
    with pytest.raises(UserError, match="^Dask failed: .*trying to connect") as info:
        preprocess(**arguments, beam_options=flags)
    assert "\n" not in str(info.value)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UserError, match=r"needs Dask: pip install 'podgcm\[dask\]'"):
        preprocess(**arguments)


# --- kills --------------------------------------------------------------------------


def finished_objects(path):
    """Age and number of the file of every shard that has its marker."""
    found = {}
    for marker in (path / "_build/done").rglob("*.json"):
        for file in (path / marker.parent.name / "c" / marker.stem).rglob("*"):
            if file.is_file():
                state = file.stat()
                found[file] = state.st_ino, state.st_mtime_ns
    return found


def wait_for(process, path, files):
    """Until a store has so many files, or the process ends."""
    while process.poll() is None:
        count = sum(
            len(names)
            for folder, _, names in os.walk(path)
            if not folder.endswith("/_build/runs")
        )
        if count >= files:
            return
        time.sleep(0.002)


def moments(seed, files, number):
    """Numbers of files at which to kill: some in each phase of a run."""
    choose = random.Random(seed)
    phases = {  # Each shard is an object and a marker, then a file of its moments.
        "shards": (0, 2 * (2 * STEPS + 1)),
        "statistics": (2 * (2 * STEPS + 1) + 1, 3 * (2 * STEPS + 1)),
        "finishing": (3 * (2 * STEPS + 1) + 1, files - 1),
    }
    names = list(phases)
    chosen = [names[i % len(names)] for i in range(number)]
    return [(name, choose.randint(*phases[name]), choose.random()) for name in chosen]


def drill(source, output, expected, moment, flags=(), kill=os.killpg):
    """Kills a run at a moment, with all its processes or (os.kill) without its workers,
    and runs it again.

    Returns:
      Whether it was still running, and how many shards it had finished.
    """
    _, files, delay = moment
    process = start(source, output, *flags)
    wait_for(process, output, files)
    time.sleep(0.02 * delay)
    with contextlib.suppress(ProcessLookupError):  # It had ended.
        kill(process.pid, signal.SIGKILL)
    process.wait()
    before = finished_objects(output)
    preprocess(**options(source, output))
    check_untouched(output, before, expected)
    return process.returncode == -signal.SIGKILL, len(before)


def check_untouched(output, before, expected):
    """What was finished was not written again, and all is as if undisturbed."""
    after = finished_objects(output)
    assert {file: after[file] for file in before} == before
    assert content(output) == expected


def check_drills(source, expected, folder, number, flags=(), kill=os.killpg):
    results = []
    for i, moment in enumerate(moments(number, len(expected), number)):
        output = folder / str(i)
        results.append(drill(source, output, expected, moment, flags, kill))
    hits, done = zip(*results, strict=True)
    # Nearly all came in time, and they left stores of very different progress.
    assert sum(hits) >= 0.7 * number, results
    assert min(done) < STEPS < max(done), results


def test_killed_runs_go_on(source, expected, tmp_path):
    check_drills(source, expected, tmp_path, DRILLS)


@pytest.mark.slow
def test_killed_runs_go_on_always(source, expected, tmp_path):
    check_drills(source, expected, tmp_path, SLOW_DRILLS)


@pytest.mark.slow
@pytest.mark.parametrize("kill", [os.killpg, os.kill])
def test_killed_dask_runs_go_on(source, expected, tmp_path, kill):
    """With its workers, or without: they may then still be writing for a while."""
    pytest.importorskip("distributed")
    flags = ["--runner=DaskRunner"]
    check_drills(source, expected, tmp_path, SLOW_DRILLS // 8, flags, kill)


def kill_worker(source, output, expected, moment):
    """Kills one of Dask's workers at a moment; the run is to finish nevertheless.

    Returns:
      Whether there was one.
    """
    _, files, delay = moment
    process = start(source, output, "--runner=DaskRunner")
    wait_for(process, output, files)
    time.sleep(0.02 * delay)
    before = finished_objects(output)
    workers = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "spawn_main" in " ".join(child.cmdline())
    ]
    if workers:
        workers[files % len(workers)].kill()
    finish(process, output)
    check_untouched(output, before, expected)
    return bool(workers)


def test_dask_survives_a_killed_worker(source, expected, tmp_path):
    """Even what it had finished is given out again, but not written again."""
    pytest.importorskip("distributed")
    moment = ("shards", 2 * STEPS, 0.5)
    assert kill_worker(source, tmp_path / "store", expected, moment)


@pytest.mark.slow
def test_dask_survives_killed_workers(source, expected, tmp_path):
    pytest.importorskip("distributed")
    number = SLOW_DRILLS // 5
    hits = [
        kill_worker(source, tmp_path / str(i), expected, moment)
        for i, moment in enumerate(moments(1, len(expected), number))
    ]
    assert sum(hits) >= 0.5 * number, hits
