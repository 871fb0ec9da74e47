"""A picture of a store: maps of some variables, and which shards are done."""

import dataclasses
import os
import pathlib

import matplotlib
import numpy as np

from pipeline.errors import UserError
from pipeline.files import Folder
from pipeline.plan import Plan
from pipeline.store import DamagedStoreError, Store
from pipeline.variables import VARIABLES
from pipeline.writer import Item, find_faults

matplotlib.use("agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.colors import ListedColormap  # noqa: E402

_COLUMNS = 2
_NOT_DONE, _DONE = "#d94f3d", "#4c9f70"


@dataclasses.dataclass(frozen=True)
class _Panel:
    """How a variable is drawn.

    Attributes:
      name: of the variable.
      title: for people.
      units: that are shown.
      factor: from the units of the store to these.
      offset: added thereafter.
      colours: name of the colour map.
      level: in hPa, or thousandths of sigma; the nearest one is drawn.
      limits: of the colours; by default the 1st and 99th percentile.
      centred: whether the colours are symmetric about zero.
    """

    name: str
    title: str
    units: str
    factor: float = 1.0
    offset: float = 0.0
    colours: str = "viridis"
    level: float = 500.0
    limits: tuple[float, float] | None = None
    centred: bool = False


_METRES = 1 / 9.80665
_CELSIUS = -273.15

# fmt: off
_PANELS = (
    _Panel("geopotential", "Geopotential height", "dam", _METRES / 10),
    _Panel("temperature", "Temperature", "°C", 1, _CELSIUS, "RdYlBu_r", 850),
    _Panel("u_component_of_wind", "Eastward wind", "m s⁻¹", 1, 0, "RdBu_r", 250,
           centred=True),
    _Panel("specific_humidity", "Specific humidity", "g kg⁻¹", 1e3, 0, "YlGnBu", 850),
    _Panel("sea_surface_temperature", "Sea surface temperature", "°C", 1, _CELSIUS,
           "RdYlBu_r"),
    _Panel("sea_ice_cover", "Sea ice cover", "1", 1, 0, "Blues_r", limits=(0, 1)),
    _Panel("geopotential_at_surface", "Height of the ground", "m", _METRES, 0,
           "YlOrBr"),
    _Panel("land_sea_mask", "Land-sea mask", "1", 1, 0, "YlGn", limits=(0, 1)),
)
# fmt: on


def check_output(output: str, store: str | os.PathLike[str]) -> None:
    """Checks where a picture is to go, before long work.

    Raises:
      UserError: if it cannot be written there, or would be inside the store.
    """
    file = pathlib.Path(output)
    if file.suffix != ".png":
        raise UserError(f"--plot={output} must end in .png")
    if not file.parent.is_dir():
        raise UserError(f"--plot={output}: there is no folder {file.parent}")
    if file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK):
        raise UserError(f"--plot={output} cannot be written")
    local = Folder(store).local
    if local is not None and file.resolve().is_relative_to(local.resolve()):
        raise UserError(f"--plot={output} is inside the store: choose another place")


