"""Makes a forecast: batch after batch of rows, output after output, and goes on."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from ml_collections import ConfigDict

from model.neural_gcm import Frame, ModelState
from model.spec import LEVEL_VARIABLES, SURFACE_VARIABLES
from pipeline.errors import UserError
from pipeline.files import Folder
from pipeline.progress import progress
from pipeline.store import Store, open_store
from train import build, checkpoint, processes
from train.exit_codes import Diverged
from train.forecast.initial import open_initial
from train.forecast.output import Axes, Output, read_note
from train.forecast.products import parse_fields
from train.forecast.programs import Programs, Rows
from train.forecast.records import Instants, Months
from train.forecast.request import Request, initial_times
from train.forecast.restore import digest, load_run, newest_step, restore_model
from train.forecast.sea import Sea
from train.mesh import MeshShape, batch_layout, make_mesh, place
from train.processes import say

# To write, besides what is being computed; more would only fill memory.
_WAITING = 2
# Raw fields of many times are regridded first. (A dead process is noticed earlier.)
_REGRIDDING_MINUTES = 1440.0


def forecast(
    request: Request, mesh: Mapping[str, int] | None = None, batch: int = 0
) -> None:
    """Makes what is asked for, or goes on where a killed process left it.

    Args:
      request: what.
      mesh: number of devices by axis; default all along `data`.
      batch: rows at once, in multiples of `data` times `ensemble`; default 0 is that.

    Raises:
      UserError: if something cannot be used, or the output holds something else; or
        if no row stayed finite.
    """
    processes.join(300, 100)
    config = load_run(request.workdir)
    _check(request, config)
    fields = parse_fields(request.fields, request.physics)
    leads = request.leads
    path = processes.on_first(
        "initial", lambda: open_initial(request, config).path, _REGRIDDING_MINUTES
    )
    store = open_store(path)
    _check_oracle(request, store)
    starts = initial_times(store, request.init)
    sea = Sea(store, request.sea)
    sea.check(starts, int(leads[-1]))
    shape = MeshShape(**(mesh or {"data": -1})).filled(jax.device_count())
    rows = shape.data * shape.ensemble
    if batch % rows:
        raise UserError(
            f"--batch={batch} is not a multiple of mesh.data={shape.data} times "
            f"mesh.ensemble={shape.ensemble}"
        )
    spec = build.build_spec(config, store.grid, store.levels)
    shape.check(spec, batch or rows)
    devices = make_mesh(shape)

    axes = Axes(
        *(store.times[starts], request.members, leads, spec),
        monthly=request.mean == "month",
    )
    folder = Folder(request.output)
    step = processes.on_first("step", lambda: _step(folder, request.workdir))
    model, params = restore_model(request.workdir, config, store, devices, step)
    note = _note(request, store) | {"checkpoint": step, "weights": digest(params)}
    output = Output(folder, axes, fields, note)
    if processes.on_first("claim", output.claim):
        say(f"{request.output} is finished")
    else:
        programs = Programs(
            *(model, params, devices, request.every, request.physics, fields)
        )
        making = _Making(
            *(request, config.seed, store, starts, axes, sea, devices, programs, output)
        )
        making.all_batches(batch or rows)
        processes.gather("forecast written", True)
        processes.on_first("finish", output.finish)
    if not processes.on_first("report", lambda: _some_finite(output, axes)):
        raise Diverged(
            f"{request.output}: no forecast stayed finite: use a smaller "
            "model.step_minutes, or train longer"
        )


def _check_oracle(request: Request, store: Store) -> None:
    if request.physics == "oracle" and "podgcm sample" not in str(store.attrs):
        raise UserError(
            f"--physics=oracle is the sample planet's own physics, and {store.path} is "
            "not of it: use learned or none"
        )


def _check(request: Request, config: ConfigDict) -> None:
    if request.members < 1:
        raise UserError(f"--members={request.members} must be at least 1")
    noisy = config.model.noise and request.physics == "learned"
    if request.members > 1 and not noisy:
        raise UserError(
            f"--members={request.members}: without random fields (model.noise) all "
            "members are equal"
        )
    if request.every * 60 % config.model.step_minutes:
        raise UserError(
            f"--every={request.every} h is not a multiple of model.step_minutes="
            f"{config.model.step_minutes}"
        )


def _step(folder: Folder, workdir: str) -> int:
    """Of the checkpoint: that of a forecast which was begun, or the newest."""
    begun = read_note(folder).get("checkpoint")
    steps = checkpoint.steps(workdir)
    return begun if begun in steps else newest_step(workdir)


def _note(request: Request, store: Store) -> dict[str, Any]:
    """Attributes that tell what a forecast is, and decide its values."""
    asked = dataclasses.asdict(request)
    for name in ("output", "workdir", "store"):  # where things are may change
        del asked[name]
    return {
        "title": "PodGCM forecast",
        "source": f"podgcm forecast --physics={request.physics}",
        "initial_data": f"{store.attrs.get('title', '')}: "
        f"{store.attrs.get('source', '')}",
        "initial_data_fingerprint": store.fingerprint,
        "grid": str(store.grid),
        **{name: list(x) if isinstance(x, tuple) else x for name, x in asked.items()},
    }


def _some_finite(output: Output, axes: Axes) -> bool:
    """Tells of rows that blew up; whether some did not."""
    finite = output.finite().reshape(len(axes.times), axes.members, -1)
    bad = np.argwhere(~finite.all(axis=-1))
    for time, member in bad:
        first = int(np.argmin(finite[time, member]))
        lead = axes.leads[first]
        since = f"{lead} h" if lead < 48 else f"day {lead / 24:g}"
        which = f" member {member}" if axes.members > 1 else ""
        start = np.datetime_as_string(axes.times[time], "h")
        say(f"NOT FINITE: {start}{which}, from {since} on: NaN in {output}")
    return len(bad) < len(axes.times) * axes.members


@dataclasses.dataclass
class _Making:
    """What all batches of a forecast need."""

    request: Request
    seed: int
    store: Store
    starts: np.ndarray
    axes: Axes
    sea: Sea
    mesh: Mesh
    programs: Programs
    output: Output

    def all_batches(self, rows: int) -> None:
        """Computes and writes all rows that are not there, so many at once.

        So many may be others than before a kill: finished rows are left alone, and a
        batch goes on if it is the same.
        """
        leads = len(self.axes.leads)
        everything = range(len(self.starts) * self.axes.members)
        known = self.output.progress()
        finished: set[int] = set()
        for batch, (done, _) in known.items():
            finished.update(batch if done == leads else ())
        left = [row for row in everything if row not in finished]
        batches = [tuple(left[i : i + rows]) for i in range(0, len(left), rows)]
        saved = [known.get(batch, (0, {})) for batch in batches]
        done = sum(some for some, _ in saved)
        if known:
            say(
                f"going on: {len(finished)} of {len(everything)} forecasts are there, "
                f"and {done} outputs of others"
            )
        outputs = (
            lead
            for batch, begun in zip(batches, saved, strict=True)
            for lead in self._batch(batch, rows, *begun)
        )
        label = f"forecast ({self.request.physics}): outputs"
        for _ in progress(outputs, label, total=leads * len(batches) - done):
            pass

    def _batch(
        self,
        batch: tuple[int, ...],
        rows: int,
        done: int,
        saved: dict[str, np.ndarray],
    ) -> Iterator[int]:
        """Makes the outputs of some rows from the `done`th on."""
        leads = self.axes.leads
        # A last batch that is not full repeats rows, whose output is dropped.
        repeated = np.resize(np.arange(len(batch)), rows)
        times, members = np.divmod(np.array(batch)[repeated], self.axes.members)
        places = list(zip(times[: len(batch)], members, strict=False))
        starts = self.starts[times]
        tags = self._rows(starts, members)
        record = self._record(places, saved)
        state = self._placed(saved, repeated) if done else None
        sea = self._sea(starts, leads[max(done - 1, 0)])
        with futures.ThreadPoolExecutor(1, "writer") as writer:
            pending: list[futures.Future] = []
            for lead in range(done, len(leads)):
                if state is None:
                    state, fresh = self.programs.begin(self._frame(starts), tags)
                else:
                    held = self.sea.kind == "held"
                    later = sea if held else self._sea(starts, leads[lead])
                    state, fresh = self.programs.advance(
                        state, sea, later, tags, int(leads[lead - 1])
                    )
                    sea = later
                task = functools.partial(self._keep, batch, record, lead, fresh, state)
                if processes.count() > 1:
                    task()  # its exchanges must come in the same order everywhere
                else:
                    pending.append(writer.submit(task))
                while len(pending) > _WAITING:
                    pending.pop(0).result()
                yield lead
            for last in pending:
                last.result()

    def _record(
        self, places: Sequence[tuple[int, int]], saved: dict[str, np.ndarray]
    ) -> Instants:
        """Of all rows; each process writes some of them."""
        mine = range(jax.process_index(), len(places), processes.count())
        if self.axes.monthly:
            return Months(self.output, self.axes, places, mine, saved)
        return Instants(self.output, self.axes, places, mine)

    def _keep(
        self,
        batch: tuple[int, ...],
        record: Instants,
        lead: int,
        fresh: Any,
        state: ModelState,
    ) -> None:
        """Hands an output to the record; notes how far it is, where that is whole."""
        rows = len(batch)
        values, finite = jax.tree.map(lambda x: np.asarray(x)[:rows], fresh)
        record.take(lead, values, finite.astype(bool))
        if not record.whole(lead):
            return
        arrays: dict[str, np.ndarray] = {}
        if lead < len(self.axes.leads) - 1:
            leaves = jax.tree.leaves(state)
            if processes.count() > 1:
                leaves = multihost_utils.process_allgather(leaves, tiled=True)
            arrays = {f"state/{i}": np.asarray(x)[:rows] for i, x in enumerate(leaves)}
            arrays |= record.arrays()
        if processes.count() > 1:
            processes.gather(f"written {batch[0]} {lead}", True)
        if processes.is_first():
            self.output.save(batch, lead + 1, arrays)

    # ---- what rows begin with

    def _rows(self, starts: np.ndarray, members: np.ndarray) -> Rows:
        """Random numbers depend on the run, the initial time and the member."""
        times = self.store.times[starts]
        seconds = times.astype("datetime64[s]").astype(np.int64)
        hours = times.astype("datetime64[h]").astype(np.int64)
        of_run = jax.random.key(self.seed)
        keys = [
            jax.random.fold_in(jax.random.fold_in(of_run, hour), member)
            for hour, member in zip(hours, members, strict=True)
        ]
        return self._on_devices(
            Rows(
                (seconds // 86400).astype(np.int32),
                (seconds % 86400).astype(np.int32),
                np.stack([np.asarray(jax.random.key_data(key)) for key in keys]),
            )
        )

    def _frame(self, starts: np.ndarray) -> Frame:
        names = (*LEVEL_VARIABLES, *SURFACE_VARIABLES)
        fields = self.store.read_many(
            dict.fromkeys(names, (starts, slice(None))), folded=True
        )
        return self._on_devices(fields)

    def _sea(self, starts: np.ndarray, lead: int) -> Frame:
        return self._on_devices(self.sea.at(starts, int(lead)))

    def _placed(self, saved: dict[str, np.ndarray], rows: np.ndarray) -> ModelState:
        """These rows of a saved state, on the mesh."""
        shardings = self.programs.state_shardings
        structure = jax.tree.structure(shardings)
        leaves = [saved[f"state/{i}"][rows] for i in range(structure.num_leaves)]
        return place(jax.tree.unflatten(structure, leaves), shardings)

    def _on_devices(self, tree: Any) -> Any:
        def sharding(x: np.ndarray) -> NamedSharding:
            return NamedSharding(self.mesh, batch_layout(x.ndim))

        return place(tree, jax.tree.map(sharding, tree))
