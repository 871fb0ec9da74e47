"""Where a fault is, in words."""

from collections.abc import Sequence

import numpy as np


def level_of(levels: Sequence[float] | None, index: int) -> float | None:
    """In hPa; None for variables of one level, which needs no name."""
    return None if levels is None or len(levels) < 2 else levels[index]


def place(time: np.datetime64 | None = None, level: float | None = None) -> str:
    """To be added to a finding; empty if nothing is known."""
    where = "" if time is None else f" at {np.datetime_as_string(time, 'm')}"
    return where if level is None else f"{where}, {level:g} hPa"
