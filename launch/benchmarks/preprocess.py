"""Preprocessing of a source as large as ERA5; dinosaur in xarray-beam beside it.

Both read the same files by the same runner, each in a process of its own, in turns.
Their time runs from when all is imported until the last file is written. Ours has the
checks of all values, the statistics and the markers in it, which the judge has not.
The judge is set as it is fastest. Ours holds shards in memory until they are written:
in stores with many times these are up to 150 MB for each grid, and as much encoded.
"""

import argparse
import contextlib
import functools
import io
import logging
import multiprocessing
import os
import pathlib
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any

import numpy as np
import xarray

from launch.benchmarks.synthetic_source import (
    DISTINCT_STEPS,
    VARIABLES_MADE,
    horizontal_points,
    make_source,
)
from model.sphere.grids import parse_grid
from pipeline import preprocess as product
from pipeline.errors import UserError
from pipeline.files import Folder
from pipeline.progress import progress
from pipeline.regrid import Regridder
from pipeline.request import Request, make_plans
from pipeline.shards import source_fields
from pipeline.statistics import saved_moments
from pipeline.variables import PRESSURE_LEVELS
from pipeline.writer import write_shard

_SPLIT_STEPS = 4

Work = Callable[[str, str, Sequence[str]], None]
"""Preprocesses: source, output, grids."""


def run(args: argparse.Namespace) -> dict[str, Any]:
    """The case, figures of ours and of the judge, and their ratios."""
    # Not above: the process that runs ours has to do without JAX and dinosaur.
    from launch.benchmarks import preprocess_judge as judge

    grids = _check(args)
    cases = [grids] if len(grids) == 1 else [grids[:1], grids]
    with _folder(args.folder) as folder:
        source = folder / f"source_{args.degrees:g}_{args.steps}.zarr"
        if not source.exists():
            make_source(source, args.degrees, args.steps)
        size = raw_bytes(source)
        regridding = time_regridding(args.degrees, grids, args.rounds)
        contestants: dict[str, Work] = {
            str(settings): functools.partial(
                judge.preprocess, settings, product.DEFAULT_RUNNER
            )
            for settings in judge.SETTINGS
        }
        once = time_runs(contestants, source, folder, [grids], 1)
        tried = {settings: runs[_label(grids)] for settings, runs in once.items()}
        best = min(tried, key=lambda settings: tried[settings]["wall_s"])
        contestants = {"ours": ours, "judge": contestants[best]}
        runs = time_runs(contestants, source, folder, cases, args.rounds)
        parts = split(source, folder, cases[-1])
        stored = sum(f.stat().st_size for f in source.rglob("*") if f.is_file())
    figures = {
        who: {"regrid_ms": regridding[who], **_by_figure(runs[who], size)}
        for who in contestants
    }
    return {
        "case": {
            "what": "synthetic source to Gaussian grids; page cache warm, each run in "
            "a process of its own, in turns, imports not timed; medians of the rounds",
            "source": f"{args.steps} times of {', '.join(VARIABLES_MADE)}; "
            f"{len(PRESSURE_LEVELS)} levels, points {args.degrees:g} degrees apart",
            "source_bytes": size,
            "compressed_to": round(stored / size, 3),
            "distinct_steps": min(args.steps, DISTINCT_STEPS),
            "runner": product.DEFAULT_RUNNER,
            "rounds": args.rounds,
            "cores": len(os.sched_getaffinity(0)),
            "ratio": "more than 1 is better for ours",
        },
        "ours": figures["ours"] | parts,
        "judge": figures["judge"] | {"settings": best, "tried_once": tried},
        "ratio": _ratios(figures["ours"], figures["judge"]),
    }


def ours(source: str, output: str, grids: Sequence[str]) -> None:
    """`podgcm preprocess` with its defaults."""
    product.preprocess(
        source, output, ",".join(grids), variables=",".join(VARIABLES_MADE)
    )


