"""What is in a store, and is it whole. Works on unfinished and damaged stores too.

Nothing here writes into the store.
"""

import dataclasses
import os
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from pipeline.deep import deep_checks
from pipeline.errors import UserError
from pipeline.files import Folder
from pipeline.layout import store_files
from pipeline.plan import PLAN_FILE, Plan
from pipeline.store import group_attributes
from pipeline.variables import VARIABLES
from pipeline.writer import (
    READY_FILE,
    STATISTICS_FILE,
    Item,
    Marker,
    find_faults,
    read_markers,
)

# Faults beyond these are counted, not listed.
_LISTED_FAULTS = 20

_STATISTICS = ("mean", "std", "min", "max", "std_24h_difference")
_NO_STATISTICS: dict[str, Any] = {"variables": {}, "constant": {}}

# Reports of whole runs; those of single items have a longer name.
_RUN_FILE = re.compile(r"_build/runs/[^.]+\.[^.]+\.json")

_RUN_AGAIN = "run the same `podgcm preprocess` command again, to complete or mend it"
_REPAIR = "run the same `podgcm preprocess` command with --repair, to mend it"
_COPY_PLAN = f"copy _build/READY to {PLAN_FILE}: it holds the same plan"


def describe(path: str | os.PathLike[str], deep: bool = False) -> dict[str, Any]:
    """A description of the store at `path` that JSON can hold.

    Args:
      path: a folder, or an address such as gs://BUCKET/STORE.
      deep: read all of it, and check every byte and some of the physics. Otherwise
        only markers and sizes are looked at.

    Returns:
      A dictionary with, among others, `whole` (all shards, statistics and READY are
      there and, at a deep look, their bytes are those written), `faults` (a line each),
      `advice` (what to do about them), `checks` (of a deep look; see `deep_checks`),
      `arrays` with what is done of each, and `variables` with their statistics by
      level once they are computed.

    Raises:
      UserError: if there is no store, or its plan cannot be read.
    """
    folder = Folder(path)
    found = _Found([], [])
    plan, finished = _plans(folder, found)
    markers = read_markers(folder, plan.items())
    unfinished = find_faults(folder, plan)
    found.add(unfinished.values(), _RUN_AGAIN)
    statistics = _NO_STATISTICS
    if finished is None:
        if not found.faults:
            found.add([f"{path} is not finished"], _RUN_AGAIN)
    else:
        if finished != plan:
            found.add([_extension(plan, finished)], _RUN_AGAIN)
        found.add(_not_as_marked(folder, finished, markers), _REPAIR)
        found.add(_missing_files(folder, finished), _REPAIR)
        statistics, fault = _statistics(folder, plan, finished)
        found.add([fault] if fault else [], _REPAIR)
    checks = []
    if deep:
        checks = deep_checks(folder, plan, unfinished, finished == plan)
    for check in checks:
        lines = [f"{check['name']}: {fault}" for fault in check["faults"]]
        found.add(lines, _REPAIR)

    arrays = _arrays(plan, unfinished, markers)
    total = {
        key: sum(array[key] for array in arrays.values())
        for key in ("shards", "shards_done", "bytes", "raw_bytes")
    }
    return {
        "path": str(path),
        "whole": not found.faults,
        "ready": finished is not None,
        "readable_until": _last(finished) if finished else None,
        "faults": found.faults,
        "advice": found.advice,
        "failures": _failures(folder, unfinished),
        "checks": checks,
        "source": plan.source,
        "static_source": plan.static_source,
        "member": plan.member,
        "forcing_shift_hours": plan.forcing_shift_hours,
        "attributes": plan.attributes,
        "grid": plan.grid,
        "edges": plan.edges,
        "regridding": plan.regridding,
        "sigma_layers": plan.sigma_layers,
        "sigma": plan.sigma.tolist(),
        "levels": list(plan.levels),
        "keep_bits": plan.keep_bits,
        "first_time": _time(plan.times[0]) if plan.steps else None,
        "last_time": _last(plan),
        "times": plan.steps,
        "step_hours": plan.step_hours,
        "missing_times": list(plan.skipped),
        "layout": plan.layout,
        "shard_steps": plan.shard_steps,
        "latitude_chunks": plan.latitude_chunks,
        **total,
        "code_version": _code_version(folder),
        "config_hash": plan.config_hash,
        "fingerprint": plan.fingerprint,
        "arrays": arrays,
        "statistics_times": plan.stats_times and list(plan.stats_times),
        "constant": statistics["constant"],
        "variables": {
            name: {
                "kind": plan.kind(name),
                "units": VARIABLES[name].units,
                "statistics": statistics["variables"].get(name),
            }
            for name in plan.variables
        },
    }


