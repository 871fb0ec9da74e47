"""`podgcm plan`: what a training step would cost on TPUs."""

import argparse
import json

from pipeline.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
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


def run(args: argparse.Namespace) -> int:
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
