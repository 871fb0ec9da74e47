"""What is kept of the outputs of a batch: every one of them, or means of months."""

from collections.abc import Collection, Sequence

import numpy as np

from train.forecast.output import Axes, Output
from train.forecast.products import FIELDS, GLOBAL

Values = dict[str, np.ndarray]
"""Fields by name, [row, ...]."""
Places = Sequence[tuple[int, int]]
"""Index of the initial time, and member, of each row."""


class Instants:
    """Takes outputs in order, and writes those of its rows, some leads at once."""

    def __init__(
        self, output: Output, axes: Axes, places: Places, mine: Collection[int]
    ) -> None:
        """
        Args:
          output: to write to.
          axes: of it.
          places: of the rows.
          mine: those that this process writes.
        """
        self._output, self._places, self._mine = output, places, mine
        self._last = len(axes.leads) - 1
        self._held: list[tuple[Values, np.ndarray]] = []

    def take(self, lead: int, values: Values, finite: np.ndarray) -> None:
        """Takes an output, by the index of its lead; `finite` is bool [row]."""
        self._held.append((values, finite))
        if not self.whole(lead):
            return
        first = lead + 1 - len(self._held)
        for row in self._mine:
            self._output.write_leads(
                *(*self._places[row], first),
                {n: np.stack([held[n][row] for held, _ in self._held]) for n in values},
                np.array([ok[row] for _, ok in self._held]),
            )
        self._held = []

    def whole(self, lead: int) -> bool:
        """Whether it can go on from here, once this output is taken."""
        return (lead + 1) % self._output.chunk == 0 or lead == self._last

    def arrays(self) -> dict[str, np.ndarray]:
        """What it goes on from."""
        return {}


class Months(Instants):
    """Keeps means of calendar months, of the outputs whose time is in them.

    A month is written when the next one begins, or the forecast ends. What is a mean of
    the whole atmosphere is kept of every output. Sums are float64.
    """

    def __init__(
        self,
        output: Output,
        axes: Axes,
        places: Places,
        mine: Collection[int],
        saved: dict[str, np.ndarray],
    ) -> None:
        """
        Args:
          output, axes, places, mine: as of `Instants`.
          saved: `arrays` of before, if it goes on.
        """
        super().__init__(output, axes, places, mine)
        self._axes = axes
        self._sums = {
            key.removeprefix("sum/"): x
            for key, x in saved.items()
            if key.startswith("sum/")
        }
        self._counts = saved.get("counts")

    def take(self, lead: int, values: Values, finite: np.ndarray) -> None:
        series = {n: x for n, x in values.items() if FIELDS[n].place == GLOBAL}
        super().take(lead, series, finite)
        fields = {n: x for n, x in values.items() if n not in series}
        if self._counts is None:
            self._counts = np.zeros(len(finite), np.int64)
            self._sums = {n: np.zeros(x.shape) for n, x in fields.items()}
        for name, x in fields.items():
            self._sums[name] += x
        self._counts += 1
        for row, (time, member) in enumerate(self._places):
            month = self._axes.month(time, lead)
            if lead == self._last or self._axes.month(time, lead + 1) > month:
                count = int(self._counts[row])
                mean = {n: x[row] / count for n, x in self._sums.items()}
                if row in self._mine:
                    self._output.write_month(time, member, month, mean, count)
                self._counts[row] = 0
                for x in self._sums.values():
                    x[row] = 0

    def arrays(self) -> dict[str, np.ndarray]:
        sums = {f"sum/{n}": x.copy() for n, x in self._sums.items()}
        return sums | {"counts": self._counts.copy()}
