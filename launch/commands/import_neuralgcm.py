"""`podgcm import-neuralgcm`: a run of a published checkpoint."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="a published model, CHECKPOINT.pkl")
    parser.add_argument("--output", required=True, help="run folder to make")
    parser.epilog = (
        "The folder can be forecast from (podgcm forecast --workdir=DIR --store=STORE) "
        "and trained from (podgcm train --config=DIR/config.json "
        "--config.init_from=DIR --workdir=RUN). The pickle is read as arrays and "
        "containers only; whatever else it asks for is refused."
    )


def run(args: argparse.Namespace) -> None:
    from launch.published.importer import import_neuralgcm

    import_neuralgcm(args.checkpoint, args.output)
