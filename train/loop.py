"""Training, from the first step to the last, whatever interrupts it.

The only start path is resuming: the same command on the same folder goes on from the
newest whole checkpoint, or starts afresh if there is none. So does a run that goes back
after a divergence.
"""

import dataclasses
import math
import time

import jax
import numpy as np
import psutil
from ml_collections import ConfigDict

from pipeline.progress import progress
from train import build, preflight, processes, report, rollback
from train.beginning import Beginning, begin
from train.checkpoint import Checkpoints, steps
from train.config import to_json
from train.data import Loader, data_seed
from train.exit_codes import Diverged, Failed, Preempted
from train.experiment import Experiment, prepare, prepare_workdir
from train.folder import RunFolder
from train.held_out import Evaluation
from train.ledger import Ledger
from train.metrics import MetricWriter
from train.processes import say
from train.profile import Profiler
from train.programs import Programs
from train.stages import Stage, stage_of
from train.step import Metrics
from train.votes import Motions, Votes, signals
from train.watchdog import Watchdog, watchdog

GIB = 2**30


def train(config: ConfigDict, workdir: str) -> None:
    """Trains the model of `config` in the folder `workdir`, or goes on with it.

    Writes checkpoints, `config.json`, `parameters.txt`, `metrics.jsonl`, `goodput/`,
    `evaluations/`, `curves.png` and TensorBoard events. All processes of a pod call it
    with the same arguments.

    Args:
      config: of the run.
      workdir: a folder on a disk that all processes share, or gs://BUCKET/FOLDER.

    Raises:
      UserError: if the configuration, the store or the folder cannot be used, or the
        loss is no longer finite.
      Preempted: if SIGTERM came; what there was is saved.
      Failed: if another process is lost, or checkpoints cannot be written or read.
    """
    run = config.run
    with signals() as motions, watchdog(run.first_step_minutes) as dog:
        processes.join(60 * run.join_minutes, run.heartbeat_seconds)
        experiment = prepare(config)
        folder = RunFolder(workdir)
        fingerprint = experiment.store.fingerprint
        preflight.check(to_json(config), fingerprint, experiment.mesh)
        processes.on_first(
            "workdir", lambda: prepare_workdir(folder, config, fingerprint)
        )
        programs = Programs(experiment)
        with Ledger(folder) as ledger:
            while True:
                beginning = begin(experiment, programs, folder, ledger)
                loop = Loop(
                    experiment, beginning, programs, folder, ledger, dog, motions
                )
                try:
                    stopped = loop.run()
                    break
                except Diverged as error:
                    # Raised by all processes at the same step.
                    go_back(folder, config, loop.first_skipped, error)
            if stopped:
                ledger.ended = "preempted"
        if stopped:
            raise Preempted(
                f"told to stop, saved at step {loop.step}; the same command goes on"
            )


def go_back(folder: RunFolder, config: ConfigDict, failed: int, why: Diverged) -> None:
    """Decides on an earlier checkpoint, from which `begin` then starts.

    Raises:
      Diverged: if that was done too often.
    """

    def decide() -> dict | None:
        found = rollback.plan_rollback(
            rollback.rollbacks(folder.path),
            steps(folder.path),
            failed,
            str(why),
            config.train.lookback,
            config.train.rollbacks,
        )
        if found is None:
            return None
        rollback.record(folder.path, found)
        return dataclasses.asdict(found)

    decided = processes.on_first(f"rollback {failed}", decide)
    if decided is None:
        raise Diverged(
            f"{why}; going back train.rollbacks={config.train.rollbacks} times did not "
            "help: begin another run, with a lower optimizer.learning_rate or shorter "
            f"model.step_minutes, such as from --config.init_from={folder.path}"
        ) from why
    say(f"GOING BACK to step {decided['to']}, with another order of the data: {why}")


