"""What is in a store, and is it whole. Works on unfinished and damaged stores too.

Nothing here writes into the store.
"""

import json
import os
from typing import Any

import numpy as np

from pipeline.deep import deep_checks
from pipeline.errors import UserError
from pipeline.files import Folder
from pipeline.plan import Plan
from pipeline.store import open_store
from pipeline.variables import VARIABLES
from pipeline.writer import READY_FILE, STATISTICS_FILE, find_faults, read_markers

# Faults beyond these are counted, not listed.
_LISTED_FAULTS = 20


def describe(path: str | os.PathLike[str], deep: bool = False) -> dict[str, Any]:
    """A description of the store at `path` that JSON can hold.

    Args:
      path: a folder, or an address such as gs://BUCKET/STORE.
      deep: read all of it, and check every byte and some of the physics. Otherwise
        only markers and sizes are looked at.

    Returns:
      A dictionary with, among others, `whole` (all shards, statistics and READY are
      there and, at a deep look, their bytes are those written), `faults` (a line each),
      `checks` (of a deep look; see `deep_checks`), and `variables` with their
      statistics by level once they are computed.

    Raises:
      UserError: if there is no store, or its plan cannot be read.
    """
    folder = Folder(path)
    plan = Plan.load(folder)
    markers = read_markers(folder, plan.items())
    found = find_faults(folder, plan)
    faults = list(found.values())
    ready = folder.read_json(READY_FILE)
    finished = ready and Plan.from_json(ready, f"{path}/{READY_FILE}")
    if not faults:
        # A reason of its own, such as missing statistics.
        try:
            open_store(path)
            if finished != plan:
                faults.append(f"{path} is being extended: run the same command again")
        except UserError as error:
            faults.append(str(error))
    checks = deep_checks(folder, plan, found) if deep else []
    faults += [f"{check['name']}: {f}" for check in checks for f in check["faults"]]

    arrays = {}
    for array in plan.arrays:
        shards = [(array, shard) for shard in range(plan.shards(array))]
        done = [item for item in shards if item not in found]
        steps = [plan.shard_steps_of(*item) for item in done]
        shape = plan.shape(array)
        fields = shape if plan.is_static(array) else shape[1:]
        arrays[array] = {
            "dimensions": list(plan.dimensions(array)),
            "shape": list(shape),
            "shards": len(shards),
            "shards_done": len(done),
            "bytes": sum(markers[item].object_bytes for item in done),
            "raw_bytes": 4 * int(np.prod(fields)) * sum(steps),
        }
    statistics = folder.read_json(STATISTICS_FILE) or {"variables": {}, "constant": {}}
    return {
        "path": str(path),
        "whole": not faults,
        "ready": ready is not None,
        "readable_until": _last(finished) if finished else None,
        "faults": faults,
        "failures": _failures(folder, found),
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
        "bytes": sum(array["bytes"] for array in arrays.values()),
        "raw_bytes": sum(array["raw_bytes"] for array in arrays.values()),
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


def _failures(folder: Folder, faults: dict[tuple[str, int], str]) -> list[dict]:
    """Why shards that are not done failed, as the last run that tried them said."""
    known = {}
    for name in folder.names("_build/runs"):
        report = json.loads(folder.read(name) or "{}")
        for failure in report.get("failed", []):
            known[failure["array"], failure["shard"]] = failure
    keys = ("array", "shard", "times", "error")
    return [{k: known[i][k] for k in keys} for i in sorted(known) if i in faults]


def format_description(description: dict[str, Any]) -> str:
    """The description as text for people, statistics of three levels each."""
    d = description
    lines = [f"{d['path']}: {'whole' if d['whole'] else 'NOT WHOLE'}"]
    for fault in d["faults"][:_LISTED_FAULTS]:
        lines.append(f"  fault: {fault}")
    if len(d["faults"]) > _LISTED_FAULTS:
        lines.append(f"  and {len(d['faults']) - _LISTED_FAULTS} more faults")
    for failure in d["failures"][:_LISTED_FAULTS]:
        times = f" ({' to '.join(failure['times'])})" if failure["times"] else ""
        lines.append(
            f"  failed: shard {failure['shard']} of {failure['array']}{times}: "
            f"{failure['error']}"
        )
    if not d["whole"]:
        lines.append(
            "  run the same `podgcm preprocess` command again to complete or mend it, "
            "with --repair if a deep check condemned shards"
        )
        if d["readable_until"]:
            lines.append(f"  it can be read, until {d['readable_until']}")
    for check in d["checks"]:
        lines.append(
            f"  {'ok' if check['ok'] else 'LOOK':5}{check['name']}: {check['of']}"
        )
        lines += [f"       {line}" for line in check["notes"][:_LISTED_FAULTS]]
    lines.append(f"from     {d['source']}")
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
            + f", {d['shard_steps']} in a shard"
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
        lines.append(f"levels   {len(levels)}, {levels[0]:g} to {levels[-1]:g} hPa")
    if d["sigma_layers"]:
        lines.append(f"layers   {d['sigma_layers']}, equidistant in sigma")
    packed = d["bytes"] / d["raw_bytes"] if d["raw_bytes"] else 1
    lines.append(
        f"size     {d['bytes'] / 1e6:.1f} MB, packed to {packed:.0%}"
        + (f" with {d['keep_bits']} bits kept" if d["keep_bits"] else "")
        + f", layout {d['layout']}, config {d['config_hash']}"
    )
    for array, a in d["arrays"].items():
        if a["shards_done"] < a["shards"]:
            lines.append(f"  done   {a['shards_done']} of {a['shards']} of {array}")
    if d["statistics_times"]:
        lines.append(f"statistics over {' to '.join(d['statistics_times'])}")
    for name, constant in d["constant"].items():
        where = (
            "" if constant is True else " at " + ", ".join(f"{x:g}" for x in constant)
        )
        lines.append(f"  {name} never varies{where}")
    return "\n".join([*lines, "", *_table(d)])


def _table(d: dict[str, Any]) -> list[str]:
    row = "{:<36}{:>9} {:>10}{:>11}{:>11}{:>11}{:>11}{:>11}"
    axis, unit = (d["levels"], "hPa")
    if d["sigma_layers"]:
        layers = d["sigma_layers"]
        axis, unit = [(i + 0.5) / layers for i in range(layers)], "sigma"
    titles = ("variable", unit, "units", "mean", "std", "min", "max", "std 24 h")
    lines = [row.format(*titles)]
    for name, variable in d["variables"].items():
        shown = _shown_levels(axis if variable["kind"] == "levels" else [None])
        for index, level in shown if variable["statistics"] else [(0, None)]:
            where = "" if level is None else f"{level:g}"
            numbers = _numbers(variable["statistics"], index)
            lines.append(row.format(name, where, variable["units"], *numbers).rstrip())
            name = ""
    return lines


def _shown_levels(levels: list[float | None]) -> list[tuple[int, float | None]]:
    """(index, level) of about 250, 500 and 850 hPa or a quarter, a half and nine tenths
    of the surface pressure, or of the only level."""
    if len(levels) <= 3:
        return list(enumerate(levels))
    values = np.array(levels)
    wanted = (250, 500, 850) if values.max() > 1 else (0.25, 0.5, 0.9)
    nearest = {int(np.abs(values - near).argmin()) for near in wanted}
    return [(index, levels[index]) for index in sorted(nearest)]


def _numbers(statistics: dict[str, Any] | None, index: int) -> list[str]:
    keys = ("mean", "std", "min", "max", "std_24h_difference")
    values = [None if statistics is None else statistics[key] for key in keys]
    return [
        "-"
        if value is None
        else f"{value[index] if isinstance(value, list) else value:.4g}"
        for value in values
    ]


def _last(plan: Plan) -> str | None:
    return _time(plan.times[-1]) if plan.steps else None


def _time(time: np.datetime64) -> str:
    return str(np.datetime_as_string(time, "m"))
