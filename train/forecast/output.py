"""The Zarr store of a forecast, written while it is made, and how far it is.

Its dimensions are time (initial), number (member; where there are several),
prediction_timedelta, a vertical one, latitude and longitude, as in WeatherBench 2; of
means, month in place of prediction_timedelta. A chunk is a few leads, or a month, of
one member; every object is written whole. As long as the attribute `finished` is
false, `_progress/` tells what is there, and holds the states that unfinished rows go
on from.
"""

import dataclasses
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorstore as ts

from model.spec import ModelSpec
from model.sphere.grids import unfold
from pipeline.errors import UserError
from pipeline.files import Folder, io_context
from pipeline.zarr_v3 import array_files, coordinate_files, group_file
from train.forecast.products import FIELDS, GLOBAL, LEVEL, SIGMA, STANDARD_NAMES

_CHUNK_BYTES = 8_000_000
_CHUNK_LEADS = 4  # at most: what a kill may cost
_MONTH = "valid_month"
_MONTHLY_CHUNK = 40  # leads, of which only means of the whole atmosphere are kept
_PROGRESS = "_progress"
_CLAIM = f"{_PROGRESS}/claim.json"  # what is begun, before the store tells
FINITE, SAMPLES = "finite", "samples"


@dataclasses.dataclass(frozen=True)
class Axes:
    """The coordinates of a forecast.

    Attributes:
      times: initial times, datetime64 [time].
      members: number of them.
      leads: hours, [lead].
      spec: of the model: points, levels and layers.
      monthly: whether means of calendar months are kept, rather than every lead; of
        what is a mean of the whole atmosphere every lead is kept nevertheless.
    """

    times: np.ndarray
    members: int
    leads: np.ndarray
    spec: ModelSpec
    monthly: bool = False

    def month(self, time: int, lead: int) -> int:
        """Calendar months between an initial time, by its index, and a lead, by its."""
        start = self.times[time]
        valid = start + np.timedelta64(int(self.leads[lead]), "h")
        return int(valid.astype("datetime64[M]") - start.astype("datetime64[M]"))

    def months(self) -> np.ndarray:
        """The first day of every month of each forecast, datetime64 [time, month]."""
        count = max(self.month(i, -1) for i in range(len(self.times))) + 1
        return self.times.astype("datetime64[M]")[:, None] + np.arange(count)

    def values(self, vertical: Sequence[str]) -> dict[str, np.ndarray]:
        """By dimension, in order; of these vertical ones."""
        of = {"time": self.times.astype("datetime64[h]").astype(np.int64)}
        if self.members > 1:
            of["number"] = np.arange(self.members)
        of["prediction_timedelta"] = self.leads.astype(np.int64)
        if self.monthly:
            of["month"] = np.arange(self.months().shape[1])
        if LEVEL in vertical:
            of[LEVEL] = np.array(self.spec.levels, np.float64)
        if SIGMA in vertical:
            of[SIGMA] = self.spec.sigma.centers
        of["latitude"] = self.spec.grid.latitude_degrees
        of["longitude"] = self.spec.grid.longitude_degrees
        return of


_ATTRIBUTES: dict[str, dict[str, str]] = {
    "time": {
        "units": "hours since 1970-01-01",
        "calendar": "proleptic_gregorian",
        "standard_name": "forecast_reference_time",
    },
    "number": {"units": "1", "standard_name": "realization"},
    "prediction_timedelta": {"units": "hours", "standard_name": "forecast_period"},
    "month": {"units": "1", "long_name": "Calendar months since the initial time"},
    LEVEL: {"units": "hPa", "standard_name": "air_pressure", "positive": "down"},
    SIGMA: {
        "units": "1",
        "standard_name": "atmosphere_sigma_coordinate",
        "positive": "down",
    },
    "latitude": {"units": "degrees_north", "standard_name": "latitude"},
    "longitude": {"units": "degrees_east", "standard_name": "longitude"},
}


_COUNTS = {
    FINITE: {
        "long_name": "Whether all fields are finite; else they are NaN",
        "flag_values": [0, 1],
        "flag_meanings": "not_finite finite",
    },
    SAMPLES: {"units": "1", "long_name": "Outputs that the mean is of"},
}


_TOP = "ptop"


def _variable(
    name: str, values: np.ndarray, dimensions: Sequence[str], attributes: dict[str, str]
) -> dict[str, bytes]:
    """Files of an array that tells of others."""
    metadata = {
        "shape": values.shape,
        "data_type": values.dtype.name,
        "dimension_names": list(dimensions),
        "attributes": attributes,
    }
    files = array_files(metadata, values)
    return {f"{name}/{key}": content for key, content in files.items()}


