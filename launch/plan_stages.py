"""The wall time of a curriculum, modelled from two compiled training steps.

Training begins with short rollouts and goes on with longer ones, in stages. A rollout
is a scan, so that time and memory of a training step are affine in the number of
frames: two programs, of one frame more and less, tell both coefficients.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

from ml_collections import ConfigDict

from launch.tpu.measure import Measurement
from pipeline.errors import UserError
from train.stages import stages as of_config

LEAST_FRAMES = 2


@dataclasses.dataclass(frozen=True)
class Stage:
    """So many training steps with rollouts of so many hours."""

    hours: int
    steps: int


def parse_stages(text: str, config: ConfigDict) -> list[Stage]:
    """Stages of `HOURS:STEPS,...`, such as `6:20000,24:20000,120:5000`.

    Args:
      text: what to read; or `config`, for the curriculum of the configuration.
      config: of the run; rollouts are a whole number of its frames.

    Raises:
      UserError: if the text is something else.
    """
    if text == "config":
        return [Stage(s.hours, s.last - s.first) for s in of_config(config)]
    stages, frame_hours = [], config.data.hours
    for part in text.split(","):
        match = re.fullmatch(r"(\d+):(\d+)", part)
        if match is None or int(match.group(1)) < 1 or int(match.group(2)) < 1:
            raise UserError(
                f"--stages={text}: write HOURS:STEPS,... such as "
                "6:20000,24:20000,120:5000, or config"
            )
        stage = Stage(*map(int, match.groups()))
        if stage.hours % frame_hours:
            raise UserError(
                f"--stages={text}: rollouts of {stage.hours} hours are not a whole "
                f"number of frames, which are config.data.hours={frame_hours} apart"
            )
        stages.append(stage)
    return stages


def curriculum(
    stages: Sequence[Stage], frame_hours: int, measure: Callable[[int], Measurement]
) -> dict[str, Any]:
    """Modelled time of every stage, and of all.

    Args:
      stages: in their order.
      frame_hours: between frames.
      measure: the training step with windows of so many frames.

    Returns:
      `seconds`, `seconds_per_frame` and `stages`: each with `hours`, `frames`, `steps`,
      `seconds_per_step`, `seconds`, the `peak` of memory and whether it `fits`. Where
      the two programs do not fit, only `too_many_frames`, of the one that does not.
    """
    few = measure(LEAST_FRAMES)
    if not few.fits:
        return {"too_many_frames": LEAST_FRAMES}
    more = measure(LEAST_FRAMES + 1)
    if not more.fits:
        return {"too_many_frames": LEAST_FRAMES + 1}

    def at(frames: int, first: float, second: float) -> float:
        return first + (frames - LEAST_FRAMES) * (second - first)

    rows = []
    for stage in stages:
        frames = stage.hours // frame_hours + 1
        seconds = at(frames, few.cost.seconds, more.cost.seconds)
        peak = at(frames, few.memory["peak"], more.memory["peak"])
        rows.append(
            {
                **dataclasses.asdict(stage),
                "frames": frames,
                "seconds_per_step": seconds,
                "seconds": seconds * stage.steps,
                "peak": peak,
                "fits": peak <= few.memory["available"],
            }
        )
    return {
        "seconds": sum(row["seconds"] for row in rows),
        "seconds_per_frame": more.cost.seconds - few.cost.seconds,
        "stages": rows,
    }
