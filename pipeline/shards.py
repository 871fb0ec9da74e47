"""The work on one item: read, check, regrid, write; and its statistics.

An item is one array in a block of times that holds whole shards of every target, so
that the source, whose reading is what costs, is read once for all of them.
"""

import dataclasses
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent import futures

import apache_beam as beam
import numpy as np

from pipeline import vertical
from pipeline.checks.changes import LONGEST_STEP, find_turned_in_time
from pipeline.checks.ranges import find_constant, find_out_of_range
from pipeline.errors import UserError
from pipeline.files import Folder, one_line
from pipeline.plan import SURFACE_PRESSURE, Plan, source_parts, source_variables
from pipeline.regrid import Regridder
from pipeline.source import Field, open_all
from pipeline.statistics import saved_moments
from pipeline.variables import VARIABLES, Variable
from pipeline.writer import Item, read_markers, write_shard

# Blocks of times that are read while one is worked on.
READ_AHEAD = 2
_ATTEMPTS = 3
# A field that is turned is so on all levels.
_LEVELS_COMPARED = 8
# Area means are kept to this part of mean absolute values.
_CONSERVED = 1e-6

Target = tuple[str, Plan]
"""Address and plan of a store. All targets of a run differ in their grids only."""


@dataclasses.dataclass(frozen=True)
class WorkItem:
    """One array, and the shards of it to write: (number of the target, shard)."""

    array: str
    shards: tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True)
class ShardReport:
    """What became of a work item; `error` and `trace` are empty if it is done."""

    array: str
    shards: tuple[tuple[int, int], ...]
    times: tuple[str, str] | None
    seconds: float
    source_bytes: int = 0
    error: str = ""
    trace: str = ""


def work_items(targets: Sequence[Target], todo: Sequence[set[Item]]) -> list[WorkItem]:
    """Shards to write, those of all targets together that hold the same times.

    Args:
      targets: of the run.
      todo: shards to write of each.
    """
    block = max(plan.shard_steps for _, plan in targets)
    items: dict[tuple[int, str], list[tuple[int, int]]] = {}
    order = {array: i for i, array in enumerate(targets[0][1].arrays)}
    for target, (_, plan) in enumerate(targets):
        for array, shard in todo[target]:
            key = shard * plan.shard_steps // block, array
            items.setdefault(key, []).append((target, shard))
    # Blocks first: an interrupted run leaves few times unfinished, not few variables.
    ordered = sorted(items, key=lambda key: (key[0], order[key[1]]))
    return [WorkItem(key[1], tuple(sorted(items[key]))) for key in ordered]


def span(targets: Sequence[Target], item: WorkItem) -> tuple[int, int]:
    """Indices of an item's times, first and behind the last."""
    spans = [targets[target][1].shard_times(shard) for target, shard in item.shards]
    return min(first for first, _ in spans), max(last for _, last in spans)


def bare(targets: Sequence[Target]) -> tuple[Target, ...]:
    """Targets as they are sent to workers: without what plans have computed, which is
    half a megabyte for forty years."""
    return tuple((address, dataclasses.replace(plan)) for address, plan in targets)


