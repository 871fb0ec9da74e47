"""Faults of a variable against itself at other times: turned, repeated, jumping."""

from collections.abc import Sequence

import numpy as np

from pipeline.checks.places import level_of, place
from pipeline.checks.turns import area_weights, find_turn

LONGEST_STEP = np.timedelta64(24, "h")
"""Fields further apart in time need not resemble each other."""

# Every step turns by a quarter what follows the sun; its mirror image fits it then.
_FOLLOW_THE_SUN = ("toa_incident_solar_radiation",)

# Steps on either side that say how much a variable usually changes. On a planet that is
# spun up no sound step exceeds 2 times the median and 6 deviations (in its first days,
# when it first rains, single levels of water do, up to 5 times the median); one turned
# upside down is 3 to 6 times the median, 69 times for the sea. Levels that change by
# less than a tenth of the liveliest are not judged: clouds form and vanish there.
_WINDOW = 8
_FEWEST_STEPS = 6
_TIMES_MEDIAN = 2.0
_DEVIATIONS = 6.0
_LEAST_SHARE = 0.1


def find_turned_in_time(
    name: str,
    before: np.ndarray,
    after: np.ndarray,
    latitude: np.ndarray,
    time: np.datetime64 | None = None,
) -> list[str]:
    """A variable that is turned against itself at the time before.

    Only for steps of a day at most. On a sound planet that is spun up, the least
    correlation of all variables is 0.5 after 6 h and 0.1 after 24 h (-0.1 on single
    levels), but as low as -0.3 after 5 days (-0.5): sound patterns do turn by then.

    Args:
      name: of the variable.
      before, after: [level, latitude, longitude], at most 24 h apart.
      latitude: [latitude], degrees north.
      time: of `after`.
    """
    turn = None
    if name not in _FOLLOW_THE_SUN:
        turn = find_turn(before, after, latitude)
    if turn is None:
        return []
    return [f"{name} is {turn} against the time before{place(time)}"]


def change(before: np.ndarray, after: np.ndarray, latitude: np.ndarray) -> np.ndarray:
    """Root mean square over the area of the change between two times.

    Args:
      before, after: [level, latitude, longitude].
      latitude: [latitude], degrees north.

    Returns:
      [level], float64; NaN where no point is defined at both times.
    """
    square = (np.asarray(after, np.float64) - before) ** 2
    defined = np.isfinite(square)
    total = (area_weights(latitude) * defined).sum((-2, -1))
    mean = (area_weights(latitude) * np.where(defined, square, 0)).sum((-2, -1))
    return np.sqrt(mean / np.where(total > 0, total, np.nan))


def find_unusual_changes(
    name: str,
    changes: np.ndarray,
    times: np.ndarray,
    levels: Sequence[float] | None = None,
) -> list[str]:
    """Steps that change a variable far more than the steps around them, or not at all.

    These are outliers, to be looked at; a storm or the first rain of a simulation may
    be among them. A bad time shows in the step to it and in the step from it.

    Args:
      name: of the variable.
      changes: [step, level], `change` between each time and the next; at least seven
        steps, all equally long, or nothing is found.
      times: [step], the later time of each step.
      levels: [level], hPa, for the finding.
    """
    findings = []
    for step, time in enumerate(times):
        around = np.delete(changes, step, 0)[max(0, step - _WINDOW) : step + _WINDOW]
        if len(around) < _FEWEST_STEPS:
            continue
        now = changes[step]
        if (now == 0).all() and np.mean((around > 0).any(1)) > 0.9:
            findings.append(f"{name} repeats the time before{place(time)}")
        usual = np.median(around, 0)
        judged = usual > _LEAST_SHARE * np.nanmax(usual, initial=0)
        # Ratios, because changes are positive and spread by factors. A deviation of
        # 5 % is the least, or steady variables would never be steady enough.
        ratio, ratios = now[judged] / usual[judged], around[:, judged] / usual[judged]
        logs = np.abs(np.log(np.maximum(ratios, 1e-6)))
        deviation = np.maximum(1.48 * np.median(logs, 0), 0.05)
        limit = np.maximum(np.log(_TIMES_MEDIAN), _DEVIATIONS * deviation)
        excess = np.log(np.maximum(ratio, 1e-6)) - limit
        if (excess > 0).any():
            worst = excess.argmax()
            level = level_of(levels, np.flatnonzero(judged)[worst])
            more = np.sum(excess > 0) - 1
            findings.append(
                f"{name} changes {ratio[worst]:.1f} times as much as usual"
                f"{place(time, level)}{f' and {more} more levels' if more else ''}"
            )
    return findings
