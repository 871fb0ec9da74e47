"""Fields of a source: any Zarr stores or NetCDF files that xarray opens.

Several files make one source: they may hold different variables, or different times
of the same variables. Names and units are looked up in the catalogue, so that files
with ECMWF's short names go through as ARCO-ERA5 does. Data are read only by `read`.
"""

import dataclasses
import difflib
import glob
import itertools
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import xarray

from pipeline.errors import UserError
from pipeline.variables import VARIABLES, Variable

_AXES = {
    "time": ("time", "valid_time"),
    "level": ("level", "pressure_level", "isobaricInhPa", "plev"),
    "latitude": ("latitude", "lat"),
    "longitude": ("longitude", "lon"),
}
_HECTOPASCALS = {"hPa": 1, "millibars": 1, "mb": 1, "mbar": 1, "Pa": 0.01, None: 1}
# Reads are whole source chunks in time, as long as one fits into this.
_READ_BYTES = 2**28


@dataclasses.dataclass(frozen=True)
class Field:
    """One variable of a source.

    Attributes:
      variable: its entry in the catalogue.
      parts: arrays (time, level, latitude, longitude), without the axes that the
        variable does not have; several only if they hold different times.
      times: times of all parts, ascending, [time], datetime64[ns].
      origin: which part, and which index in it, holds each time, [time, 2].
      latitude: [latitude], degrees north, in the order of the source.
      longitude: [longitude], degrees east.
    """

    variable: Variable
    parts: tuple[xarray.DataArray, ...]
    times: np.ndarray
    origin: np.ndarray
    latitude: np.ndarray
    longitude: np.ndarray

    def blocks(self, times: np.ndarray) -> Iterator[np.ndarray]:
        """Splits `times` into runs that one read should fetch together."""
        if self.variable.kind == "static":
            yield times[:1]
            return
        index = np.searchsorted(self.times, times)
        step_bytes = np.prod(self.parts[0].shape[1:]) * 8
        chunks = [
            min(
                part.encoding.get("preferred_chunks", {}).get(part.dims[0], 1),
                max(1, _READ_BYTES // int(step_bytes)),
            )
            for part in self.parts
        ]

        def chunk_of(position: int) -> tuple[int, int]:
            part, step = self.origin[index[position]]
            return int(part), int(step // chunks[part])

        for _, run in itertools.groupby(range(len(times)), chunk_of):
            yield times[list(run)]

    def read(self, times: np.ndarray) -> np.ndarray:
        """Values at one of the runs that `blocks` gave.

        Returns:
          [time, level, latitude, longitude], floating; an axis that the variable
          does not have has length 1.
        """
        if self.variable.kind == "static":
            values = self.parts[0].values[None, None]
        else:
            origin = self.origin[np.searchsorted(self.times, times)]
            steps = origin[:, 1]
            strides = np.unique(np.diff(steps)) if len(steps) > 1 else np.array([1])
            if len(strides) == 1 and strides[0] > 0:
                # Lists are slow to read from sharded Zarr, slices are not.
                steps = slice(int(steps[0]), int(steps[-1]) + 1, int(strides[0]))
            values = self.parts[origin[0, 0]][steps].values
            values = values if self.variable.kind == "levels" else values[:, None]
        return values.astype(np.float32, copy=False)


def open_fields(
    source: str,
    names: Iterable[str] | None,
    levels: Iterable[float],
    instant: np.datetime64 | None = None,
) -> dict[str, Field]:
    """Finds variables in a source and checks everything but their values.

    Args:
      source: paths of Zarr stores or NetCDF files, separated by commas; `*` and `?`
        stand for any characters.
      names: variables to find, by their names in the catalogue; all of the catalogue
        that the source holds if None.
      levels: pressure levels in hPa to take, in this order.
      instant: static variables with a time axis are taken at this time, or at their
        first time if None; a source without any times is taken to hold this one.

    Raises:
      UserError: if the source cannot be opened, a variable or level is missing, or
        units or coordinates are not what they must be.
    """
    datasets = {path: _open(path) for path in _paths(source)}
    held: dict[str, list[tuple[str, xarray.DataArray]]] = {}
    for path, dataset in datasets.items():
        for array in dataset.data_vars.values():
            variable = _lookup(array)
            if variable is not None:
                held.setdefault(variable.name, []).append((path, array))
    if names is None:
        names = [name for name in VARIABLES if name in held]
    fields = {}
    for name in names:
        if name not in held:
            every = {str(v) for d in datasets.values() for v in d.data_vars}
            near = difflib.get_close_matches(name, sorted(every | set(held)), 1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise UserError(
                f"{source} has no {name}; {hint}it has {', '.join(sorted(every))}"
            )
        fields[name] = _field(VARIABLES[name], held[name], levels, instant)
    return fields


def open_all(
    source: str,
    static_source: str | None,
    names: Iterable[str],
    levels: Sequence[float],
    instant: np.datetime64 | None,
) -> dict[str, Field]:
    """Fields of the source, and of the static source if there is one."""
    names = list(names)
    static = [n for n in names if VARIABLES[n].kind == "static" and static_source]
    dynamic = [n for n in names if n not in static]
    fields = open_fields(source, dynamic, levels, instant)
    if static_source:
        fields |= open_fields(static_source, static, levels, instant)
    return fields


def source_attributes(source: str) -> dict[str, str]:
    """Global attributes of the first part of a source that say what it is."""
    attributes = _open(_paths(source)[0]).attrs
    kept = ("title", "source", "institution", "references", "license", "simulated")
    return {name: str(attributes[name]) for name in kept if name in attributes}


def select_times(fields: dict[str, Field], times: str | None) -> np.ndarray:
    """The times to take from all time-dependent fields.

    Args:
      fields: of one source.
      times: `START/STOP` or `START/STOP/STEP`, such as
        `1990-01-01/1990-12-31T18/6h`, both ends included; `START` alone for one
        time; None for all times that there are.

    Returns:
      [time], datetime64[ns], equally spaced; empty if all fields are static.

    Raises:
      UserError: if times are missing in between, or in one of the variables.
    """
    dependent = [f for f in fields.values() if f.variable.kind != "static"]
    if not dependent:
        return np.array([], "datetime64[ns]")
    available = dependent[0].times
    start, stop, step = parse_times(times)
    start = available[0] if start is None else start
    stop = available[-1] if stop is None else stop
    chosen = available[(available >= start) & (available <= stop)]
    held = f"{_show(available[0])} to {_show(available[-1])}"
    if not len(chosen):
        raise UserError(f"no times from {_show(start)} to {_show(stop)}: have {held}")
    if step is None:
        step = np.diff(chosen).min() if len(chosen) > 1 else np.timedelta64(1, "h")
        # An end between two times is no gap, a whole missing step is one.
        start = chosen[0] if chosen[0] - step < start else start
        stop = chosen[-1] if chosen[-1] + step > stop else stop
    wanted = np.arange(start, stop + np.timedelta64(1, "ns"), step)
    for field in dependent:
        missing = wanted[~np.isin(wanted, field.times)]
        if len(missing):
            raise UserError(
                f"{field.variable.name} has no time {_show(missing[0])} ({len(missing)}"
                f" of {len(wanted)} are missing; source: {held}): choose --times "
                "without a gap"
            )
    return wanted


def parse_times(times: str | None):
    """(start, stop, step) of `START[/STOP[/STEP]]`; None for what is not given.

    Raises:
      UserError: if the text has another form.
    """
    if times is None:
        return None, None, None
    start, *rest = times.split("/")
    try:
        first = np.datetime64(start, "ns")
        last = np.datetime64(rest[0], "ns") if rest else first
        step = None
        if len(rest) > 1:
            step = np.timedelta64(int(rest[1].removesuffix("h")), "h")
        if len(rest) > 2 or np.isnat(first) or not first <= last:
            raise ValueError
        if step is not None and step <= np.timedelta64(0):
            raise ValueError
    except ValueError as error:
        raise UserError(
            f"cannot read the times {times!r}: write START/STOP or START/STOP/STEP, "
            "such as 1990-01-01/1990-12-31T18/6h"
        ) from error
    return first, last, step


def _paths(source: str) -> list[str]:
    paths = []
    for pattern in source.split(","):
        found = sorted(glob.glob(pattern)) if "://" not in pattern else [pattern]
        if not found:
            raise UserError(f"source {pattern} does not exist")
        paths += found
    return paths


def _open(path: str) -> xarray.Dataset:
    """Opens a Zarr store (a folder or an address) or a NetCDF file, lazily."""
    is_zarr = os.path.isdir(path) or "://" in path
    try:
        if is_zarr:
            with warnings.catch_warnings():
                # Stores without consolidated metadata open slowly; that is no fault.
                warnings.filterwarnings("ignore", "Failed to open Zarr store with con")
                return xarray.open_dataset(
                    path, engine="zarr", chunks=None, decode_timedelta=False
                )
        return xarray.open_dataset(path, engine="netcdf4", decode_timedelta=False)
    except (OSError, ValueError, KeyError) as error:
        kind = "Zarr store" if is_zarr else "NetCDF file"
        raise UserError(f"cannot open {path} as a {kind}: {error}") from error


def _lookup(array: xarray.DataArray) -> Variable | None:
    """The catalogue's entry for an array of a source."""
    has_levels = _find_axis(array, "level", 2) is not None
    for variable in VARIABLES.values():
        if array.name == variable.name:
            return variable
        # Short names are shared: `z` is an upper-air field only if it has levels.
        if array.name in variable.short_names:
            if (variable.kind == "levels") == has_levels:
                return variable
    return None


def _find_axis(
    array: xarray.DataArray, axis: str, least: int = 1
) -> xarray.DataArray | None:
    """The coordinate of an axis under any of its names, if it has `least` points."""
    for name in _AXES[axis]:
        if name in array.coords and array.coords[name].size >= least:
            return array.coords[name]
    return None


def _field(
    variable: Variable,
    held: list[tuple[str, xarray.DataArray]],
    levels: Iterable[float],
    instant: np.datetime64 | None,
) -> Field:
    parts, times, origin = [], [], []
    for number, (path, array) in enumerate(held):
        where = f"{array.name} of {path}"
        variable.check_units(array.attrs.get("units"), where)
        array, part_times = _arranged(variable, array, levels, instant, where)
        parts.append(array)
        times.append(part_times)
        steps = np.arange(len(part_times))
        origin.append(np.stack([np.full_like(steps, number), steps], -1))
    coordinates = [[part[axis].values for part in parts] for axis in parts[0].dims[-2:]]
    for first, *others in coordinates:
        if not all(np.array_equal(first, other) for other in others):
            raise UserError(f"the files that hold {variable.name} differ in their grid")
    if variable.kind == "static":
        parts, times, origin = parts[:1], times[:1], origin[:1]
    time = np.concatenate(times)
    if len(np.unique(time)) < len(time):
        raise UserError(f"a time of {variable.name} is in the source more than once")
    order = np.argsort(time)
    return Field(
        variable,
        tuple(parts),
        time[order],
        np.concatenate(origin)[order],
        *(values[0].astype(np.float64) for values in coordinates),
    )


def _arranged(
    variable: Variable,
    array: xarray.DataArray,
    levels: Iterable[float],
    instant: np.datetime64 | None,
    where: str,
) -> tuple[xarray.DataArray, np.ndarray]:
    """An array in the axes of its variable's kind, and its times."""
    for axis in ("latitude", "longitude"):
        coordinate = _find_axis(array, axis, 2)
        if coordinate is None or coordinate.ndim != 1:
            raise UserError(f"{where} has no one-dimensional {axis} coordinate")
        array = array.rename({coordinate.name: axis})
    dims = ["latitude", "longitude"]

    level = _find_axis(array, "level")
    if variable.kind == "levels":
        if level is None:
            raise UserError(f"{where} has no pressure levels")
        array = _select_levels(array, level, levels, where)
        dims.insert(0, "level")
    elif level is not None and level.name in array.dims:
        if level.size > 1:
            raise UserError(f"{where} has levels, but is a {variable.kind} variable")
        array = array.isel({level.name: 0})

    time = _find_axis(array, "time")
    times = np.array([], "datetime64[ns]")
    if time is None:
        if variable.kind != "static":
            if instant is None:
                raise UserError(f"{where} has no times: state its one time by --times")
            times = np.array([instant], "datetime64[ns]")
            array = array.expand_dims("time")
    elif not np.issubdtype(time.dtype, np.datetime64):
        raise UserError(f"times of {where} are not of the standard calendar")
    elif variable.kind == "static":
        if time.name in array.dims:
            # ARCO-ERA5 repeats static fields hourly, with NaN where it has no data.
            choice = {time.name: [time.values[0] if instant is None else instant]}
            known = instant in time.values.astype("datetime64[ns]")
            array = array.sel(choice) if known else array.isel({time.name: [0]})
            array = array.isel({time.name: 0})
    else:
        times = np.atleast_1d(time.values).astype("datetime64[ns]")
        if time.name not in array.dims:
            array = array.expand_dims(time.name)
        array = array.rename({time.name: "time"} if time.name != "time" else {})

    dims = ["time", *dims] if variable.kind != "static" else dims
    if set(array.dims) != set(dims):
        extra = sorted(set(map(str, array.dims)) - set(dims))
        raise UserError(f"{where} has further dimensions {extra}: select one of each")
    return array.transpose(*dims), times


def _select_levels(
    array: xarray.DataArray,
    level: xarray.DataArray,
    levels: Iterable[float],
    where: str,
) -> xarray.DataArray:
    units = level.attrs.get("units")
    if units not in _HECTOPASCALS:
        raise UserError(f"levels of {where} have units {units!r}, not hPa or Pa")
    values = np.atleast_1d(level.values).astype(np.float64) * _HECTOPASCALS[units]
    index = []
    for wanted in levels:
        match = np.flatnonzero(np.isclose(values, wanted, rtol=1e-6))
        if not len(match):
            has = ",".join(f"{value:g}" for value in values)
            raise UserError(
                f"{where} has no level {wanted:g} hPa: take those that there are by "
                f"--levels={has}"
            )
        index.append(int(match[0]))
    name = level.name
    if name not in array.dims:
        array = array.expand_dims(name)
    array = array.rename({name: "level"}) if name != "level" else array
    if index == list(range(len(values))):
        return array
    return array.isel(level=index)


def _show(time: np.datetime64) -> str:
    return str(np.datetime_as_string(time, "m"))
