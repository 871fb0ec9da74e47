"""The work on one shard: read, check, regrid, write; and its statistics."""

import dataclasses
import time
import traceback
from collections.abc import Iterator
from concurrent import futures

import apache_beam as beam
import numpy as np

from model.sphere.grids import GaussianGrid
from pipeline import store as store_lib
from pipeline.errors import UserError
from pipeline.plan import Plan
from pipeline.regrid import Regridder
from pipeline.source import Field, open_all
from pipeline.statistics import Moments, shard_moments
from pipeline.store import Store


@dataclasses.dataclass(frozen=True)
class ShardReport:
    """What became of a shard; `error` and `trace` are empty if it is done."""

    name: str
    shard: int
    seconds: float
    source_bytes: int = 0
    error: str = ""
    trace: str = ""


class ProcessShard(beam.DoFn):
    """(variable, shard) -> ShardReport, having written the shard."""

    def __init__(self, output: str, plan: Plan) -> None:
        self._output = output
        self._plan = plan

    def setup(self) -> None:
        self._fields: dict[str, Field] = {}
        self._regridders: dict[tuple[bytes, bytes], Regridder] = {}

    def process(self, item: tuple[str, int]) -> Iterator[ShardReport]:
        name, shard = item
        begin = time.perf_counter()
        try:
            size = self._write(name, shard)
            yield ShardReport(name, shard, time.perf_counter() - begin, size)
        except Exception as error:  # The other shards go on; the run's end reports it.
            line = " ".join(str(error).split()) or type(error).__name__
            if not isinstance(error, UserError):
                line = f"{type(error).__name__}: {line}"
            spent = time.perf_counter() - begin
            trace = traceback.format_exc()
            yield ShardReport(name, shard, spent, error=line, trace=trace)

    def _write(self, name: str, shard: int) -> int:
        plan = self._plan
        if not self._fields:
            self._fields = open_all(
                plan.source,
                plan.static_source,
                plan.variables,
                plan.levels,
                plan.times[0] if plan.steps else None,
            )
        field = self._fields[name]
        variable = field.variable
        regridder = self._regridder(field, plan.target)
        regrid = regridder.fill if variable.fill else regridder
        times = plan.times
        if variable.kind != "static":
            times = times[slice(*plan.shard_times(shard))]
        done, size = [], 0
        for stamps, values in _read_ahead(field, times):
            variable.check_values(values, stamps, np.array(plan.levels))
            done.append(regrid(values))
            size += values.nbytes
        # Axes of length 1 stand for those that the variable does not have.
        shape = plan.shape(name)
        steps = () if variable.kind == "static" else (len(times),)
        data = np.concatenate(done).reshape(*steps, *shape[len(steps) :])
        store_lib.write_shard(self._output, plan, name, shard, data)
        return size

    def _regridder(self, field: Field, grid: GaussianGrid) -> Regridder:
        key = field.latitude.tobytes(), field.longitude.tobytes()
        if key not in self._regridders:
            regridder = Regridder(field.latitude, field.longitude, grid)
            self._regridders[key] = regridder
        return self._regridders[key]


class ShardStatistics(beam.DoFn):
    """(variable, shard) -> (variable, shard, moments)."""

    def __init__(self, output: str, plan: Plan) -> None:
        self._store = Store(output, plan)

    def process(
        self, item: tuple[str, int]
    ) -> Iterator[tuple[str, int, dict[int, Moments]]]:
        yield *item, shard_moments(self._store, *item)


def _read_ahead(
    field: Field, times: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(times, values) of all blocks, the next being read while one is worked on."""
    blocks = list(field.blocks(times))
    with futures.ThreadPoolExecutor(1) as pool:
        pending = pool.submit(field.read, blocks[0])
        for block, following in zip(blocks, [*blocks[1:], None], strict=True):
            values = pending.result()
            if following is not None:
                pending = pool.submit(field.read, following)
            yield block, values
