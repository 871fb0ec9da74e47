"""Checkpoints in a bucket, which the stand-in object store keeps.

Every case runs processes of its own, as its clients read their environment once.
"""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import textwrap
import time

import pytest

from launch.object_store import ObjectStore

pytest.importorskip("gcsfs", reason="needs the extra `cloud`")

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = "run/checkpoints/"
COMMITTED = "commit_success.txt"

# Orbax alone, as `train.checkpoint` uses it. `tell` prints a line of JSON.
ORBAX = """
    import json, os, sys, time
    import fsspec
    import jax, numpy as np
    import orbax.checkpoint as ocp
    from etils import epath
    from jax.sharding import NamedSharding, PartitionSpec

    # Else a list is kept for ever, and what other processes write is never seen.
    fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False
    address, count, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    if count > 1:
        jax.distributed.initialize(address, count, number, initialization_timeout=60)
    mesh = jax.make_mesh((jax.device_count(),), ("x",))

    def array(values):
        sharding = NamedSharding(mesh, PartitionSpec("x" if values.ndim else None))
        callback = values.__getitem__
        return jax.make_array_from_callback(values.shape, sharding, callback)

    def tree(n):
        rows = np.arange(8 * 300, dtype=np.float32).reshape(8, 300)
        return {"rows": array(rows + n), "inner": {"n": array(np.full(8, n))}}

    def manager(**options):
        options = {"max_to_keep": 2, "cleanup_tmp_directories": True, **options}
        return ocp.CheckpointManager(
            epath.Path("gs://bucket/run/checkpoints"),
            options=ocp.CheckpointManagerOptions(**options),
        )

    def save(steps, n):
        state, record = ocp.args.StandardSave(tree(n)), ocp.args.JsonSave({"n": n})
        steps.save(n, args=ocp.args.Composite(state=state, record=record))

    def restore(steps, n):
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, tree(0))
        state, record = ocp.args.StandardRestore(shapes), ocp.args.JsonRestore()
        found = steps.restore(n, args=ocp.args.Composite(state=state, record=record))
        assert found.record == {"n": n}
        def check(x, y):
            for a, b in zip(x.addressable_shards, y.addressable_shards, strict=True):
                np.testing.assert_array_equal(a.data, b.data)
        jax.tree.map(check, found.state, tree(n))

    def tell(**values):
        print(json.dumps(values), flush=True)
"""


@pytest.fixture
def store():
    with ObjectStore() as store:
        yield store


def start(store, source, processes=1, prelude=ORBAX):
    """Starts a program as some processes, which make up four devices."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {
        **os.environ,
        **store.environment,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(4 // processes),
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
        "XLA_FLAGS": "",
        "PYTHONPATH": str(ROOT),
    }
    program = textwrap.dedent(prelude) + textwrap.dedent(source)
    return [
        subprocess.Popen(
            [sys.executable, "-c", program, address, str(processes), str(number)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(processes)
    ]


def run(store, source, processes=1, timeout=120, **options):
    """Runs a program; returns what the first of its processes told last."""
    started = start(store, source, processes, **options)
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


SAVE_TWO = """
    with manager() as steps:
        for n in (1, 2):
            save(steps, n)
"""
RESTORE_NEWEST = """
    with manager() as steps:
        newest = steps.latest_step()
        restore(steps, newest)
        tell(steps=sorted(steps.all_steps()), newest=newest)
