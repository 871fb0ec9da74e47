"""A whole training step by part: measured on this machine, or modelled for a TPU.

Parts are scopes of the program (`launch.tpu.parts.PARTS`): encoding of the first frame
and of targets, networks, core, decoding, the rest of the loss, the optimizer; each
forwards, recomputed for the backward pass, and backwards.
"""

import argparse
import collections
import pathlib
import re
import sys
import tempfile
import time
from typing import Any

import jax

from launch.plan_page import parts_table
from launch.tpu.parts import PHASES, part_of
from pipeline.errors import UserError
from train.config import load_config

_CONTAINERS = ("while", "conditional", "call")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """The case; `parts`, seconds of a step by part and phase; and their sum.

    Raises:
      UserError: if the configuration or an argument makes no sense.
    """
    if args.steps < 1:
        raise UserError(f"--steps={args.steps} must be at least 1")
    config = load_config(args.config, args.overrides)
    result = modelled(config, args) if args.target == "tpu" else measured(config, args)
    print("\n".join(parts_table(result["parts"])), file=sys.stderr)
    return result


def modelled(config: Any, args: argparse.Namespace) -> dict[str, Any]:
    """By the TPU compiler, as `podgcm plan` does."""
    from launch.plan import plan

    figures = plan(config, args.topology, args.mesh)
    if not figures["fits"]:
        raise UserError(
            f"the step does not fit on {args.topology}: see `podgcm plan --config="
            f"{args.config} --topology={args.topology}`"
        )
    names = ("topology", "mesh", "memory", "compile_seconds", "parts")
    return {
        "case": _case(config, args, "modelled, of one device"),
        **{name: figures[name] for name in names},
        "seconds": figures["modelled_seconds"]["total"],
    }


def measured(config: Any, args: argparse.Namespace) -> dict[str, Any]:
    """On this machine's devices, with the data of `config.data.store`."""
    from train.beginning import calibrated, placed_model
    from train.data import Loader
    from train.experiment import prepare
    from train.programs import Programs

    experiment = prepare(config)
    programs, stage = Programs(experiment), experiment.stages[0]
    windows = experiment.windows[0]
    model = placed_model(experiment, calibrated(experiment))
    model = programs.model_of(stage, model)
    state = jax.jit(programs.fresh_state, out_shardings=programs.shardings)()
    begun = time.monotonic()
    step = programs.train_step(stage, model, state)
    compile_seconds = time.monotonic() - begun
    batch, members = stage.config.train.batch, stage.config.train.members
    batches = Loader(windows, experiment.mesh, batch, config.seed, members)
    state, _ = step(model, state, next(batches))
    jax.block_until_ready(state)
    waiting = 0.0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            begun = time.monotonic()
            for _ in range(args.steps):
                asked = time.monotonic()
                rows = next(batches)
                waiting += time.monotonic() - asked
                state, _ = step(model, state, rows)
                batches.read_ahead()
                jax.block_until_ready(state)
            wall = (time.monotonic() - begun) / args.steps
        busy = _seconds_by_operation(pathlib.Path(folder))
    parts = by_part(busy, step.as_text())
    # Devices and threads work side by side: what they are busy with shares the time.
    waiting /= args.steps
    share = (wall - waiting) / sum(sum(x.values()) for x in parts.values())
    parts = {p: {n: share * s for n, s in x.items()} for p, x in parts.items()}
    return {
        "case": _case(config, args, "measured"),
        "mesh": dict(experiment.mesh.shape),
        "compile_seconds": compile_seconds,
        "parts": parts,
        "waiting": waiting,
        "seconds": wall,
    }


def by_part(seconds: dict[str, float], text: str) -> dict[str, dict[str, float]]:
    """Of operations by name, in a compiled program's text, by part and phase."""
    known = re.findall(
        r'^ *(?:ROOT )?%?([\w.\-]+) = .*?op_name="([^"]*)"', text, re.MULTILINE
    )
    names = dict(known)
    parts: dict[str, dict[str, float]] = {}
    for operation, time_taken in seconds.items():
        if operation.split(".")[0] in _CONTAINERS:
            continue  # what is in them has times of its own
        part, phase = part_of(names.get(operation, ""))
        parts.setdefault(part, dict.fromkeys(PHASES, 0.0))[phase] += time_taken
    return parts


def _seconds_by_operation(folder: pathlib.Path) -> dict[str, float]:
    """What a profile says that operations took, by their names in the program."""
    seconds: collections.Counter[str] = collections.Counter()
    for file in folder.rglob("*.xplane.pb"):
        for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
            for line in plane.lines:
                for event in line.events:
                    operation = dict(event.stats).get("hlo_op")
                    if operation:
                        seconds[operation] += event.duration_ns / 1e9
    return dict(seconds)


def _case(config: Any, args: argparse.Namespace, how: str) -> dict[str, Any]:
    return {
        "what": f"seconds of one training step by part and phase, {how}; phases "
        "are forward, recomputed for the backward pass, and backward",
        "config": args.config,
        "target": args.target,
        "rollout_hours": (config.data.frames - 1) * config.data.hours,
        "batch": config.train.batch,
        "members": config.train.members,
    }