def time_regridding(
    degrees: float, grids: Sequence[str], rounds: int
) -> dict[str, dict[str, float]]:
    """Milliseconds of one [level, latitude, longitude] field, by grid, of each."""
    from launch.benchmarks import preprocess_judge as judge

    latitude, longitude = horizontal_points(degrees)
    shape = len(PRESSURE_LEVELS), len(latitude), len(longitude)
    values = np.random.default_rng(0).normal(250, 10, shape).astype(np.float32)
    field = xarray.DataArray(
        values,
        {"latitude": latitude, "longitude": longitude},
        ("level", "latitude", "longitude"),
    )
    milliseconds: dict[str, dict[str, float]] = {"ours": {}, "judge": {}}
    for name in progress(grids, "regridding"):
        grid = parse_grid(name)
        theirs = judge.regridder(*shape[1:], grid)
        calls = {
            "ours": functools.partial(Regridder(latitude, longitude, grid), values),
            "judge": functools.partial(judge.regrid, field, theirs),
        }
        for call in calls.values():
            call()  # compiles
        seconds: dict[str, list[float]] = {who: [] for who in calls}
        for _ in range(2 * rounds + 1):
            for who, call in calls.items():
                begin = time.perf_counter()
                call()
                seconds[who].append(time.perf_counter() - begin)
        for who in calls:
            milliseconds[who][name] = 1e3 * statistics.median(seconds[who])
    return milliseconds


def time_runs(
    contestants: dict[str, Work],
    source: pathlib.Path,
    folder: pathlib.Path,
    cases: Sequence[Sequence[str]],
    rounds: int,
) -> dict[str, dict[str, dict[str, float]]]:
    """Medians over rounds of what `measure` gives, by contestant and case."""
    everything = [
        (case, who) for _ in range(rounds) for case in cases for who in contestants
    ]
    measured: dict[tuple[str, str], list[dict[str, float]]] = {}
    for case, who in progress(everything, "preprocessing"):
        figures = measure(contestants[who], source, folder, case)
        measured.setdefault((who, _label(case)), []).append(figures)
    medians: dict[str, dict[str, dict[str, float]]] = {who: {} for who in contestants}
    for (who, case), figures in measured.items():
        medians[who][case] = {
            name: statistics.median(run[name] for run in figures) for name in figures[0]
        }
    return medians


def measure(
    work: Work, source: pathlib.Path, folder: pathlib.Path, grids: Sequence[str]
) -> dict[str, float]:
    """Seconds and peak of memory in bytes of some work in a process of its own."""
    output = folder / "output"
    # A fork would have this process's memory.
    context = multiprocessing.get_context("spawn")
    try:
        with futures.ProcessPoolExecutor(1, context) as process:
            arguments = work, str(source), str(output), grids
            return process.submit(_measure_here, *arguments).result()
    finally:
        shutil.rmtree(output, ignore_errors=True)


def _measure_here(
    work: Work, source: str, output: str, grids: Sequence[str]
) -> dict[str, float]:
    # xarray-beam's keys make Beam warn at every grouping.
    logging.disable(logging.WARNING)
    begin, cpu = time.perf_counter(), time.process_time()
    with contextlib.redirect_stderr(io.StringIO()):
        work(source, output, grids)
    return {
        "wall_s": time.perf_counter() - begin,
        "cpu_s": time.process_time() - cpu,
        "peak_memory": _peak_memory(),
    }


def _peak_memory() -> int:
    """Of this process, in bytes; that of `getrusage` would be its parent's at least."""
    status = pathlib.Path("/proc/self/status").read_text()
    (line,) = (x for x in status.splitlines() if x.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])


