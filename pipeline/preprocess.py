"""From a source to regridded stores: the Beam pipeline.

The unit of work is a shard. Whoever gets it reads its times, checks and regrids them,
writes the whole object, and then a marker. Shards have nothing in common, so nothing
passes between workers, and what a killed run leaves to do is what has no marker. Two
chains run one after the other; what their workers have to tell, they leave in small
files, which are gathered here:

    Create(items to do) -> Reshuffle -> WriteShards -> SaveReport
    Create(all shards)  -> Reshuffle -> ShardStatistics

Each is one line without branches, tagged outputs or batching, which some runners
(Dask's) get wrong, and without grouping, which takes Dask minutes for a thousand items.
"""

import argparse
import contextlib
import dataclasses
import datetime
import functools
import json
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline import request as request_lib
from pipeline.errors import UserError
from pipeline.estimate import estimate, format_estimate
from pipeline.files import Folder
from pipeline.plan import PLAN_FILE, Plan
from pipeline.preflight import check_source
from pipeline.progress import progress
from pipeline.request import Request, make_plans, request_of
from pipeline.runners import DEFAULT_RUNNER, finish_pipeline, make_options
from pipeline.shards import (
    ShardReport,
    ShardStatistics,
    Target,
    WorkItem,
    WriteShards,
    work_items,
)
from pipeline.statistics import collect_moments, write_statistics
from pipeline.store import Store, group_attributes, open_store
from pipeline.writer import (
    Item,
    begin,
    find_damage,
    find_faults,
    finish,
    is_finished,
    marker_name,
)