def _valid_months(axes: Axes) -> dict[str, bytes]:
    """Files of the coordinate that tells which months the means are of, and bounds."""
    months = axes.months()
    ends = np.stack([months, months + 1], axis=-1).astype("datetime64[h]")
    start = axes.times.astype("datetime64[h]")[:, None, None]
    ends = np.clip(ends, start, start + axes.leads[-1].astype("timedelta64[h]"))
    bounds = f"{_MONTH}_bounds"
    attributes = {**_ATTRIBUTES["time"], "standard_name": "time", "bounds": bounds}
    first = months.astype("datetime64[h]").astype(np.int64)
    return _variable(_MONTH, first, ["time", "month"], attributes) | _variable(
        bounds, ends.astype(np.int64), ["time", "month", "bounds"], {}
    )


def read_note(folder: Folder) -> dict[str, Any]:
    """What a forecast that was begun in a folder tells of itself; or nothing."""
    found = folder.read_json("zarr.json")
    if found is None:
        return folder.read_json(_CLAIM) or {}
    return found.get("attributes", {})


class Output:
    """The store of a forecast, open for writing.

    Attributes:
      chunk: number of leads that are written at once.
    """

    def __init__(
        self, folder: Folder, axes: Axes, fields: tuple[str, ...], note: dict[str, Any]
    ) -> None:
        """Describes the store; writes nothing.

        Args:
          folder: where it is to be.
          axes: its coordinates.
          fields: what it holds.
          note: attributes, among them all that decides its values.
        """
        self._folder, self._axes, self._fields, self._note = folder, axes, fields, note
        levels = max(len(axes.spec.levels), axes.spec.sigma.layers)
        field_bytes = 4 * levels * axes.spec.grid.latitudes * axes.spec.grid.longitudes
        most = min(_CHUNK_LEADS, _CHUNK_BYTES // field_bytes)
        most = _MONTHLY_CHUNK if axes.monthly else most
        self.chunk = int(np.clip(most, 1, len(axes.leads)))
        self._arrays: dict[str, ts.TensorStore] = {}

    def __str__(self) -> str:
        return str(self._folder)

    def claim(self) -> bool:
        """Begins the store, or goes on with one that was begun; whether it is finished.

        Raises:
          UserError: if there is something else.
        """
        found = self._folder.read_json("zarr.json")
        if found is None:
            if self._folder.names() and self._folder.read_json(_CLAIM) != self._note:
                raise UserError(
                    f"{self._folder} exists, and is no forecast: give another --output"
                )
            self._folder.write_json(_CLAIM, self._note)
            self._write_metadata(finished=False)
            return False
        attributes = found.get("attributes", {})
        theirs = {key: attributes.get(key) for key in self._note}
        if theirs != self._note:
            different = [key for key in self._note if theirs[key] != self._note[key]]
            key = different[0]
            raise UserError(
                f"{self._folder} holds another forecast: {key} is {theirs[key]!r}, and "
                f"not {self._note[key]!r}; give another --output, or remove it"
            )
        if attributes.get("finished"):
            self._clear()
            return True
        return False

    def write_leads(
        self,
        time: int,
        member: int,
        first: int,
        values: dict[str, np.ndarray],
        finite: np.ndarray,
    ) -> None:
        """Writes some leads of a row.

        Args:
          time, member: of the row.
          first: index of the first, a multiple of `chunk`.
          values: by field [lead, (level,) 2, latitude, longitude], or [lead].
          finite: whether all is, [lead]; what is not is written as NaN.
        """
        place = (*self._row(time, member), slice(first, first + len(finite)))
        pending = [self._array(FINITE)[place].write(finite.astype(np.int8))]
        for name, x in values.items():
            x = x.copy() if FIELDS[name].place == GLOBAL else unfold(x)
            x[~finite] = np.nan
            pending.append(self._array(name)[place].write(x))
        for future in pending:
            future.result()

    def write_month(
        self,
        time: int,
        member: int,
        month: int,
        values: dict[str, np.ndarray],
        samples: int,
    ) -> None:
        """Writes means of a month of a row, [(level,) 2, latitude, longitude].

        Args:
          time, member: of the row.
          month: index of it.
          values: by field.
          samples: of how many outputs they are.
        """
        place = (*self._row(time, member), month)
        pending = [self._array(SAMPLES)[place].write(np.int32(samples))]
        for name, x in values.items():
            mean = unfold(x).astype(np.float32)
            pending.append(self._array(name)[place].write(mean))
        for future in pending:
            future.result()

    def _row(self, time: int, member: int) -> tuple[int, ...]:
        return (time, member) if self._axes.members > 1 else (time,)

    def save(
        self, batch: tuple[int, ...], done: int, arrays: dict[str, np.ndarray]
    ) -> None:
        """Notes that rows have `done` leads, and from what they go on.

        Rows are counted through all members of the first initial time, and so on.
        """
        content = io.BytesIO()
        np.savez(content, rows=np.array(batch), done=np.array(done), **arrays)
        self._folder.write(f"{_PROGRESS}/{batch[0]}.npz", content.getvalue())

    def progress(self) -> dict[tuple[int, ...], tuple[int, dict[str, np.ndarray]]]:
        """What `save` has noted, by rows."""
        known = {}
        for name in self._folder.names(_PROGRESS):
            if not name.endswith(".npz"):
                continue
            with np.load(io.BytesIO(self._folder.read(name))) as arrays:
                found = dict(arrays)
            batch = tuple(int(row) for row in found.pop("rows"))
            known[batch] = int(found.pop("done")), found
        return known

    def finite(self) -> np.ndarray:
        """Whether what was written is, bool [time, (number,) lead].

        What was not written is not.
        """
        return self._array(FINITE).read().result() == 1

    def finish(self) -> None:
        """States that all is written."""
        self._write_metadata(finished=True)
        self._clear()

    def _clear(self) -> None:
        self._folder.delete_folder(_PROGRESS)
        self._folder.sweep()

    # ---- metadata

    def _array(self, name: str) -> ts.TensorStore:
        if name not in self._arrays:
            spec = {
                "driver": "zarr3",
                "kvstore": self._folder.child(name).url,
                "store_data_equal_to_fill_value": True,
            }
            self._arrays[name] = ts.open(spec, context=io_context()).result()
        return self._arrays[name]

    def _write_metadata(self, finished: bool) -> None:
        places = {FIELDS[name].place for name in self._fields}
        values = self._axes.values(
            [place for place in (LEVEL, SIGMA) if place in places]
        )
        files: dict[str, bytes] = {}
        attributes = dict(_ATTRIBUTES)
        if SIGMA in places and "surface_pressure" in self._fields:
            terms = f"sigma: {SIGMA} ps: surface_pressure ptop: {_TOP}"
            attributes[SIGMA] = _ATTRIBUTES[SIGMA] | {"formula_terms": terms}
            top = {"units": "Pa", "long_name": "Pressure at the top of the model"}
            files |= _variable(_TOP, np.array(0.0), [], top)
        for name, x in values.items():
            files |= coordinate_files(name, x, attributes[name])
        for name in (*self._fields, FINITE, *[SAMPLES] * self._axes.monthly):
            metadata = self._metadata(name, values)
            files[f"{name}/zarr.json"] = array_files(metadata)["zarr.json"]
        if self._axes.monthly:
            files |= _valid_months(self._axes)
        # Zarr libraries warn of folders that are not groups.
        if not finished:
            files[f"{_PROGRESS}/zarr.json"] = group_file({})
        of_store = {"Conventions": "CF-1.11", **self._note, "finished": finished}
        arrays = {n: x for n, x in files.items() if not n.startswith(_PROGRESS)}
        for name, content in files.items():
            self._folder.write(name, content)
        # Last, for it tells that there is a forecast.
        self._folder.write("zarr.json", group_file(of_store, arrays))

    def _metadata(self, name: str, values: dict[str, np.ndarray]) -> dict[str, Any]:
        monthly = self._axes.monthly and (
            name == SAMPLES or name in FIELDS and FIELDS[name].place != GLOBAL
        )
        along = "month" if monthly else "prediction_timedelta"
        dimensions = ["time", "number", along]
        attributes: dict[str, Any]
        if name in _COUNTS:
            attributes = _COUNTS[name]
            dtype, fill = ("int8", -1) if name == FINITE else ("int32", 0)
            codec: dict[str, Any] = {"typesize": 1, "shuffle": "noshuffle"}
        else:
            field = FIELDS[name]
            attributes = {"units": field.units, "long_name": field.long_name}
            if name in STANDARD_NAMES:
                attributes["standard_name"] = STANDARD_NAMES[name]
            if monthly:
                attributes |= {"cell_methods": "month: mean", "coordinates": _MONTH}
            if field.place != GLOBAL:
                dimensions += [field.place, "latitude", "longitude"]
            dtype, fill = "float32", "NaN"
            codec = {"typesize": 4, "shuffle": "shuffle"}
        dimensions = [d for d in dimensions if d in values]
        chunk = [len(values[d]) for d in dimensions]
        place = dimensions.index(along)
        chunk[: place + 1] = [1] * place + [1 if monthly else self.chunk]
        blosc = {"cname": "lz4", "clevel": 5, **codec}
        return {
            "shape": [len(values[d]) for d in dimensions],
            "data_type": dtype,
            "fill_value": fill,
            "dimension_names": dimensions,
            "attributes": attributes,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
            "codecs": [
                {"name": "bytes", "configuration": {"endian": "little"}},
                {"name": "blosc", "configuration": blosc},
            ],
        }
