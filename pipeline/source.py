"""Fields of a source: Zarr stores, NetCDF or GRIB files, here or in an object store.

Several of them make one source: they may hold different variables, or different times
of the same variables. Names and units are looked up in the catalogue, so that files
with ECMWF's short names go through as ARCO-ERA5 does. Data are read only by `read`.

`formats` opens what is there, `axes` finds the axes, and here the fields are put
together.
"""

import dataclasses
import difflib
import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import xarray

from pipeline.axes import (
    Part,
    TimeAxis,
    find_part,
    has_levels,
    join_times,
    show,
    valid_range,
)
from pipeline.errors import UserError
from pipeline.files import one_line
from pipeline.formats import open_datasets, source_paths
from pipeline.variables import VARIABLES, Variable

# Reads are whole source chunks in time, as long as one fits into this.
_READ_BYTES = 2**28
_NAMES_SHOWN = 20
# What libraries raise for bytes that they cannot read.
_READ_ERRORS = (OSError, EOFError, ValueError, RuntimeError, NotImplementedError)


@dataclasses.dataclass(frozen=True, eq=False)
class Field:
    """One variable of a source.

    Holds open files: every process opens its own.

    Attributes:
      variable: its entry in the catalogue.
      parts: where it is; several only if they hold different times.
      axis: times of the source; None if the variable is static.
      shift: by how much the values are older than the time that they are given for.
    """

    variable: Variable
    parts: tuple[Part, ...]
    axis: TimeAxis | None
    shift: np.timedelta64

    @property
    def latitude(self) -> np.ndarray:
        """[latitude], degrees north, in the order of the source."""
        return self.parts[0].latitude

    @property
    def longitude(self) -> np.ndarray:
        """[longitude], degrees east."""
        return self.parts[0].longitude

    @functools.cached_property
    def times(self) -> np.ndarray:
        """Times that can be read, ascending, [time], datetime64[ns]."""
        if self.axis is None:
            return np.array([], "datetime64[ns]")
        return self.axis.times + self.shift if self.shift else self.axis.times

    def blocks(self, times: np.ndarray) -> Iterator[np.ndarray]:
        """Splits `times` into runs that one read should fetch together."""
        if self.axis is None:
            yield times[:1]
            return
        origin = self._locate(times)
        chunks = [
            min(part.chunk_steps, max(1, _READ_BYTES // part.step_bytes))
            for part in self.parts
        ]

        def chunk_of(position: int) -> tuple[int, int]:
            part, step = origin[position]
            return int(part), int(step // chunks[part])

        for _, run in itertools.groupby(range(len(times)), chunk_of):
            yield times[list(run)]

    def read(self, times: np.ndarray) -> np.ndarray:
        """Values at one of the runs that `blocks` gave.

        Returns:
          [time, level, latitude, longitude], float32; an axis that the variable does
          not have has length 1. NaN where the source has no data.

        Raises:
          UserError: if what the source holds cannot be read, or has no such time.
        """
        part, steps = self.parts[0], []
        if self.axis is not None:
            origin = self._locate(times)
            part, steps = self.parts[origin[0, 0]], origin[:, 1]
        try:
            return part.read(steps)
        except _READ_ERRORS as error:
            place = ""
            if len(steps):
                first, last = (show(times[i] - self.shift) for i in (0, -1))
                place = f" at {first}" if first == last else f" at {first} to {last}"
            raise UserError(
                f"cannot read {self.variable.name}{place} ({part.where}): "
                f"{one_line(error)}"
            ) from error

    def missing(self, times: np.ndarray) -> np.ndarray:
        """Those of some times that the source does not have."""
        return times[~self.axis.holds(times - self.shift)]

    def say_missing(self, time: np.datetime64) -> str:
        """Says that there is no such time, by the source's own."""
        text = f"{self.variable.name} has no time {show(time - self.shift)}"
        if self.shift:
            hours = self.shift // np.timedelta64(1, "h")
            text += f", which is taken {hours} hours later"
        return text

    def _locate(self, times: np.ndarray) -> np.ndarray:
        missing = self.missing(times)
        if len(missing):
            raise UserError(self.say_missing(missing[0]))
        return self.axis.locate(times - self.shift)


def open_fields(
    source: str,
    names: Iterable[str] | None,
    levels: Iterable[float],
    instant: np.datetime64 | None = None,
    *,
    member: int | None = None,
    shift_hours: int = 0,
) -> dict[str, Field]:
    """Finds variables in a source and checks everything but their values.

    Args:
      source: paths of Zarr stores, NetCDF or GRIB files, or addresses of Zarr stores,
        separated by commas; in paths, `*` and `?` stand for any characters.
      names: variables to find, by their names in the catalogue; all of the catalogue
        that the source holds if None.
      levels: pressure levels in hPa to take, in this order.
      instant: static variables with a time axis are taken at this time, or at their
        first time if None; a source without any times is taken to hold this one.
      member: label of the ensemble's member to take; None if there is only one.
      shift_hours: forcings (as the catalogue says) are taken from so long before.

    Raises:
      UserError: if the source cannot be opened, a variable, level or member is
        missing, or units or coordinates are not what they must be.
    """
    datasets = [
        (path, dataset)
        for path in source_paths(source)
        for dataset in open_datasets(path)
    ]
    held: dict[str, list[tuple[str, xarray.Dataset, xarray.DataArray]]] = {}
    for path, dataset in datasets:
        for array in dataset.data_vars.values():
            variable = _lookup(array)
            if variable is not None:
                held.setdefault(variable.name, []).append((path, dataset, array))
    if names is None:
        names = [name for name in VARIABLES if name in held]
    # Fields of the same files share their times, of which there may be a million.
    axes: dict[tuple, TimeAxis] = {}
    fields = {}
    for name in names:
        if name not in held:
            every = {str(v) for _, dataset in datasets for v in dataset.data_vars}
            raise UserError(_missing_variable(source, name, sorted(every)))
        variable = VARIABLES[name]
        parts = []
        for path, dataset, array in held[name]:
            where = f"{array.name} of {path}"
            variable.check_units(array.attrs.get("units"), where)
            valid = valid_range(dataset)
            parts.append(
                find_part(variable, array, levels, instant, member, valid, where)
            )
        axis = None
        if variable.kind == "static":
            parts = parts[:1]
        else:
            key = tuple(
                (id(dataset), None if part.time is None else part.time.name)
                for part, (_, dataset, _) in zip(parts, held[name], strict=True)
            )
            if key not in axes:
                axes[key] = join_times(parts, instant)
            axis = axes[key]
        fields[name] = _field(variable, parts, axis, shift_hours)
    dependent = [f for f in fields.values() if f.variable.kind != "static"]
    if member is not None and dependent:
        if not any(part.members for field in dependent for part in field.parts):
            raise UserError(f"{source} has no members: leave out --member={member}")
    return fields


def open_all(
    source: str,
    static_source: str | None,
    names: Iterable[str],
    levels: Sequence[float],
    instant: np.datetime64 | None,
    *,
    member: int | None = None,
    shift_hours: int = 0,
) -> dict[str, Field]:
    """Fields of the source, and of the static source if there is one.

    See `open_fields`.
    """
    names = list(names)
    static = [n for n in names if VARIABLES[n].kind == "static" and static_source]
    dynamic = [n for n in names if n not in static]
    fields = open_fields(
        source, dynamic, levels, instant, member=member, shift_hours=shift_hours
    )
    if static_source:
        fields |= open_fields(static_source, static, levels, instant, member=member)
    return fields


def source_attributes(source: str) -> dict[str, str]:
    """Global attributes of the first part of a source that say what it is."""
    attributes = open_datasets(source_paths(source)[0])[0].attrs
    kept = ("title", "source", "institution", "references", "license", "simulated")
    return {name: str(attributes[name]) for name in kept if name in attributes}


def select_times(
    fields: dict[str, Field], times: str | None, *, skip_times: str | None = None
) -> np.ndarray:
    """The times to take from all time-dependent fields.

    Args:
      fields: of one source.
      times: `START/STOP` or `START/STOP/STEP`, such as
        `1990-01-01/1990-12-31T18/6h`, both ends included; `START` alone for one
        time; None for all times that there are.
      skip_times: times that are left out, and may be missing: `START` or `START/STOP`,
        several separated by commas.

    Returns:
      [time], datetime64[ns], equally spaced but for those left out; empty if all fields
      are static.

    Raises:
      UserError: if times are missing in between, or in one of the variables.
    """
    dependent = [f for f in fields.values() if f.variable.kind != "static"]
    if not dependent:
        return np.array([], "datetime64[ns]")
    available = dependent[0].times
    start, stop, step = parse_times(times)
    if start is None:
        # A shift leaves the first times without forcings.
        start = max(f.times[0] for f in dependent if f is dependent[0] or f.shift)
    stop = available[-1] if stop is None else stop
    chosen = available[(available >= start) & (available <= stop)]
    held = f"{show(available[0])} to {show(available[-1])}"
    if dependent[0].axis.bounded:
        held += ", valid_time_start to valid_time_stop of the source"
    if not len(chosen):
        raise UserError(f"no times from {show(start)} to {show(stop)}: have {held}")
    if step is None:
        step = np.diff(chosen).min() if len(chosen) > 1 else np.timedelta64(1, "h")
        # An end between two times is no gap, a whole missing step is one.
        start = chosen[0] if chosen[0] - step < start else start
        stop = chosen[-1] if chosen[-1] + step > stop else stop
    wanted = np.arange(start, stop + np.timedelta64(1, "ns"), step)
    for span in skip_times.split(",") if skip_times else ():
        first, last, _ = parse_times(span)
        wanted = wanted[(wanted < first) | (wanted > last)]
    if not len(wanted):
        raise UserError(f"--skip_times={skip_times} leaves out all times")
    for field in dependent:
        missing = field.missing(wanted)
        if len(missing):
            raise UserError(
                f"{field.say_missing(missing[0])} ({len(missing)} of {len(wanted)} are "
                f"missing; source: {held}): choose --times without a gap, or leave "
                "missing times out by --skip_times"
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


def _lookup(array: xarray.DataArray) -> Variable | None:
    """The catalogue's entry for an array of a source."""
    for variable in VARIABLES.values():
        if array.name == variable.name:
            return variable
        # Short names are shared: `z` is an upper-air field only if it has levels.
        if array.name in variable.short_names:
            if (variable.kind == "levels") == has_levels(array):
                return variable
    return None


def _missing_variable(source: str, name: str, every: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, every, 1)
    hint = f"did you mean {near[0]}? " if near else ""
    has = ", ".join(every[:_NAMES_SHOWN])
    if len(every) > _NAMES_SHOWN:
        has += f" and {len(every) - _NAMES_SHOWN} more"
    return f"{source} has no {name}; {hint}it has {has}"


def _field(
    variable: Variable, parts: Sequence[Part], axis: TimeAxis | None, shift_hours: int
) -> Field:
    first, *others = parts
    for other in others:
        if not (
            np.array_equal(first.latitude, other.latitude)
            and np.array_equal(first.longitude, other.longitude)
        ):
            raise UserError(f"the files that hold {variable.name} differ in their grid")
    shift = np.timedelta64(shift_hours if variable.forcing else 0, "h")
    return Field(variable, tuple(parts), axis, shift)
