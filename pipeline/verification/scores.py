"""Scores over all initial times, from the statistics of chunks; and how sure they are.

Confidence intervals are those of the bootstrap over initial times: drawn again with
replacement a thousand times, the middle 95 percent. Neighbouring initial times are not
independent, so intervals are rather too narrow.
"""

import dataclasses
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.errors import UserError
from pipeline.files import Folder
from pipeline.verification.chunks import chunk_file
from pipeline.verification.points import REGIONS

_DRAWS = 1000
_ROOTS = {"mse": "rmse", "spread": "spread"}
# Of initial times, which are kept for the bootstrap.
SAMPLED = ("rmse", "mae", "crps", "acc")


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
      values: by label, variable and score, [lead, level, region]: `rmse`, `mae`,
        `bias`, `acc`; of members `crps`, `spread` and `spread_skill`, with the rmse of
        their mean; in SI units.
      low, high: of those in `SAMPLED`, ends of the confidence interval.
      samples: mean square errors, [time, lead, level, region], by label and variable.
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
    values: dict[str, dict[str, dict[str, np.ndarray]]]
    low: dict[str, dict[str, dict[str, np.ndarray]]]
    high: dict[str, dict[str, dict[str, np.ndarray]]]
    samples: dict[str, dict[str, np.ndarray]]
    looks: dict[str, dict[str, dict[str, np.ndarray]]]
    budgets: dict[str, dict[str, np.ndarray]]

    def difference(
        self, label: str, baseline: str, name: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Relative difference of the rmse from another's, and whether it is sure.

        Returns:
          (rmse - other) / other, [lead, level, region]; and whether the interval of the
          paired bootstrap leaves 0 out.
        """
        ours, theirs = self.samples[label][name], self.samples[baseline][name]
        root = np.sqrt(ours.mean(axis=0)), np.sqrt(theirs.mean(axis=0))
        with np.errstate(divide="ignore", invalid="ignore"):
            relative = root[0] / root[1] - 1
        if len(self.times) < 2:
            return relative, np.zeros(relative.shape, bool)
        draws = [np.sqrt(_drawn_means(x)) for x in (ours, theirs)]
        low, high = np.quantile(draws[0] - draws[1], (0.025, 0.975), axis=0)
        return relative, (low > 0) | (high < 0)

    def to_json(self) -> dict[str, Any]:
        """`scores` by label, variable and score, [lead][level] over the whole globe,
        and by region under `regions`."""

        def of_region(region: int) -> dict[str, Any]:
            return {
                label: {
                    name: {key: _listed(x[..., region]) for key, x in scores.items()}
                    for name, scores in variables.items()
                }
                for label, variables in self.values.items()
            }

        regions = {name: of_region(i) for i, name in enumerate(REGIONS)}
        return {
            "initial_times": [str(t) for t in self.times],
            "lead_hours": [int(x) for x in self.leads],
            "levels_hpa": [float(x) for x in self.levels],
            "members": self.members,
            "scores": regions.pop("global"),
            "regions": regions,
            "budgets": {
                label: {key: _listed(x) for key, x in kinds.items()}
                for label, kinds in self.budgets.items()
            },
        }

    def rows(self) -> list[tuple]:
        """(label, variable, level, lead, region, score, value, low, high), all."""
        rows = []
        for label, variables in self.values.items():
            for name, scores in variables.items():
                for key, x in scores.items():
                    low, high = (
                        bounds[label][name].get(key) for bounds in (self.low, self.high)
                    )
                    for place in np.ndindex(x.shape):
                        lead, level, region = place
                        ends = ("", "")
                        if low is not None:
                            ends = f"{low[place]:.6g}", f"{high[place]:.6g}"
                        rows.append(
                            (
                                *(label, name, float(self.levels[level])),
                                *(int(self.leads[lead]), list(REGIONS)[region], key),
                                *(f"{x[place]:.6g}", *ends),
                            )
                        )
        return rows


def _listed(x: np.ndarray) -> list:
    """For JSON, which has no NaN."""
    return np.where(np.isfinite(x), x, None).tolist()


def read_chunks(
    folder: Folder, label: str, times: int, leads: Sequence[int]
) -> dict[str, np.ndarray]:
    """All statistics of a forecast, [time, lead, ...]; `leads` are where chunks begin.

    Raises:
      UserError: if a chunk is missing.
    """
    files = [[chunk_file(label, t, lead) for lead in leads] for t in range(times)]
    contents = folder.read_many([name for row in files for name in row])
    missing = [name for name, content in contents.items() if content is None]
    if missing:
        raise UserError(f"{folder}/{missing[0]} is missing: run the same command again")

    def loaded(name: str) -> dict[str, np.ndarray]:
        with np.load(io.BytesIO(contents[name])) as arrays:
            return dict(arrays)

    rows = []
    for names in files:
        parts = [loaded(name) for name in names]
        rows.append({k: np.concatenate([p[k] for p in parts]) for k in parts[0]})
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


def make_scores(
    statistics: dict[str, np.ndarray],
    times: np.ndarray,
    leads: np.ndarray,
    levels: np.ndarray,
    latitude: np.ndarray,
    labels: Sequence[str],
    variables: Sequence[str],
    members: dict[str, int],
) -> Scores:
    """Means of the statistics of all labels over initial times."""
    nested: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for key, x in statistics.items():
        label, name, kind = key.split("/")
        nested.setdefault(label, {}).setdefault(name, {})[kind] = x
    values: dict[str, Any] = {label: {} for label in labels}
    low: dict[str, Any] = {label: {} for label in labels}
    high: dict[str, Any] = {label: {} for label in labels}
    samples: dict[str, Any] = {label: {} for label in labels}
    looks: dict[str, Any] = {label: {} for label in nested}
    for label, of_label in nested.items():
        for name, kinds in of_label.items():
            if name == "budget":
                continue
            kept = {
                k: kinds.pop(k) for k in ("zonal", "spectrum", "ranks") & kinds.keys()
            }
            looks[label][name] = {k: x.mean(axis=0) for k, x in kept.items()}
            if label not in values:
                continue
            samples[label][name] = kinds["mse"]
            means = {k: x.mean(axis=0) for k, x in kinds.items()}
            scores = {_ROOTS.get(k, k): x for k, x in means.items()}
            for square, root in _ROOTS.items():
                if square in means:
                    scores[root] = np.sqrt(means[square])
            if "spread" in scores:
                # Of a finite number of members (Fortin et al. 2014).
                count = members[label]
                with np.errstate(divide="ignore", invalid="ignore"):
                    scores["spread_skill"] = np.sqrt(
                        (count + 1) / count * means["spread"] / means["mse"]
                    )
            values[label][name] = scores
            low[label][name], high[label][name] = _intervals(kinds)
    budgets = {
        label: {k: x.mean(axis=0) for k, x in of_label.get("budget", {}).items()}
        for label, of_label in nested.items()
    }
    return Scores(
        *(times, leads, levels, latitude, tuple(labels), tuple(variables), members),
        *(values, low, high, samples, looks, {k: x for k, x in budgets.items() if x}),
    )


def _intervals(
    kinds: dict[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    low, high = {}, {}
    for kind, x in kinds.items():
        key = _ROOTS.get(kind, kind)
        if key in SAMPLED and len(x) > 1:
            ends = np.quantile(_drawn_means(x), (0.025, 0.975), axis=0)
            low[key], high[key] = np.sqrt(ends) if kind == "mse" else ends
    return low, high


def _drawn_means(x: np.ndarray) -> np.ndarray:
    """Means over initial times drawn with replacement, [draw, ...]; always the same."""
    rng = np.random.default_rng(0)
    picked = rng.integers(len(x), size=(_DRAWS, len(x)))
    counts = np.stack([np.bincount(row, minlength=len(x)) for row in picked])
    return np.tensordot(counts / len(x), x, axes=1)
