"""Checkpoints: everything that a run needs to go on, through Orbax.

A step's folder holds `state` (parameters, average, optimizer, step), `scales`, and
`record`: the position in the data, the configuration, and digests of all of it. Saving
is asynchronous and atomic: a step is there whole or not at all. What is read is
compared with its digests.
"""

import dataclasses
import logging
import time
from concurrent.futures import Future
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from pipeline.errors import Unavailable, is_outage
from train import processes
from train.digests import digests, digests_on_host
from train.exit_codes import Diverged, Failed
from train.folder import open_path
from train.processes import say
from train.record import RecordSave, read_record

STATE, SCALES, RECORD = "state", "scales", "record"


class Damaged(Exception):
    """A checkpoint is not what was saved."""


class OtherModel(Exception):
    """A checkpoint has other arrays than those that are asked for."""


class NoneFits(Failed):
    """There are checkpoints, but none can be used, whoever asks again."""


@dataclasses.dataclass(frozen=True)
class Saved:
    """A checkpoint that was read.

    Attributes:
      step: number of steps taken.
      state: tree of NumPy arrays, structured as was asked for.
      scales: the same.
      record: the JSON that was saved with it.
    """

    step: int
    state: Any
    scales: Any
    record: dict[str, Any]


def checkpoints_folder(workdir: str | epath.Path) -> epath.Path:
    return open_path(str(workdir)) / "checkpoints"


def steps(workdir: str | epath.Path) -> list[int]:
    """Steps of a run's checkpoints, ascending; changes nothing."""
    folder = checkpoints_folder(workdir)
    if not folder.exists():
        return []
    found = ocp.path.step.standard_name_format().find_all(folder)
    return sorted(x.step for x in found)


def read(workdir: str | epath.Path, step: int, state: Any, scales: Any) -> Saved:
    """Reads a checkpoint into host memory, and compares it with its digests.

    This process reads all of it, whatever mesh it was saved from, and waits for no
    other process.

    Args:
      workdir: of the run.
      step: which.
      state: shapes of what is wanted of the state, as a tree: all of it, or a dict with
        some of its fields, such as {"ema": ...} for the averaged parameters alone.
      scales: shapes of the scales.

    Raises:
      Damaged: if it is not what was saved.
      OtherModel: if its arrays have other shapes.
      Unavailable: if storage does not answer.
    """
    folder = checkpoints_folder(workdir) / str(step)
    try:
        record = read_record(folder / RECORD)
        saved = {
            STATE: _read_arrays(folder / STATE, state),
            SCALES: _read_arrays(folder / SCALES, scales),
        }
    except OtherModel:
        raise
    # Orbax and TensorStore raise bare exceptions for damaged files, so nothing
    # narrower will do.
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        kind = Unavailable if is_outage(error) else Damaged
        raise kind(f"{type(error).__name__}: {lines[0]}") from error
    if record["step"] != step:
        raise Damaged(f"its record is of step {record['step']}")
    for name, digest in digests_on_host(saved).items():
        if record["digests"].get(name) != digest:
            raise Damaged(f"{name} is not what was saved")
    return Saved(step, saved[STATE], saved[SCALES], record)


def _read_arrays(folder: epath.Path, shapes: Any) -> Any:
    """The arrays of a tree of shapes; a folder may hold more."""
    restore_args = jax.tree.map(
        lambda x: ocp.RestoreArgs(restore_type=np.ndarray), shapes
    )
    handler = ocp.PyTreeCheckpointHandler()
    values = handler.restore(
        folder,
        args=ocp.args.PyTreeRestore(
            item=shapes, restore_args=restore_args, partial_restore=True
        ),
    )

    def checked(path: tuple, expected: jax.ShapeDtypeStruct, x: Any) -> np.ndarray:
        x = np.asarray(x)
        if (x.shape, x.dtype) != (expected.shape, expected.dtype):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise OtherModel(
                f"{name} is {x.dtype}{list(x.shape)}, and not "
                f"{expected.dtype}{list(expected.shape)}"
            )
        return x

    return jax.tree_util.tree_map_with_path(checked, shapes, values)


def read_newest(
    workdir: str | epath.Path, state: Any, scales: Any
) -> tuple[Saved | None, dict[int, str]]:
    """The newest checkpoint that is whole, the same one on all processes.

    All processes must call it: a step counts if each of them could read it.

    Args:
      workdir, state, scales: as of `read`.

    Returns:
      The checkpoint, or None if there is none at all; and why newer ones are not good,
      by step.

    Raises:
      NoneFits: if there are some, but none can be used.
      Failed: if storage does not answer.
    """
    bad: dict[int, str] = {}
    for step in processes.on_first("steps", lambda: steps(workdir))[::-1]:
        saved, *why = _try_to_read(workdir, step, state, scales)
        all_why = processes.gather(f"restored {step}", why)
        damages, outages = ([r for r in x if r] for x in zip(*all_why, strict=True))
        if outages:
            raise Failed(f"checkpoint {step} cannot be read at present: {outages[0]}")
        if not damages:
            return saved, bad
        bad[step] = damages[0]
        say(f"CHECKPOINT {step} IS NOT USED: {damages[0]}")
    if bad:
        raise NoneFits(
            f"none of the {len(bad)} checkpoints in {checkpoints_folder(workdir)} can "
            f"be used, {max(bad)} for one: {bad[max(bad)]}"
        )
    return None, bad