class Loop:
    """The steps of one attempt, and what happens between them."""

    def __init__(
        self,
        experiment: Experiment,
        beginning: Beginning,
        programs: Programs,
        folder: RunFolder,
        ledger: Ledger,
        dog: Watchdog,
        motions: Motions,
    ) -> None:
        self.experiment, self.config = experiment, experiment.config
        self.folder, self.ledger, self.dog = folder, ledger, dog
        self.programs, self.beginning = programs, beginning
        self.votes = Votes(experiment.mesh, motions)
        self.profiler = Profiler(
            folder, self.config.run.profile_step, self.config.run.profile_steps
        )
        self.schedule = build.build_schedule(self.config)
        self.step, self.state = beginning.step, beginning.state
        self.first_skipped = self.step
        self.evaluated = beginning.evaluated
        self.latest = {"loss": math.nan}
        # Compiled first of all, so that what does not fit is known at once.
        stages = experiment.stages
        self.stage = stage_of(stages, min(self.step, stages[-1].last - 1))
        self._compile()
        with ledger.during("compile"):
            self.evaluation = Evaluation(
                *(experiment, programs, beginning.model, self.state.ema),
                *(folder, dog, self.votes),
            )

    def _compile(self) -> None:
        """The program of `self.stage`."""
        self.dog.expect(self.config.run.first_step_minutes)
        with self.ledger.during("compile"):
            self.model = self.programs.model_of(self.stage, self.beginning.model)
            self.train_step = self.programs.train_step(
                self.stage, self.model, self.state
            )

    def run(self) -> bool:
        """Trains; returns whether it was told to stop before the end."""
        train, run = self.config.train, self.config.run
        with (
            Checkpoints(
                self.folder.path,
                train.keep_checkpoints,
                train.keep_every,
                run.save_minutes,
                run.failed_saves,
            ) as self.saves,
            MetricWriter(self.folder, self.step, self.evaluated) as self.writer,
            self.profiler,
        ):
            self.votes.cast()  # signals that came so far are known after one step
            stopped = not self.evaluated and not self._evaluate()
            for stage in self.experiment.stages:
                if not stopped and self.step < min(stage.last, train.steps):
                    stopped = self._steps(stage)
            with self.ledger.during("save"):
                self.dog.expect(2 * run.save_minutes)
                self.saves.wait()
            if self.saves.failed:
                raise Failed(f"the checkpoint of step {self.step} could not be saved")
        return stopped

    def _steps(self, stage: Stage) -> bool:
        """Takes a stage's steps that are left; returns whether it was told to stop."""
        train, run = self.config.train, self.config.run
        self._enter(stage)
        pending: tuple[int, Metrics, float] | None = None
        motions = Motions()
        self.saved_at = time.monotonic()
        end = min(stage.last, train.steps)
        numbers = range(self.step + 1, end + 1)
        for step in progress(numbers, "train: steps", status=self._status):
            begun, self.evaluated = time.monotonic(), True
            self.ledger.switch("data")
            batch = next(self.loader)
            waited = time.monotonic() - begun
            self.ledger.switch("step" if step > self.ledger.reached else "recompute")
            self.profiler.before(step, motions.profile)
            self.state, values = self.train_step(self.model, self.state, batch)
            self._propose_save()
            motions = self.votes.cast()
            if step < end:
                self.loader.read_ahead()
            # Fetched one step late, so that the devices never wait for the log.
            if pending is not None:
                self._log(*pending)
                self.dog.expect(run.step_minutes)
            seconds = time.monotonic() - begun
            times = {
                "seconds_per_step": seconds,
                "data_percent": 100 * waited / seconds,
            }
            self.step, pending = step, (step, values, times)
            self.dog.check_background("a save", self.saves.since, 2 * run.save_minutes)

            last = step == train.steps
            evaluating = last or step % train.eval_every == 0
            saving = last or step % train.checkpoint_every == 0 or motions.save
            leaving = step == end or evaluating or saving or motions.stop
            if leaving or self.profiler.ends(step):
                # No step is saved before its line is written and its loss checked.
                self._log(*pending)
                self.dog.expect(run.step_minutes)
                pending = None
                self.profiler.after(step)
            stop = motions.stop
            if evaluating:
                self.evaluated = not stop and self._evaluate()
                stop = not self.evaluated
            if saving or stop:
                self._save()
            if stop:
                return True
        return False

    def _enter(self, stage: Stage) -> None:
        """Loads the data, and compiles the program, of a stage."""
        if stage.number != self.stage.number:
            self.stage = stage
            self._compile()
        say(str(stage))
        with self.ledger.during("data"):
            self.loader = Loader(
                self.experiment.windows[stage.number],
                self.experiment.mesh,
                stage.config.train.batch,
                data_seed(self.config.seed, stage.number, self.beginning.order),
                self.config.train.members,
                delivered=self.step - stage.first,
            )
            self.loader.read_ahead()
        self._compile_ahead()

    def _compile_ahead(self) -> None:
        """Has the next stage's step compiled while this one's runs."""
        stages, number = self.experiment.stages, self.stage.number + 1
        if number < len(stages) and stages[number].first < self.config.train.steps:
            self.dog.expect(self.config.run.first_step_minutes)
            with self.ledger.during("compile"):
                self.programs.compile_ahead(stages[number], self.model, self.state)

    def _evaluate(self) -> bool:
        """Scores the parameters; False if it was told to stop before."""
        with self.ledger.during("evaluation"):
            return self.evaluation.run(self.step, self.state, self.writer)

    def _status(self) -> str:
        return f"loss {self.latest['loss']:.4f}"

    def _propose_save(self) -> None:
        """Process 0 proposes a checkpoint when the last is long enough ago."""
        minutes = self.config.train.checkpoint_minutes
        if processes.is_first() and minutes:
            if time.monotonic() - self.saved_at > 60 * minutes:
                self.votes.own.save = True
                self.saved_at = time.monotonic()

    def _log(self, step: int, values: Metrics, times: dict[str, float]) -> None:
        """Waits for a step, checks its loss, and writes its line."""
        values = jax.tree.map(np.asarray, values)
        self.ledger.reach(step)
        scalars = ("loss", "gradient_norm", "skipped")
        self.latest = {name: values[name].item() for name in scalars}
        if self.latest["skipped"]:
            self._tell_skipped(step)
        if step % self.config.train.log_every:
            return
        objective, spec = self.programs.objective(self.stage), self.experiment.spec
        scores = report.term_scores(objective.loss, objective.hours, values)
        shares = report.shares(spec, objective.loss, values["tables"])
        of_terms = {k: x for k, x in shares.items() if k.count("/") == 1}
        rate = {"learning_rate": float(self.schedule(step))}
        self.writer.write(step, {**self.latest, **scores, **of_terms, **rate})
        self.writer.show(step, {**shares, **times, **_memory()})

    def _tell_skipped(self, step: int) -> None:
        """Says why a step was skipped; raises Diverged if it is one too many."""
        skipped = self.latest["skipped"]
        self.first_skipped = step - skipped + 1
        loss, norm = self.latest["loss"], self.latest["gradient_norm"]
        reason = f"the loss is {loss:.4g}, the gradient {norm:.4g}"
        # All processes have skipped the same step.
        bad = processes.gather(
            f"batch of step {step}", self.loader.not_finite(step - 1 - self.stage.first)
        )
        for what in sorted({x for some in bad for x in some}):
            reason += f"; in the data, {what} is not finite"
        say(f"step {step} is skipped: {reason}")
        if skipped > self.config.train.skips:
            raise Diverged(
                f"{skipped} steps in a row, up to step {step}, were skipped "
                f"(train.skips={self.config.train.skips}), the last because {reason}"
            )

    def _save(self) -> None:
        with self.ledger.during("save"):
            self.dog.expect(2 * self.config.run.save_minutes)
            self.writer.flush()
            self.folder.copy()
            about = {
                # The position in the data: of this stage's batches, in this order.
                "stage": self.stage.number,
                "order": self.beginning.order,
                "delivered": self.step - self.stage.first,
                "evaluated": self.evaluated,
                "config": to_json(self.config),
            }
            self.saves.save(self.step, self.state, self.beginning.scales, about)
            self.saved_at = time.monotonic()
            self.dog.expect(self.config.run.step_minutes)
        self.writer.show(self.step, self.ledger.shares())


def _memory() -> dict[str, float]:
    """GiB of this host and of its fullest device (on TPUs), for TensorBoard."""
    used = {"host_rss_gib": psutil.Process().memory_info().rss / GIB}
    peaks = [
        stats["peak_bytes_in_use"] / GIB
        for device in jax.local_devices()
        if (stats := device.memory_stats()) and "peak_bytes_in_use" in stats
    ]
    return used | ({"device_peak_gib": max(peaks)} if peaks else {})
