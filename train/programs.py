"""The compiled programs of a run: one step for each stage, and one evaluation.

Each is compiled once, ahead of its first call, for the arrays that it will be given; a
compiled program takes no others, so nothing is ever recompiled. That of the next stage
may be compiled by a thread while the present one runs.
"""

import dataclasses
import time
from collections.abc import Callable
from concurrent import futures

import jax

from model.neural_gcm import NeuralGCM
from train import build, preflight, processes
from train.data import BatchReader, abstract_batch
from train.experiment import Experiment
from train.mesh import state_shardings
from train.processes import say
from train.stages import Stage
from train.step import (
    Metrics,
    Objective,
    Params,
    TrainState,
    initial_state,
    make_eval_step,
    make_train_step,
)

GIB = 2**30

_Timed = tuple[jax.stages.Compiled, float]
"""A program, and in how many seconds it was compiled."""


class Programs:
    """What a run computes.

    Attributes:
      optimizer: of all stages.
      shapes: of what training changes.
      shardings: where it lies.
      evaluation: what evaluations score, in all stages the same: the last one's loss.
      reader: of held-out windows.
    """

    def __init__(self, experiment: Experiment) -> None:
        config, mesh = experiment.config, experiment.mesh
        self._experiment = experiment
        self._train_steps: dict[int, jax.stages.Compiled] = {}
        self._ahead: dict[int, futures.Future[_Timed]] = {}
        self._compiler = futures.ThreadPoolExecutor(1, "compiler")
        self._eval_step: jax.stages.Compiled | None = None
        self.optimizer = build.build_optimizer(config)
        self.shapes = jax.eval_shape(self.fresh_state)
        self.shardings = state_shardings(mesh, self.shapes, config.mesh.parameters)
        build.check_rates(config, self.shapes.params)
        last = experiment.stages[-1].config
        self.evaluation = dataclasses.replace(
            build.build_objective(last), hours=config.data.hours
        )
        self.eval_batch = last.train.batch
        self.reader = BatchReader(
            experiment.held_out, mesh, self.eval_batch, config.train.members
        )

    def fresh_state(self) -> TrainState:
        """Before the first step; call it within `jax.jit` or `jax.eval_shape`."""
        spec, seed = self._experiment.spec, self._experiment.config.seed
        return initial_state(spec, self.optimizer, seed)

    def objective(self, stage: Stage) -> Objective:
        return build.build_objective(stage.config)

    def model_of(self, stage: Stage, model: NeuralGCM) -> NeuralGCM:
        """The model as a stage's program wants it."""
        remat = build.build_remat(stage.config)
        return dataclasses.replace(
            model, spec=dataclasses.replace(model.spec, remat=remat)
        )

    def train_step(
        self, stage: Stage, model: NeuralGCM, state: TrainState
    ) -> Callable[[NeuralGCM, TrainState, dict], tuple[TrainState, Metrics]]:
        """The step of a stage, compiled; `model` is of `model_of`."""
        if stage.number not in self._train_steps:
            ahead = self._ahead.pop(stage.number, None)
            pending = ahead or self._begin(self._lowered(stage, model, state))
            self._train_steps[stage.number] = self._compiled(
                f"the step of {stage}", pending
            )
        return self._train_steps[stage.number]

    def compile_ahead(self, stage: Stage, model: NeuralGCM, state: TrainState) -> None:
        """Begins to compile the step of a later stage, and returns once it is traced.

        `model` may be of any stage.
        """
        if stage.number not in self._train_steps | self._ahead:
            model = self.model_of(stage, model)
            lowered = self._lowered(stage, model, state)
            self._ahead[stage.number] = self._begin(lowered)

    def _lowered(
        self, stage: Stage, model: NeuralGCM, state: TrainState
    ) -> jax.stages.Lowered:
        config, mesh = stage.config, self._experiment.mesh
        step = make_train_step(
            self.optimizer,
            self.objective(stage),
            config.optimizer.ema_decay,
            mesh,
            self.shardings,
            config.seed,
            config.train.spike,
        )
        rows = config.train.batch * config.train.members
        batch = abstract_batch(model.spec, mesh, rows, config.data.frames)
        return step.lower(model, state, batch)

    def eval_step(
        self, model: NeuralGCM, params: Params
    ) -> Callable[[NeuralGCM, Params, dict], Metrics]:
        """The evaluation, compiled; `model` is that of the first stage."""
        if self._eval_step is None:
            config, mesh = self._experiment.config, self._experiment.mesh
            rows = self.eval_batch * config.train.members
            frames = self._experiment.held_out.frames
            batch = abstract_batch(model.spec, mesh, rows, frames)
            step = make_eval_step(self.evaluation, mesh, config.seed)
            hours = (frames - 1) * self.evaluation.hours
            pending = self._begin(step.lower(model, params, batch))
            self._eval_step = self._compiled(f"the evaluation of {hours} h", pending)
        return self._eval_step

    def _begin(self, lowered: jax.stages.Lowered) -> "futures.Future[_Timed]":
        """Compiles a program, once all processes are known to have the same."""
        processes.check_equal("programs", preflight.digest(lowered.as_text()))

        def compiled() -> _Timed:
            begun = time.monotonic()
            return lowered.compile(), time.monotonic() - begun

        return self._compiler.submit(compiled)

    def _compiled(
        self, what: str, pending: "futures.Future[_Timed]"
    ) -> jax.stages.Compiled:
        """Waits for a program, on all processes."""
        compiled, seconds = pending.result()
        # The first exchange of devices waits for half a minute at most (gloo).
        minutes = self._experiment.config.run.first_step_minutes
        processes.gather("compiled", True, minutes)
        used = compiled.memory_analysis()
        # XLA's own peak knows nothing of temporary arrays on CPUs.
        needed = used.argument_size_in_bytes + used.temp_size_in_bytes
        needed += used.output_size_in_bytes - used.alias_size_in_bytes
        say(
            f"compiled in {seconds:.0f} s: {what} needs {needed / GIB:.3f} GiB a device"
        )
        return compiled