def draw(path: str | os.PathLike[str], output: str) -> None:
    """Draws maps at the last time that is done, and which shards are, if not all are.

    Args:
      path: of a store, finished or not.
      output: the picture to make, a PNG file.

    Raises:
      UserError: if there is no store, or the picture cannot be written.
    """
    check_output(output, path)
    folder = Folder(path)
    plan = Plan.load(folder)
    faults = find_faults(folder, plan)
    done = {item for item in plan.items() if item not in faults}
    panels = _panels(plan)
    time = _last_time(plan, [panel.name for panel in panels], done)
    panels = [p for p in panels if _is_there(plan, p.name, time, done)]
    store = Store(folder.address, plan)
    land = None
    if "land_sea_mask" in plan.variables and ("land_sea_mask", 0) in done:
        land = _read(store, "land_sea_mask", None)

    rows = -(-len(panels) // _COLUMNS)
    heights = [3.0] * rows + ([0.7 + 0.25 * len(plan.arrays)] if faults else [])
    figure = plt.figure(figsize=(13, 0.5 + sum(heights)), layout="constrained")
    grid = figure.add_gridspec(len(heights), _COLUMNS, height_ratios=heights)
    for number, panel in enumerate(panels):
        axes = figure.add_subplot(grid[divmod(number, _COLUMNS)])
        _draw_map(axes, plan, panel, _read(store, panel.name, time), land)
    if faults:
        _draw_progress(figure.add_subplot(grid[-1, :]), plan, done)
    title = f"{path} on {plan.grid}"
    if time is not None:
        title += f", {np.datetime_as_string(plan.times[time], 'm')}"
    figure.suptitle(title)
    try:
        figure.savefig(output, dpi=100)
    except OSError as error:
        raise UserError(f"--plot={output} cannot be written: {error}") from error
    finally:
        plt.close(figure)


def _panels(plan: Plan) -> list[_Panel]:
    """Panels of what is usually looked at; of others, if a store has none of these."""
    known = [panel for panel in _PANELS if panel.name in plan.variables]
    others = [
        _Panel(name, VARIABLES[name].long_name, VARIABLES[name].units)
        for name in plan.variables
    ]
    return known or others[: len(_PANELS)]


def _array_of(plan: Plan, name: str) -> str:
    return next(array for array, names in plan.arrays.items() if name in names)


def _is_there(plan: Plan, name: str, time: int | None, done: set[Item]) -> bool:
    if plan.kind(name) == "static":
        return (name, 0) in done
    return (
        time is not None and (_array_of(plan, name), time // plan.shard_steps) in done
    )


def _last_time(plan: Plan, names: list[str], done: set[Item]) -> int | None:
    """Index of the last time at which all these variables are there, else of any."""
    arrays = {_array_of(plan, n) for n in names if plan.kind(n) != "static"}
    for enough in (all, any):
        for shard in reversed(range(-(-plan.steps // plan.shard_steps))):
            if arrays and enough((array, shard) in done for array in arrays):
                return plan.shard_times(shard)[1] - 1
    return None


def _read(store: Store, name: str, time: int | None) -> np.ndarray | None:
    """A field [..., latitude, longitude]; None if its shard is damaged."""
    try:
        if store.kind(name) == "static":
            return store.read(name, None)
        return store.read(name, np.array([time]))[0]
    except DamagedStoreError:
        return None


def _draw_map(
    axes: Axes,
    plan: Plan,
    panel: _Panel,
    field: np.ndarray | None,
    land: np.ndarray | None,
) -> None:
    """A map with coastlines, if both are there."""
    title = panel.title
    if field is None:
        axes.set_title(f"{title}: damaged", fontsize=10)
        axes.set_axis_off()
        return
    if plan.kind(panel.name) == "levels":
        index, where = _nearest_level(plan, panel.level)
        field, title = field[index], f"{title} at {where}"
    if VARIABLES[panel.name].fill:
        title += " (filled over land)"
    axes.set_title(title, fontsize=10)
    values = field * panel.factor + panel.offset
    least, largest = panel.limits or np.percentile(values, (1, 99))
    if panel.centred:
        largest = np.abs([least, largest]).max()
        least = -largest
    longitude, latitude = plan.target.longitude_degrees, plan.target.latitude_degrees
    image = axes.pcolormesh(
        longitude,
        latitude,
        values,
        cmap=panel.colours,
        vmin=least,
        vmax=largest,
        shading="nearest",
        rasterized=True,
    )
    axes.figure.colorbar(
        image, ax=axes, label=panel.units, extend=_beyond(values, least, largest)
    )
    if land is not None and land.min() < 0.5 < land.max():
        axes.contour(longitude, latitude, land, [0.5], colors="k", linewidths=0.6)
    axes.set_xticks(range(0, 360, 60))
    axes.xaxis.set_major_formatter("{x:.0f}°E")
    axes.set_yticks(range(-90, 91, 30), "90°S 60°S 30°S 0° 30°N 60°N 90°N".split())
    half = longitude[1] / 2
    axes.set_xlim(-half, 360 - half)
    axes.set_ylim(-90, 90)
    axes.tick_params(labelsize=8)


def _nearest_level(plan: Plan, level: float) -> tuple[int, str]:
    """Index and name of the level or layer that is nearest."""
    if plan.sigma_layers is None:
        index = int(np.abs(np.array(plan.levels) - level).argmin())
        return index, f"{plan.levels[index]:g} hPa"
    index = int(np.abs(plan.sigma - level / 1000).argmin())
    return index, f"sigma {plan.sigma[index]:.3g}"


def _beyond(values: np.ndarray, least: float, largest: float) -> str:
    """Which ends of the colour bar have values beyond them."""
    below, above = values.min() < least, values.max() > largest
    return ("both" if above else "min") if below else ("max" if above else "neither")


def _draw_progress(axes: Axes, plan: Plan, done: set[Item]) -> None:
    """A strip for each array, with its shards over time."""
    count = max(plan.shards(array) for array in plan.arrays)
    # Static arrays have one shard, which is as wide as the strip.
    strips = [
        [
            (array, 0 if plan.is_static(array) else shard) in done
            for shard in range(count)
        ]
        for array in plan.arrays
    ]
    axes.imshow(
        strips,
        cmap=ListedColormap([_NOT_DONE, _DONE]),
        vmin=0,
        vmax=1,
        aspect="auto",
        interpolation="nearest",
        extent=(0, count, len(strips), 0),
    )
    labels = [
        f"{array} {sum((array, s) in done for s in range(plan.shards(array)))}"
        f"/{plan.shards(array)}"
        for array in plan.arrays
    ]
    axes.set_yticks(np.arange(len(labels)) + 0.5, labels, fontsize=8)
    axes.hlines(range(1, len(labels)), 0, count, colors="w", linewidths=2)
    if count <= 100:
        axes.vlines(range(1, count), 0, len(labels), colors="w", linewidths=1)
    if plan.steps:
        shown = np.unique(np.linspace(0, count - 1, min(count, 8)).round().astype(int))
        firsts = [plan.times[plan.shard_times(shard)[0]] for shard in shown]
        axes.set_xticks(shown, np.datetime_as_string(firsts, "h"), fontsize=8)
    axes.set_title(
        "Shards that are done (green) and not (red), by their first time", fontsize=10
    )
