"""From what the user asks for to plans: `podgcm preprocess` before anything is done."""

import argparse
import dataclasses
import difflib

import numpy as np

from model.sphere.grids import GaussianGrid, parse_grid
from pipeline.errors import UserError
from pipeline.layout import default_latitude_chunks, default_shard_steps
from pipeline.plan import LAYOUTS, SURFACE_PRESSURE, Layout, Plan, source_variables
from pipeline.regrid import EDGES, Edges, check_points
from pipeline.source import open_all, parse_times, select_times, source_attributes
from pipeline.variables import MODEL_VARIABLES, PRESSURE_LEVELS, VARIABLES


@dataclasses.dataclass(frozen=True)
class Request:
    """The flags of `podgcm preprocess` that decide what a store holds.

    See `add_arguments` for each.
    """

    source: str
    grid: str
    times: str | None = None
    skip_times: str | None = None
    variables: str | None = None
    levels: str | None = None
    static_source: str | None = None
    member: int | None = None
    forcing_shift: int = 0
    edges: Edges = "midpoint"
    sigma_layers: int | None = None
    stats_times: str | None = None
    layout: Layout = "variables"
    shard_steps: int | None = None
    latitude_chunks: int | None = None
    keep_bits: int | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of a `Request`."""
    add = parser.add_argument
    add(
        "--source",
        required=True,
        help="Zarr stores (folders, or addresses such as gs://BUCKET/ERA5.zarr), "
        "NetCDF or GRIB files, separated by commas; * and ? are wildcards of local "
        "files",
    )
    add(
        "--grid",
        required=True,
        help="Gaussian grid, such as TL63 or 31@96x48; or several, separated by "
        "commas, from one reading of the source: then each gets a store OUTPUT/GRID",
    )
    add(
        "--times",
        help="START/STOP or START/STOP/STEP, ends included, such as "
        "1990-01-01/1990-12-31T18/6h (default: all times of the source). A finished "
        "store may be extended later, by the same command with a later STOP",
    )
    add(
        "--skip_times",
        help="times to leave out, separated by commas, such as those the source lacks; "
        "START/STOP for several. Windows of training never straddle them",
    )
    add(
        "--variables",
        help="names separated by commas (default: what the model needs: "
        f"{', '.join(MODEL_VARIABLES)}; also known: "
        f"{', '.join(n for n in VARIABLES if n not in MODEL_VARIABLES)})",
    )
    add(
        "--levels",
        help="pressure levels in hPa, separated by commas (default: the 37 of ERA5)",
    )
    add("--static_source", help="where the static variables are, if not in the source")
    add("--member", type=int, help="of an ensemble, by its number in the source")
    add(
        "--forcing_shift",
        type=_hours,
        default=0,
        metavar="HOURS",
        help="take sea surface temperature and sea ice from so long before, such as "
        "24h, so that a forecast cannot peek (default: 0)",
    )
    add(
        "--edges",
        choices=EDGES,
        default="midpoint",
        help="of target cells: midway between latitudes, as NeuralGCM's data; or "
        "gauss, so that means under Gauss weights are kept (default: midpoint)",
    )
    add(
        "--sigma_layers",
        type=int,
        metavar="N",
        help="interpolate to N equidistant sigma layers, with surface_pressure derived "
        "from geopotential and orography (default: stay on pressure levels)",
    )
    add(
        "--stats_times",
        help="START/STOP of the statistics, such as the times to train on "
        "(default: all times of the store)",
    )
    add(
        "--layout",
        choices=LAYOUTS,
        default="variables",
        help="an array for each variable; or stacked, all in one, which takes fewest "
        "requests from an object store (default: variables)",
    )
    add(
        "--shard_steps",
        type=int,
        help="times in a shard, the unit of work (default: about 150 MB, a power of 2)",
    )
    add(
        "--latitude_chunks",
        type=int,
        help="bands of latitude that can be read separately (default: up to 8)",
    )
    add(
        "--keep_bits",
        type=int,
        metavar="N",
        help="round to N bits of the mantissa, which packs better (default: all 23)",
    )


def request_of(args: argparse.Namespace) -> Request:
    names = [field.name for field in dataclasses.fields(Request)]
    return Request(**{name: getattr(args, name) for name in names})


def make_plans(request: Request) -> list[Plan]:
    """A plan for each grid, checked against the source but for its values.

    Raises:
      UserError: if something does not fit.
    """
    grids = [_grid(name) for name in request.grid.split(",")]
    if len(set(grids)) < len(grids):
        raise UserError(f"--grid={request.grid} names a grid twice")
    variables = _variables(request)
    levels = _levels(request)
    first, last, _ = parse_times(request.times)
    fields = open_all(
        request.source,
        request.static_source,
        source_variables(variables, request.sigma_layers),
        levels,
        first if first == last else None,
        member=request.member,
        shift_hours=request.forcing_shift,
    )
    for field in fields.values():
        check_points(field.latitude, field.longitude)
    if not any(VARIABLES[name].kind == "levels" for name in variables):
        levels = ()
    times = select_times(fields, request.times, skip_times=request.skip_times)
    hours = times.astype("datetime64[h]")
    if np.any(hours != times):
        raise UserError("times of the source are not whole hours")
    step = int(np.diff(hours).astype(int).min()) if len(hours) > 1 else 0
    common = Plan(
        source=request.source,
        static_source=request.static_source,
        member=request.member,
        forcing_shift_hours=request.forcing_shift,
        grid=str(grids[0]),
        edges=request.edges,
        sigma_layers=request.sigma_layers,
        start=str(hours[0]) if len(hours) else None,
        stop=str(hours[-1]) if len(hours) else None,
        step_hours=step,
        skipped=_skipped(hours, step),
        levels=levels,
        variables=variables,
        layout=request.layout,
        shard_steps=1,
        latitude_chunks=1,
        keep_bits=request.keep_bits,
        stats_times=_stats_times(request, hours),
        attributes=source_attributes(request.source),
    )
    return [_on_grid(request, common, grid) for grid in grids]


def _on_grid(request: Request, common: Plan, grid: GaussianGrid) -> Plan:
    """The plan of one grid, with the shape of its shards."""
    channels = max(
        (common.channels(names[-1]).stop for names in common.arrays.values()), default=1
    )
    shard_steps = request.shard_steps
    if shard_steps is None:
        shard_steps = default_shard_steps(grid, channels)
    if shard_steps < 1:
        raise UserError(f"--shard_steps={shard_steps} must be at least 1")
    chunks = request.latitude_chunks
    if chunks is None:
        chunks = default_latitude_chunks(grid)
    if chunks < 1 or grid.latitudes % chunks:
        raise UserError(
            f"--latitude_chunks={chunks} does not divide the {grid.latitudes} "
            f"latitudes of {grid}"
        )
    return dataclasses.replace(
        common, grid=str(grid), shard_steps=shard_steps, latitude_chunks=chunks
    )


def _grid(name: str) -> GaussianGrid:
    try:
        return parse_grid(name)
    except ValueError as error:
        raise UserError(str(error)) from error


def _variables(request: Request) -> tuple[str, ...]:
    names = MODEL_VARIABLES
    if request.variables is not None:
        names = tuple(request.variables.split(","))
    for name in names:
        if name not in VARIABLES:
            near = difflib.get_close_matches(name, VARIABLES, 1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise UserError(
                f"unknown variable {name}: {hint}know {', '.join(VARIABLES)}"
            )
    if len(set(names)) < len(names):
        raise UserError(f"--variables={request.variables} names a variable twice")
    if request.keep_bits is not None and not 1 <= request.keep_bits <= 23:
        raise UserError(f"--keep_bits={request.keep_bits} must be 1 to 23")
    if request.sigma_layers is not None:
        if request.sigma_layers < 1:
            raise UserError(f"--sigma_layers={request.sigma_layers} must be at least 1")
        if SURFACE_PRESSURE not in names:
            names = (*names, SURFACE_PRESSURE)
    return names


def _levels(request: Request) -> tuple[float, ...]:
    if request.levels is None:
        return PRESSURE_LEVELS
    try:
        levels = tuple(float(level) for level in request.levels.split(","))
    except ValueError as error:
        raise UserError(
            f"--levels={request.levels} are not numbers: write 500,850"
        ) from error
    if len(set(levels)) < len(levels):
        raise UserError(f"--levels={request.levels} names a level twice")
    return levels


def _skipped(hours: np.ndarray, step: int) -> tuple[str, ...]:
    """Times in between that are left out."""
    if not step:
        return ()
    every = np.arange(hours[0], hours[-1], np.timedelta64(step, "h"))
    return tuple(str(hour) for hour in every[~np.isin(every, hours)])


def _stats_times(request: Request, hours: np.ndarray) -> tuple[str, str] | None:
    first, last, step = parse_times(request.stats_times)
    if step is not None:
        raise UserError(f"--stats_times={request.stats_times} must be START/STOP")
    if first is None:
        return (str(hours[0]), str(hours[-1])) if len(hours) else None
    inside = hours[(hours >= first) & (hours <= last)]
    if not len(inside):
        raise UserError(
            f"--stats_times={request.stats_times} has none of the store's times"
        )
    return str(inside[0]), str(inside[-1])


def _hours(text: str) -> int:
    """Hours of `24h` or `24`."""
    hours = int(text.removesuffix("h"))
    if hours < 0:
        raise ValueError
    return hours
