"""Runs of `podgcm pod` that tests watch and disturb."""

import json
import os
import pathlib
import re
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import orbax.checkpoint as ocp

TIMEOUT = 600  # seconds, of whatever is waited for


class Pod:
    """A pod that trains, as a process of its own; its lines are kept."""

    def __init__(self, config, workdir, cache, *overrides, processes=2, devices=1):
        self.workdir = pathlib.Path(workdir)
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "launch.cli", "pod", "--restarts=5"),
                *(f"--processes={processes}", f"--devices={devices}", "--grace=5"),
                *("--", "train", f"--config={config}", f"--workdir={workdir}"),
                *overrides,
            ],
            env={
                **os.environ,
                "JAX_COMPILATION_CACHE_DIR": str(cache),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                # On CPUs only process 0 can use the cache: compile quickly.
                "XLA_FLAGS": "--xla_backend_optimization_level=0",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(line.rstrip())

    @property
    def log(self):
        return "\n".join(self.lines)

    def until(self, condition):
        """Waits until `condition()`, looking often; fails if the pod ends before."""
        deadline = time.monotonic() + TIMEOUT
        while not condition():
            assert self.process.poll() is None, f"the pod has ended:\n{self.log}"
            assert time.monotonic() < deadline, f"waited too long:\n{self.log}"
            time.sleep(0.002)

    def until_step(self, step):
        """Waits for the line of a step in the metrics."""
        file = self.workdir / "metrics.jsonl"
        line = f'{{"step": {step}, '
        self.until(lambda: file.exists() and line in file.read_text())

    def pids(self):
        """Of the processes of the newest attempt, in their order."""
        said = [x for x in self.lines if re.match(r"pod: attempt \d+: .* pids ", x)]
        return [int(pid) for pid in said[-1].partition(" pids ")[2].split()]

    def kill(self, number, signal):
        self.until(lambda: "pids" in self.log)
        os.kill(self.pids()[number], signal)

    def end(self):
        """Waits for the end; the pod's exit code."""
        code = self.process.wait(timeout=TIMEOUT)
        self._reader.join(timeout=10)
        print(self.log)
        return code


def state(workdir, step):
    """All arrays of a checkpoint's state, as a tree."""
    path = (pathlib.Path(workdir) / "checkpoints" / str(step) / "state").resolve()
    return ocp.PyTreeCheckpointHandler().restore(
        path,
        args=ocp.args.PyTreeRestore(
            restore_args=jax.tree.map(
                lambda _: ocp.RestoreArgs(restore_type=np.ndarray),
                ocp.PyTreeCheckpointHandler().metadata(path).tree,
            )
        ),
    )


def losses(workdir):
    """By step."""
    text = (pathlib.Path(workdir) / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def assert_equal_runs(workdir, expected, step):
    """Same metrics and same bits of the final state."""
    got, wanted = (
        (pathlib.Path(x) / "metrics.jsonl").read_text() for x in (workdir, expected)
    )
    assert got == wanted
    jax.tree.map(
        np.testing.assert_array_equal, state(workdir, step), state(expected, step)
    )
