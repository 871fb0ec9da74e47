"""Scores over all initial times, from the statistics of chunks; and how sure they are.

An initial time counts for a forecast at the leads where that is finite; how many they
are is told. Differences between forecasts are of the initial times that both have.

Confidence intervals are those of the bootstrap over initial times: drawn again with
replacement a thousand times, the middle 95 percent. Neighbouring initial times are not
independent, so intervals are rather too narrow.
"""

import collections
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

_DRAWS = 1000
_ROOTS = {"mse": "rmse", "spread": "spread"}
# Of all initial times, for the bootstrap; of all else only the mean is kept.
_SAMPLED = ("mse", "mae", "bias", "crps", "acc")
_LOOKS = ("zonal", "spectrum", "ranks")
_BUDGET = "budget"

ByField = dict[str, dict[str, dict[str, np.ndarray]]]
"""By label, variable, and score or kind."""


class Difference(NamedTuple):
    """Of two forecasts' rmse, (ours - theirs) / theirs, [lead, level, region].

    Attributes:
      relative: of all initial times.
      low, high: ends of the confidence interval, of pairs.
    """

    relative: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def sure(self) -> np.ndarray:
        """Whether the interval leaves 0 out."""
        return (self.low > 0) | (self.high < 0)


@dataclasses.dataclass(frozen=True)
class Scores:
    """All results.

    Attributes:
      times: initial times, datetime64.
      leads: hours.
      levels: hPa.
      latitude: degrees north, of zonal means.
      labels: forecasts and baselines, in order.
      variables: names.
      members: by label, how many; 1 for one forecast.
      counts: by label, of how many initial times its scores are, [lead].
      values: by label, variable and score, [lead, level, region]: `rmse`, `mae`,
        `bias`, `acc`; of members `crps`, `spread` and `spread_skill`, with the rmse of
        their mean; in SI units.
      low, high: ends of the confidence intervals of `rmse`, `mae`, `bias`, `acc` and
        `crps`, if there are two initial times.
      samples: mean square errors, [time, lead, level, region], by label and variable;
        NaN where the forecast is.
      looks: by label (truth too), variable and kind: `zonal` [lead, level, latitude],
        `spectrum` [lead, level, l]; `ranks` [lead, level, region, rank].
      budgets: by label (truth too) and kind: `energy`, `water`, `surface_pressure`,
        [lead].
    """

    times: np.ndarray
    leads: np.ndarray
    levels: np.ndarray
    latitude: np.ndarray
    labels: tuple[str, ...]
    variables: tuple[str, ...]
    members: dict[str, int]
    counts: dict[str, np.ndarray]
    values: ByField
    low: ByField
    high: ByField
    samples: dict[str, dict[str, np.ndarray]]
    looks: ByField
    budgets: dict[str, dict[str, np.ndarray]]

    def difference(self, label: str, baseline: str, name: str) -> Difference:
        """Of a variable's rmse from another forecast's."""
        ours, theirs = self.samples[label][name], self.samples[baseline][name]
        both = np.isfinite(ours) & np.isfinite(theirs)
        ours, theirs = (np.where(both, x, np.nan) for x in (ours, theirs))
        with np.errstate(divide="ignore", invalid="ignore"):
            whole = np.ones((1, len(self.times)))
            (relative,) = np.sqrt(_means(whole, ours) / _means(whole, theirs)) - 1
            if len(self.times) < 2:
                return Difference(relative, *np.full((2, *relative.shape), np.nan))
            draws = np.sqrt(_drawn_means(ours) / _drawn_means(theirs)) - 1
            return Difference(relative, *np.quantile(draws, (0.025, 0.975), axis=0))


