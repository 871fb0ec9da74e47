"""The deep check of a store: every byte, and the physics of some times."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from pipeline.checks.changes import (
    LONGEST_STEP,
    change,
    find_turned_in_time,
    find_unusual_changes,
)
from pipeline.checks.physics import find_earth_faults, find_state_faults
from pipeline.files import Folder
from pipeline.layout import store_files
from pipeline.plan import Plan
from pipeline.progress import progress
from pipeline.statistics import (
    Moments,
    collect_moments,
    shard_moments,
    statistics_content,
)
from pipeline.store import Store, group_attributes
from pipeline.variables import VARIABLES
from pipeline.writer import STATISTICS_FILE, Item, find_damage, read_markers

# Runs of times that are looked at, evenly spread, and how long they are.
_RUNS, _RUN_STEPS = 4, 8
# Between levels, fields are interpolated linearly, and extrapolated at the ends: so
# much of the plausible range may they be beyond it.
_OVERSHOOT = 0.05


def deep_checks(
    folder: Folder, plan: Plan, faults: Mapping[Item, str], finished: bool
) -> list[dict[str, Any]]:
    """Checks of a store, finished or not.

    Args:
      folder: of the store.
      plan: of the store.
      faults: shards that are known to be missing or unfinished; they are not read.
      finished: whether metadata and statistics of this plan must be there.

    Returns:
      For each check its `name`, what it is `of`, whether it is `ok`, and what it found:
      `faults` (the store is damaged) or `notes` (its fields look wrong).
    """
    items = [item for item in plan.items() if item not in faults]
    sound, damage = set(), []
    for item, line in progress(
        find_damage(folder, plan, items), "inspect: reading", len(items)
    ):
        if line is None:
            sound.add(item)
        else:
            damage.append(line)
    results = [
        _result("objects", f"bytes of {len(items)} shards", faults=damage),
        _conservation(folder, items),
    ]
    if finished and not faults:
        results.append(_metadata(folder, plan))
        if not damage:
            results.append(_statistics(folder, plan))
    return results + _fields(Store(folder.address, plan), sound)


def _result(
    name: str, of: str, faults: list[str] | None = None, notes: list[str] | None = None
) -> dict[str, Any]:
    faults, notes = faults or [], notes or []
    ok = not faults and not notes
    return {"name": name, "of": of, "ok": ok, "faults": faults, "notes": notes}


def _conservation(folder: Folder, items: list[Item]) -> dict[str, Any]:
    """What regridding changed of area means, as it noted then; it refuses 1e-6."""
    markers = read_markers(folder, items).values()
    noted = [m.residual for m in markers if m is not None and m.residual is not None]
    of = f"area means kept to {max(noted, default=0):.0e} in {len(noted)} shards"
    return _result("conservation", of)


def _metadata(folder: Folder, plan: Plan) -> dict[str, Any]:
    """Metadata and coordinates are what the plan gives, byte for byte."""
    expected = store_files(plan, group_attributes(plan))
    faults = [
        f"{name} is not what was written"
        for name, content in folder.read_many(expected).items()
        if content != expected[name]
    ]
    return _result("metadata", f"{len(expected)} files", faults)


def _statistics(folder: Folder, plan: Plan) -> dict[str, Any]:
    """Statistics are those of the moments of shards, and these those of the data."""
    of = f"{len(plan.variables)} variables, against the data of a shard each"
    faults = []
    try:
        moments = collect_moments(folder, plan)
        if folder.read_json(STATISTICS_FILE) != statistics_content(plan, moments):
            faults.append(f"{STATISTICS_FILE} is not that of the moments of shards")
        for array in plan.arrays:
            faults += _wrong_moments(folder, plan, array, plan.shards(array) // 2)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        faults.append(f"cannot be compared: {error!r}")
    return _result("statistics", of, faults)


def _wrong_moments(folder: Folder, plan: Plan, array: str, shard: int) -> list[str]:
    """Variables of a shard whose saved moments are not those of its data."""
    file = f"_build/moments/{array}/{shard}.json"
    saved = (folder.read_json(file) or {})["moments"]
    parts = shard_moments(Store(folder.address, plan), array, shard)
    return [
        f"moments of shard {shard} of {name} are not those of its data"
        for name, moments in parts.items()
        if moments.keys() != {int(key) for key in saved[name]}
        or not all(
            _agree(own, Moments.from_json(saved[name][str(key)]))
            for key, own in moments.items()
        )
    ]


def _agree(one: Moments, other: Moments) -> bool:
    """Whether moments are the same, but for the order of sums."""
    rounding = 1e-9 * np.maximum(np.abs(one.least), np.abs(one.largest))
    return (
        one.fields == other.fields
        and one.count == other.count
        and np.array_equal(one.least, other.least)
        and np.array_equal(one.largest, other.largest)
        and bool(np.all(np.abs(one.mean - other.mean) <= rounding))
        and bool(np.all(np.abs(one.std - other.std) <= rounding))
    )


def _fields(store: Store, sound: set[Item]) -> list[dict[str, Any]]:
    """The physics of some times: values, orientation, changes."""
    plan, latitude = store.plan, store.grid.latitude_degrees
    static = {
        name: store.read(name, None)[None]
        for name in plan.variables
        if plan.kind(name) == "static" and (name, 0) in sound
    }
    values = _implausible(plan, static)
    states: list[str] = []
    turned: list[str] = []
    changes: list[str] = []
    if "simulated" not in plan.attributes:
        states += find_earth_faults(static, latitude)
    looked = compared = 0
    runs = list(_runs(plan, sound))
    for index in runs:
        looked += len(index)
        compared += len(index) - 1
        times, fields = plan.times[index], _read(store, index)
        for step, time in enumerate(times):
            state = {name: x[step] for name, x in fields.items()}
            values += _implausible(plan, state, time)
        # What is known of columns and winds is on levels of pressure.
        known = [
            n for n in fields if plan.sigma_layers is None or plan.kind(n) != "levels"
        ]
        state = static | {name: fields[name][0] for name in known}
        states += find_state_faults(state, latitude, plan.levels, times[0])
        for name, x in fields.items():
            near = np.diff(times, prepend=times[0]) <= LONGEST_STEP
            for step in np.flatnonzero(near[1:]) + 1:
                before, after, time = x[step - 1], x[step], times[step]
                turned += find_turned_in_time(name, before, after, latitude, time)
            changes += _unusual_changes(plan, name, x, times)
    of = f"static variables and {looked} of {plan.steps} times"
    if not runs:
        states += find_state_faults(static, latitude, plan.levels)
    results = [
        _result("values", f"plausible, in {of}", notes=values),
        _result(
            "state",
            f"variables fit each other, at {max(1, len(runs))} times",
            notes=states,
        ),
    ]
    if compared:
        of = f"in {compared} steps from a time to the next"
        results += [
            _result("orientation", f"no variable turns, {of}", notes=turned),
            _result("changes", f"none is unusual, {of}", notes=changes),
        ]
    return results


def _runs(plan: Plan, sound: set[Item]) -> Iterator[np.ndarray]:
    """Indices of runs of times whose shards are all sound, the first and last too."""
    arrays = [array for array in plan.arrays if not plan.is_static(array)]
    shards = range(-(-plan.steps // plan.shard_steps) if arrays else 0)
    whole = [s for s in shards if all((array, s) in sound for array in arrays)]
    index = np.array([i for s in whole for i in range(*plan.shard_times(s))], int)
    starts = np.arange(0, len(index), _RUN_STEPS)
    if len(starts) > _RUNS:
        starts = np.linspace(0, len(index) - _RUN_STEPS, _RUNS).astype(int)
    for start in starts:
        run = index[start : start + _RUN_STEPS]
        # Across times that are missing, or not done, the weather has changed.
        steps = np.diff(plan.times[run]) > np.timedelta64(plan.step_hours, "h")
        yield from np.split(run, np.flatnonzero(steps) + 1)


def _read(store: Store, index: np.ndarray) -> dict[str, np.ndarray]:
    """Variables that have a time, [time, level, latitude, longitude]."""
    names = [n for n in store.variables if store.kind(n) != "static"]
    read = store.read_many(dict.fromkeys(names, (index, slice(None))))
    return {n: x if x.ndim == 4 else x[:, None] for n, x in read.items()}


def _implausible(
    plan: Plan, fields: Mapping[str, np.ndarray], time: np.datetime64 | None = None
) -> list[str]:
    """Variables with values that are undefined or not plausible."""
    findings = []
    for name, x in fields.items():
        least, largest = VARIABLES[name].plausible
        if plan.sigma_layers is not None and plan.kind(name) == "levels":
            beyond = _OVERSHOOT * (largest - least)
            least, largest = least - beyond, largest + beyond
        low, high = np.min(x), np.max(x)
        if not (low >= least and high <= largest):
            when = "" if time is None else f" at {np.datetime_as_string(time, 'm')}"
            findings.append(
                f"{name} is {low:g} to {high:g}{when}; plausible are {least:g} to "
                f"{largest:g} {VARIABLES[name].units}"
            )
    return findings


def _unusual_changes(
    plan: Plan, name: str, fields: np.ndarray, times: np.ndarray
) -> list[str]:
    """Of fields [time, level, latitude, longitude] of a run of times."""
    if len(fields) < 2:
        return []
    latitude = plan.target.latitude_degrees
    steps = [
        change(before, after, latitude)
        for before, after in zip(fields[:-1], fields[1:], strict=True)
    ]
    # Layers have no pressure to be named by.
    named = plan.kind(name) == "levels" and plan.sigma_layers is None
    levels = plan.levels if named else None
    return find_unusual_changes(name, np.stack(steps), times[1:], levels)
