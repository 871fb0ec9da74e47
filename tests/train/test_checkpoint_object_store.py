"""Checkpoints in a bucket, which the stand-in object store keeps.

Every case runs processes of its own, as its clients read their environment once.
"""

import json
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time

import pytest

from launch.object_store import ObjectStore
from train.config import to_json

pytest.importorskip("gcsfs", reason="needs the extra `cloud`")

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = "run/checkpoints/"
STEPS = 8
SEAL = "commit_success.txt"

# A run whose every number is its step. `tell` prints a line of JSON.
PRELUDE = """
    import json, sys
    import jax, numpy as np
    from jax.sharding import NamedSharding, PartitionSpec
    from train import checkpoint, processes
    from train.folder import open_path

    WORKDIR = "gs://bucket/run"
    processes.join(60, 100)
    mesh = jax.make_mesh((jax.device_count(),), ("x",))

    def state(n):
        rows = np.arange(8 * 300, dtype=np.float32).reshape(8, 300)
        return {"rows": rows + n, "inner": {"n": np.full(8, n, np.int32)}}

    def scales(n):
        return {"mean": np.full(3, n, np.float32)}

    def shapes(tree):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)

    def place(tree, *spec):
        sharding = NamedSharding(mesh, PartitionSpec(*spec))
        def array(x):
            return jax.make_array_from_callback(x.shape, sharding, x.__getitem__)
        return jax.tree.map(array, tree)

    def save(*numbers, keep=2, keep_every=0):
        with checkpoint.Checkpoints(WORKDIR, keep, keep_every, 2, 0) as saves:
            for n in numbers:
                saves.save(n, place(state(n), "x"), place(scales(n)), {"number": n})
        assert not saves.failed

    def read_newest():
        saved, bad = checkpoint.read_newest(
            WORKDIR, shapes(state(0)), shapes(scales(0))
        )
        if saved:
            expected = state(saved.step), scales(saved.step)
            found = saved.state, saved.scales
            jax.tree.map(np.testing.assert_array_equal, found, expected)
            assert saved.record["number"] == saved.step
        return saved and saved.step, bad

    def tell(**values):
        print(json.dumps(values), flush=True)
"""
RESTORE = """
    newest, bad = read_newest()
    tell(newest=newest, bad=list(bad), steps=checkpoint.steps(WORKDIR))
"""


@pytest.fixture
def store():
    with ObjectStore() as store:
        yield store


