"""The axes of arrays as sources have them: which is which, and what to take of each.

Sources differ in names, order and units of their axes, and in axes that a field need
not have: ensemble members, a single level of a surface field, times of a static one.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np
import xarray

from pipeline.errors import UserError
from pipeline.variables import Variable

AXES = ("time", "level", "latitude", "longitude")

_NAMES = {
    # Files of forecasts have both: `time` is then when the forecast began.
    "time": ("valid_time", "time"),
    "level": ("level", "pressure_level", "isobaricInhPa", "isobaricInPa", "plev"),
    "latitude": ("latitude", "lat"),
    "longitude": ("longitude", "lon"),
    "member": ("number", "member", "realization", "ensemble"),
}
_HECTOPASCALS = {"hPa": 1, "millibars": 1, "mb": 1, "mbar": 1, "Pa": 0.01, None: 1}


@dataclasses.dataclass(frozen=True)
class TimeAxis:
    """Times of a series, and where they are.

    Attributes:
      times: ascending, without repeats, [time], datetime64[ns].
      origin: which part, and which index in it, holds each, [time, 2].
      bounded: whether the source says that it holds more times than are valid.
    """

    times: np.ndarray
    origin: np.ndarray
    bounded: bool

    def holds(self, times: np.ndarray) -> np.ndarray:
        """Whether there is each of some times, [n]."""
        index = np.searchsorted(self.times, times)
        return self.times.take(index, mode="clip") == times

    def locate(self, times: np.ndarray) -> np.ndarray:
        """Rows of `origin` for times that there are, [n, 2]."""
        return self.origin[np.searchsorted(self.times, times)]


@dataclasses.dataclass(frozen=True)
class Part:
    """A variable in one dataset, with the axes of its kind and no others.

    Attributes:
      where: its name and that of the file, for messages.
      data: lazy, as the source has it.
      axes: names in `AXES` of the dimensions of `data`.
      time: the time coordinate; None for static variables, and without times.
      valid: first and last time with values, if the dataset says so.
      chunk_steps: times in a chunk of the source.
      latitude: [latitude], degrees north.
      longitude: [longitude], degrees east.
      members: labels of the members among which one was chosen.
    """

    where: str
    data: xarray.Variable
    axes: dict[str, str]
    time: xarray.DataArray | None
    valid: tuple[np.datetime64, np.datetime64] | None
    chunk_steps: int
    latitude: np.ndarray
    longitude: np.ndarray
    members: tuple[int, ...]

    @property
    def step_bytes(self) -> int:
        """Bytes of one time, as float32."""
        sizes = dict(zip(self.data.dims, self.data.shape, strict=True))
        return 4 * math.prod(n for dim, n in sizes.items() if self.axes[dim] != "time")

    def read(self, steps: Sequence[int]) -> np.ndarray:
        """Values at indices of times; of all there is if it has no times.

        Returns:
          [time, level, latitude, longitude], float32, contiguous; length 1 for an axis
          that the variable does not have.
        """
        times = {dim: as_slice(steps) for dim in self.axes if self.axes[dim] == "time"}
        data = self.data.isel(times)
        loaded = xarray.Variable([self.axes[dim] for dim in data.dims], data.values)
        ordered = loaded.set_dims(AXES).transpose(*AXES)
        return np.ascontiguousarray(ordered.values, np.float32)


def find_part(
    variable: Variable,
    array: xarray.DataArray,
    levels: Iterable[float],
    instant: np.datetime64 | None,
    member: int | None,
    valid: tuple[np.datetime64, np.datetime64] | None,
    where: str,
) -> Part:
    """Finds the axes of an array, and takes of each what is asked for.

    Args:
      variable: what the array holds.
      array: lazy.
      levels: pressure levels in hPa to take, in this order.
      instant: static variables with a time axis are taken at this time, or else at
        their first valid one.
      member: of an ensemble, by its label; None if there is only one.
      valid: first and last time with values, if the dataset says so.
      where: name of the array and of its file, for messages.

    Raises:
      UserError: if an axis is missing or not what it must be.
    """
    latitude, longitude = (_points(array, axis, where) for axis in AXES[2:])
    _check_points(latitude.values, longitude.values, where)
    level, time = (find_axis(array, axis) for axis in ("level", "time"))
    if time is not None:
        _check_time(time, where)

    data, members = _select_member(variable, array, member, where)
    if variable.kind == "levels":
        data = _select_levels(data, level, levels, where)
    elif level is not None and level.name in data.dims:
        if level.size > 1:
            raise UserError(f"{where} has levels, but is a {variable.kind} variable")
        data = data.isel({level.name: 0})
    if variable.kind == "static" and time is not None:
        data = _select_instant(data, time, instant, valid)
        time = None

    coordinates = {
        "time": time,
        "level": level,
        "latitude": latitude,
        "longitude": longitude,
    }
    axes = {
        coordinate.dims[0]: axis
        for axis, coordinate in coordinates.items()
        if coordinate is not None
        and coordinate.dims
        and coordinate.dims[0] in data.dims
    }
    extra = sorted(str(dim) for dim in data.dims if dim not in axes)
    if extra:
        raise UserError(f"{where} has further dimensions {extra}: select one of each")
    chunks = array.encoding.get("preferred_chunks", {})
    return Part(
        where,
        data,
        axes,
        time,
        valid,
        next((chunks.get(dim, 1) for dim in axes if axes[dim] == "time"), 1),
        latitude.values.astype(np.float64),
        longitude.values.astype(np.float64),
        members,
    )


def find_axis(
    array: xarray.DataArray, axis: str, least: int = 1
) -> xarray.DataArray | None:
    """The coordinate of an axis under any of its names, if it has `least` points."""
    for name in _NAMES[axis]:
        if name in array.coords and array.coords[name].size >= least:
            return array.coords[name]
    return None


def has_levels(array: xarray.DataArray) -> bool:
    """Whether an array is on pressure levels.

    Surface fields may have a level axis of length 1, with a 0 as coordinate.
    """
    level = find_axis(array, "level")
    return level is not None and (level.size > 1 or float(level.values.flat[0]) > 0)


def valid_range(dataset: xarray.Dataset) -> tuple[np.datetime64, np.datetime64] | None:
    """First and last time with values, where the dataset is preallocated beyond them.

    ARCO-ERA5 says so by its attributes `valid_time_start` and `valid_time_stop`, both
    dates included. What follows until `valid_time_stop_era5t` is preliminary.

    Raises:
      UserError: if the attributes are no times.
    """
    names = ("valid_time_start", "valid_time_stop")
    if not all(name in dataset.attrs for name in names):
        return None
    texts = [str(dataset.attrs[name]).removesuffix("Z") for name in names]
    try:
        first, last = (np.datetime64(text) for text in texts)
    except ValueError as error:
        raise UserError(f"{' and '.join(names)} are no times: {texts}") from error
    # A date stands for all of its day.
    return first.astype("M8[ns]"), (last + 1).astype("M8[ns]") - np.timedelta64(1, "ns")


def join_times(parts: Sequence[Part], instant: np.datetime64 | None) -> TimeAxis:
    """The series that parts make together.

    Raises:
      UserError: if times are unknown or repeated.
    """
    times, origin, bounded = [], [], False
    for number, part in enumerate(parts):
        if part.time is None:
            if instant is None:
                raise UserError(
                    f"{part.where} has no times: state its one time by --times"
                )
            part_times = np.array([instant], "datetime64[ns]")
        else:
            part_times = np.atleast_1d(part.time.values).astype("M8[ns]", copy=False)
        steps = np.arange(len(part_times), dtype=np.int32)
        if np.isnat(part_times).any():
            raise UserError(f"{part.where} has undefined times")
        if part.valid is not None:
            inside = (part_times >= part.valid[0]) & (part_times <= part.valid[1])
            bounded |= not inside.all()
            part_times, steps = part_times[inside], steps[inside]
        times.append(part_times)
        origin.append(np.stack([np.full_like(steps, number), steps], -1))
    joined, places = np.concatenate(times), np.concatenate(origin)
    if not len(joined):
        raise UserError(f"{parts[0].where} has no times that are valid")
    if not (np.diff(joined) > np.timedelta64(0)).all():
        order = np.argsort(joined, kind="stable")
        joined, places = joined[order], places[order]
        repeats = joined[1:][np.diff(joined) == np.timedelta64(0)]
        if len(repeats):
            raise UserError(
                f"{parts[0].where}: time {show(repeats[0])} is in the source more than "
                "once"
            )
    return TimeAxis(joined, places, bounded)


def as_slice(index: Sequence[int]) -> slice | Sequence[int]:
    """Ascending indices of one stride as a slice, which every reader is quick with."""
    strides = np.unique(np.diff(index))
    if len(index) == 1 or (len(strides) == 1 and strides[0] > 0):
        stride = int(strides[0]) if len(strides) else 1
        return slice(int(index[0]), int(index[-1]) + 1, stride)
    return index


def show(time: np.datetime64) -> str:
    """A time for messages."""
    return str(np.datetime_as_string(time, "m"))


def _points(array: xarray.DataArray, axis: str, where: str) -> xarray.DataArray:
    """The coordinate of a horizontal axis."""
    coordinate = find_axis(array, axis, 2)
    if coordinate is None or coordinate.ndim != 1:
        raise UserError(f"{where} has no one-dimensional {axis} coordinate")
    return coordinate


def _check_points(latitude: np.ndarray, longitude: np.ndarray, where: str) -> None:
    if not (np.isfinite(latitude).all() and np.isfinite(longitude).all()):
        raise UserError(f"latitudes or longitudes of {where} are undefined")
    steps = np.diff(latitude)
    if not ((steps > 0).all() or (steps < 0).all()):
        raise UserError(
            f"latitudes of {where} are not in order: sort the source by latitude"
        )


def _check_time(time: xarray.DataArray, where: str) -> None:
    if not np.issubdtype(time.dtype, np.datetime64):
        raise UserError(f"times of {where} are not of the standard calendar")
    if time.ndim > 1:
        extra = sorted(map(str, time.dims[1:]))
        raise UserError(f"{where} has further dimensions {extra}: select one of each")


def _select_member(
    variable: Variable,
    array: xarray.DataArray,
    member: int | None,
    where: str,
) -> tuple[xarray.Variable, tuple[int, ...]]:
    """Data of one member, and the labels that there are."""
    data = array.variable
    known = (*array.dims, *array.coords)
    name = next((name for name in _NAMES["member"] if name in known), None)
    if name is None:
        return data, ()
    # Without a coordinate, members are counted.
    labels = np.atleast_1d(array[name].values).tolist()
    if member is None and len(labels) > 1:
        raise UserError(
            f"{where} has several members: choose one by --member="
            f"{'|'.join(map(str, labels))}"
        )
    if member is not None and member not in labels:
        # Static fields are those of all members.
        if variable.kind != "static" or len(labels) > 1:
            raise UserError(f"{where} has no member {member}: it has {labels}")
        member = None
    if name in data.dims:
        data = data.isel({name: 0 if member is None else labels.index(member)})
    return data, tuple(labels)


def _select_levels(
    data: xarray.Variable,
    level: xarray.DataArray | None,
    levels: Iterable[float],
    where: str,
) -> xarray.Variable:
    if level is None:
        raise UserError(f"{where} has no pressure levels")
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
    if not level.dims or index == list(range(len(values))):
        return data
    return data.isel({level.dims[0]: as_slice(index)})


def _select_instant(
    data: xarray.Variable,
    time: xarray.DataArray,
    instant: np.datetime64 | None,
    valid: tuple[np.datetime64, np.datetime64] | None,
) -> xarray.Variable:
    """Static data at `instant`, if there is that time, or else at the first valid."""
    if not time.dims or time.dims[0] not in data.dims:
        return data
    # ARCO-ERA5 repeats static fields hourly, with NaN where it has no data.
    times = time.values.astype("datetime64[ns]", copy=False)
    usable = np.ones(len(times), bool)
    if valid is not None:
        usable = (times >= valid[0]) & (times <= valid[1])
    known = np.flatnonzero(usable & (times == instant)) if instant is not None else ()
    step = known[0] if len(known) else np.argmax(usable)
    return data.isel({time.dims[0]: int(step)})
