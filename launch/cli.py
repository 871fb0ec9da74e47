"""The command line, `podgcm`.

Every command's own module is imported when it runs, so that `--help` is quick and
preprocessing needs no JAX.
"""

import argparse
import dataclasses
import importlib
import json
import os
import sys
import traceback
from collections.abc import Sequence

from launch import virtual_devices
from pipeline.errors import Unavailable, UserError
from train import exit_codes


def _sample(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("output", help="Zarr store to make; must not exist")
    parser.add_argument("--days", type=int, default=40, help="of data (default 40)")
    parser.add_argument(
        "--spin_up_days", type=int, default=30, help="simulated before (default 30)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="another seed, another planet"
    )
    parser.add_argument(
        "--longitudes", type=int, default=128, help="of the output (default 128)"
    )
    parser.add_argument(
        "--start",
        default="2001-01-01",
        help="first day of the data (default 2001-01-01)",
    )


def _run_sample(args: argparse.Namespace) -> None:
    from launch.sample import make_sample

    make_sample(
        args.output,
        days=args.days,
        spin_up_days=args.spin_up_days,
        seed=args.seed,
        longitudes=args.longitudes,
        start=args.start,
    )


def _preprocess(parser: argparse.ArgumentParser) -> None:
    from pipeline.preprocess import add_arguments

    add_arguments(parser)


def _run_preprocess(args: argparse.Namespace) -> None:
    from pipeline.preprocess import run

    run(args)


def _inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", nargs="?", help="store of `podgcm preprocess`, or a run's folder"
    )
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.add_argument(
        "--config", help="such as configs/tl63.py: what is in it, with --parameters"
    )
    parser.add_argument(
        "--parameters",
        action="store_true",
        help="how many parameters the networks of --config have, by part",
    )
    parser.add_argument(
        "--deep",
        action="store_true",
        help="of a store: read every byte, and look at the physics of some times",
    )
    parser.add_argument(
        "--plot",
        metavar="OUT.png",
        help="of a store: draw maps, and what is done of an unfinished one",
    )
    parser.epilog = "Nothing is written into what is inspected. Exit code 1: not whole."


def _run_inspect(args: argparse.Namespace) -> int:
    from train.folder import open_path

    if args.config or args.parameters:
        return _run_inspect_parameters(args)
    if args.path is None:
        raise UserError("name a store or a run, or give --config and --parameters")
    if (open_path(args.path) / "config.json").exists():
        from train.inspect import describe, format_description

        if args.deep or args.plot:
            raise UserError(f"--deep and --plot are for stores: {args.path} is a run")
        description = describe(args.path)
    else:
        from pipeline.inspect import describe, format_description

        if args.plot:
            from pipeline.maps import check_output, draw

            check_output(args.plot, args.path)
        description = describe(args.path, deep=args.deep)
    print(
        json.dumps(description, indent=2)
        if args.json
        else format_description(description)
    )
    if args.plot:
        draw(args.path, args.plot)
    return 0 if description["whole"] else 1


def _run_inspect_parameters(args: argparse.Namespace) -> int:
    if not (args.config and args.parameters) or args.path or args.deep or args.plot:
        raise UserError("give --config=configs/NAME.py with --parameters, and no store")
    from launch.parameters import count, format_count
    from train.config import load_config

    counted = count(load_config(args.config, args.overrides))
    print(json.dumps(counted) if args.json else format_count(counted))
    return 0


def _import_neuralgcm(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="a published model, CHECKPOINT.pkl")
    parser.add_argument("--output", required=True, help="run folder to make")
    parser.epilog = (
        "The folder can be forecast from (podgcm forecast --workdir=DIR --store=STORE) "
        "and trained from (podgcm train --config=DIR/config.json "
        "--config.init_from=DIR --workdir=RUN). The pickle is read as arrays and "
        "containers only; whatever else it asks for is refused."
    )


def _run_import_neuralgcm(args: argparse.Namespace) -> None:
    from launch.published.importer import import_neuralgcm

    import_neuralgcm(args.checkpoint, args.output)


