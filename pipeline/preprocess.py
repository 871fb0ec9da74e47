"""From a source to a regridded store: the Beam pipeline.

The unit of work is one shard of one variable. Whoever gets it reads its times,
checks and regrids them, writes the whole object, and then a marker. Shards have
nothing in common, so nothing is shuffled between workers but their names, and what a
killed run leaves to do is what has no marker. Two chains run one after the other:

    Create(shards to do) -> Reshuffle -> ProcessShard -> one report of the run
    Create(all shards)   -> Reshuffle -> ShardStatistics -> statistics.json

Each is one line without branches, tagged outputs or batching, which some runners
(Dask's) get wrong.
"""

import argparse
import contextlib
import dataclasses
import datetime
import functools
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import apache_beam as beam
import numpy as np
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners import create_runner

from model.sphere.grids import parse_grid
from pipeline import store as store_lib
from pipeline.errors import UserError
from pipeline.plan import PLAN_FILE, Plan, default_shard_steps, read_json, write_json
from pipeline.progress import progress
from pipeline.regrid import check_points
from pipeline.shards import ProcessShard, ShardReport, ShardStatistics
from pipeline.source import (
    open_all,
    parse_times,
    select_times,
    source_attributes,
)
from pipeline.statistics import Moments, write_statistics
from pipeline.store import READY_FILE, Store, open_store
from pipeline.variables import PRESSURE_LEVELS, VARIABLES

