"""`podgcm pod`: a command as a pod on this machine."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
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


def run(args: argparse.Namespace) -> int:
    from launch import pod

    return pod.run(
        args.words,
        args.processes,
        args.devices,
        args.restarts,
        args.delay,
        args.grace,
    )