_LISTED_FAILURES = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `podgcm preprocess`, which `run` understands."""
    request_lib.add_arguments(parser)
    add = parser.add_argument
    add(
        "--output",
        required=True,
        help="the store to make, to complete or to extend: a folder, or an address "
        "such as gs://BUCKET/STORE",
    )
    add(
        "--part",
        metavar="I/N",
        help="do the I-th of N parts of the work and stop, for schedulers of plain "
        "jobs; when all parts are done, run once without it",
    )
    add(
        "--repair",
        action="store_true",
        help="read all shards, and make those anew whose bytes are not those written; "
        "statistics and metadata too",
    )
    add(
        "--dry_run",
        action="store_true",
        help="check all but the source's values, print what the run would take, and "
        "write nothing",
    )
    add("--json", action="store_true", help="print that for machines")
    add(
        "--runner",
        default=DEFAULT_RUNNER,
        help=f"Beam runner (default: {DEFAULT_RUNNER}, in this process, which is also "
        "what DirectRunner means), such as DaskRunner or DataflowRunner; flags after a "
        "lone -- go to Beam",
    )
    add("beam_options", nargs="*", metavar="-- BEAM_FLAGS", help="flags for Beam")


def run(args: argparse.Namespace) -> None:
    """Runs `preprocess` as told on the command line."""
    if args.dry_run:
        targets = _targets(args.output, make_plans(request_of(args)))
        for address, plan in targets:
            _check_output(Folder(address), plan)
        figures = estimate(targets)
        print(json.dumps(figures) if args.json else format_estimate(figures))
        return
    _run(
        request_of(args),
        args.output,
        args.runner,
        args.beam_options,
        args.part,
        args.repair,
    )


def preprocess(
    source: str,
    output: str,
    grid: str,
    *,
    runner: str = DEFAULT_RUNNER,
    beam_options: Sequence[str] = (),
    part: str | None = None,
    repair: bool = False,
    **flags: Any,
) -> Store:
    """Makes a store, or completes one that an earlier run of the same left unfinished.

    Arguments are the flags of `podgcm preprocess`; see `add_arguments`.

    Returns:
      The store, finished unless `part` was given; of several grids the first.

    Raises:
      UserError: if arguments or source are wrong, the output is of other arguments,
        or some shards failed (all others are then done).
    """
    request = Request(source=source, grid=grid, **flags)
    (address, plan), *_ = _run(request, output, runner, beam_options, part, repair)
    return Store(address, plan)


def _run(
    request: Request,
    output: str,
    runner: str,
    beam_options: Sequence[str],
    part: str | None,
    repair: bool,
) -> list[Target]:
    options = make_options(runner, beam_options)
    chosen, parts = _parse_part(part)
    targets = _targets(output, make_plans(request))
    for address, plan in targets:
        _check_output(Folder(address), plan)
    if not any(Folder(address).exists(PLAN_FILE) for address, _ in targets):
        check_source(targets[0][1])
    for address, plan in targets:
        begin(Folder(address), plan)
    every = work_items(targets, [set(plan.items()) for _, plan in targets])
    mine = every[chosen - 1 :: parts]
    todo = _todo(targets, repair)
    items = [
        dataclasses.replace(item, shards=left)
        for item in mine
        if (left := tuple(s for s in item.shards if (item.array, s[1]) in todo[s[0]]))
    ]
    if items:
        _write_all(targets, items, options)
    if part is not None:
        _say(f"part {part} is done; when all are, run the same without --part")
        return targets
    if (
        not items
        and not repair
        and all(
            is_finished(Folder(a), plan, group_attributes(plan)) for a, plan in targets
        )
    ):
        _say(f"{output} is finished already")
        return targets
    if repair:
        for address, _ in targets:
            folder = Folder(address)
            folder.delete_many(folder.names("_build/moments"))
    _say("computing statistics")
    pipeline = beam.Pipeline(options=options)
    statistics_chain(pipeline, targets)
    finish_pipeline(pipeline)
    for address, plan in targets:
        folder = Folder(address)
        write_statistics(folder, plan, collect_moments(folder, plan))
        finish(folder, plan, group_attributes(plan))
        open_store(address)
    return targets


def shards_chain(
    pipeline: beam.Pipeline,
    targets: Sequence[Target],
    items: Sequence[WorkItem],
    run_name: str,
) -> beam.PCollection:
    """The Beam pipeline that writes shards, and a report of each item."""
    save = functools.partial(_save_report, targets[0][0], run_name)
    return (
        pipeline
        | "Items" >> beam.Create(items, reshuffle=False)
        | beam.Reshuffle()
        | beam.ParDo(WriteShards(targets))
        | "SaveReport" >> beam.Map(save)
    )


def statistics_chain(
    pipeline: beam.Pipeline, targets: Sequence[Target]
) -> beam.PCollection:
    """The Beam pipeline that computes the statistics of finished shards."""
    items = [
        (target, *item)
        for target, (_, plan) in enumerate(targets)
        for item in plan.items()
    ]
    return (
        pipeline
        | "Shards" >> beam.Create(items, reshuffle=False)
        | beam.Reshuffle()
        | beam.ParDo(ShardStatistics(targets))
    )


def _parse_part(part: str | None) -> tuple[int, int]:
    if part is None:
        return 1, 1
    match = re.fullmatch(r"(\d+)/(\d+)", part)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(f"--part={part} is not I/N with I from 1 to N, such as 3/16")
    return int(match[1]), int(match[2])


def _targets(output: str, plans: Sequence[Plan]) -> list[Target]:
    folder = Folder(output)
    if len(plans) == 1:
        return [(folder.address, plans[0])]
    return [(folder.child(plan.grid).address, plan) for plan in plans]


def _check_output(folder: Folder, plan: Plan) -> None:
    if folder.exists(PLAN_FILE):
        known = Plan.load(folder)
        differences = known.differences(plan)
        if differences:
            raise UserError(
                f"{folder} was begun with another configuration "
                f"({'; '.join(differences)[:300]}): choose another --output"
            )
        return
    local = folder.local
    if local is not None and local.exists() and not local.is_dir() or folder.names():
        raise UserError(f"{folder} exists and is not a store: choose another --output")


def _todo(targets: Sequence[Target], repair: bool) -> list[set[Item]]:
    """Shards of each target that are to be written."""
    todo = []
    for address, plan in targets:
        folder = Folder(address)
        faults = find_faults(folder, plan)
        if repair:
            whole = [item for item in plan.items() if item not in faults]
            for item, damage in progress(
                find_damage(folder, plan, whole), f"{address}: reading", len(whole)
            ):
                if damage is not None:
                    _say(f"{address}: {damage}")
                    faults[item] = damage
        # The last shard of a store that is being extended is whole as it is; most have
        # no marker yet.
        condemned = [
            i for i, f in faults.items() if not f.endswith((" times", " done"))
        ]
        folder.delete_many(marker_name(*item) for item in condemned)
        total = len(plan.items())
        _say(f"{address}: {total - len(faults)} of {total} shards are done")
        todo.append(set(faults))
    return todo


def _write_all(
    targets: Sequence[Target], items: Sequence[WorkItem], options: PipelineOptions
) -> None:
    """Writes shards.

    Raises:
      UserError: if some failed, naming the first.
    """
    begun = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    run_name = f"_build/runs/{begun}"
    with _shown_progress(targets, items):
        pipeline = beam.Pipeline(options=options)
        shards_chain(pipeline, targets, items, run_name)
        finish_pipeline(pipeline)
    reports = _take_reports(targets, run_name)
    if len(reports) < len(items):
        raise UserError(
            f"the runner did {len(reports)} of {len(items)} items only: run the same "
            "command again to do the others"
        )
    failed = _write_reports(targets, run_name, reports)
    if failed:
        total = sum(len(item.shards) for item in items)
        first = "; ".join(
            f"shard {failure['shard']} of {failure['array']}: {failure['error']}"
            for failure in failed[:_LISTED_FAILURES]
        )
        raise UserError(
            f"{len(failed)} of {total} shards failed: {first} (all in "
            f"{targets[0][0]}/{run_name}.json); mend the cause and run the same "
            "command again to do only these"
        )


def _save_report(address: str, run_name: str, report: ShardReport) -> None:
    target, shard = report.shards[0]
    name = f"{run_name}.{report.array}.{target}.{shard}.json"
    Folder(address).write_json(name, dataclasses.asdict(report))


def _take_reports(targets: Sequence[Target], run_name: str) -> list[ShardReport]:
    """The reports that a run's workers saved, whose files are then removed."""
    folder = Folder(targets[0][0])
    names = [n for n in folder.names("_build/runs") if n.startswith(f"{run_name}.")]
    contents = folder.read_many(names)
    reports = [
        ShardReport(**folder.parse_json(name, content))
        for name, content in contents.items()
        if content is not None
    ]
    folder.delete_many(names)
    return sorted(reports, key=lambda report: (report.array, report.shards))


