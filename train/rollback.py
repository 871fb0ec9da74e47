"""Going back to an earlier checkpoint when training has come to nothing.

Every rollback is a line in the run's `rollbacks.jsonl`. Their number is the order of
the data: after each, windows come in another one, so that what led astray does not come
again. That file is written first; which checkpoints it makes obsolete follows from it,
so a run that is killed anywhere goes on as if it had not been.
"""

import dataclasses
import json
import time
from collections.abc import Sequence

from etils import epath

from pipeline.errors import UserError
from train import checkpoint

FILE = "rollbacks.jsonl"


@dataclasses.dataclass(frozen=True)
class Rollback:
    """One of them.

    Attributes:
      failed: the first step that was skipped.
      to: step of the checkpoint from which the run went on; 0 is its beginning.
      reason: why.
      at: when, UTC.
    """

    failed: int
    to: int
    reason: str
    at: str


def rollbacks(folder: epath.Path) -> list[Rollback]:
    """Those of a run, in order.

    Raises:
      UserError: if the file is damaged.
    """
    file = folder / FILE
    lines = file.read_text().splitlines() if file.exists() else []
    try:
        return [Rollback(**json.loads(line)) for line in lines]
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{file} is damaged ({error}): remove what is no JSON in it, or, to begin "
            "with the first order of the data again, the file"
        ) from error


def plan_rollback(
    past: Sequence[Rollback],
    steps: Sequence[int],
    failed: int,
    reason: str,
    lookback: int,
    most: int,
) -> Rollback | None:
    """Where to go back to, or None if that was done too often.

    Rollbacks count together until training is `most * lookback` steps beyond the last
    that failed.

    Args:
      past: earlier rollbacks.
      steps: of the checkpoints that there are, ascending.
      failed: the first step that failed.
      reason: why.
      lookback: the first one goes back by so many steps, the second by twice as many.
      most: how many may count together.
    """
    together = sum(failed - r.failed <= most * lookback for r in past)
    if together >= most:
        return None
    wanted = failed - lookback * (together + 1)
    earlier = [step for step in steps if step <= wanted]
    # The oldest of all, if none is as old as that.
    to = max(earlier, default=min([s for s in steps if s < failed], default=0))
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return Rollback(failed, to, reason, at)


def record(folder: epath.Path, rollback: Rollback) -> None:
    """Adds it to the run's file, whole or not at all."""
    file = folder / FILE
    before = file.read_text() if file.exists() else ""
    draft = folder / f"{FILE}.tmp"
    draft.write_text(before + json.dumps(dataclasses.asdict(rollback)) + "\n")
    draft.replace(file)


def obsolete(past: Sequence[Rollback], orders: dict[int, int]) -> dict[int, str]:
    """Why checkpoints do not count any more, by step.

    Args:
      past: rollbacks of the run.
      orders: order of the data that each checkpoint was saved in, by step.
    """
    return {
        step: f"the run went back from it to step {rollback.to}: {rollback.reason}"
        for step, order in orders.items()
        for rollback in past[order:]
        if step > rollback.to
    }


def set_obsolete_aside(folder: epath.Path) -> int:
    """Moves checkpoints that rollbacks have left behind to `rolled_back/`.

    Returns:
      The order of the data: the number of rollbacks.
    """
    past = rollbacks(folder)
    if past:
        orders = {s: checkpoint.order_of(folder, s) for s in checkpoint.steps(folder)}
        known = {step: order for step, order in orders.items() if order is not None}
        checkpoint.set_aside(folder, obsolete(past, known), "rolled_back")
    return len(past)
