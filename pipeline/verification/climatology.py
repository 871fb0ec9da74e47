"""The normal weather of a store: its mean by season and time of day.

Of a record of a year or more the mean of every month and hour of the day, of a shorter
one that of the hour of the day alone: then anomalies are those from the record's own
mean, which holds the forecasts' days too, and the scores say so.
"""

import dataclasses

import numpy as np

from pipeline.errors import UserError
from pipeline.files import Folder
from pipeline.store import Store

_YEAR = np.timedelta64(365, "D")


@dataclasses.dataclass(frozen=True)
class Climatology:
    """Means of some times of a store, kept in files of one group and variable each.

    Attributes:
      folder: of the files.
      first, last: of the store's times, inclusive.
      seasonal: whether months have means of their own.
    """

    folder: Folder
    first: int
    last: int
    seasonal: bool

    @classmethod
    def of(cls, store: Store, folder: Folder, first: int, last: int) -> "Climatology":
        """That of a span of a store, whose means are to be in a folder."""
        span = store.times[last] - store.times[first] + store.step
        return cls(folder, first, last, bool(span >= _YEAR))

    def describe(self, store: Store) -> str:
        """What the anomalies of scores are from."""
        first, last = (str(store.times[i])[:10] for i in (self.first, self.last))
        by = "month and hour of the day" if self.seasonal else "hour of the day"
        note = "" if self.seasonal else ", of less than a year: no climate"
        return f"mean of {first} to {last} by {by}{note}"

    def group(self, times: np.ndarray) -> np.ndarray:
        """Number of each time's group."""
        hours = times.astype("datetime64[h]").astype(np.int64) % 24
        if not self.seasonal:
            return hours
        return 24 * (times.astype("datetime64[M]").astype(np.int64) % 12) + hours

    def items(self, store: Store) -> list[tuple[str, int]]:
        """Variables and groups, of which each can be computed alone."""
        groups = np.unique(self.group(store.times[self.first : self.last + 1]))
        names = [n for n in store.variables if store.kind(n) != "static"]
        return [(name, int(group)) for name in names for group in groups]

    def compute(self, store: Store, item: tuple[str, int], at_once: int = 16) -> None:
        """Computes a mean and writes it, unless it is there."""
        name, group = item
        if self.folder.exists(_file(name, group)):
            return
        span = np.arange(self.first, self.last + 1)
        index = span[self.group(store.times[span]) == group]
        total = 0.0
        for i in range(0, len(index), at_once):
            some = store.read(name, index[i : i + at_once])
            total = total + some.sum(axis=0, dtype=np.float64)
        mean = np.asarray(total / len(index), np.float32)
        self.folder.write(_file(name, group), mean.tobytes())

    def read(self, store: Store, name: str, times: np.ndarray) -> np.ndarray:
        """Normal fields at times, [time, (level,) latitude, longitude].

        Raises:
          UserError: if the record has nothing of that season and hour.
        """
        shape = store.grid.shape
        if store.kind(name) == "levels":
            shape = (len(store.levels), *shape)
        fields = []
        for time, group in zip(times, self.group(times), strict=True):
            content = self.folder.read(_file(name, int(group)))
            if content is None:
                raise UserError(
                    f"the climatology has no {name} for {time}: the truth has no time "
                    "of that month and hour"
                )
            fields.append(np.frombuffer(content, np.float32).reshape(shape))
        return np.stack(fields)


def _file(name: str, group: int) -> str:
    return f"climatology/{name}/{group}.f32"