def _train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="such as configs/demo.py")
    parser.add_argument(
        "--workdir", required=True, help="the run's folder; same, resume"
    )
    parser.add_argument(
        "--replay_step",
        type=int,
        metavar="N",
        help="take only this step again, from the checkpoint before it, and find the "
        "operation whose result is not finite; the folder is left as it is",
    )
    parser.epilog = (
        "Any knob of configs/base.py is overridden by --config.NAME=VALUE, such as "
        "--config.train.steps=500 or --config.mesh.data=4."
    )


def _run_train(args: argparse.Namespace) -> None:
    from train.config import load_config
    from train.loop import train
    from train.replay import replay

    config = load_config(args.config, args.overrides)
    if args.replay_step is not None:
        replay(config, args.workdir, args.replay_step)
    else:
        train(config, args.workdir)


def _forecast(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", required=True, help="a run's folder")
    parser.add_argument(
        "--init",
        required=True,
        help="initial times: TIME, TIME,TIME,... or START/STOP/STEP such as "
        "2001-02-06/2001-02-12/12h; the data must hold them",
    )
    parser.add_argument(
        "--lead", default="24h", help="how far: 72h, 10d or 2y (default 24h)"
    )
    parser.add_argument(
        "--every", type=int, default=6, help="hours between outputs (default 6)"
    )
    parser.add_argument(
        "--output",
        required=True,
        help="Zarr store to make; the same command again goes on where it was ended",
    )
    parser.add_argument(
        "--physics",
        choices=("learned", "none", "oracle"),
        default="learned",
        help="the trained networks; the dynamical core alone; or, for the sample "
        "planet, its own hidden physics (default learned)",
    )
    parser.add_argument(
        "--store",
        default="",
        help="other data than the run's own: a store, or raw fields such as `podgcm "
        "preprocess` takes, of which one is made at the initial times",
    )
    parser.add_argument(
        "--members", type=int, default=1, help="of each initial time (default 1)"
    )
    parser.add_argument(
        "--fields",
        default="levels,drift",
        help="what is written, separated by commas: levels, sigma, tendencies, drift, "
        "surface_pressure, mean_sea_level_pressure, total_column_water_vapour, "
        "wind_speed, vorticity, divergence, or any of their parts (default "
        "levels,drift)",
    )
    parser.add_argument(
        "--sea",
        choices=("held", "dates", "climatology"),
        default="held",
        help="its temperature and ice: as at the initial time, of the dates, or the "
        "mean of the data's years (default held)",
    )
    parser.add_argument(
        "--mean",
        choices=("month",),
        default="",
        help="keep means of calendar months in place of every output",
    )
    parser.add_argument(
        "--mesh",
        help="devices by axis, such as data=4,lat=2 (default: all along data)",
    )
    parser.add_argument(
        "--batch",
        type=int,
        default=0,
        help="initial times and members at once (default: mesh.data * mesh.ensemble)",
    )


def _run_forecast(args: argparse.Namespace) -> None:
    from launch.tpu.topology import parse_mesh
    from model.partitioning import AXES
    from train.forecast.request import Request
    from train.forecast.run import forecast

    names = {field.name for field in dataclasses.fields(Request)}
    asked = {name: x for name, x in vars(args).items() if name in names}
    asked["fields"] = tuple(args.fields.split(","))
    mesh = parse_mesh(args.mesh, AXES) if args.mesh else None
    forecast(Request(**asked), mesh, args.batch)


def _evaluate(parser: argparse.ArgumentParser) -> None:
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


def _run_evaluate(args: argparse.Namespace) -> None:
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


def _bench(parser: argparse.ArgumentParser) -> None:
    from launch.benchmarks import BENCHMARKS

    names = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    for name, (summary, add_arguments) in BENCHMARKS.items():
        benchmark = names.add_parser(name, help=summary, description=summary + ".")
        add_arguments(benchmark)
        benchmark.add_argument("--json", action="store_true", help="on one line")


def _run_bench(args: argparse.Namespace) -> None:
    if getattr(args, "target", "cpu") == "tpu":
        from launch.tpu import topology

        topology.prepare()
    benchmark = importlib.import_module(f"launch.benchmarks.{args.name}")
    figures = benchmark.run(args)
    print(json.dumps(figures, indent=None if args.json else 2))


def _plan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="such as configs/demo.py")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--topology", help="a slice, such as v5p:2x2x1 or v5e:4x4")
    what.add_argument(
        "--all",
        action="store_true",
        help="instead, table the slices of v4, v5e, v5p and v6e that the batch and the "
        "config's mesh can fill; takes as long as that many plans",
    )
    parser.add_argument(
        "--search",
        action="store_true",
        help="try the sensible meshes of the slice, and rank them by modelled time; "
        "takes as long as that many plans",
    )
    parser.add_argument(
        "--mesh",
        help="AXIS=SIZE,... such as level=4,lat=1; axes not named are 1 (default: that "
        "of the config); the data axis, unless named here, takes the devices left",
    )
    parser.add_argument(
        "--slices",
        type=int,
        default=1,
        help="so many of the slice, joined by the data-centre network (default 1)",
    )
    parser.add_argument(
        "--stages",
        metavar="HOURS:STEPS,...",
        help="also model the wall time of a curriculum: so many steps with rollouts of "
        "so many hours, such as 6:20000,24:20000,120:5000; config: that of the "
        "configuration",
    )
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.epilog = (
        "Nothing runs, and no TPU is needed: the training step is compiled by the TPU "
        "compiler, and its program is accounted for. Exit code 1 if it does not fit, "
        "or does not overwrite the training state in place. "
        "Any knob of configs/base.py is overridden by --config.NAME=VALUE."
    )


