"""`podgcm inspect`: what is in a store, a run or a configuration."""

import argparse
import json

from pipeline.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
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


def run(args: argparse.Namespace) -> int:
    from train.folder import open_path

    if args.config or args.parameters:
        return _run_parameters(args)
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


def _run_parameters(args: argparse.Namespace) -> int:
    if not (args.config and args.parameters) or args.path or args.deep or args.plot:
        raise UserError("give --config=configs/NAME.py with --parameters, and no store")
    from launch.parameters import count, format_count
    from train.config import load_config

    counted = count(load_config(args.config, args.overrides))
    print(json.dumps(counted) if args.json else format_count(counted))
    return 0