def start(store, source, processes=1, devices=4):
    """Starts a program as some processes, which share the devices."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {
        **os.environ,
        **store.environment,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices // processes),
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
        "XLA_FLAGS": "",
        "PYTHONPATH": str(ROOT),
    }
    program = textwrap.dedent(PRELUDE) + textwrap.dedent(source)
    return [
        subprocess.Popen(
            [sys.executable, "-c", program],
            env={
                **environment,
                "JAX_COORDINATOR_ADDRESS": address,
                "JAX_NUM_PROCESSES": str(processes),
                "JAX_PROCESS_ID": str(number),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(processes)
    ]


def run(store, source, processes=1, devices=4, timeout=120):
    """Runs a program; returns what the first of its processes told last."""
    started = start(store, source, processes, devices)
    deadline = time.monotonic() + timeout
    try:
        told = [p.communicate(timeout=deadline - time.monotonic()) for p in started]
    finally:
        for process in started:
            process.kill()
    for process, (_, errors) in zip(started, told, strict=True):
        assert process.returncode == 0, errors[-3000:]
    # Gloo says a line, too.
    lines = [line for line in told[0][0].splitlines() if line.startswith("{")]
    return json.loads(lines[-1]) if lines else None


def names(store, prefix=FOLDER):
    """Names of objects, without their prefix."""
    objects = store.objects.page("bucket", 100_000, prefix=prefix).objects
    return [name.removeprefix(prefix) for name in objects]


def folders(store):
    return {name.split("/")[0] for name in names(store)}


@pytest.mark.parametrize("savers, readers", [(1, 1), (2, 2), (2, 1), (1, 2)])
def test_saved_kept_and_restored(store, savers, readers):
    run(store, "save(1, 2, 3, 4, 5, keep_every=2)", savers)
    # Those deleted are gone without a trace, and the others end with their seal.
    assert folders(store) == {"2", "4", "5"}
    assert {f"{n}/{SEAL}" for n in (2, 4, 5)} < set(names(store))
    assert run(store, RESTORE, readers) == {"newest": 5, "bad": [], "steps": [2, 4, 5]}


def test_there_is_nothing(store):
    assert run(store, RESTORE) == {"newest": None, "bad": [], "steps": []}


def content(store, name):
    return bytes(store.objects.get("bucket", FOLDER + name).content)


def truncate(store, step, folder=FOLDER):
    for name in names(store, folder):
        if name.startswith(f"{step}/state/") and "/d/" in name:
            whole = store.objects.get("bucket", folder + name).content
            store.objects.put("bucket", folder + name, whole[: len(whole) // 2])


def flip_a_bit(store, step):
    """Of the numbers, in the largest object: they are not compressed here."""
    data = [n for n in names(store) if n.startswith(f"{step}/state/")]
    name = max(data, key=lambda n: len(content(store, n)))
    flipped = bytearray(content(store, name))
    flipped[len(flipped) // 2] ^= 1
    store.objects.put("bucket", FOLDER + name, bytes(flipped))


def remover(part):
    def remove(store, step):
        for name in names(store):
            if name.startswith(f"{step}/{part}"):
                store.objects.delete("bucket", FOLDER + name)

    remove.__name__ = f"remove {part}"
    return remove


DAMAGES = [
    truncate,
    flip_a_bit,
    remover("state/manifest.ocdbt"),
    remover("state/"),
    remover("record/"),
]


@pytest.mark.parametrize(
    "damage, processes", [*((d, 1) for d in DAMAGES), (truncate, 2)]
)
def test_damaged_ones_are_moved_aside(store, damage, processes):
    run(store, "save(1, 2)", processes)
    damage(store, 2)
    damaged = names(store, FOLDER + "2/")
    go_on = """
        newest, bad = read_newest()
        processes.on_first("aside", lambda: checkpoint.set_aside(WORKDIR, bad))
        first = [newest, list(bad), checkpoint.steps(WORKDIR)]
        save(2, 3)
        tell(first=first, again=[*read_newest(), checkpoint.steps(WORKDIR)])
    """
    assert run(store, go_on, processes) == {
        "first": [1, [2], [1]],
        "again": [3, {}, [2, 3]],
    }
    # What was damaged is kept whole, and says why.
    aside = names(store, "run/damaged/")
    (note,) = [name for name in aside if "/" not in name]
    kept = note.removesuffix(".txt") + "/"
    assert aside == sorted([note, *(kept + name for name in damaged)])
    assert store.objects.get("bucket", f"run/damaged/{note}").content


def test_all_are_damaged(store):
    run(store, "save(1, 2)")
    truncate(store, 1)
    flip_a_bit(store, 2)
    before = names(store, "")
    found = """
        from train.exit_codes import Failed
        try:
            read_newest()
        except Failed as failed:
            tell(failed=str(failed))
    """
    assert "none of the 2 checkpoints" in run(store, found)["failed"]
    assert names(store, "") == before


def test_what_is_not_sealed_is_deleted(store):
    """A folder without its seal is taken for a save that was broken off."""
    run(store, "save(1, 2)")
    store.objects.delete("bucket", f"{FOLDER}2/{SEAL}")
    store.objects.put("bucket", f"{FOLDER}9/stray", b"")
    store.objects.put("bucket", f"{FOLDER}note.txt", b"")
    assert run(store, RESTORE) == {"newest": 1, "bad": [], "steps": [1]}
    assert folders(store) == {"1", "2", "9", "note.txt"}  # reading changes nothing
    run(store, "save(2)")
    assert folders(store) == {"1", "2", "note.txt"}
    assert run(store, RESTORE) == {"newest": 2, "bad": [], "steps": [1, 2]}


@pytest.mark.drill
@pytest.mark.parametrize("processes, objects", [(1, 1), (1, 15), (2, 5), (2, 10)])
def test_killed_while_saving(store, processes, objects):
    run(store, "save(1)", processes)
    store.configure(latency=0.01)  # else it is over too soon
    started = start(store, "save(2)", processes)
    deadline = time.monotonic() + 60
    try:
        while len(names(store, FOLDER + "2/")) < objects:
            assert time.monotonic() < deadline, "nothing was saved"
            time.sleep(0.001)
    finally:
        for process in started:
            process.send_signal(signal.SIGKILL)
            process.communicate(timeout=60)
    assert all(process.returncode == -signal.SIGKILL for process in started)
    store.configure(latency=0)
    assert f"2/{SEAL}" not in names(store), "it was killed too late"
    # Objects of data never have the same name twice.
    left = {name for name in names(store, FOLDER) if re.match("2/.*/d/", name)}

    assert run(store, RESTORE, processes) == {"newest": 1, "bad": [], "steps": [1]}
    # Its step can be saved, of which nothing from before is left.
    run(store, "save(2)", processes)
    assert not left & set(names(store))
    assert run(store, RESTORE, processes) == {"newest": 2, "bad": [], "steps": [1, 2]}


def test_another_process_is_seen(store):
    """Lists are not kept: they would hide what others wrote or deleted since."""
    run(store, "save(1, 2)")
    watch = """
        folder = open_path(WORKDIR) / "checkpoints"
        for _ in range(2):
            here = sorted(step.name for step in folder.iterdir())
            tell(here=here, steps=checkpoint.steps(WORKDIR))
            sys.stdin.readline()
    """
    (watcher,) = start(store, watch)
    try:
        told = json.loads(watcher.stdout.readline())
        assert told == {"here": ["1", "2"], "steps": [1, 2]}
        run(store, "save(3)")
    finally:
        told, errors = watcher.communicate("\n\n", timeout=60)
    assert watcher.returncode == 0, errors
    assert json.loads(told) == {"here": ["2", "3"], "steps": [2, 3]}


def test_failing_requests_are_tried_again(store):
    store.configure(failure_rate=0.03)
    run(store, "save(1, 2)", timeout=240)
    found = run(store, RESTORE, timeout=240)
    assert found == {"newest": 2, "bad": [], "steps": [1, 2]}
    assert store.statistics().failed > 0


@pytest.fixture(scope="module")
def train(tmp_path_factory, make_tiny_config):
    """A function that starts to train in a bucket, on a mesh of 8, as a process."""
    folder = tmp_path_factory.mktemp("train")
    config = make_tiny_config()
    config.train.steps = config.train.eval_every = STEPS
    config.train.checkpoint_every = 2
    config.mesh.data = config.mesh.level = config.mesh.lat = 2
    config.model.step_minutes = 360
    config.data.frames = 2
    file = folder / "config.json"
    file.write_text(json.dumps(to_json(config)))

    def train(store, workdir):
        command = [sys.executable, "-m", "launch.cli", "train", f"--config={file}"]
        return subprocess.Popen(
            [*command, f"--workdir={workdir}"],
            cwd=ROOT,
            env={
                **os.environ,
                **store.environment,
                "JAX_PLATFORMS": "cpu",
                "JAX_NUM_CPU_DEVICES": "8",
                "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                "XLA_FLAGS": "--xla_backend_optimization_level=0",
            },
            stderr=subprocess.PIPE,
            text=True,
        )

    return train


def finish(process):
    """Waits for a process; returns what it said."""
    try:
        _, errors = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 0, errors[-3000:]
    return errors


@pytest.fixture(scope="module")
def trained(train):
    """A store with a run that was never stopped, `whole`."""
    with ObjectStore() as store:
        finish(train(store, "gs://bucket/whole"))
        yield store


def check_same(store, workdir):
    """The parameters and all else of a run are bit-identical to those of `whole`."""
    same = f"""
        import orbax.checkpoint as ocp
        def state(run):
            path = open_path(f"gs://bucket/{{run}}/checkpoints/{STEPS}/state")
            return jax.tree.map(np.asarray, ocp.StandardCheckpointer().restore(path))
        whole, other = state("whole"), state("{workdir}")
        jax.tree.map(np.testing.assert_array_equal, whole, other)
        tell(leaves=len(jax.tree.leaves(whole)))
    """
    assert run(store, same, devices=8)["leaves"] > 10
    lines = [
        bytes(store.objects.get("bucket", f"{folder}/metrics.jsonl").content)
        for folder in ("whole", workdir)
    ]
    assert lines[0] == lines[1] and lines[0].count(b"\n") == STEPS + 1


@pytest.mark.drill
def test_killed_run_in_a_bucket_is_bit_identical(train, trained):
    all_of_them = len(names(trained, f"whole/checkpoints/{STEPS}/"))
    step, objects = random.choice([2, 4, 6]), random.randint(1, 2 * all_of_them // 3)
    print(f"to be killed when {objects} objects of step {step} are there")
    process = train(trained, "gs://bucket/killed")
    deadline = time.monotonic() + 300
    trained.configure(latency=0.005)
    try:
        while len(names(trained, f"killed/checkpoints/{step}/")) < objects:
            assert process.poll() is None, process.stderr.read()[-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.001)
    finally:
        process.kill()
        trained.configure(latency=0)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    there = names(trained, "killed/checkpoints/")
    newest = max((n for n in (2, 4, 6) if f"{n}/{SEAL}" in there), default=0)
    said = finish(train(trained, "gs://bucket/killed"))
    assert (f"resuming at step {newest} " if newest else "training from step") in said
    check_same(trained, "killed")


@pytest.mark.drill
def test_run_in_a_bucket_goes_on_from_before_the_damage(train, trained):
    for name in names(trained, "whole/"):
        whole = trained.objects.get("bucket", f"whole/{name}").content
        trained.objects.put("bucket", f"hurt/{name}", whole)
    truncate(trained, STEPS, "hurt/checkpoints/")
    said = finish(train(trained, "gs://bucket/hurt"))
    assert f"CHECKPOINT {STEPS} IS NOT USED: it is damaged" in said
    assert f"resuming at step {STEPS - 2} " in said
    assert names(trained, "hurt/damaged/")
    check_same(trained, "hurt")
