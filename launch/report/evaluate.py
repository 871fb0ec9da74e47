"""`podgcm evaluate`: scores, tables and pictures of forecasts, and a page of them."""

import pathlib
from collections.abc import Sequence
from typing import Any

from launch.report.names import SHORT, main_fields
from launch.report.page import write_page
from launch.report.pictures import draw_all
from pipeline.errors import UserError
from pipeline.runners import DEFAULT_RUNNER
from pipeline.verification.points import REGIONS
from pipeline.verification.run import Verification, as_json, verify

_TABLE_LEADS = (6, 24, 72, 120, 240)


def evaluate(
    forecasts: Sequence[str],
    truth_path: str,
    output: str,
    *,
    grid: str | None = None,
    baseline: str | None = None,
    dates: Sequence[str] = (),
    report: str | None = None,
    workdir: str | None = None,
    runner: str = DEFAULT_RUNNER,
    beam_flags: Sequence[str] = (),
) -> tuple[dict[str, Any], str]:
    """Scores forecasts; writes scores, tables and pictures into a folder.

    Args:
      forecasts, truth_path, output, grid, runner, beam_flags: as of `verify`.
      baseline: label of what scorecards compare with; default `persistence`, or the
        first of several forecasts.
      dates: initial times whose maps are drawn; default the first.
      report: HTML page to write.
      workdir: of a run, whose learning curves are shown there too.

    Returns:
      The content of `scores.json`, and the table of `scores.txt`.

    Raises:
      UserError: if something does not fit together.
    """
    if "://" in output:
        raise UserError(f"--output={output}: pictures need a folder on a disk")
    made = verify(forecasts, truth_path, output, grid, runner, beam_flags)
    if baseline is None:
        several = len(made.forecasts) > 1
        baseline = made.forecasts[0].label if several else "persistence"
    if baseline not in made.scores.labels:
        raise UserError(
            f"--baseline={baseline}: there are {', '.join(made.scores.labels)}"
        )
    folder = pathlib.Path(output)
    table = format_table(made)
    (folder / "scores.txt").write_text(table + "\n")
    drawn = draw_all(made, folder, baseline, tuple(dates))
    if report is not None:
        write_page(pathlib.Path(report), made, folder, drawn, baseline, workdir)
    return as_json(made), table


def format_table(made: Verification) -> str:
    """RMSE of the main variables, levels and leads, one column a forecast."""
    scores = made.scores
    place = list(REGIONS).index("global")
    lines = ["RMSE".ljust(16) + "lead".rjust(6)]
    lines[0] += "".join(f"{x:>13}" for x in scores.labels)
    leads = list(scores.leads)
    for name, level, k in main_fields(scores.variables, list(scores.levels)):
        short, unit, factor = SHORT[name]
        for lead in (x for x in _TABLE_LEADS if x in leads):
            j = leads.index(lead)
            cells = [
                scores.values[x][name]["rmse"][j, k, place] * factor
                for x in scores.labels
            ]
            lines.append(
                f"{short}{level:g} ({unit})".ljust(16)
                + f"{lead} h".rjust(6)
                + "".join(f"{cell:13.4g}" for cell in cells)
            )
    return "\n".join(lines)
