"""Training, from the first step to the last, whatever interrupts it.

The only start path is resuming: the same command on the same folder goes on from the
newest whole checkpoint, or starts afresh if there is none.
"""

import itertools
import math
import time

import jax
import jax.numpy as jnp
import numpy as np
import psutil
from clu.metrics import Average
from ml_collections import ConfigDict

from pipeline.progress import progress
from train import build, preflight, processes
from train.beginning import Beginning, begin
from train.checkpoint import Checkpoints
from train.config import to_json
from train.data import Batch, BatchReader
from train.exit_codes import Diverged, Failed, Preempted
from train.experiment import Experiment, prepare, prepare_workdir
from train.folder import RunFolder
from train.ledger import Ledger
from train.metrics import MetricWriter
from train.processes import say
from train.profile import Profiler
from train.step import make_eval_step, make_train_step
from train.votes import Motions, Votes, signals
from train.watchdog import Watchdog, watchdog

GIB = 2**30


def train(config: ConfigDict, workdir: str) -> None:
    """Trains the model of `config` in the folder `workdir`, or goes on with it.

    Writes checkpoints, `config.json`, `parameters.txt`, `metrics.jsonl`, `goodput/` and
    TensorBoard events. All processes of a pod call it with the same arguments.

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
        with Ledger(folder) as ledger:
            beginning = begin(experiment, folder, ledger)
            loop = Loop(experiment, beginning, folder, ledger, dog, motions)
            stopped = loop.run()
            if stopped:
                ledger.ended = "preempted"
        if stopped:
            raise Preempted(
                f"told to stop, saved at step {loop.step}; the same command goes on"
            )


class Loop:
    """The steps of one attempt, and what happens between them."""

    def __init__(
        self,
        experiment: Experiment,
        beginning: Beginning,
        folder: RunFolder,
        ledger: Ledger,
        dog: Watchdog,
        motions: Motions,
    ) -> None:
        self.experiment, self.config = experiment, experiment.config
        self.folder, self.ledger, self.dog = folder, ledger, dog
        self.votes = Votes(experiment.mesh, motions)
        self.profiler = Profiler(
            folder, self.config.run.profile_step, self.config.run.profile_steps
        )
        self.schedule = build.build_schedule(self.config)
        self.step, self.state = beginning.step, beginning.state
        self.evaluated = beginning.evaluated
        self.model, self.scales = beginning.model, beginning.scales
        self.reader = BatchReader(
            experiment.held_out,
            experiment.mesh,
            self.config.train.batch,
            self.config.train.members,
        )
        with ledger.during("data"):
            first = next(beginning.loader)
        self.batches = itertools.chain([first], beginning.loader)
        with ledger.during("compile"):
            self._compile(beginning, first)
        self.latest = {"loss": math.nan}

    def _compile(self, beginning: Beginning, batch: Batch) -> None:
        """Compiles both programs, once all processes are known to have the same."""
        config, mesh = self.config, self.experiment.mesh
        weights, hours = build.build_loss_weights(config), config.data.hours
        train_step = make_train_step(
            beginning.optimizer,
            weights,
            hours,
            config.optimizer.ema_decay,
            mesh,
            beginning.shardings,
            config.seed,
        ).lower(self.model, self.state, batch)
        eval_step = make_eval_step(weights, hours, mesh, config.seed).lower(
            self.model, self.state.ema, batch
        )
        programs = [preflight.digest(x.as_text()) for x in (train_step, eval_step)]
        processes.check_equal("programs", programs)
        begun = time.monotonic()
        self.train_step, self.eval_step = train_step.compile(), eval_step.compile()
        # The first exchange of devices waits for half a minute at most (gloo).
        processes.gather("compiled", True, config.run.first_step_minutes)
        used = self.train_step.memory_analysis()
        # XLA's own peak knows nothing of temporary arrays on CPUs.
        needed = used.argument_size_in_bytes + used.temp_size_in_bytes
        needed += used.output_size_in_bytes - used.alias_size_in_bytes
        say(
            f"compiled in {time.monotonic() - begun:.0f} s: a step needs "
            f"{needed / GIB:.3f} GiB a device"
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
            stopped = stopped or self._steps()
            with self.ledger.during("save"):
                self.dog.expect(2 * run.save_minutes)
                self.saves.wait()
            if self.saves.failed:
                raise Failed(f"the checkpoint of step {self.step} could not be saved")
        return stopped

    def _steps(self) -> bool:
        """The hot loop; returns whether it was told to stop."""
        train, run = self.config.train, self.config.run
        pending: tuple[int, dict[str, jax.Array], float] | None = None
        motions = Motions()
        self.saved_at = time.monotonic()
        steps = range(self.step + 1, train.steps + 1)
        for step in progress(steps, "train: steps", status=self._status):
            begun, self.evaluated = time.monotonic(), True
            self.ledger.switch("data")
            batch = next(self.batches)
            self.ledger.switch("step" if step > self.ledger.reached else "recompute")
            self.profiler.before(step, motions.profile)
            self.state, values = self.train_step(self.model, self.state, batch)
            self._propose_save()
            motions = self.votes.cast()
            # Fetched one step late, so that the devices never wait for the log.
            if pending is not None:
                self._log(*pending)
                self.dog.expect(run.step_minutes)
            self.step, pending = step, (step, values, time.monotonic() - begun)
            self.dog.check_background("a save", self.saves.since, 2 * run.save_minutes)

            last = step == train.steps
            evaluating = last or step % train.eval_every == 0
            saving = last or step % train.checkpoint_every == 0 or motions.save
            if evaluating or saving or motions.stop or self.profiler.ends(step):
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

    def _status(self) -> str:
        return f"loss {self.latest['loss']:.4f}"

    def _propose_save(self) -> None:
        """Process 0 proposes a checkpoint when the last is long enough ago."""
        minutes = self.config.train.checkpoint_minutes
        if processes.is_first() and minutes:
            if time.monotonic() - self.saved_at > 60 * minutes:
                self.votes.own.save = True
                self.saved_at = time.monotonic()

    def _log(self, step: int, values: dict[str, jax.Array], seconds: float) -> None:
        """Waits for a step, checks its loss, and writes its line."""
        self.latest.update({k: float(v) for k, v in values.items()})
        self.ledger.reach(step)
        skipped = int(self.latest["skipped"])
        if skipped:
            loss, norm = self.latest["loss"], self.latest["gradient_norm"]
            say(f"step {step} is skipped: the loss is {loss}, the gradient {norm}")
        if skipped > self.config.train.skips:
            raise Diverged(
                f"{skipped} steps in a row, up to step {step}, had no finite loss and "
                f"update (train.skips={self.config.train.skips}): lower "
                "optimizer.learning_rate or model.step_minutes, and run again from the "
                f"last checkpoint in {self.folder.path}"
            )
        if step % self.config.train.log_every == 0:
            rate = float(self.schedule(step))
            self.writer.write(step, {**self.latest, "learning_rate": rate})
            self.writer.show(step, {"seconds_per_step": seconds, **_memory()})

    def _evaluate(self) -> bool:
        """Scores the averaged parameters; False if it was told to stop before."""
        with self.ledger.during("evaluation"):
            scores = self._scores()
            if scores is None:
                return False
            self.writer.write(self.step, scores)
            lost = 1 - scores["eval_finite"]
            note = f", without the {lost:.0%} of windows that blew up" if lost else ""
            say(f"step {self.step}: held-out loss {scores['eval_loss']:.4f}{note}")
        return True

    def _scores(self) -> dict[str, float] | None:
        """Mean metrics over held-out windows, evenly spread, named `eval_...`.

        The means are over windows whose loss is finite; `eval_finite` is the part of
        them. None if it was told to stop.
        """
        windows = self.experiment.held_out
        batch, count = self.config.train.batch, self.config.train.eval_batches
        numbers = np.linspace(0, len(windows) - 1, batch * count).round().astype(int)
        averages: dict[str, Average] = {}
        for some in numbers.reshape(count, batch):
            self.dog.expect(self.config.run.step_minutes)
            loaded = self.reader.to_devices(self.reader.read(some))
            metrics = self.eval_step(self.model, self.state.ema, loaded)
            motions = self.votes.cast()
            if motions.stop:
                return None
            self.votes.repeat(motions)
            values = {name: jnp.asarray(np.asarray(x)) for name, x in metrics.items()}
            finite = jnp.isfinite(values["loss"])
            of_batch = {
                name: Average.from_model_output(x, finite) for name, x in values.items()
            }
            of_batch["finite"] = Average.from_model_output(finite)
            for name, average in of_batch.items():
                known = averages.get(name)
                averages[name] = known.merge(average) if known else average
        return {f"eval_{name}": float(a.compute()) for name, a in averages.items()}

    def _save(self) -> None:
        with self.ledger.during("save"):
            self.dog.expect(2 * self.config.run.save_minutes)
            self.writer.flush()
            self.folder.copy()
            about = {
                "delivered": self.step,
                "evaluated": self.evaluated,
                "config": to_json(self.config),
            }
            self.saves.save(self.step, self.state, self.scales, about)
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