@dataclasses.dataclass(frozen=True)
class _Found:
    """Faults of a store, a line each, and what to do about them."""

    faults: list[str]
    advice: list[str]

    def add(self, faults: Iterable[str], advice: str) -> None:
        faults = list(faults)
        self.faults.extend(faults)
        if faults and advice not in self.advice:
            self.advice.append(advice)


def _plans(folder: Folder, found: _Found) -> tuple[Plan, Plan | None]:
    """The plan, and that of READY; if one of the two is damaged, the other serves."""
    finished = None
    try:
        content = folder.read_json(READY_FILE)
        if content is not None:
            finished = Plan.from_json(content, f"{folder}/{READY_FILE}")
    except UserError as error:
        found.add([str(error)], _REPAIR)
    try:
        return Plan.load(folder), finished
    except UserError as error:
        if finished is None:
            raise
        there = folder.exists(PLAN_FILE)
        found.add([str(error) if there else f"{PLAN_FILE} is missing"], _COPY_PLAN)
        return finished, finished


def _code_version(folder: Folder) -> str | None:
    """Of the run that wrote the plan."""
    try:
        return (folder.read_json(PLAN_FILE) or {}).get("code_version")
    except UserError:
        return None


def _extension(plan: Plan, finished: Plan) -> str:
    return (
        f"an extension from {finished.steps} to {plan.steps} times is not finished; "
        f"readers see the {finished.steps} up to {_last(finished)}"
    )


def _not_as_marked(
    folder: Folder, finished: Plan, markers: dict[Item, Marker | None]
) -> list[str]:
    """Whether READY has objects that are not those of the markers."""
    objects = (folder.read_json(READY_FILE) or {}).get("objects", {})
    for array, shard in finished.items():
        marker = markers.get((array, shard))
        if marker is None or marker.steps > finished.shard_steps_of(array, shard):
            continue  # It is another fault, or has been extended.
        try:
            same = objects[array][shard] == [marker.object_bytes, marker.blake2b]
        except (KeyError, IndexError, TypeError):
            same = False
        if not same:
            return [f"{READY_FILE} does not agree with markers of {array}"]
    return []


def _missing_files(folder: Folder, finished: Plan) -> list[str]:
    """Metadata and coordinates that are not there."""
    names = store_files(finished, group_attributes(finished))
    contents = folder.read_many(names)
    return [f"{name} is missing" for name in names if contents[name] is None]


def _statistics(
    folder: Folder, plan: Plan, finished: Plan
) -> tuple[dict[str, Any], str | None]:
    """Content of the file of statistics, and what is wrong with it."""
    try:
        content = folder.read_json(STATISTICS_FILE)
    except UserError as error:
        return _NO_STATISTICS, str(error)
    if content is None:
        return _NO_STATISTICS, f"{STATISTICS_FILE} is missing"
    windows = [p.stats_times and list(p.stats_times) for p in (plan, finished)]
    try:
        own = content["config_hash"] == plan.config_hash and content["times"] in windows
        if not own:
            return _NO_STATISTICS, f"{STATISTICS_FILE} is of another plan"
        constant = {n: content["constant"][n] for n in content["constant"]}
        variables = {n: content["variables"][n] for n in plan.variables}
        for name, entries in variables.items():
            shape = (plan.depth,) if plan.kind(name) == "levels" else ()
            for key in _STATISTICS:
                values = entries[key]
                if values is None and key.endswith("_difference"):
                    continue
                values = np.array(values, np.float64)
                if values.shape != shape or not np.isfinite(values).all():
                    raise ValueError(f"{key} of {name}")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        return _NO_STATISTICS, f"{STATISTICS_FILE} is damaged: {error!r}"
    return {"variables": variables, "constant": constant}, None


