"""`podgcm train`: trains a model, goes on, or repeats a step."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
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


def run(args: argparse.Namespace) -> None:
    from train.config import load_config
    from train.loop import train
    from train.replay import replay

    config = load_config(args.config, args.overrides)
    if args.replay_step is not None:
        replay(config, args.workdir, args.replay_step)
    else:
        train(config, args.workdir)
