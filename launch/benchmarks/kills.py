"""`podgcm bench kills`: is anything lost when a pod is killed again and again?

A tiny model is trained twice, undisturbed, and by a pod whose processes get signals at
random times: in training, while starting, compiling, restoring, saving, evaluating.
Then the metrics are compared line by line and the final state array by array.
"""

import argparse
import json
import pathlib
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from configs import base
from launch.benchmarks.watched_pod import WatchedPod, differing_arrays
from launch.sample import make_sample
from pipeline.errors import UserError
from pipeline.preprocess import preprocess
from train.config import to_json
from train.exit_codes import Failed
from train.ledger import attempts, summarize

_SAVE_EVERY = 2  # steps
_STEPS_PER_KILL = 3  # so that the run is not over before the last kill
_SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP)
_SHARES = (0.6, 0.3, 0.1)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--count", type=int, default=50, help="kills (default 50)")
    parser.add_argument("--processes", type=int, default=2, help="(default 2)")
    parser.add_argument("--seed", type=int, default=0, help="of the kills (default 0)")
    parser.add_argument("--folder", help="to work in (default: a temporary one)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Runs the benchmark.

    Returns:
      `kills` delivered; `recomputed`: steps run again; `lost`: lines of the metrics
      that are missing, repeated or different; `altered`: arrays of the final state that
      are not the same to the bit; and how it went.

    Raises:
      UserError: if a number makes no sense.
      Failed: if a run does not end well.
    """
    if args.count < 1 or args.processes < 1:
        raise UserError("--count and --processes must be at least 1")
    if args.folder:
        return _run(args, pathlib.Path(args.folder).resolve())
    with tempfile.TemporaryDirectory(prefix="podgcm-kills-") as folder:
        return _run(args, pathlib.Path(folder))


def _run(args: argparse.Namespace, folder: pathlib.Path) -> dict[str, Any]:
    config = _make_data(folder, args.processes)
    steps = config["train"]["steps"] = _STEPS_PER_KILL * args.count + _SAVE_EVERY
    (folder / "config.json").write_text(json.dumps(config))
    whole, disturbed = folder / "whole", folder / "disturbed"
    _say("the undisturbed run")
    pod = _start(folder, whole, args.processes, restarts=0)
    if pod.end():
        raise Failed("the undisturbed run failed:\n" + "\n".join(pod.lines[-20:]))
    pod = _start(folder, disturbed, args.processes, restarts=2 * args.count + 10)
    killer = _Killer(pod, random.Random(args.seed))
    begun = time.monotonic()
    for number in range(args.count):
        _say(f"kill {number + 1} of {args.count}: {killer.kill()}")
    code = pod.end()
    if code:
        raise Failed(f"the run ended with {code}:\n" + "\n".join(pod.lines[-40:]))
    return {
        "kills": killer.kills,
        "recomputed": recomputed(pod.lines, killer.reached),
        "lost": lost(_lines(whole), _lines(disturbed)),
        "altered": differing_arrays(whole, disturbed, steps),
        "steps": steps,
        "save_every": _SAVE_EVERY,
        "signals": dict(Counter(killer.signals)),
        "seconds": round(time.monotonic() - begun, 1),
        "goodput": round(summarize(attempts(disturbed))["goodput"], 4),
    }


def _make_data(folder: pathlib.Path, processes: int) -> dict[str, Any]:
    """Makes a small planet and store, and returns a configuration for them."""
    planet, store = folder / "planet.zarr", folder / "store"
    if not planet.exists():
        make_sample(str(planet), days=4, spin_up_days=1, longitudes=64)
    levels = "10,50,100,250,500,700,850,1000"
    preprocess(str(planet), str(store), "15@32x16", levels=levels, shard_steps=4)
    config = base.get_config()
    config.data.store = str(store)
    config.data.train_times = "2001-01-01/2001-01-03"
    config.data.eval_times = "2001-01-04/2001-01-04"
    config.data.frames = 2
    config.model.dycore_grid = "10@32x16"
    config.model.layers = 4
    config.model.step_minutes = 360
    config.model.width = 8
    config.model.blocks = 1
    config.mesh.data = -1
    config.train.batch = processes
    config.train.checkpoint_every = _SAVE_EVERY
    config.train.eval_every = 5
    config.train.eval_batches = 4
    config.run.step_minutes = 0.5  # a stopped process is to be noticed soon
    return to_json(config)


def _start(
    folder: pathlib.Path, workdir: pathlib.Path, processes: int, restarts: int
) -> WatchedPod:
    return WatchedPod(
        *(folder / "config.json", workdir, folder / "cache"),
        processes=processes,
        supervision=(f"--restarts={restarts}", "--delay=0", "--grace=2"),
    )


class _Killer:
    """Sends one signal in each attempt, and waits until that is over.

    Attributes:
      kills: so far.
      signals: their names.
      reached: the last step of each attempt that was killed.
    """

    def __init__(self, pod: WatchedPod, dice: random.Random) -> None:
        self._pod, self._dice = pod, dice
        self.kills = 0
        self.signals: list[str] = []
        self.reached: list[int] = []

    def kill(self) -> str:
        """One kill; returns what was done."""
        pod, dice = self._pod, self._dice
        number = pod.ended()
        pod.until(lambda: len(pod.attempts()) > number)
        kind = dice.choices(_SIGNALS, _SHARES)[0]
        if kind != signal.SIGSTOP and dice.random() < 0.3:
            when = f"{dice.uniform(0, 20):.1f} s after its start"
            deadline = time.monotonic() + float(when.split()[0])
            pod.until(lambda: time.monotonic() > deadline)
        else:
            begun, steps = pod.step(), dice.randint(1, _SAVE_EVERY + 1)
            said = len(pod.lines)
            pod.until(lambda: any("compiled in" in x for x in pod.lines[said:]))
            begun = min(begun, self._resumed())
            pod.until(lambda: pod.step() >= begun + steps)
            time.sleep(dice.uniform(0, 0.5))  # into a save, an evaluation, a step
            when = f"{steps} steps after step {begun}"
        victim = dice.randrange(len(pod.attempts()[number]))
        try:
            pod.kill(victim, kind, number)
        except ProcessLookupError:  # it has ended by itself
            pod.until(lambda: pod.ended() > number)
            self.reached.append(pod.step())
            return self.kill()
        pod.until(lambda: pod.ended() > number)
        self.kills += 1
        self.signals.append(kind.name)
        self.reached.append(pod.step())
        return f"{kind.name} to process {victim}, {when}"

    def _resumed(self) -> int:
        """The step at which the present attempt began."""
        found = [re.search(r"resuming at step (\d+) ", x) for x in self._pod.lines]
        found = [int(m.group(1)) for m in found if m]
        return found[-1] if found else 0


def recomputed(lines: Sequence[str], reached: Sequence[int]) -> int:
    """Steps that were run again.

    Args:
      lines: of the pod.
      reached: the last step in the metrics at the end of each attempt but the last.
    """
    total, attempt, step, begun = 0, -1, 0, {}
    for line in lines:
        if re.match(r"pod: attempt \d+: .* pids ", line):
            attempt += 1
        found = re.search(r"(?:resuming at|training from) step (\d+) ", line)
        if found:
            step = int(found.group(1))
        if "compiled in" in line:  # an attempt that ended before has run no step
            begun[attempt] = step
    furthest = 0
    for number in range(attempt + 1):
        if number in begun:
            total += max(furthest - begun[number], 0)
            furthest = begun[number]
        if number < len(reached):
            furthest = max(furthest, reached[number])
    return total


def _lines(workdir: pathlib.Path) -> list[str]:
    return (workdir / "metrics.jsonl").read_text().splitlines()


def lost(expected: Sequence[str], found: Sequence[str]) -> int:
    """Lines that are missing, repeated or different."""
    wanted, got = Counter(expected), Counter(found)
    return max((wanted - got).total(), (got - wanted).total())


def _say(line: str) -> None:
    print(f"kills: {line}", file=sys.stderr, flush=True)
