"""`podgcm evaluate`: scores of forecasts, pictures, a page."""

import argparse
import json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from pipeline.runners import DEFAULT_RUNNER

    add = parser.add_argument
    add(
        "--forecast",
        required=True,
        action="append",
        metavar="[LABEL=]PATH",
        help="a forecast; may be given several times, to compare",
    )
    add("--truth", required=True, help="store of `podgcm preprocess`")
    add("--output", required=True, help="folder for scores and pictures")
    add(
        "--grid",
        help="points to compare at, such as 1.5 (degrees) or TL31, to which all is "
        "regridded conservatively (default: the forecasts' own)",
    )
    add(
        "--baseline",
        metavar="LABEL",
        help="what scorecards compare with: a forecast, persistence or climatology "
        "(default: the first of several forecasts, or persistence)",
    )
    add(
        "--dates",
        default="",
        metavar="TIME,...",
        help="initial times whose maps are drawn (default: the first)",
    )
    add("--report", metavar="OUT.html", help="a page of all, in one file")
    add("--workdir", help="a run's folder, whose learning curves the page shows")
    add("--json", action="store_true", help="print the scores as JSON")
    add(
        "--runner",
        default=DEFAULT_RUNNER,
        help=f"Beam runner (default: {DEFAULT_RUNNER}, in this process); flags after a "
        "lone -- go to Beam",
    )
    add("beam_options", nargs="*", metavar="-- BEAM_FLAGS", help="flags for Beam")


def run(args: argparse.Namespace) -> None:
    from launch.report.evaluate import evaluate

    scores, table = evaluate(
        args.forecast,
        args.truth,
        args.output,
        grid=args.grid,
        baseline=args.baseline,
        dates=[date for date in args.dates.split(",") if date],
        report=args.report,
        workdir=args.workdir,
        runner=args.runner,
        beam_flags=args.beam_options,
    )
    print(json.dumps(scores) if args.json else table)
