"""The deep check of a store: every byte, and the physics of some times."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline import checks
from pipeline.errors import UserError
from pipeline.files import Folder
from pipeline.layout import store_files
from pipeline.plan import Plan
from pipeline.progress import progress
from pipeline.statistics import collect_moments, statistics_content
from pipeline.store import Store, group_attributes
from pipeline.variables import VARIABLES
from pipeline.writer import (
    READY_FILE,
    STATISTICS_FILE,
    Item,
    find_damage,
    ready_content,
)

# Runs of times that are looked at, evenly spread, and how long they are.
_RUNS, _RUN_STEPS = 4, 8


def deep_checks(
    folder: Folder, plan: Plan, faults: Mapping[Item, str]
) -> list[dict[str, Any]]:
    """Checks of a store, finished or not.

    Args:
      folder: of the store.
      plan: of the store.
      faults: shards that are known to be missing or unfinished; they are not read.

    Returns:
      For each check its `name`, what it is `of`, whether it is `ok`, and what it found:
      `faults` (the store is damaged) or `notes` (its fields look wrong).
    """
    items = [item for item in plan.items() if item not in faults]
    reading = progress(find_damage(folder, plan, items), "inspect: reading", len(items))
    damage = [line for _, line in reading if line is not None]
    results = [_result("objects", f"bytes of {len(items)} shards", faults=damage)]
    if not faults and folder.exists(READY_FILE):
        results.append(_metadata(folder, plan))
        if not damage:
            results.append(_statistics(folder, plan))
    if not faults and not damage:
        results += _fields(Store(folder.address, plan))
    return results


def _result(
    name: str, of: str, faults: list[str] | None = None, notes: list[str] | None = None
) -> dict[str, Any]:
    faults, notes = faults or [], notes or []
    ok = not faults and not notes
    return {"name": name, "of": of, "ok": ok, "faults": faults, "notes": notes}


def _metadata(folder: Folder, plan: Plan) -> dict[str, Any]:
    """Metadata and coordinates are what the plan gives, READY is what markers say."""
    expected = store_files(plan, group_attributes(plan))
    faults = [
        f"{name} is not what was written"
        for name, content in folder.read_many(expected).items()
        if content != expected[name]
    ]
    said = folder.read_json(READY_FILE) or {}
    # As JSON has it: lists for tuples.
    if said != json.loads(json.dumps(ready_content(folder, plan))):
        faults.append(f"{READY_FILE} is not what plan and markers say")
    return _result("metadata", f"{len(expected) + 1} files", faults)


def _statistics(folder: Folder, plan: Plan) -> dict[str, Any]:
    """Statistics are those of the moments of shards, and finite."""
    try:
        moments = collect_moments(folder, plan)
    except UserError as error:
        return _result("statistics", "moments of shards", [str(error)])
    faults = []
    if folder.read_json(STATISTICS_FILE) != statistics_content(plan, moments):
        faults.append(f"{STATISTICS_FILE} is not that of the moments of shards")
    for name in plan.variables:
        values = np.array([moments[name][0].mean, moments[name][0].std])
        if not np.isfinite(values).all():
            faults.append(f"statistics of {name} are not finite")
    return _result("statistics", f"{len(plan.variables)} variables", faults)


def _fields(store: Store) -> list[dict[str, Any]]:
    """The physics of some times: values, orientation, changes."""
    plan = store.plan
    latitude, levels = store.grid.latitude_degrees, np.array(plan.levels)
    static = {n: store.read(n, None)[None] for n in _of(store, "static")}
    moving = _of(store, "levels", "surface")
    values: list[str] = []
    states: list[str] = []
    turned: list[str] = []
    changes: list[str] = []
    if "simulated" not in plan.attributes:
        states += checks.find_earth_faults(static, latitude)
    starts = np.linspace(0, max(0, plan.steps - _RUN_STEPS), _RUNS).astype(int)
    for start in np.unique(starts) if moving else ():
        index = np.arange(start, min(start + _RUN_STEPS, plan.steps))
        times = plan.times[index]
        read = store.read_many(dict.fromkeys(moving, (index, slice(None))))
        fields = {n: x if x.ndim == 4 else x[:, None] for n, x in read.items()}
        for name, x in fields.items():
            try:
                VARIABLES[name].check_values(x, times, levels)
            except UserError as error:
                values.append(str(error))
            for before, after, time in zip(x, x[1:], times[1:], strict=False):
                turned += checks.find_turned_in_time(
                    name, before, after, latitude, time
                )
            steps = [
                checks.change(a, b, latitude) for a, b in zip(x, x[1:], strict=False)
            ]
            if steps:
                changes += checks.find_unusual_changes(
                    name, np.stack(steps), times[1:], levels
                )
        if plan.sigma_layers is None:
            state = static | {name: x[0] for name, x in fields.items()}
            states += checks.find_state_faults(state, latitude, levels, times[0])
    runs = f"{len(np.unique(starts))} runs of times" if moving else "static fields"
    return [
        _result("values", f"plausible, in {runs}", notes=values),
        _result("state", f"variables fit each other, in {runs}", notes=states),
        _result("orientation", f"none is turned, in {runs}", notes=turned),
        _result("changes", f"none is unusual, in {runs}", notes=changes),
    ]


def _of(store: Store, *kinds: str) -> list[str]:
    return [name for name in store.variables if store.kind(name) in kinds]