def _try_to_read(
    workdir: str | epath.Path, step: int, state: Any, scales: Any
) -> tuple[Saved | None, str | None, str | None]:
    """A checkpoint, or what its damage is, or what its storage said.

    Tried thrice, for storage may have hiccups.
    """
    damage = outage = None
    for pause in (0, 1, 5):
        time.sleep(pause)
        try:
            return read(workdir, step, state, scales), None, None
        except Damaged as error:
            damage, outage = f"it is damaged, {error}", None
        except OtherModel as error:
            return None, f"it is of another model, {error}", None
        except Unavailable as error:
            damage, outage = None, str(error)
    return None, damage, outage


def order_of(workdir: str | epath.Path, step: int) -> int | None:
    """Order of the data in which a checkpoint was saved; None if its record is damaged.

    Raises:
      Unavailable: if storage does not answer.
    """
    try:
        record = read_record(checkpoints_folder(workdir) / str(step) / RECORD)
        return record["order"]
    except Exception as error:  # clients of buckets raise their own
        if is_outage(error):
            raise Unavailable(f"checkpoint {step}: {error}") from error
        return None


def set_aside(
    workdir: str | epath.Path, bad: dict[int, str], to: str = "damaged"
) -> None:
    """Moves checkpoints to another folder, so that their steps can be saved anew.

    Args:
      workdir: of the run.
      bad: why, by step.
      to: name of the folder.
    """
    for step, reason in bad.items():
        name = f"{step}-{time.strftime('%Y%m%dT%H%M%S')}"
        target = open_path(str(workdir)) / to
        target.mkdir(exist_ok=True)
        (target / f"{name}.txt").write_text(reason + "\n")
        (checkpoints_folder(workdir) / str(step)).rename(target / name)
        say(f"it was moved to {target / name}")


class Checkpoints:
    """Saves the checkpoints of a run; a context that waits for the last save.

    All processes must do the same with it.
    """

    def __init__(
        self,
        workdir: str | epath.Path,
        keep: int | None,
        keep_every: int,
        timeout_minutes: float,
        failures: int,
    ) -> None:
        """
        Args:
          workdir: of the run.
          keep: how many of the newest are kept.
          keep_every: those of multiples of so many steps are kept for ever; 0: none.
          timeout_minutes: for one save.
          failures: in a row that are survived.
        """
        logging.getLogger("absl").setLevel(logging.ERROR)
        self._folder = checkpoints_folder(workdir)
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                keep_period=keep_every or None,
                cleanup_tmp_directories=True,
                async_options=ocp.AsyncOptions(timeout_secs=int(timeout_minutes * 60)),
            ),
        )
        self._failures, self._failed = failures, 0
        self._timeout_minutes = timeout_minutes
        self._step: int | None = None
        self._begun = 0.0

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        # After an error of this process alone, the others would be waited for.
        if kind is None or issubclass(kind, Diverged) or processes.count() == 1:
            self.wait()
            self._manager.close()

    @property
    def failed(self) -> bool:
        """Whether the last save that was waited for has failed."""
        return self._failed > 0

    @property
    def since(self) -> float | None:
        """`time.monotonic()` when the save began that is under way, or None."""
        under_way = self._step is not None and self._manager.is_saving_in_progress()
        return self._begun if under_way else None

    def save(self, step: int, state: Any, scales: Any, about: dict[str, Any]) -> None:
        """Starts to save; returns as soon as `state` may be overwritten.

        Args:
          step: number of steps taken.
          state, scales: arrays, on any mesh.
          about: JSON, to be found in `Saved.record`.

        Raises:
          Failed: if it is one failure too many.
        """
        self.wait()
        sums = Future()
        record = RecordSave(lambda: {"step": step, **about, "digests": sums.result()()})
        self._step, self._begun = step, time.monotonic()
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    **{
                        STATE: ocp.args.StandardSave(state),
                        SCALES: ocp.args.StandardSave(scales),
                        RECORD: record,
                    }
                ),
                force=True,
            )
            # Not before: the copies to the host would have to wait for the sums.
            sums.set_result(digests({STATE: state, SCALES: scales}))
        except BaseException as error:
            if not sums.done():
                sums.set_exception(error)  # or else its thread would wait for ever
            if not isinstance(error, Exception):
                raise
            # The others may be waiting for this process inside Orbax.
            if processes.count() > 1:
                raise Failed(f"checkpoint {step} failed: {error}") from error
            self._count(step, str(error))

    def wait(self) -> None:
        """Waits for the save that is under way, and tells if it failed anywhere."""
        if self._step is None:
            return
        step, self._step, error = self._step, None, None
        try:
            self._manager.wait_until_finished()
        except Exception as failure:  # of any kind: disk, network, another process
            error = f"{type(failure).__name__}: {failure}"
        # The others notice what failed here no sooner than after Orbax's own limit.
        minutes = 2 * self._timeout_minutes
        errors = [e for e in processes.gather(f"saved {step}", error, minutes) if e]
        if errors:
            self._count(step, *errors)
            processes.on_first(f"swept {step}", lambda: self._sweep(step))
        else:
            self._failed = 0

    def _sweep(self, step: int) -> None:
        """Makes room: deletes what a failed save has left."""
        for rest in self._folder.glob(f"{step}.orbax-checkpoint-tmp*"):
            rest.rmtree(missing_ok=True)

    def _count(self, step: int, *errors: str) -> None:
        self._step = None
        self._failed += 1
        lines = [(e.strip().splitlines() or ["no reason given"])[0] for e in errors]
        line = " | ".join(dict.fromkeys(lines))  # one that waited knows no reason
        say(
            f"CHECKPOINT {step} COULD NOT BE SAVED ({self._failed} in a row): {line}; "
            "the one before is kept, training goes on"
        )
        if self._failed > self._failures:
            raise Failed(f"{self._failed} checkpoints in a row could not be saved")
