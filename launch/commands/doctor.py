"""`podgcm doctor`: whether a machine or a pod is fit to train."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", help="of a run that is to be")
    parser.add_argument("--workdir", help="its folder, on a disk or in a bucket")
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.epilog = (
        "Run it on all hosts of a pod at once, or as `podgcm pod -- doctor ...`, to "
        "examine the pod. Nothing is left behind. Exit code 2 if anything FAILs. Any "
        "knob of configs/base.py is overridden by --config.NAME=VALUE."
    )


def run(args: argparse.Namespace) -> int:
    from launch import doctor

    return doctor.run(args.config, args.overrides, args.workdir, args.json)