def make_scores(
    statistics: Iterable[dict[str, np.ndarray]],
    times: np.ndarray,
    leads: np.ndarray,
    levels: np.ndarray,
    latitude: np.ndarray,
    labels: Sequence[str],
    variables: Sequence[str],
    members: dict[str, int],
) -> Scores:
    """Means of the statistics of all labels over initial times.

    Args:
      statistics: of one initial time after another, all labels' `ScoreChunk.statistics`
        of all leads; only what the bootstrap needs is kept of each.
      times, leads, levels, latitude, labels, variables, members: as of `Scores`.
    """
    totals: dict[str, Any] = collections.defaultdict(float)
    samples: dict[str, list[np.ndarray]] = collections.defaultdict(list)
    counts: dict[str, Any] = collections.defaultdict(int)
    for of_time in statistics:
        finite = _finite_leads(of_time)
        for label, is_finite in finite.items():
            counts[label] += is_finite
        for key, x in of_time.items():
            label, _, kind = key.split("/")
            counted = finite[label].reshape(-1, *[1] * (x.ndim - 1))
            totals[key] += np.where(counted, x, 0.0)
            if kind in _SAMPLED:
                # In single precision, for intervals alone.
                samples[key].append(np.where(counted, x, np.nan).astype(np.float32))
    means: ByField = {}
    for key, total in totals.items():
        label, name, kind = key.split("/")
        count = counts[label].reshape(-1, *[1] * (total.ndim - 1))
        with np.errstate(divide="ignore", invalid="ignore"):
            means.setdefault(label, {}).setdefault(name, {})[kind] = total / count

    values: ByField = {label: {} for label in labels}
    low, high, squares = ({label: {} for label in labels} for _ in range(3))
    looks: ByField = {label: {} for label in means}
    for label, of_label in means.items():
        for name, kinds in of_label.items():
            if name == _BUDGET:
                continue
            looks[label][name] = {k: kinds.pop(k) for k in _LOOKS if k in kinds}
            if label not in values:
                continue
            values[label][name] = _scores(kinds, members[label])
            of_times = {
                kind: np.stack(samples.pop(f"{label}/{name}/{kind}"))
                for kind in kinds
                if kind in _SAMPLED
            }
            low[label][name], high[label][name] = _intervals(of_times)
            squares[label][name] = of_times["mse"]
    budgets = {x: y[_BUDGET] for x, y in means.items() if _BUDGET in y}
    return Scores(
        *(times, leads, levels, latitude, tuple(labels), tuple(variables), members),
        *(dict(counts), values, low, high, squares, looks, budgets),
    )


def _finite_leads(statistics: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """By label whether all errors of a lead are finite, bool [lead]; truth's are."""
    finite: dict[str, np.ndarray] = {}
    for key, x in statistics.items():
        label, _, kind = key.split("/")
        found = np.ones(len(x), bool)
        if kind == "mse":
            found = np.isfinite(x).reshape(len(x), -1).all(axis=1)
        finite[label] = finite.get(label, True) & found
    return finite


def _scores(means: dict[str, np.ndarray], members: int) -> dict[str, np.ndarray]:
    """Of means over initial times; roots of squares."""
    scores = {
        _ROOTS.get(kind, kind): np.sqrt(x) if kind in _ROOTS else x
        for kind, x in means.items()
    }
    if "spread" in means:
        # Of a finite number of members (Fortin et al. 2014).
        with np.errstate(divide="ignore", invalid="ignore"):
            scores["spread_skill"] = np.sqrt(
                (members + 1) / members * means["spread"] / means["mse"]
            )
    return scores


def _intervals(
    samples: dict[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    low, high = {}, {}
    for kind, x in samples.items():
        if len(x) > 1:
            ends = np.quantile(_drawn_means(x), (0.025, 0.975), axis=0)
            key = _ROOTS.get(kind, kind)
            low[key], high[key] = np.sqrt(ends) if kind in _ROOTS else ends
    return low, high


def _drawn_means(x: np.ndarray) -> np.ndarray:
    """Means over initial times drawn with replacement, [draw, ...]; always the same."""
    rng = np.random.default_rng(0)
    picked = rng.integers(len(x), size=(_DRAWS, len(x)))
    return _means(np.stack([np.bincount(row, minlength=len(x)) for row in picked]), x)


def _means(weights: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Means over the first axis of what is finite, [k, time] of [time, ...]."""
    finite = np.isfinite(x)
    weights = weights.astype(np.float64)
    total = np.tensordot(weights, np.where(finite, x, 0.0), axes=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return total / np.tensordot(weights, finite.astype(np.float64), axes=1)