def _arrays(
    plan: Plan, unfinished: dict[Item, str], markers: dict[Item, Marker | None]
) -> dict[str, Any]:
    """What is done of each array."""
    arrays = {}
    for array in plan.arrays:
        shards = [(array, shard) for shard in range(plan.shards(array))]
        done = [item for item in shards if item not in unfinished]
        shape = plan.shape(array)
        field = shape if plan.is_static(array) else shape[1:]
        steps = sum(plan.shard_steps_of(*item) for item in done)
        arrays[array] = {
            "variables": list(plan.arrays[array]),
            "dimensions": list(plan.dimensions(array)),
            "shape": list(shape),
            "shards": len(shards),
            "shards_done": len(done),
            "bytes": sum(markers[item].object_bytes for item in done),
            "raw_bytes": 4 * int(np.prod(field)) * steps,
        }
    return arrays


def _failures(folder: Folder, unfinished: dict[Item, str]) -> list[dict[str, Any]]:
    """Why shards that are not done failed, as the last run that tried them said."""
    known = {}
    names = [name for name in folder.names("_build/runs") if _RUN_FILE.fullmatch(name)]
    keys = ("array", "shard", "times", "error")
    for name, content in folder.read_many(names).items():
        try:
            report = folder.parse_json(name, content or b"{}")
            for failure in report.get("failed", []):
                said = {key: failure[key] for key in keys} | {"run": name}
                known[failure["array"], failure["shard"]] = said
        except (UserError, KeyError):
            continue  # Reports are no part of the store.
    return [known[item] for item in unfinished if item in known]


def format_description(description: dict[str, Any]) -> str:
    """The description as text for people, statistics of three levels each."""
    d = description
    lines = [f"{d['path']}: {'whole' if d['whole'] else 'NOT WHOLE'}"]
    lines += _listed("fault", d["faults"])
    lines += _listed("failed", [_failure(failure) for failure in d["failures"]])
    lines += [f"  do: {advice}" for advice in d["advice"]]
    for check in d["checks"]:
        word = "FAULT" if check["faults"] else "LOOK" if check["notes"] else "ok"
        lines.append(f"  {word:6}{check['name']}: {check['of']}")
        lines += _listed("  note", check["notes"])
    lines.append(f"source   {d['source']}")
    if d["static_source"]:
        lines.append(f"static   {d['static_source']}")
    if d["member"] is not None:
        lines.append(f"member   {d['member']}")
    lines += [f"         {name}: {text}" for name, text in d["attributes"].items()]
    lines.append(f"grid     {d['grid']}; {d['regridding']}")
    if d["times"]:
        lines.append(
            f"times    {d['times']}, {d['first_time']} to {d['last_time']}"
            + (f", every {d['step_hours']} h" if d["step_hours"] else "")
        )
    if d["missing_times"]:
        shown = ", ".join(d["missing_times"][:5])
        more = f" and {len(d['missing_times']) - 5} more"
        lines.append(
            f"missing  {shown}{more if len(d['missing_times']) > 5 else ''} (declared)"
        )
    if d["forcing_shift_hours"]:
        lines.append(f"forcings of {d['forcing_shift_hours']} h before")
    if d["levels"]:
        levels = d["levels"]
        of = " of the source" if d["sigma_layers"] else ""
        lines.append(f"levels   {len(levels)}, {levels[0]:g} to {levels[-1]:g} hPa{of}")
    if d["sigma_layers"]:
        lines.append(f"layers   {d['sigma_layers']}, equidistant in sigma")
    if d["keep_bits"]:
        lines.append(f"rounded  to {d['keep_bits']} bits of the mantissa")
    lines.append(
        f"layout   {d['layout']}, {d['shard_steps']} times in a shard, "
        f"{d['latitude_chunks']} bands of latitude"
    )
    lines.append(
        f"made by  version {d['code_version']}, config {d['config_hash']}, "
        f"fingerprint {d['fingerprint']}"
    )
    lines += ["", *_array_table(d), "", *_statistics_table(d)]
    for name, constant in d["constant"].items():
        unit = "of sigma" if d["sigma_layers"] else "hPa"
        where = "" if constant is True else f" at {_numbers(constant)} {unit}"
        lines.append(f"{name} never varies{where}")
    return "\n".join(lines)


