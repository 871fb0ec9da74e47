"""`podgcm sample`: an ERA5-shaped data set, simulated."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
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


def run(args: argparse.Namespace) -> None:
    from launch.sample import make_sample

    make_sample(
        args.output,
        days=args.days,
        spin_up_days=args.spin_up_days,
        seed=args.seed,
        longitudes=args.longitudes,
        start=args.start,
    )