def split(
    source: pathlib.Path, folder: pathlib.Path, grids: Sequence[str]
) -> dict[str, Any]:
    """What ours spends its time on: each part done alone, by one thread at a time.

    Returns:
      `split`: milliseconds per time of the source of each part, and its MB/s of raw
      source; `limiting`: the part that takes longest.
    """
    steps = min(_SPLIT_STEPS, xarray.open_zarr(source).sizes["time"])
    stop = np.datetime64("1990-01-01", "h") + 6 * (steps - 1)
    request = Request(
        source=str(source),
        grid=",".join(grids),
        times=f"1990-01-01T00/{stop}",
        variables=",".join(VARIABLES_MADE),
    )
    plans = make_plans(request)
    fields = source_fields(plans[0])
    seconds = dict.fromkeys(
        ("read_and_decode", "check", "regrid", "encode_and_write", "statistics"), 0.0
    )

    @contextlib.contextmanager
    def part(name: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        seconds[name] += time.perf_counter() - begin

    size = 0
    output = Folder(folder / "split")
    for name, field in fields.items():
        if field.axis is None:
            continue
        regridders = {
            plan.grid: Regridder(field.latitude, field.longitude, plan.target)
            for plan in plans
        }
        regridded: dict[str, list[np.ndarray]] = {plan.grid: [] for plan in plans}
        for step in field.blocks(plans[0].times):
            with part("read_and_decode"):
                values = field.read(step)
            size += values.nbytes
            with part("check"):
                field.variable.check_values(values, step, np.array(plans[0].levels))
            with part("regrid"):
                for grid, regridder in regridders.items():
                    regrid = regridder.fill if field.variable.fill else regridder
                    regridded[grid].append(regrid(values))
        for plan in plans:
            data = np.concatenate(regridded[plan.grid]).reshape(plan.shape(name))
            with part("encode_and_write"):
                write_shard(output.child(plan.grid), plan, name, 0, data)
            with part("statistics"):
                saved_moments(output.child(plan.grid), plan, name, 0)
    shutil.rmtree(folder / "split")
    parts = {
        name: {"ms_per_time": 1e3 * t / steps, "mb_s": size / t / 1e6}
        for name, t in seconds.items()
    }
    return {"split": parts, "limiting": max(seconds, key=seconds.__getitem__)}


def _label(grids: Sequence[str]) -> str:
    return "+".join(grids)


def raw_bytes(source: pathlib.Path) -> int:
    """Of all fields that depend on time, decompressed."""
    dataset = xarray.open_zarr(source, chunks=None)
    return sum(array.nbytes for array in dataset.values() if "time" in array.dims)


def _by_figure(
    runs: dict[str, dict[str, float]], size: int
) -> dict[str, dict[str, float]]:
    """`runs`, by figure and case, and the speed for `size` bytes."""
    speed = {case: size / run["wall_s"] / 1e6 for case, run in runs.items()}
    names = next(iter(runs.values()))
    return {"mb_s": speed} | {
        name: {case: run[name] for case, run in runs.items()} for name in names
    }


def _ratios(
    mine: dict[str, dict[str, float]], others: dict[str, dict[str, float]]
) -> dict[str, dict[str, float]]:
    return {
        name: {
            case: value / others[name][case]
            if name == "mb_s"
            else others[name][case] / value
            for case, value in cases.items()
        }
        for name, cases in mine.items()
    }


def _check(args: argparse.Namespace) -> list[str]:
    """The grids.

    Raises:
      UserError: if an argument is wrong.
    """
    for name in ("steps", "rounds"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name}={getattr(args, name)} must be at least 1")
    if not 0 < args.degrees <= 10 or 180 % args.degrees:
        raise UserError(f"--degrees={args.degrees:g} must divide 180, such as 0.25")
    grids = args.grids.split(",")
    try:
        for grid in grids:
            parse_grid(grid)
    except ValueError as error:
        raise UserError(f"--grids={args.grids}: {error}") from error
    return grids


@contextlib.contextmanager
def _folder(path: str | None) -> Iterator[pathlib.Path]:
    """A folder to keep, or a temporary one."""
    if path is None:
        with tempfile.TemporaryDirectory() as temporary:
            yield pathlib.Path(temporary)
        return
    folder = pathlib.Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--folder={path}: {error.strerror}") from error
    yield folder