"""


@pytest.mark.parametrize("savers, readers", [(1, 1), (2, 2), (2, 1), (1, 2)])
def test_saved_kept_and_restored(store, savers, readers):
    save = """
        with manager() as steps:
            for n in (1, 2, 3):
                save(steps, n)
            steps.wait_until_finished()
            tell(steps=sorted(steps.all_steps()))
    """
    assert run(store, save, savers) == {"steps": [2, 3]}
    # The first is gone without a trace, and the others end with their seal.
    assert {name.split("/")[0] for name in names(store)} == {"2", "3"}
    assert {f"2/{COMMITTED}", f"3/{COMMITTED}"} < set(names(store))
    assert run(store, RESTORE_NEWEST, readers) == {"steps": [2, 3], "newest": 3}


@pytest.mark.drill
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("objects", [1, 4, 8, 12])
def test_killed_while_saving(store, processes, objects):
    run(store, "with manager() as steps:\n    save(steps, 1)\n", processes)
    store.configure(latency=0.01)  # else it is over too soon
    save = "with manager() as steps:\n    save(steps, 2)\n"
    started = start(store, save, processes)
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
    assert f"2/{COMMITTED}" not in names(store), "it was killed too late"

    found = run(store, RESTORE_NEWEST, processes)
    assert found == {"steps": [1], "newest": 1}
    # What was left of it is cleared away, and its step can be saved.
    assert names(store, FOLDER + "2/") == []
    run(store, save, processes)
    found = run(store, RESTORE_NEWEST, processes)
    assert found == {"steps": [1, 2], "newest": 2}


def test_what_is_not_sealed_is_deleted(store):
    """A folder without its seal is taken for a save that was broken off."""
    run(store, SAVE_TWO)
    store.objects.delete("bucket", f"{FOLDER}2/{COMMITTED}")
    store.objects.put("bucket", f"{FOLDER}9/stray", b"")
    store.objects.put("bucket", f"{FOLDER}note.txt", b"")
    read_only = """
        with manager(read_only=True) as steps:
            tell(steps=steps.all_steps())
    """
    assert run(store, read_only) == {"steps": [1]}
    assert names(store, FOLDER + "2/") and names(store, FOLDER + "9/")
    assert run(store, RESTORE_NEWEST) == {"steps": [1], "newest": 1}
    assert {name.split("/")[0] for name in names(store)} == {"1", "note.txt"}


def test_moved_aside(store):
    run(store, SAVE_TWO)
    before = names(store, FOLDER + "2/")
    move = """
        folder = epath.Path("gs://bucket/run")
        target = folder / "damaged" / "2"
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            (folder / "checkpoints" / "2").rename(target)
        except FileNotFoundError:
            # There are no folders: one exists as soon as it has something in it.
            (folder / "damaged" / "2.txt").write_text("why")
            (folder / "checkpoints" / "2").rename(target)
            with manager() as steps:
                restore(steps, steps.latest_step())
                save(steps, 2)
                steps.wait_until_finished()
                tell(steps=sorted(steps.all_steps()))
    """
    assert run(store, move) == {"steps": [1, 2]}
    assert names(store, "run/damaged/2/") == before
    assert names(store, "run/damaged/") == ["2.txt"] + [f"2/{n}" for n in before]


def test_another_process_is_seen(store):
    """Lists are not kept: they would hide what others wrote or deleted since."""
    run(store, SAVE_TWO)
    watch = """
        steps = manager(read_only=True)
        first = sorted(steps.all_steps())
        folder = epath.Path("gs://bucket/run")
        list(folder.iterdir()), list((folder / "checkpoints").iterdir())
        tell(steps=first)
        sys.stdin.readline()
        steps.reload()
        gone = (folder / "checkpoints" / "1" / "commit_success.txt").exists()
        tell(steps=sorted(steps.all_steps()), first_exists=gone)
    """
    (watcher,) = start(store, "import sys\n" + textwrap.dedent(watch))
    try:
        assert json.loads(watcher.stdout.readline()) == {"steps": [1, 2]}
        run(store, "with manager() as steps:\n    save(steps, 3)\n")
    finally:
        told, errors = watcher.communicate("\n", timeout=60)
    assert watcher.returncode == 0, errors
    assert json.loads(told) == {"steps": [2, 3], "first_exists": False}


def test_failures_are_tried_again(store):
    store.configure(failure_rate=0.03)
    run(store, SAVE_TWO, timeout=240)
    assert run(store, RESTORE_NEWEST, timeout=240) == {"steps": [1, 2], "newest": 2}
    assert store.statistics().failed > 0
