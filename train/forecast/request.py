"""What a forecast is to be: times, members, fields; checked before anything is done."""

import dataclasses
import re

import numpy as np

from pipeline.errors import UserError
from pipeline.store import Store

_HOURS = {"": 1, "h": 1, "d": 24, "y": 8766}


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
      workdir: folder of the run.
      init: initial times (`parse_init`).
      output: Zarr store to make.
      lead: of the last output (`parse_hours`).
      every: hours between outputs.
      members: forecasts of every initial time.
      physics: `learned`; `none`, all networks silenced; or `oracle`, the sample
        planet's own, with coders that only interpolate.
      fields: what is written (`train.forecast.products`).
      sea: sea surface temperature and ice: `held` as at the initial time, of the
        `dates`, or the `climatology` of the data (`train.forecast.sea`).
      mean: `month`, to keep means of calendar months; empty: every output is kept.
      store: of the initial states, or raw fields that a store is then made of, beside
        the output; empty: the run's own data.
    """

    workdir: str
    init: str
    output: str
    lead: str = "24h"
    every: int = 6
    members: int = 1
    physics: str = "learned"
    fields: tuple[str, ...] = ("levels", "drift")
    sea: str = "held"
    mean: str = ""
    store: str = ""

    @property
    def leads(self) -> np.ndarray:
        """Hours, [lead], from 0.

        Raises:
          UserError: if they are none.
        """
        last = parse_hours(self.lead)
        if self.every < 1 or last % self.every:
            raise UserError(
                f"--lead={self.lead} is not a multiple of --every={self.every} hours"
            )
        return np.arange(0, last + 1, self.every)


def parse_hours(text: str) -> int:
    """Hours of a number of hours, days or years of 365.25 days: 24, 72h, 10d, 2y.

    Raises:
      UserError: if it is none.
    """
    match = re.fullmatch(r"(\d+)([hdy]?)", text)
    if match is None:
        raise UserError(f"--lead={text}: write hours, days or years: 72h, 10d, 2y")
    return int(match[1]) * _HOURS[match[2]]


def parse_init(init: str) -> np.ndarray:
    """Times that are named, datetime64[ns] [time].

    Args:
      init: TIME, several of them separated by commas, or START/STOP/STEP with STEP in
        hours such as 12h, ends included.

    Raises:
      UserError: if it cannot be read, or names a time twice.
    """
    parts = init.split("/")
    try:
        if len(parts) == 1:
            wanted = np.array([np.datetime64(t, "ns") for t in init.split(",")])
        elif len(parts) == 3 and parts[2].endswith("h"):
            start, stop = (np.datetime64(t, "ns") for t in parts[:2])
            wanted = np.arange(
                start,
                stop + np.timedelta64(1, "ns"),
                np.timedelta64(int(parts[2][:-1]), "h"),
            )
        else:
            raise ValueError(init)
    except ValueError:
        raise UserError(
            f"--init={init}: write TIME, TIME,TIME,... or START/STOP/STEP such as "
            "2001-02-06/2001-02-12/12h"
        ) from None
    if not wanted.size:
        raise UserError(f"--init={init} names no time: it stops before it starts")
    if len(np.unique(wanted)) < len(wanted):
        raise UserError(f"--init={init} names a time twice")
    return wanted


def initial_times(store: Store, init: str) -> np.ndarray:
    """Indices of the store's times that `init` names (`parse_init`).

    Raises:
      UserError: if the store lacks one of them.
    """
    wanted = parse_init(init)
    index = np.searchsorted(store.times, wanted)
    found = index < len(store.times)
    found[found] &= store.times[index[found]] == wanted[found]
    if not found.all():
        raise UserError(
            f"--init: {store.path} has no {wanted[~found][0]}; it holds "
            f"{store.times[0]} to {store.times[-1]}, every {store.step}"
        )
    return index
