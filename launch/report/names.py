"""What tables, pictures and the page show, and how it is called and scaled."""

import numpy as np

from pipeline.verification.points import REGIONS
from pipeline.verification.run import Verification
from pipeline.verification.scores import Scores

# Short name, unit for people, factor from SI units.
SHORT = {
    "temperature": ("T", "K", 1.0),
    "u_component_of_wind": ("u", "m/s", 1.0),
    "v_component_of_wind": ("v", "m/s", 1.0),
    "geopotential": ("z", "m2/s2", 1.0),
    "specific_humidity": ("q", "g/kg", 1e3),
    "specific_cloud_ice_water_content": ("ice", "mg/kg", 1e6),
    "specific_cloud_liquid_water_content": ("liquid", "mg/kg", 1e6),
}
MAIN = (
    "temperature",
    "u_component_of_wind",
    "v_component_of_wind",
    "geopotential",
    "specific_humidity",
)
LEVELS = (850.0, 500.0, 250.0)
GLOBAL = list(REGIONS).index("global")
_LEADS = (6, 24, 72, 120, 240)


def main_fields(
    variables: tuple[str, ...], levels: list[float]
) -> list[tuple[str, float, int]]:
    """Variable, level, and the level's index, of those that are shown."""
    return [
        (name, level, levels.index(level))
        for name in MAIN
        if name in variables
        for level in LEVELS
        if level in levels
    ]


def table_rows(scores: Scores) -> list[tuple[str, int, list[float]]]:
    """Main fields with their units, leads, and the global rmse of all labels.

    Of those of the usual leads that there are, or of the last.
    """
    leads = [lead for lead in _LEADS if lead in scores.leads] or [int(scores.leads[-1])]
    rows = []
    for name, level, k in main_fields(scores.variables, list(scores.levels)):
        short, unit, factor = SHORT[name]
        for lead in leads:
            j = list(scores.leads).index(lead)
            values = [
                float(scores.values[label][name]["rmse"][j, k, GLOBAL] * factor)
                for label in scores.labels
            ]
            rows.append((f"{short}{level:g} ({unit})", lead, values))
    return rows


def lost(made: Verification) -> list[str]:
    """Of each forecast that did not stay finite, what its scores are of."""
    scores, lines = made.scores, []
    whole = len(scores.times)
    for forecast in made.forecasts:
        counts = scores.counts[forecast.label]
        if counts.min() < whole:
            first = scores.leads[int(np.argmax(counts < whole))]
            lines.append(
                f"{forecast.label}: of {whole} initial times {whole - counts.min()} do "
                f"not stay finite, the first after {first} h; scores are of the others"
            )
    return lines
