"""A look at the first time of a source, before anything is written."""

import numpy as np

from pipeline.checks.physics import find_earth_faults, find_state_faults
from pipeline.errors import UserError
from pipeline.plan import Plan
from pipeline.shards import source_fields

# Fields are thinned to about this many latitudes: their patterns are looked at.
_LATITUDES = 128


def check_source(plan: Plan) -> None:
    """Reads one time of all variables, which must be plausible and fit each other.

    Raises:
      UserError: naming what contradicts what, and the time.
    """
    state, time = {}, None
    fields = source_fields(plan)
    for name, field in fields.items():
        times = field.times[:1] if field.variable.kind == "static" else plan.times[:1]
        values = field.read(times)
        if field.variable.kind != "static":
            time = times[0]
        field.variable.check_values(values, times - field.shift, np.array(plan.levels))
        rows = max(1, len(field.latitude) // _LATITUDES)
        state[name] = values[0, :, ::rows, ::rows].copy()  # not a view of all
    findings = []
    # Static fields of another source may be on another grid.
    for grid in {state[name].shape[-2:] for name in fields}:
        names = [name for name in fields if state[name].shape[-2:] == grid]
        rows = max(1, len(fields[names[0]].latitude) // _LATITUDES)
        latitude = fields[names[0]].latitude[::rows]
        same = {name: state[name] for name in names}
        findings += find_state_faults(same, latitude, plan.levels, time)
        if "simulated" not in plan.attributes:
            findings += find_earth_faults(same, latitude)
    if findings:
        raise UserError(
            f"{plan.source}: {'; '.join(findings)}: mend the source (nothing was "
            "written)"
        )
