"""The benchmarks: `podgcm bench NAME`.

Each module has `run(args)`, which returns the figures as a dict. Their arguments are
here, so that help needs no JAX.
"""

import argparse
import pathlib

from model.sphere.grids import GaussianGrid, parse_grid
from model.vertical.sigma import SigmaLevels
from pipeline.errors import UserError


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
    steps = 1440 / minutes if minutes > 0 else 0
    if steps < 1 or abs(steps - round(steps)) > 1e-9 * steps:
        raise UserError(f"--minutes={minutes:g} must divide a day, such as 20")


def make_folder(output: str) -> pathlib.Path:
    """The folder of a benchmark's results.

    Raises:
      UserError: if it cannot be made.
    """
    folder = pathlib.Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "figures.json").touch()
    except OSError as error:
        raise UserError(f"--output={output}: {error.strerror}") from error
    return folder


def _baroclinic_wave(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--grid", default="T42", help="such as T85 (default T42)")
    parser.add_argument("--layers", type=int, default=24, help="(default 24)")
    parser.add_argument(
        "--minutes", type=float, default=20, help="of a step (default 20)"
    )
    parser.add_argument("--days", type=int, default=9, help="(default 9)")
    parser.add_argument(
        "--perturbation",
        type=float,
        default=1.0,
        help="m/s; with 0 the flow is to stay steady (default 1)",
    )
    parser.add_argument(
        "--emulate_tpu",
        action="store_true",
        help="round the operands of transforms to what a TPU's three passes see",
    )
    parser.add_argument("--output", required=True, help="folder to make")


def _held_suarez(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--grid", default="T42", help="such as T31 (default T42)")
    parser.add_argument("--layers", type=int, default=24, help="(default 24)")
    parser.add_argument(
        "--minutes", type=float, default=40, help="of a step (default 40)"
    )
    parser.add_argument("--days", type=int, default=1200, help="(default 1200)")
    parser.add_argument(
        "--spin_up_days", type=int, default=200, help="not averaged (default 200)"
    )
    parser.add_argument("--output", required=True, help="folder to make")


def _dycore(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--grid", default="TL127", help="such as TL255 (default TL127)")
    parser.add_argument("--layers", type=int, default=32, help="(default 32)")
    parser.add_argument("--tracers", type=int, default=3, help="(default 3)")
    parser.add_argument(
        "--minutes", type=float, default=6, help="of a step (default 6)"
    )
    parser.add_argument(
        "--judge",
        choices=("dinosaur",),
        help="do the same with that (needs the extra `judges`)",
    )
    parser.add_argument(
        "--target",
        choices=("cpu", "tpu"),
        default="cpu",
        help="cpu: timed here (default); tpu: modelled from the compiled program",
    )
    parser.add_argument(
        "--rounds", type=int, default=9, help="cpu: to take medians of (default 9)"
    )
    parser.add_argument(
        "--topology", default="v5p:2x2x1", help="tpu: a slice (default v5p:2x2x1)"
    )
    parser.add_argument(
        "--mesh", default="level=1,lat=1", help="tpu: such as level=4,lat=2"
    )


def _train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="such as configs/demo.py")
    parser.add_argument(
        "--target",
        choices=("cpu", "tpu"),
        default="cpu",
        help="cpu: measured here, with the data of config.data.store (default); tpu: "
        "modelled from the compiled program",
    )
    parser.add_argument(
        "--steps", type=int, default=5, help="cpu: to take the mean of (default 5)"
    )
    parser.add_argument(
        "--topology", default="v5p:2x2x1", help="tpu: a slice (default v5p:2x2x1)"
    )
    parser.add_argument("--mesh", help="tpu: as of `podgcm plan`")


def _preprocess(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--grids",
        default="TL63,TL127",
        help="the first is made alone, then all from one reading (default TL63,TL127)",
    )
    parser.add_argument(
        "--steps", type=int, default=16, help="times of the source (default 16)"
    )
    parser.add_argument(
        "--degrees",
        type=float,
        default=0.25,
        help="between points of the source (default 0.25, as ERA5)",
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="to take medians of (default 3)"
    )
    parser.add_argument(
        "--folder",
        help="where the source is made, and kept for the next time (default: a "
        "temporary folder; 2 GB at 0.25 degrees)",
    )


def _store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--grid", default="TL63,TL127", help="one or more (default TL63,TL127)"
    )
    parser.add_argument(
        "--frames", type=int, help="in the store (default: 1 GB of them, at least 64)"
    )
    parser.add_argument(
        "--rounds", type=int, default=15, help="to take medians of (default 15)"
    )
    parser.add_argument(
        "--object_store",
        action="store_true",
        help="read the first grid from a stand-in object store too",
    )
    parser.add_argument(
        "--folder", help="for 13 GB of temporary files (default: the system's)"
    )


def _loader(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--grid", default="TL63", help="(default TL63)")
    parser.add_argument(
        "--frames", type=int, default=256, help="in the store (default 256)"
    )
    parser.add_argument(
        "--batch", type=int, default=4, help="windows in a batch (default 4)"
    )
    parser.add_argument(
        "--batches", type=int, default=12, help="in a round (default 12)"
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="to take medians of (default 3)"
    )
    parser.add_argument(
        "--folder", help="for 5 GB of temporary files (default: the system's)"
    )


def _learning(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output",
        required=True,
        help="folder; what is there, such as the demo's data, is not made again",
    )


def _ensemble(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output", required=True, help="folder; may be that of `podgcm bench learning`"
    )


def _kills(parser: argparse.ArgumentParser) -> None:
    from launch.benchmarks.kills import add_arguments

    add_arguments(parser)


def _saves(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--megabytes", type=int, default=100, help="of the state (default 100)"
    )
    parser.add_argument(
        "--rounds", type=int, default=7, help="to take medians of (default 7)"
    )
    parser.add_argument("--folder", help="for temporary files (default: the system's)")


def _published(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--hours", type=int, default=24, help="of the forecast (default 24)"
    )
    parser.add_argument(
        "--checkpoint",
        help="a published model for the 37 levels of ERA5 (default: the official "
        "package's toy)",
    )
    parser.add_argument("--plot", metavar="OUT.png", help="maps of both at the end")


def _forecast(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", required=True, help="of a run, such as the demo's")
    parser.add_argument("--output", required=True, help="folder to make")
    parser.add_argument(
        "--first", default="2001-02-01", help="first initial time (default 2001-02-01)"
    )
    parser.add_argument(
        "--times", type=int, default=20, help="initial times, 6 h apart (default 20)"
    )
    parser.add_argument("--days", type=int, default=10, help="of each (default 10)")
    parser.add_argument("--batch", type=int, default=4, help="at once (default 4)")
    parser.add_argument(
        "--years", type=int, default=2, help="of a climate run (default 2; 0: none)"
    )


BENCHMARKS = {
    "baroclinic_wave": (
        "the baroclinic wave of Jablonowski and Williamson: pressure and pictures",
        _baroclinic_wave,
    ),
    "held_suarez": (
        "the climate of Held and Suarez: zonal mean winds and temperatures",
        _held_suarez,
    ),
    "dycore": (
        "one step of the core, timed here or by the TPU compiler; dinosaur beside it",
        _dycore,
    ),
    "train": (
        "a training step by part, here or by the TPU compiler",
        _train,
    ),
    "preprocess": (
        "preprocessing of an ERA5-sized source; dinosaur in xarray-beam beside it",
        _preprocess,
    ),
    "kills": (
        "kills at random times: what is run again, lost, altered",
        _kills,
    ),
    "store": (
        "reading windows as training does; other formats and libraries beside it",
        _store,
    ),
    "loader": (
        "batches as training loads them; blocks of xarray and threads beside it",
        _loader,
    ),
    "learning": (
        "what training makes of the sample planet: skill, hidden physics, calm starts",
        _learning,
    ),
    "ensemble": (
        "an ensemble trained by its CRPS on the sample planet: spread and skill",
        _ensemble,
    ),
    "forecast": (
        "many forecasts: speed, a kill, memory of long ones, a climate run",
        _forecast,
    ),
    "saves": (
        "how long an asynchronous checkpoint blocks, against one that is waited for",
        _saves,
    ),
    "published": (
        "a published model against the official package: speed and forecasts",
        _published,
    ),
}