def _write_reports(
    targets: Sequence[Target], run_name: str, reports: Sequence[ShardReport]
) -> list[dict[str, Any]]:
    """Writes what a run did for each store into it; failed shards with the reason.

    Returns:
      The failed shards of all stores.
    """
    every = []
    for target, (address, _) in enumerate(targets):
        done, failed = [], []
        for report in reports:
            for shard in (s for t, s in report.shards if t == target):
                entry = {"array": report.array, "shard": shard}
                if report.error:
                    cause = {"error": report.error, "trace": report.trace}
                    failed.append(entry | {"times": report.times} | cause)
                else:
                    done.append(entry)
        content = {
            "done": done,
            "failed": failed,
            "worker_seconds": sum(report.seconds for report in reports),
            "source_bytes": sum(report.source_bytes for report in reports),
        }
        Folder(address).write_json(f"{run_name}.json", content)
        every += failed
    return every


@contextlib.contextmanager
def _shown_progress(
    targets: Sequence[Target], items: Sequence[WorkItem]
) -> Iterator[None]:
    """Shows on stderr how many items are done.

    It looks for markers, which works alike for workers here and anywhere.
    """
    stop = threading.Event()
    folders = [Folder(address) for address, _ in targets]
    seconds = 0.5 if all(folder.local for folder in folders) else 20

    def markers() -> set[tuple[int, str]]:
        names = enumerate(folder.names("_build/done") for folder in folders)
        return {(target, name) for target, found in names for name in found}

    def finished(before: set[tuple[int, str]]) -> Iterator[WorkItem]:
        waiting = list(items)
        ending = False
        while waiting and not ending:
            ending = stop.wait(seconds)
            new = markers() - before
            done = [
                item
                for item in waiting
                if {(t, marker_name(item.array, s)) for t, s in item.shards} <= new
            ]
            yield from done
            waiting = [item for item in waiting if item not in done]

    def watch(before: set[tuple[int, str]]) -> None:
        for _ in progress(finished(before), "preprocess", len(items)):
            pass

    watcher = threading.Thread(target=watch, args=[markers()], daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
