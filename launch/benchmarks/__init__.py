"""The benchmarks: `podgcm bench NAME`.

Each module has `SUMMARY`, `add_arguments(parser)` and `run(args)`, which returns the
figures as a dict.
"""

import pathlib

from model.sphere.grids import GaussianGrid, parse_grid
from model.vertical.sigma import SigmaLevels
from pipeline.errors import UserError

NAMES = ("baroclinic_wave", "held_suarez", "dycore")


def grid_and_layers(grid: str, layers: int) -> tuple[GaussianGrid, SigmaLevels]:
    """What `--grid` and `--layers` name.

    Raises:
      UserError: if they name nothing.
    """
    try:
        return parse_grid(grid), SigmaLevels.equidistant(layers)
    except ValueError as error:
        raise UserError(str(error)) from error


def check_simulation(minutes: float, days: int) -> None:
    """Raises UserError unless some whole steps of `minutes` make a day."""
    if days < 1:
        raise UserError(f"--days={days} must be at least 1")
    if minutes <= 0 or 1440 % minutes:
        raise UserError(f"--minutes={minutes:g} must divide a day, such as 20")


def make_folder(output: str) -> pathlib.Path:
    """The folder of a benchmark's results.

    Raises:
      UserError: if it cannot be made.
    """
    folder = pathlib.Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output={output}: {error.strerror}") from error
    return folder
