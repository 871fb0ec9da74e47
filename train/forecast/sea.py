"""The sea under a forecast: its surface temperature and ice, at any time.

A forecast of days keeps the sea of its initial time, for the future is not known. A
climate run is given that of the dates, or the mean of the data's years.
"""

from collections.abc import Callable

import numpy as np

from model.spec import SURFACE_VARIABLES
from pipeline.errors import UserError
from pipeline.store import Store

Fields = dict[str, np.ndarray]
"""`SURFACE_VARIABLES` [row, 2, latitude, longitude], latitudes in mirror pairs."""

_HOUR = np.timedelta64(1, "h")
_DAYS = 365


class Sea:
    """The sea of some forecasts.

    Attributes:
      kind: `held`, `dates` or `climatology`.
    """

    def __init__(self, store: Store, kind: str) -> None:
        """
        Raises:
          UserError: if there is no climatology: the data lack a day of the year.
        """
        self.kind, self._store = kind, store
        if kind == "climatology":
            self._of_days = _daily_means(store)

    def check(self, starts: np.ndarray, hours: int) -> None:
        """Raises UserError where forecasts from these times would want for a sea.

        Args:
          starts: indices of the store's times, [row].
          hours: of the last lead.
        """
        times = self._store.times
        if self.kind != "dates":
            return
        end = times[starts.max()] + hours * _HOUR
        if end > times[-1]:
            raise UserError(
                f"--sea=dates: {self._store.path} ends at {times[-1]}, and the "
                f"forecast at {end}: use --sea=held or climatology, or a longer store"
            )
        inside = times[starts.min() : np.searchsorted(times, end) + 1]
        if (np.diff(inside) > self._store.step).any():
            place = inside[:-1][np.diff(inside) > self._store.step][0]
            raise UserError(
                f"--sea=dates: {self._store.path} has no time after {place} for more "
                f"than {self._store.step}"
            )

    def at(self, starts: np.ndarray, lead: int) -> Fields:
        """The sea `lead` hours after these of the store's times, [row]."""
        store = self._store
        if self.kind == "held":
            return self._read(starts)
        wanted = store.times[starts] + lead * _HOUR
        if self.kind == "climatology":
            return _between_days(self._of_days, wanted)
        after = np.searchsorted(store.times, wanted)
        before = np.maximum(after - (store.times[after] > wanted), 0)
        late = (wanted - store.times[before]) / store.step
        return _mixed(self._read(before), self._read(after), late)

    def _read(self, index: np.ndarray) -> Fields:
        names = dict.fromkeys(SURFACE_VARIABLES, (index, slice(None)))
        return self._store.read_many(names, folded=True)


def _mixed(first: Fields, second: Fields, weights: np.ndarray) -> Fields:
    """Linear in between, by weights of the second, [row]."""
    w = weights.astype(np.float32).reshape(-1, 1, 1, 1)
    return {name: (1 - w) * x + w * second[name] for name, x in first.items()}


def _day_of_year(times: np.ndarray) -> np.ndarray:
    """Days since the year began, [time]; the last of a leap year is the 365th again."""
    days = (times - times.astype("datetime64[Y]")) / np.timedelta64(1, "D")
    return np.minimum(days, _DAYS - 1e-6)


def _daily_means(store: Store) -> Fields:
    """Mean over the years for each day of a year, [day, 2, latitude, longitude]."""
    day = _day_of_year(store.times).astype(int)
    missing = np.setdiff1d(np.arange(_DAYS), day)
    if missing.size:
        date = np.datetime64("2001-01-01") + missing[0]
        raise UserError(
            f"--sea=climatology: {store.path} lacks {missing.size} of the 365 days of "
            f"a year, such as {str(date)[5:]}: use --sea=held, or a store of a year or "
            "more"
        )
    means: Fields = {}
    for number in range(_DAYS):
        index = np.flatnonzero(day == number)
        names = dict.fromkeys(SURFACE_VARIABLES, (index, slice(None)))
        for name, x in store.read_many(names, folded=True).items():
            of_all = means.setdefault(name, np.empty((_DAYS, *x.shape[1:]), np.float32))
            of_all[number] = x.mean(axis=0)
    return means


def _between_days(of_days: Fields, times: np.ndarray) -> Fields:
    """Linear between noons."""
    place = _day_of_year(times) - 0.5
    first = np.floor(place).astype(int)
    pick: Callable[[np.ndarray], Fields] = lambda day: {  # noqa: E731
        name: x[day % _DAYS] for name, x in of_days.items()
    }
    return _mixed(pick(first), pick(first + 1), place - first)
