"""`podgcm bench`: the benchmarks."""

import argparse
import importlib
import json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from launch.benchmarks import BENCHMARKS

    names = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    for name, (summary, add_arguments) in BENCHMARKS.items():
        benchmark = names.add_parser(name, help=summary, description=summary + ".")
        add_arguments(benchmark)
        benchmark.add_argument("--json", action="store_true", help="on one line")


def run(args: argparse.Namespace) -> None:
    if getattr(args, "target", "cpu") == "tpu":
        from launch.tpu import topology

        topology.prepare()
    benchmark = importlib.import_module(f"launch.benchmarks.{args.name}")
    figures = benchmark.run(args)
    print(json.dumps(figures, indent=None if args.json else 2))
