"""The core's step and its gradient, timed on this machine, and dinosaur's in turns."""

import argparse
import dataclasses
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from launch.benchmarks.dycore import Case, Figures
from launch.compile_anew import compile_anew
from model.dynamics import baroclinic_wave
from model.dynamics.primitive_equations import HUMIDITY
from model.dynamics.state import State
from model.sphere.harmonics import SphericalHarmonics
from pipeline.errors import UserError
from train.data import keep_freed_memory

STEPS = 5  # of a rollout


def compare(
    case: Case, args: argparse.Namespace
) -> tuple[dict[str, Any], Figures, dict[str, Figures]]:
    """What is compared, our figures, and those of dinosaur's implementations."""
    if args.rounds < 1:
        raise UserError(f"--rounds={args.rounds} must be at least 1")
    # Or steps are timed with their page faults; before JAX starts its threads.
    keep_freed_memory(one_arena=True)
    if jax.default_backend() != "cpu":
        raise UserError("--target=cpu: set JAX_PLATFORMS=cpu")
    equations = case.equations("cpu")
    state = initial_state(case, equations.harmonics)
    ours = Core(
        step=lambda tables, x: case.filtered_step(tables)(x),
        enter=lambda tables, x: (tables.ordered, tables.enter(x)),
        leave=lambda tables, x: tables.leave(x),
    )
    contenders = {"ours": Contender("ours", ours, equations, state)}
    if args.judge:
        from launch.benchmarks.judge import cpu_steps, state_to_dinosaur

        for name, step, in_pairs in cpu_steps(case):
            theirs = state_to_dinosaur(state, case.grid, in_pairs)
            core = Core(step=lambda _, x, step=step: step(x))
            contenders[name] = Contender(name, core, None, theirs)
    for number in range(args.rounds):
        for figure in Contender.FIGURES:
            for contender in contenders.values():
                contender.time(figure)
        _log(f"round {number + 1} of {args.rounds}")
    figures = {name: contender.figures() for name, contender in contenders.items()}
    told = {
        "what": "one filtered SIL3 step of the moist core, float32, between states in "
        f"the order that a core's steps keep; rollout_ms and grad_ms are of {STEPS} "
        "steps, each recomputed in the backward pass, and of putting tables and state "
        "in order and back, grad_ms of the sum of squares of the end by the beginning; "
        "medians of rounds in which all run in turns, in one process, which keeps the "
        "memory that a run frees for the next one; judge: of each "
        "figure dinosaur's best",
        "rounds": args.rounds,
        "cores": len(os.sched_getaffinity(0)),
        "device": jax.devices()[0].device_kind,
    }
    return told, figures.pop("ours"), figures


@dataclasses.dataclass(frozen=True)
class Core:
    """What is timed.

    Attributes:
      step: (tables, state) -> state; dinosaur's tables are constants of its program.
      enter: (tables, state) -> tables and state as steps have them.
      leave: (tables, state) -> state: the inverse.
    """

    step: Callable[[Any, Any], Any]
    enter: Callable[[Any, Any], tuple[Any, Any]] = lambda tables, x: (tables, x)
    leave: Callable[[Any, Any], Any] = lambda _, x: x


class Contender:
    """Programs of one core, compiled, and how long they took."""

    FIGURES = ("step_ms", "rollout_ms", "grad_ms")

    def __init__(self, name: str, core: Core, tables: Any, state: Any) -> None:
        """Compiles a step, a rollout, and the gradient of one.

        Args:
          name: to tell.
          core: what is timed.
          tables: of it.
          state: to begin with.
        """

        def rollout(tables: Any, state: Any) -> Any:
            of_steps, x = core.enter(tables, state)
            one = jax.checkpoint(lambda x: core.step(of_steps, x))
            end, _ = jax.lax.scan(lambda x, _: (one(x), None), x, length=STEPS)
            return core.leave(tables, end)

        def squares(state: Any, tables: Any) -> jax.Array:
            return sum(jnp.sum(x**2) for x in jax.tree.leaves(rollout(tables, state)))

        def gradient(tables: Any, state: Any) -> Any:
            return jax.grad(squares)(state, tables)

        _log(f"compiling {name}")
        whole = tables, state
        self.arguments = {
            "step_ms": jax.jit(core.enter)(*whole),
            "rollout_ms": whole,
            "grad_ms": whole,
        }
        self.programs, self.compile_seconds = {}, {}
        functions = (core.step, rollout, gradient)
        for figure, function in zip(self.FIGURES, functions, strict=True):
            begun = time.perf_counter()
            lowered = jax.jit(function).lower(*self.arguments[figure])
            with compile_anew():
                self.programs[figure] = lowered.compile()
            self.compile_seconds[figure] = time.perf_counter() - begun
        self.milliseconds: dict[str, list[float]] = {f: [] for f in self.FIGURES}

    def time(self, figure: str) -> Any:
        """Runs a program once, and returns what it makes."""
        begun = time.perf_counter()
        result = jax.block_until_ready(self.programs[figure](*self.arguments[figure]))
        self.milliseconds[figure].append(1e3 * (time.perf_counter() - begun))
        return result

    def figures(self) -> Figures:
        """Medians of all rounds, and how long the step took to compile."""
        medians = {f: statistics.median(x) for f, x in self.milliseconds.items()}
        return medians | {"compile_s": self.compile_seconds["step_ms"]}


def initial_state(case: Case, harmonics: SphericalHarmonics) -> State:
    """The baroclinic wave's, with vapour of 10 g/kg at the equator and some cloud."""
    state = baroclinic_wave.initial_state(harmonics, case.sigma)
    warm = np.cos(np.arcsin(harmonics.grid.sin_latitude)) ** 4
    profile = case.sigma.centers[:, None, None] ** 3 * warm[:, None]
    nodal = np.broadcast_to(profile, (case.sigma.layers, *harmonics.grid.shape))
    modal = harmonics.analysis(jnp.asarray(nodal, harmonics.dtype))
    amounts = {name: 1e-4 for name in case.tracers} | {HUMIDITY: 1e-2}
    state.tracers = {name: amount * modal for name, amount in amounts.items()}
    return state


def _log(message: str) -> None:
    print(f"dycore: {message}", file=sys.stderr, flush=True)
