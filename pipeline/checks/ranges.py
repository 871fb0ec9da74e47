"""Ranges that no sound variable has: one value everywhere, or beyond its source's."""

from collections.abc import Sequence

import numpy as np

from pipeline.checks.places import level_of, place
from pipeline.checks.turns import thinned


def find_constant(
    name: str,
    fields: np.ndarray,
    time: np.datetime64 | None = None,
    may_vanish: bool = False,
) -> list[str]:
    """A variable that has one value everywhere, on all levels, at a time.

    Single constant levels are sound: ERA5 has whole levels without any cloud.

    Args:
      name: of the variable.
      fields: [level, latitude, longitude].
      time: for the finding.
      may_vanish: whether zero everywhere is sound, as of snow or precipitation.
    """
    # A few points tell of nearly every field that it is not constant.
    if _is_constant(thinned(fields)) and _is_constant(fields):
        value = np.nanmax(fields)
        if value != 0 or not may_vanish:
            return [f"{name} is {value:g} everywhere{place(time)}"]
    return []


def find_out_of_range(
    name: str,
    before: np.ndarray,
    after: np.ndarray,
    levels: Sequence[float] | None = None,
    time: np.datetime64 | None = None,
) -> list[str]:
    """Levels with values that regridding cannot have made: it only takes means.

    Args:
      name: of the variable.
      before, after: [level, latitude, longitude], each on its own points.
      levels: [level], hPa, for the finding.
      time: for the finding.
    """
    findings = []
    for level, (old, new) in enumerate(zip(before, after, strict=True)):
        if np.isnan(old).all() or np.isnan(new).all():
            continue
        least, largest = np.nanmin(old), np.nanmax(old)
        rounding = 4 * np.spacing(np.float32(max(abs(least), abs(largest))))
        low, high = np.nanmin(new), np.nanmax(new)
        if low < least - rounding or high > largest + rounding:
            findings.append(
                f"{name} is {low:g} to {high:g} after regridding from {least:g} to "
                f"{largest:g}{place(time, level_of(levels, level))}"
            )
    return findings


def _is_constant(x: np.ndarray) -> bool:
    if np.isnan(x).all():
        return False  # That is another fault.
    return bool(np.nanmin(x) == np.nanmax(x))