def _listed(word: str, lines: list[str]) -> list[str]:
    listed = [f"  {word}: {line}" for line in lines[:_LISTED_FAULTS]]
    if len(lines) > _LISTED_FAULTS:
        listed.append(f"  {word}: and {len(lines) - _LISTED_FAULTS} more")
    return listed


def _failure(failure: dict[str, Any]) -> str:
    times = f" ({' to '.join(failure['times'])})" if failure["times"] else ""
    which = f"shard {failure['shard']} of {failure['array']}{times}"
    return f"{which}: {failure['error']}"


def _array_table(d: dict[str, Any]) -> list[str]:
    row = "{:<36}{:>15}{:>7}{:>14}{:>12}{:>8}"
    lines = [row.format("array", "shards done", "", "stored, MB", "raw, MB", "ratio")]
    entries = d["arrays"] | ({"all": d} if len(d["arrays"]) > 1 else {})
    for name, array in entries.items():
        ratio = f"{array['raw_bytes'] / array['bytes']:.2f}" if array["bytes"] else "-"
        lines.append(
            row.format(
                name,
                f"{array['shards_done']}/{array['shards']}",
                f"{array['shards_done'] / array['shards']:.0%}",
                f"{array['bytes'] / 1e6:.1f}",
                f"{array['raw_bytes'] / 1e6:.1f}",
                ratio,
            )
        )
    return lines


def _statistics_table(d: dict[str, Any]) -> list[str]:
    row = "{:<36}{:>9} {:>14}{:>11}{:>11}{:>11}{:>11}{:>11}"
    axis, unit = (d["sigma"], "sigma") if d["sigma_layers"] else (d["levels"], "hPa")
    titles = ("variable", unit, "units", "mean", "std", "min", "max", "std 24 h")
    lines = [row.format(*titles)]
    if not any(variable["statistics"] for variable in d["variables"].values()):
        return ["no statistics yet"]
    if d["statistics_times"]:
        lines.insert(0, f"statistics over {' to '.join(d['statistics_times'])}")
    for name, variable in d["variables"].items():
        shown = _shown_levels(axis if variable["kind"] == "levels" else [None])
        for index, level in shown:
            where = "" if level is None else f"{level:.3g}"
            numbers = _row(variable["statistics"], index)
            lines.append(row.format(name, where, variable["units"], *numbers).rstrip())
            name = ""
    return lines


def _shown_levels(levels: list[float | None]) -> list[tuple[int, float | None]]:
    """(index, level) of about 250, 500 and 850 hPa or these thousandths of the surface
    pressure, or of the only level."""
    if len(levels) <= 3:
        return list(enumerate(levels))
    values = np.array(levels)
    wanted = np.array([250, 500, 850]) * (1 if values.max() > 1 else 1e-3)
    nearest = {int(np.abs(values - near).argmin()) for near in wanted}
    return [(index, levels[index]) for index in sorted(nearest)]


def _row(statistics: dict[str, Any], index: int) -> list[str]:
    values = [statistics[key] for key in _STATISTICS]
    return [
        "-"
        if value is None
        else f"{value[index] if isinstance(value, list) else value:.4g}"
        for value in values
    ]


def _numbers(values: list[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _last(plan: Plan) -> str | None:
    return _time(plan.times[-1]) if plan.steps else None


def _time(time: np.datetime64) -> str:
    return str(np.datetime_as_string(time, "m"))