def _doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", help="of a run that is to be")
    parser.add_argument("--workdir", help="its folder, on a disk or in a bucket")
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.epilog = (
        "Run it on all hosts of a pod at once, or as `podgcm pod -- doctor ...`, to "
        "examine the pod. Nothing is left behind. Exit code 2 if anything FAILs. Any "
        "knob of configs/base.py is overridden by --config.NAME=VALUE."
    )


def _run_doctor(args: argparse.Namespace) -> int:
    from launch import doctor

    return doctor.run(args.config, args.overrides, args.workdir, args.json)


def _pod(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--processes", type=int, default=2, help="(default 2)")
    parser.add_argument(
        "--devices", type=int, default=1, help="virtual ones of each (default 1)"
    )
    parser.add_argument(
        "--restarts", type=int, default=3, help="at most so many (default 3)"
    )
    parser.add_argument(
        "--delay",
        type=float,
        default=1.0,
        help="seconds before the first restart, doubled for each (default 1)",
    )
    parser.add_argument(
        "--grace",
        type=float,
        default=10.0,
        help="seconds from one process's end until the others are killed (default 10)",
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="COMMAND",
        help="after a lone --: a command of podgcm, such as train, or any other",
    )
    parser.epilog = (
        "Exit code: 0 finished, 2 a user's mistake (not tried again), 75 preempted, "
        "1 failed too often. SIGTERM is passed on: the processes save, and end."
    )


def _launch(parser: argparse.ArgumentParser) -> None:
    from launch.cloud.arguments import add_arguments

    add_arguments(parser)


def _run_launch(args: argparse.Namespace) -> int:
    from launch.cloud.arguments import run

    return run(args)


def _run_pod(args: argparse.Namespace) -> int:
    from launch import pod

    return pod.run(
        args.words,
        args.processes,
        args.devices,
        args.restarts,
        args.delay,
        args.grace,
    )


def _run_plan(args: argparse.Namespace) -> int:
    from launch.tpu import topology

    topology.prepare()
    from launch.plan import plan
    from launch.plan_page import format_plan
    from train.config import load_config

    config = load_config(args.config, args.overrides)
    if args.search or args.all:
        from launch import plan_search

        if args.mesh or args.stages or (args.all and (args.search or args.slices > 1)):
            raise UserError(
                "--search goes with --topology and --slices, --all goes alone"
            )
        if args.all:
            figures = plan_search.survey(config)
        else:
            figures = plan_search.search(config, args.topology, args.slices)
        rows = figures["rows"]
        print(json.dumps(figures) if args.json else plan_search.format_rows(rows))
        return 0 if rows[0]["fits"] else 1
    figures = plan(config, args.topology, args.mesh, args.slices, args.stages)
    print(json.dumps(figures) if args.json else format_plan(figures))
    return 0 if figures["fits"] and figures["donated"] else 1


COMMANDS = {
    "sample": (
        "make an ERA5-shaped sample data set (no download)",
        _sample,
        _run_sample,
    ),
    "preprocess": (
        "regrid ERA5-like data into a sharded store",
        _preprocess,
        _run_preprocess,
    ),
    "inspect": ("what is in a store or a run, and is it whole", _inspect, _run_inspect),
    "train": ("train a model, or go on with it", _train, _run_train),
    "import-neuralgcm": (
        "make a run's folder of a published NeuralGCM checkpoint",
        _import_neuralgcm,
        _run_import_neuralgcm,
    ),
    "forecast": ("forecast with a trained model", _forecast, _run_forecast),
    "plan": (
        "what a training step would cost on a TPU slice that is not there",
        _plan,
        _run_plan,
    ),
    "doctor": (
        "is this machine, or this pod, fit to train, and if not what to do",
        _doctor,
        _run_doctor,
    ),
    "pod": ("run a command as a pod on this machine", _pod, _run_pod),
    "launch": ("train or preprocess on the cloud", _launch, _run_launch),
    "bench": ("run a benchmark", _bench, _run_bench),
    "evaluate": ("score forecasts against the truth", _evaluate, _run_evaluate),
}


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command's arguments; `overrides` holds what follows --config.* flags."""
    parser = argparse.ArgumentParser(
        prog="podgcm", description="Neural general circulation models, trained on pods."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (summary, add_arguments, run) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary + ".")
        command.set_defaults(run=run)
        if name == next((a for a in argv if not a.startswith("-")), None):
            add_arguments(command)
    # What follows a lone -- is another command's.
    end = argv.index("--") if "--" in argv else len(argv)
    own, rest = argv[:end], argv[end:]
    overrides = [a.removeprefix("--config.") for a in own if a.startswith("--config.")]
    args = parser.parse_args(
        [*(a for a in own if not a.startswith("--config.")), *rest]
    )
    takes_overrides = args.command in ("train", "plan", "doctor", "inspect") or (
        args.command == "bench" and args.name == "train"
    )
    if overrides and not takes_overrides:
        parser.error(
            "--config.* flags are for `podgcm train`, `plan`, `doctor`, `inspect` and "
            "`bench train`"
        )
    args.overrides = overrides
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a command; exits as `train.exit_codes` says."""
    args = parse(sys.argv[1:] if argv is None else argv)
    try:
        virtual_devices.prepare()
        code = args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:  # such as `podgcm inspect STORE | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except UserError as error:
        print(f"podgcm {args.command}: {error}", file=sys.stderr)
        code = exit_codes.USER_ERROR
    except (exit_codes.Failed, Unavailable) as failure:
        print(f"podgcm {args.command}: {failure}", file=sys.stderr)
        code = exit_codes.FAILED
    except exit_codes.Preempted as preempted:
        print(f"podgcm {args.command}: {preempted}", file=sys.stderr)
        code = exit_codes.PREEMPTED
    except KeyboardInterrupt:
        print(f"podgcm {args.command}: interrupted", file=sys.stderr)
        code = 130
    except Exception:
        traceback.print_exc()
        code = exit_codes.FAILED
    if code not in (None, exit_codes.PREEMPTED) and "train.processes" in sys.modules:
        sys.modules["train.processes"].leave(code)
    sys.exit(code or 0)


if __name__ == "__main__":
    main()
