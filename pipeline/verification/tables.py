"""Scores as JSON and as tables, CSV with one number a line."""

import csv
import io
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from pipeline.files import Folder
from pipeline.verification.points import REGIONS
from pipeline.verification.scores import Scores

_PLACE = ("label", "variable", "level_hpa", "lead_hours")
_REGIONS = tuple(REGIONS)

Row = tuple[str | int | float, ...]


def to_json(scores: Scores) -> dict[str, Any]:
    """`scores` by label, variable and score, [lead][level] over the whole globe, and by
    region under `regions`."""

    def of_region(region: int) -> dict[str, Any]:
        return {
            label: {
                name: {key: _listed(x[..., region]) for key, x in of_name.items()}
                for name, of_name in variables.items()
            }
            for label, variables in scores.values.items()
        }

    regions = {name: of_region(i) for i, name in enumerate(_REGIONS)}
    return {
        "initial_times": [str(t) for t in scores.times],
        "lead_hours": [int(x) for x in scores.leads],
        "levels_hpa": [float(x) for x in scores.levels],
        "members": scores.members,
        "initial_times_counted": {x: scores.counts[x].tolist() for x in scores.labels},
        "scores": regions.pop("global"),
        "regions": regions,
        "budgets": {
            label: {key: _listed(x) for key, x in kinds.items()}
            for label, kinds in scores.budgets.items()
        },
    }


def _listed(x: np.ndarray) -> list:
    """For JSON, which has no NaN."""
    return np.where(np.isfinite(x), x, None).tolist()


def write_tables(folder: Folder, scores: Scores) -> None:
    """Writes `scores.csv`, and what else pictures show, each into one of its own."""
    tables: dict[str, tuple[Row, Iterable[Row]]] = {
        "scores.csv": (
            (*_PLACE, "region", "score", "value", "low", "high"),
            _score_rows(scores),
        ),
        "zonal.csv": ((*_PLACE, "latitude", "mean"), _look_rows(scores, "zonal")),
        "spectra.csv": (
            (*_PLACE, "wavenumber", "power"),
            _look_rows(scores, "spectrum"),
        ),
        "ranks.csv": ((*_PLACE, "region", "rank", "area"), _rank_rows(scores)),
        "budgets.csv": (("label", "kind", "lead_hours", "mean"), _budget_rows(scores)),
    }
    for name, (head, rows) in tables.items():
        _write(folder, name, head, rows)


def write_differences(folder: Folder, scores: Scores, baseline: str) -> None:
    """Writes `differences.csv`, of all labels' rmse from one of them, in percent."""

    def rows() -> Iterator[Row]:
        for label in scores.labels:
            if label == baseline:
                continue
            for name in scores.variables:
                difference = scores.difference(label, baseline, name)
                for place in np.ndindex(difference.relative.shape):
                    percent = (_number(100 * x[place]) for x in difference)
                    yield *_place(scores, label, name, place), *percent

    head = (*_PLACE, "region", f"percent_of_{baseline}", "low", "high")
    _write(folder, "differences.csv", head, rows())


def _write(folder: Folder, name: str, head: Row, rows: Iterable[Row]) -> None:
    """Unless there is nothing in it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    content = text.getvalue()
    if content.count("\n") > 1:
        folder.write(name, content.encode())


def _score_rows(scores: Scores) -> Iterator[Row]:
    for label, variables in scores.values.items():
        for name, of_name in variables.items():
            for key, x in of_name.items():
                low, high = (
                    bounds[label][name].get(key) for bounds in (scores.low, scores.high)
                )
                for place in np.ndindex(x.shape):
                    ends = ("", "")
                    if low is not None:
                        ends = _number(low[place]), _number(high[place])
                    where = _place(scores, label, name, place)
                    yield *where, key, _number(x[place]), *ends


def _look_rows(scores: Scores, kind: str) -> Iterator[Row]:
    """Of the first and the last lead."""
    for label, variables in scores.looks.items():
        for name, kinds in variables.items():
            if kind not in kinds:
                continue
            x = kinds[kind]
            along = scores.latitude if kind == "zonal" else np.arange(x.shape[-1])
            for lead in sorted({0, len(x) - 1}):
                for level, i in np.ndindex(x.shape[1:]):
                    where = _place(scores, label, name, (lead, level))
                    yield *where, f"{along[i]:g}", _number(x[lead, level, i])


def _rank_rows(scores: Scores) -> Iterator[Row]:
    for label, variables in scores.looks.items():
        for name, kinds in variables.items():
            ranks = kinds.get("ranks", np.zeros(0))
            for place in np.ndindex(ranks.shape):
                where = _place(scores, label, name, place[:-1])
                yield *where, place[-1], _number(ranks[place])


def _budget_rows(scores: Scores) -> Iterator[Row]:
    for label, kinds in scores.budgets.items():
        for kind, x in kinds.items():
            for lead, value in zip(scores.leads, x, strict=True):
                yield label, kind, int(lead), _number(value)


def _place(scores: Scores, label: str, name: str, place: tuple[int, ...]) -> Row:
    """Label, variable, level and lead of [lead, level], and of [..., region] that."""
    lead, level, *region = place
    where = float(scores.levels[level]), int(scores.leads[lead])
    return label, name, *where, *(_REGIONS[r] for r in region)


def _number(x: float) -> str:
    return f"{x:.6g}"
