"""`podgcm forecast`: forecasts with a trained model."""

import argparse
import dataclasses


def add_arguments(parser: argparse.ArgumentParser) -> None:
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


def run(args: argparse.Namespace) -> None:
    from launch.tpu.topology import parse_mesh
    from model.partitioning import AXES
    from train.forecast.request import Request
    from train.forecast.run import forecast

    names = {field.name for field in dataclasses.fields(Request)}
    asked = {name: x for name, x in vars(args).items() if name in names}
    asked["fields"] = tuple(args.fields.split(","))
    mesh = parse_mesh(args.mesh, AXES) if args.mesh else None
    forecast(Request(**asked), mesh, args.batch)
