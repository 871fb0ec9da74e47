"""`podgcm evaluate`: scores, tables and pictures of forecasts, and a page of them."""

import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from launch.report.names import lost, table_rows
from launch.report.page import write_page
from launch.report.pictures import draw_all
from pipeline.errors import UserError
from pipeline.files import Folder
from pipeline.runners import DEFAULT_RUNNER
from pipeline.verification.chunks import BASELINES
from pipeline.verification.run import (
    Forecast,
    Verification,
    as_json,
    open_forecast,
    verify,
)
from pipeline.verification.tables import write_differences


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
    # Before hours of work are done.
    opened = [open_forecast(argument) for argument in forecasts]
    if baseline is None:
        baseline = opened[0].label if len(opened) > 1 else "persistence"
    labels = (*BASELINES, *(forecast.label for forecast in opened))
    if baseline not in labels:
        raise UserError(f"--baseline={baseline}: there are {', '.join(labels)}")
    drawn_times = _initial_times(opened[0], dates)
    made = verify(forecasts, truth_path, output, grid, runner, beam_flags)
    for line in lost(made):
        print(line, file=sys.stderr)
    write_differences(Folder(output), made.scores, baseline)
    folder = pathlib.Path(output)
    table = format_table(made)
    (folder / "scores.txt").write_text(table + "\n")
    drawn = draw_all(made, folder, baseline, drawn_times)
    if report is not None:
        write_page(pathlib.Path(report), made, folder, drawn, baseline, workdir)
    return as_json(made), table


def _initial_times(forecast: Forecast, dates: Sequence[str]) -> list[int]:
    """Indices of the initial times that are named; default the first."""
    places = []
    for date in dates:
        try:
            found = np.flatnonzero(forecast.times == np.datetime64(date, "ns"))
        except ValueError:
            raise UserError(f"--dates={date} is no time: write 2001-02-03T12") from None
        if not found.size:
            raise UserError(
                f"--dates={date} is no initial time: they are {forecast.times[0]} to "
                f"{forecast.times[-1]}"
            )
        places.append(int(found[0]))
    return places or [0]


def format_table(made: Verification) -> str:
    """RMSE of the main variables, levels and leads, one column a forecast."""
    lines = ["RMSE".ljust(16) + "lead".rjust(6)]
    lines[0] += "".join(f"{x:>13}" for x in made.scores.labels)
    for what, lead, values in table_rows(made.scores):
        cells = "".join(f"{x:13.4g}" for x in values)
        lines.append(what.ljust(16) + f"{lead} h".rjust(6) + cells)
    return "\n".join(lines)
