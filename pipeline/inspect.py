"""What is in a store, and is it whole. Works on unfinished and damaged stores too."""

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import UserError
from pipeline.plan import Plan, read_json
from pipeline.store import (
    READY_FILE,
    STATISTICS_FILE,
    object_file,
    open_store,
    shard_fault,
)
from pipeline.variables import VARIABLES

# Faults beyond these are counted, not listed.
_LISTED_FAULTS = 20


def describe(path: str | Path) -> dict[str, Any]:
    """A description of the store at `path` that JSON can hold.

    Sizes and markers are looked at, data are not read.

    Returns:
      A dictionary with, among others, `whole` (all shards, statistics and READY are
      there), `faults` (a line each), and `variables` with the shards done of each
      and, once they are computed, its statistics by level.

    Raises:
      UserError: if there is no store, or its plan cannot be read.
    """
    plan = Plan.load(path)
    faults: list[str] = []
    variables = {}
    statistics = _statistics(path)
    for name in plan.variables:
        found = [shard_fault(path, plan, name, i) for i in range(plan.shards(name))]
        files = [object_file(path, plan, name, i) for i in range(plan.shards(name))]
        faults += [fault for fault in found if fault is not None]
        variables[name] = {
            "kind": plan.kind(name),
            "units": VARIABLES[name].units,
            "dimensions": list(plan.dimensions(name)),
            "shape": list(plan.shape(name)),
            "shards": len(found),
            "shards_done": found.count(None),
            "bytes": sum(file.stat().st_size for file in files if file.exists()),
            "statistics": statistics.get(name),
        }
    unfinished = len(faults)
    try:
        open_store(path)
    except UserError as error:
        # Its reason stands alone only if it is not one of the shards above.
        if not unfinished:
            faults.append(str(error))
    return {
        "path": str(path),
        "whole": not faults,
        "ready": Path(path, READY_FILE).exists(),
        "faults": faults,
        "grid": plan.grid,
        "source": plan.source,
        "static_source": plan.static_source,
        "attributes": plan.attributes,
        "regridding": plan.regridding,
        "first_time": _time(plan.times[0]) if plan.steps else None,
        "last_time": _time(plan.times[-1]) if plan.steps else None,
        "times": plan.steps,
        "step_hours": plan.step_hours,
        "levels": list(plan.levels),
        "statistics_times": plan.stats_times and list(plan.stats_times),
        "shard_steps": plan.shard_steps,
        "bytes": sum(variable["bytes"] for variable in variables.values()),
        "config_hash": plan.config_hash,
        "variables": variables,
    }


def format_description(description: dict[str, Any]) -> str:
    """The description as text for people, statistics of three levels each."""
    d = description
    lines = [f"{d['path']}: {'whole' if d['whole'] else 'NOT WHOLE'}"]
    for fault in d["faults"][:_LISTED_FAULTS]:
        lines.append(f"  fault: {fault}")
    if len(d["faults"]) > _LISTED_FAULTS:
        lines.append(f"  and {len(d['faults']) - _LISTED_FAULTS} more faults")
    if not d["whole"]:
        lines.append(
            "  run the same `podgcm preprocess` command again to complete an unfinished"
            " store; a finished one that was damaged must be made anew"
        )
    lines.append(f"from     {d['source']}")
    if d["static_source"]:
        lines.append(f"static   {d['static_source']}")
    said = [f"{name}: {text}" for name, text in d["attributes"].items()]
    lines += [f"         {line}" for line in said]
    lines.append(f"grid     {d['grid']}; {d['regridding']}")
    if d["times"]:
        lines.append(
            f"times    {d['times']}, {d['first_time']} to {d['last_time']}"
            + (f", every {d['step_hours']} h" if d["step_hours"] else "")
            + f", {d['shard_steps']} in a shard"
        )
    if d["levels"]:
        levels = d["levels"]
        lines.append(f"levels   {len(levels)}, {levels[0]:g} to {levels[-1]:g} hPa")
    lines.append(f"size     {d['bytes'] / 1e6:.1f} MB, config {d['config_hash']}")
    if d["statistics_times"]:
        lines.append(f"statistics over {' to '.join(d['statistics_times'])}")
    lines.append("")
    row = "{:<36}{:>8}{:>9} {:>10}{:>11}{:>11}{:>11}{:>11}{:>11}"
    lines.append(
        row.format(
            *("variable", "shards", "hPa", "units", "mean", "std", "min", "max"),
            "std 24 h",
        )
    )
    for name, variable in d["variables"].items():
        done = f"{variable['shards_done']}/{variable['shards']}"
        shown = _shown_levels(d["levels"] if variable["kind"] == "levels" else [None])
        for index, level in shown if variable["statistics"] else [(0, None)]:
            lines.append(
                row.format(
                    name,
                    done,
                    "" if level is None else f"{level:g}",
                    variable["units"],
                    *_numbers(variable["statistics"], index),
                ).rstrip()
            )
            name = done = ""
    return "\n".join(lines)


def _shown_levels(levels: list[float | None]) -> list[tuple[int, float | None]]:
    """(index, level) of about 250, 500 and 850 hPa, or of the only level."""
    if len(levels) <= 3:
        return list(enumerate(levels))
    nearest = {
        int(np.abs(np.array(levels) - near).argmin()) for near in (250, 500, 850)
    }
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


def _statistics(path: str | Path) -> dict[str, Any]:
    file = Path(path, STATISTICS_FILE)
    return read_json(file)["variables"] if file.exists() else {}


def _time(time: np.datetime64) -> str:
    return str(np.datetime_as_string(time, "m"))
