"""The stages of a curriculum: from which step on which knobs have which values."""

import dataclasses
import difflib
from typing import Any

from ml_collections import ConfigDict

from pipeline.errors import UserError
from train.config import leaves

# What a stage may change.
KNOBS = (
    "data.frames",
    "data.hours",
    "loss.",
    "remat.",
    "optimizer.learning_rate",
    "train.batch",
)


@dataclasses.dataclass(frozen=True)
class Stage:
    """Steps that are one program.

    Attributes:
      number: from 0.
      first: steps taken before it.
      last: steps taken after it.
      config: of the run, with the stage's values.
    """

    number: int
    first: int
    last: int
    config: ConfigDict

    @property
    def hours(self) -> int:
        """Length of its rollouts."""
        return (self.config.data.frames - 1) * self.config.data.hours

    def __str__(self) -> str:
        return (
            f"stage {self.number} (steps {self.first + 1} to {self.last}): rollouts of "
            f"{self.hours} h, batches of {self.config.train.batch}"
        )


def stages(config: ConfigDict) -> list[Stage]:
    """The stages of a run, in order; one, if it has no curriculum.

    `config.stages` holds (first step, {knob: value, ...}): from that step on, knobs
    have these values, until a later stage changes them again.

    Raises:
      UserError: if that is something else.
    """
    rows = _checked(config)
    firsts = [first for first, _ in rows]
    lasts = [*firsts[1:], max(config.train.steps, firsts[-1] + 1)]
    result, changed = [], config
    for number, (first, last) in enumerate(zip(firsts, lasts, strict=True)):
        changed = ConfigDict(changed.to_dict())
        for name, value in rows[number][1].items():
            _set(changed, name, value)
        result.append(Stage(number, first, last, changed.lock()))
    return result


def stage_of(stages_: list[Stage], step: int) -> Stage:
    """The stage that the step after so many belongs to."""
    return [stage for stage in stages_ if stage.first <= step][-1]


def _checked(config: ConfigDict) -> list[tuple[int, dict[str, Any]]]:
    """`config.stages` as (steps before, changes), the first from 0 on."""
    rows = []
    for row in config.stages:
        try:
            step, changes = row
            changes = dict(changes)
            good = type(step) is int and step >= 0
        except (ValueError, TypeError):
            good = False
        if not good:
            raise UserError(
                f"config.stages: {row!r} is no (first step, {{knob: value}}), such as "
                "(2000, {'data.frames': 5})"
            )
        rows.append((step, changes))
    if not rows or rows[0][0] > 0:
        rows.insert(0, (0, {}))
    steps = [step for step, _ in rows]
    if steps != sorted(set(steps)):
        raise UserError(f"config.stages: the first steps {steps} do not ascend")
    return rows


def _set(config: ConfigDict, key: str, value: Any) -> None:
    known = dict(leaves(config))
    fitting = [k for k in known if k.startswith(KNOBS)]
    if key not in fitting:
        close = difflib.get_close_matches(key, fitting, n=1, cutoff=0)
        raise UserError(
            f"config.stages: {key!r} cannot change with a stage; did you mean "
            f"{close[0]!r}?"
        )
    default = known[key]
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if type(value) is not type(default):
        raise UserError(
            f"config.stages: {key}={value!r}: expected {type(default).__name__}, such "
            f"as {default!r}"
        )
    *parents, name = key.split(".")
    for parent in parents:
        config = config[parent]
    config[name] = value
