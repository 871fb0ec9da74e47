"""Runs of `podgcm pod` that are watched, disturbed, and compared to the bit."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from train.exit_codes import Failed


class WatchedPod:
    """A pod that trains, as a process of its own; its lines are kept.

    Attributes:
      workdir: of the run.
      process: the supervisor, `podgcm pod`.
      lines: of all processes, so far.
    """

    def __init__(
        self,
        config: pathlib.Path,
        workdir: pathlib.Path,
        cache: pathlib.Path,
        *overrides: str,
        processes: int = 2,
        devices: int = 1,
        supervision: tuple[str, ...] = ("--restarts=5", "--grace=5"),
    ) -> None:
        """
        Args:
          config: file.
          workdir: of the run.
          cache: folder of compiled programs.
          *overrides: `--config.KEY=VALUE`.
          processes, devices: how many, and devices of each.
          supervision: further options of `podgcm pod`.
        """
        self.workdir = workdir
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "launch.cli", "pod", *supervision),
                *(f"--processes={processes}", f"--devices={devices}", "--", "train"),
                *(f"--config={config}", f"--workdir={workdir}", *overrides),
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

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.append(line.rstrip())

    @property
    def log(self) -> str:
        return "\n".join(self.lines)

    def until(self, condition: Callable[[], bool], minutes: float = 10) -> None:
        """Waits for a condition, looking often.

        Raises:
          Failed: if the pod ends before, or it takes too long.
        """
        deadline = time.monotonic() + 60 * minutes
        while not condition():
            if self.process.poll() is not None:
                raise Failed(f"the pod has ended:\n{self.log}")
            if time.monotonic() > deadline:
                raise Failed(f"waited for {minutes} minutes:\n{self.log}")
            time.sleep(0.002)

    def step(self) -> int:
        """The last step in the metrics."""
        file = self.workdir / "metrics.jsonl"
        if not file.exists():
            return 0
        steps = re.findall(r'^\{"step": (\d+), ', file.read_text(), re.MULTILINE)
        return max(map(int, steps), default=0)

    def attempts(self) -> list[list[int]]:
        """Process ids of all attempts so far."""
        found = [re.match(r"pod: attempt \d+: .* pids (.*)", x) for x in self.lines]
        return [[int(pid) for pid in m.group(1).split()] for m in found if m]

    def ended(self) -> int:
        """How many attempts are over."""
        ends = r"pod: attempt \d+: (preempted|failed|finished|ended)"
        return sum(bool(re.match(ends, x)) for x in self.lines)

    def kill(self, number: int, kind: signal.Signals, attempt: int = -1) -> None:
        """Sends a signal to a process of an attempt, the newest if none is named.

        Raises:
          ProcessLookupError: if it has ended by itself.
        """
        self.until(lambda: bool(self.attempts()))
        os.kill(self.attempts()[attempt][number], kind)

    def end(self, minutes: float | None = None) -> int:
        """Waits for the end; the pod's exit code."""
        code = self.process.wait(timeout=minutes and 60 * minutes)
        self._reader.join(timeout=10)
        return code


def read_state(workdir: pathlib.Path, step: int) -> Any:
    """All arrays of a checkpoint's state, as a tree."""
    path = (workdir / "checkpoints" / str(step) / "state").resolve()
    handler = ocp.PyTreeCheckpointHandler()
    as_numpy = jax.tree.map(
        lambda _: ocp.RestoreArgs(restore_type=np.ndarray), handler.metadata(path).tree
    )
    return handler.restore(path, args=ocp.args.PyTreeRestore(restore_args=as_numpy))


def differing_arrays(ours: pathlib.Path, theirs: pathlib.Path, step: int) -> int:
    """How many arrays of two runs' states are not the same to the bit."""
    states = [read_state(folder, step) for folder in (ours, theirs)]
    same = jax.tree.map(
        lambda a, b: a.dtype == b.dtype and a.tobytes() == b.tobytes(), *states
    )
    return sum(not x for x in jax.tree.leaves(same))