class WriteShards(beam.DoFn):
    """WorkItem -> ShardReport, having written its shards.

    Runners may give out an item again, some even after it is done (Dask, when it loses
    the worker that did it); shards that have their marker are then left as they are.
    """

    def __init__(self, targets: Sequence[Target]) -> None:
        self._targets = bare(targets)

    def setup(self) -> None:
        self._fields: dict[str, Field] = {}
        self._regridders: dict[tuple, Regridder] = {}

    def process(self, item: WorkItem) -> Iterator[ShardReport]:
        begin = time.perf_counter()
        size, error, trace = 0, "", ""
        for _ in range(_ATTEMPTS):
            try:
                size, error, trace = self._write(item), "", ""
                break
            except UserError as mistake:  # It would be the same again.
                error, trace = str(mistake), traceback.format_exc()
                break
            except Exception as fault:  # The other items go on; the run's end reports.
                error = f"{type(fault).__name__}: {one_line(fault)}"
                trace = traceback.format_exc()
        yield ShardReport(
            item.array,
            item.shards,
            self._times(item),
            time.perf_counter() - begin,
            size,
            error,
            trace,
        )

    @property
    def _plan(self) -> Plan:
        """What all targets have in common is that of the first."""
        return self._targets[0][1]

    def _times(self, item: WorkItem) -> tuple[str, str] | None:
        if self._plan.is_static(item.array):
            return None
        first, last = span(self._targets, item)
        times = np.datetime_as_string(self._plan.times[[first, last - 1]], "h")
        return str(times[0]), str(times[1])

    def _write(self, item: WorkItem) -> int:
        """Writes the shards of an item; returns the bytes that were read for it."""
        item = dataclasses.replace(item, shards=self._left(item))
        if not item.shards:
            return 0
        if not self._fields:
            self._fields = source_fields(self._plan)
        plan = self._plan
        buffers = {
            (target, shard): ShardBuffer(*self._targets[target], item.array, shard)
            for target, shard in item.shards
        }
        size = 0
        for name in plan.arrays[item.array]:
            indices = np.arange(*span(self._targets, item))
            if plan.is_static(item.array):
                indices = np.array([0])
            before: dict[int, np.ndarray] = {}
            for index, columns in self._columns(name, indices):
                size += sum(values.nbytes for values in columns.values())
                holders = {key: b for key, b in buffers.items() if b.holds(index)}
                after = {
                    target: self._regrid(name, columns, self._targets[target][1])
                    for target, _ in holders
                }
                self._refuse_turned(name, before, after, index)
                for (target, _), buffer in holders.items():
                    if buffer.first == index:
                        changes = self._changes(name, columns, after[target], target)
                        buffer.residuals += changes
                    buffer.put(name, index, after[target])
                before = after
        return size

    def _refuse_turned(
        self,
        name: str,
        before: dict[int, np.ndarray],
        after: dict[int, np.ndarray],
        index: int,
    ) -> None:
        """Raises UserError if fields are upside down, or so, against the time before.

        Args:
          before, after: [level, latitude, longitude] by target, at this time and the
            last.
        """
        if not before:
            return
        times = self._plan.times[[index - 1, index]]
        if times[1] - times[0] > LONGEST_STEP:
            return
        for target in sorted(before.keys() & after.keys())[:1]:  # One tells of all.
            some = slice(None, None, -(-len(after[target]) // _LEVELS_COMPARED))
            plan = self._targets[target][1]
            _refuse(
                find_turned_in_time(
                    name,
                    before[target][some],
                    after[target][some],
                    plan.target.latitude_degrees,
                    times[1],
                )
            )

    def _changes(
        self,
        name: str,
        columns: dict[str, np.ndarray],
        fields: np.ndarray,
        target: int,
    ) -> list[float]:
        """By how much regridding changed area means, if it is to keep them.

        Raises:
          UserError: if that, or the range of values, is not as means make it.
        """
        plan = self._targets[target][1]
        if VARIABLES[name].fill or plan.sigma_layers is not None:
            return []
        source = columns[name]
        _refuse(find_out_of_range(name, source, fields, plan.levels))
        change = self._regridder(self._fields[name], plan).change(source, fields)
        if change > _CONSERVED:
            _refuse([f"regridding changes the area mean of {name} by {change:.1e}"])
        return [change]

    def _left(self, item: WorkItem) -> tuple[tuple[int, int], ...]:
        """The shards of an item that have no marker yet."""
        left = []
        for target, shard in item.shards:
            address, plan = self._targets[target]
            (marker,) = read_markers(Folder(address), [(item.array, shard)]).values()
            if marker is None or marker.fault(plan, item.array, shard):
                left.append((target, shard))
        return tuple(left)

    def _columns(
        self, name: str, indices: np.ndarray
    ) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """Index of a time, and the fields [level, latitude, longitude] it takes."""
        plan = self._plan
        names = source_parts(name, plan.sigma_layers)
        fields = [self._fields[name] for name in names]
        times = plan.times[indices] if fields[0].variable.kind != "static" else None
        position = 0
        for stamps, blocks in _read_ahead(fields, times):
            for field, block in zip(fields, blocks, strict=True):
                own = stamps - field.shift  # times of the source
                field.variable.check_values(block, own, np.array(plan.levels))
                if field.variable.kind != "static":
                    _refuse_constant(field.variable, block, own)
            for i in range(len(blocks[0])):
                columns = dict(zip(names, (block[i] for block in blocks), strict=True))
                yield int(indices[position]), columns
                position += 1

    def _regrid(
        self, name: str, columns: dict[str, np.ndarray], plan: Plan
    ) -> np.ndarray:
        """Fields of a variable on the grid and in the vertical of a plan."""
        regridded = {}
        for part, values in columns.items():
            field = self._fields[part]
            regridder = self._regridder(field, plan)
            regrid = regridder.fill if field.variable.fill else regridder
            regridded[part] = regrid(values)
        if plan.sigma_layers is None or VARIABLES[name].kind == "static":
            return regridded[name]
        if name != SURFACE_PRESSURE and VARIABLES[name].kind == "surface":
            return regridded[name]
        surface = vertical.surface_pressure(
            np.array(plan.levels), regridded["geopotential"], self._orography(plan)
        )
        if name == SURFACE_PRESSURE:
            return surface[None].astype(np.float32)
        return vertical.pressure_to_sigma(
            np.array(plan.levels), regridded[name], surface, plan.sigma
        ).astype(np.float32)

    def _orography(self, plan: Plan) -> np.ndarray:
        """Surface geopotential on the grid of a plan, [latitude, longitude]."""
        field = self._fields["geopotential_at_surface"]
        return self._regridder(field, plan)(field.read(field.times[:1])[0, 0])

    def _regridder(self, field: Field, plan: Plan) -> Regridder:
        key = field.latitude.tobytes(), field.longitude.tobytes(), plan.grid, plan.edges
        if key not in self._regridders:
            self._regridders[key] = Regridder(
                field.latitude, field.longitude, plan.target, plan.edges
            )
        return self._regridders[key]


def _refuse_constant(variable: Variable, fields: np.ndarray, times: np.ndarray) -> None:
    """Raises UserError if a variable has one value everywhere at one of the times."""
    for field, instant in zip(fields, times, strict=True):
        _refuse(find_constant(variable.name, field, instant, variable.may_vanish))


def _refuse(findings: Sequence[str]) -> None:
    if findings:
        raise UserError(
            f"{'; '.join(findings)}: mend the source or leave that time out by "
            "--skip_times"
        )


class ShardBuffer:
    """The values of a shard, which is written as soon as all of them are there.

    Attributes:
      first: index of its first time.
      residuals: for its marker, see `writer.Marker`.
    """

    def __init__(self, address: str, plan: Plan, array: str, shard: int) -> None:
        self._folder, self._plan = Folder(address), plan
        self._array, self._shard = array, shard
        self.first, self._last = 0, 1
        if not plan.is_static(array):
            self.first, self._last = plan.shard_times(shard)
        self._missing = (self._last - self.first) * len(plan.arrays[array])
        self.residuals: list[float] = []
        self._data: np.ndarray | None = None

    def holds(self, index: int) -> bool:
        """Whether the time of this index is one of the shard's."""
        return self.first <= index < self._last

    def put(self, name: str, index: int, fields: np.ndarray) -> None:
        """Takes the fields [level, latitude, longitude] of a variable at a time."""
        plan = self._plan
        if self._data is None:
            channels = plan.channels(plan.arrays[self._array][-1]).stop
            shape = (self._last - self.first, channels, *plan.target.shape)
            self._data = np.empty(shape, np.float32)
        self._data[index - self.first, plan.channels(name)] = fields
        self._missing -= 1
        if self._missing == 0:
            shape = plan.shape(self._array)
            if not plan.is_static(self._array):
                shape = (self._last - self.first, *shape[1:])
            data = self._data.reshape(shape)
            residual = max(self.residuals, default=None)
            write_shard(self._folder, plan, self._array, self._shard, data, residual)
            self._data = None


def source_fields(plan: Plan) -> dict[str, Field]:
    """All fields of the source that a plan needs."""
    return open_all(
        plan.source,
        plan.static_source,
        source_variables(plan.variables, plan.sigma_layers),
        plan.levels,
        plan.times[0] if plan.steps else None,
        member=plan.member,
        shift_hours=plan.forcing_shift_hours,
    )


class ShardStatistics(beam.DoFn):
    """(target, array, shard) -> nothing, having saved the moments of the shard."""

    def __init__(self, targets: Sequence[Target]) -> None:
        self._targets = bare(targets)

    def process(self, item: tuple[int, str, int]) -> None:
        target, array, shard = item
        address, plan = self._targets[target]
        saved_moments(Folder(address), plan, array, shard)


def _read_ahead(
    fields: Sequence[Field], times: np.ndarray | None
) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    """(times, values of each field) of all blocks, while the next ones are read.

    Args:
      fields: of the same times.
      times: [time]; None for static fields.
    """
    times = fields[0].times[:1] if times is None else times
    blocks = list(fields[0].blocks(times))
    if len(fields) > 1:  # Their chunks may differ.
        blocks = [np.array([time]) for time in times]

    def read(block: np.ndarray) -> list[np.ndarray]:
        return [field.read(block) for field in fields]

    with futures.ThreadPoolExecutor(READ_AHEAD) as pool:
        pending = [pool.submit(read, block) for block in blocks[:READ_AHEAD]]
        for number, block in enumerate(blocks):
            values = pending.pop(0).result()
            if number + READ_AHEAD < len(blocks):
                pending.append(pool.submit(read, blocks[number + READ_AHEAD]))
            yield block, values