DEFAULT_RUNNER = "FnApiRunner"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `podgcm preprocess`, which `run` understands."""
    add = parser.add_argument
    add(
        "--source",
        required=True,
        help="Zarr stores or NetCDF files, separated by commas; * and ? are wildcards",
    )
    add("--output", required=True, help="folder of the store to make or to complete")
    add("--grid", required=True, help="Gaussian grid, such as TL63 or 31@96x48")
    add(
        "--times",
        help="START/STOP or START/STOP/STEP, ends included, such as "
        "1990-01-01/1990-12-31T18/6h (default: all times of the source)",
    )
    add(
        "--variables",
        help="names separated by commas (default: all known that the source must "
        f"have: {', '.join(VARIABLES)})",
    )
    add(
        "--levels",
        help="pressure levels in hPa, separated by commas (default: the 37 of ERA5)",
    )
    add("--static_source", help="where the static variables are, if not in the source")
    add(
        "--stats_times",
        help="START/STOP of the statistics, such as the times to train on "
        "(default: all times of the store)",
    )
    add(
        "--shard_steps",
        type=int,
        help="times in a shard, the unit of work (default: as fit into 150 MB)",
    )
    add(
        "--latitude_chunks",
        type=int,
        default=2,
        help="bands of latitude that can be read separately (default: 2)",
    )
    add(
        "--runner",
        default=DEFAULT_RUNNER,
        help=f"Beam runner (default: {DEFAULT_RUNNER}, in this process, which is also "
        "what DirectRunner means); flags after a lone -- go to Beam",
    )
    add("beam_options", nargs="*", metavar="-- BEAM_FLAGS", help="flags for Beam")


def run(args: argparse.Namespace) -> Store:
    """Runs `preprocess` as told on the command line."""
    return preprocess(**{name: vars(args)[name] for name in _PARAMETERS})


def preprocess(
    source: str,
    output: str,
    grid: str,
    times: str | None = None,
    variables: str | None = None,
    levels: str | None = None,
    static_source: str | None = None,
    stats_times: str | None = None,
    shard_steps: int | None = None,
    latitude_chunks: int = 2,
    runner: str = DEFAULT_RUNNER,
    beam_options: Sequence[str] = (),
) -> Store:
    """Makes a store, or completes one that an earlier run of the same left unfinished.

    Arguments are the flags of `podgcm preprocess`; see `add_arguments`.

    Returns:
      The finished store.

    Raises:
      UserError: if arguments or source are wrong, the output is of other arguments,
        or some shards failed (all others are then done).
    """
    options = _beam_options(runner, beam_options)
    plan = make_plan(
        source=source,
        grid=grid,
        times=times,
        variables=variables,
        levels=levels,
        static_source=static_source,
        stats_times=stats_times,
        shard_steps=shard_steps,
        latitude_chunks=latitude_chunks,
    )
    _check_output(Path(output), plan)
    if (Path(output) / READY_FILE).exists():
        _say(f"{output} is finished already")
        return open_store(output)
    store_lib.create(output, plan)
    todo = [
        item
        for item in plan.items()
        if store_lib.shard_fault(output, plan, *item) is not None
    ]
    if todo:
        _process(output, plan, todo, options)
    _say("computing statistics")
    with beam.Pipeline(options=options) as pipeline:
        _ = (
            pipeline
            | "Shards" >> beam.Create(plan.items())
            | beam.Reshuffle()
            | beam.ParDo(ShardStatistics(output, plan))
            | beam.combiners.ToList()
            | beam.Map(functools.partial(_merge_statistics, output, plan))
        )
    store_lib.finish(output, plan)
    return open_store(output)


_PARAMETERS = tuple(preprocess.__annotations__.keys() - {"return"})


def _beam_options(runner: str, flags: Sequence[str]) -> PipelineOptions:
    if any(flag.startswith("--runner") for flag in flags):
        raise UserError("give --runner before the lone --, not among Beam's flags")
    # Beam's own DirectRunner first looks for a download (of Prism).
    runner = DEFAULT_RUNNER if runner == "DirectRunner" else runner
    try:
        create_runner(runner)
    except (ValueError, ImportError, AttributeError) as error:
        raise UserError(f"--runner={runner} cannot be used: {error}") from error
    return PipelineOptions(list(flags), runner=runner)


def make_plan(
    *,
    source: str,
    grid: str,
    times: str | None,
    variables: str | None,
    levels: str | None,
    static_source: str | None,
    stats_times: str | None,
    shard_steps: int | None,
    latitude_chunks: int,
) -> Plan:
    """Checks the arguments against the source, without reading fields.

    Raises:
      UserError: if something does not fit.
    """
    try:
        target = parse_grid(grid)
    except ValueError as error:
        raise UserError(str(error)) from error
    names = list(VARIABLES) if variables is None else variables.split(",")
    for name in names:
        if name not in VARIABLES:
            raise UserError(f"unknown variable {name}: know {', '.join(VARIABLES)}")
    if len(set(names)) < len(names):
        raise UserError(f"--variables={variables} names a variable twice")
    try:
        chosen = [float(level) for level in levels.split(",")] if levels else None
    except ValueError as error:
        raise UserError(f"--levels={levels} are not numbers: write 500,850") from error
    start, stop, _ = parse_times(times)
    fields = open_all(
        source,
        static_source,
        names,
        chosen or PRESSURE_LEVELS,
        start if start == stop else None,
    )
    for field in fields.values():
        check_points(field.latitude, field.longitude)
    steps = select_times(fields, times)
    hours = steps.astype("datetime64[h]")
    if np.any(hours != steps):
        raise UserError("times of the source are not whole hours")
    distance = int(np.diff(hours)[0].astype(int)) if len(hours) > 1 else 0
    if any(VARIABLES[name].kind == "levels" for name in names):
        taken = tuple(chosen or PRESSURE_LEVELS)
    else:
        taken = ()
    if shard_steps is None:
        shard_steps = default_shard_steps(target, len(taken), len(steps))
    if shard_steps < 1:
        raise UserError(f"--shard_steps={shard_steps} must be at least 1")
    if latitude_chunks < 1 or target.latitudes % latitude_chunks:
        raise UserError(
            f"--latitude_chunks={latitude_chunks} does not divide the "
            f"{target.latitudes} latitudes of {grid}"
        )
    return Plan(
        source=source,
        static_source=static_source,
        grid=grid,
        start=str(hours[0]) if len(hours) else None,
        steps=len(hours),
        step_hours=distance,
        levels=taken,
        variables=tuple(names),
        shard_steps=shard_steps,
        latitude_chunks=latitude_chunks,
        stats_times=_stats_window(stats_times, hours),
        attributes=source_attributes(source),
    )


def _stats_window(stats_times: str | None, hours: np.ndarray) -> tuple[str, str] | None:
    first, last, step = parse_times(stats_times)
    if step is not None:
        raise UserError(f"--stats_times={stats_times} must be START/STOP")
    if first is None:
        return (str(hours[0]), str(hours[-1])) if len(hours) else None
    inside = hours[(hours >= first) & (hours <= last)]
    if not len(inside):
        raise UserError(f"--stats_times={stats_times} has none of the store's times")
    return str(inside[0]), str(inside[-1])


def _check_output(output: Path, plan: Plan) -> None:
    if (output / PLAN_FILE).exists():
        differences = plan.differences(Plan.load(output))
        if differences:
            raise UserError(
                f"{output} was begun with another configuration "
                f"({'; '.join(differences)[:300]}): choose another --output"
            )
    elif output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} exists and is not a store: choose another --output")


def _process(
    output: str, plan: Plan, todo: list[tuple[str, int]], options: PipelineOptions
) -> None:
    """Writes shards.

    Raises:
      UserError: if some failed, naming the first.
    """
    begun = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    report_file = Path(output, "_build", "runs", f"{begun}.json")
    total = len(plan.items())
    for item in todo:
        # The marker of a shard that was found damaged.
        store_lib.marker_file(output, *item).unlink(missing_ok=True)
    _say(f"{output}: {total - len(todo)} of {total} shards are done")
    with _shown_progress(output, todo):
        with beam.Pipeline(options=options) as pipeline:
            _ = (
                pipeline
                | "Todo" >> beam.Create(todo)
                | beam.Reshuffle()
                | beam.ParDo(ProcessShard(output, plan))
                | beam.combiners.ToList()
                | beam.Map(functools.partial(_write_report, report_file))
            )
    failed = read_json(report_file)["failed"]
    if failed:
        first = "; ".join(
            f"shard {report['shard']} of {report['name']}: {report['error']}"
            for report in failed[:3]
        )
        raise UserError(
            f"{len(failed)} of {len(todo)} shards failed: {first} (all in {report_file}"
            "); mend the cause and run the same command again to do only these"
        )


def _write_report(file: Path, reports: list[ShardReport]) -> None:
    reports = sorted(reports, key=lambda report: (report.name, report.shard))
    failed = [dataclasses.asdict(report) for report in reports if report.error]
    write_json(
        file,
        {
            "done": [(r.name, r.shard) for r in reports if not r.error],
            "failed": failed,
            "worker_seconds": sum(report.seconds for report in reports),
            "source_bytes": sum(report.source_bytes for report in reports),
        },
    )


def _merge_statistics(
    output: str, plan: Plan, parts: list[tuple[str, int, dict[int, Moments]]]
) -> None:
    # In the order of shards, so that rounding does not depend on the workers.
    merged: dict[str, dict[int, Moments]] = {name: {} for name in plan.variables}
    for name, _, moments in sorted(parts, key=lambda part: part[:2]):
        for key, value in moments.items():
            known = merged[name].get(key)
            merged[name][key] = known.merge(value) if known else value
    write_statistics(output, plan, merged)


@contextlib.contextmanager
def _shown_progress(output: str, todo: list[tuple[str, int]]) -> Iterator[None]:
    """Shows on stderr how many shards are done.

    It looks for markers, which works alike for workers here and anywhere.
    """
    stop = threading.Event()

    def finished() -> Iterator[tuple[str, int]]:
        waiting = set(todo)
        ending = False
        while waiting and not ending:
            ending = stop.wait(0.5)
            done = {
                item
                for item in waiting
                if store_lib.marker_file(output, *item).exists()
            }
            yield from done
            waiting -= done

    def watch() -> None:
        for _ in progress(finished(), "preprocess: shards", len(todo)):
            pass

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
