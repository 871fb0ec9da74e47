"""`podgcm plan`: what a training step would cost on TPU slices that are not there."""

import dataclasses
import functools
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from launch.plan_stages import curriculum, parse_stages
from launch.tpu import topology
from launch.tpu.chips import CHIPS
from launch.tpu.measure import Measurement, abstract, device_bytes, measure
from model.neural_gcm import NeuralGCM
from model.partitioning import AXES
from model.precision import transform_precision
from model.scales import abstract_scales
from model.spec import ModelSpec
from model.sphere.grids import GaussianGrid, parse_grid
from pipeline.errors import UserError
from pipeline.store import open_store
from pipeline.variables import PRESSURE_LEVELS
from train import build
from train.data import abstract_batch
from train.folder import open_path
from train.mesh import (
    MeshShape,
    make_mesh,
    state_shardings,
    tree_shardings,
)
from train.step import TrainState, initial_state, make_train_step


def plan(
    config: ConfigDict,
    slice_name: str,
    mesh: str | None = None,
    slices: int = 1,
    stages: str | None = None,
) -> dict[str, Any]:
    """Compiles the training step of `config` for a slice, and accounts for it.

    Args:
      config: of the run.
      slice_name: such as `v5p:2x2x1`.
      mesh: see `mesh_shape`.
      slices: how many of them, joined by the network of the data centre.
      stages: of a curriculum, see `plan_stages.parse_stages`; they cost another one or
        two compilations.

    Returns:
      The figures of one device (`launch.tpu.measure.Measurement`), with the `topology`,
      its `devices`, the `mesh` and the `config` that they belong to; of a program that
      fits, bytes of the training `state`, whether it is `donated` (overwritten in
      place), the `pace` of training, and the `curriculum`, if stages were given.

    Raises:
      UserError: if the slice, the mesh, the stages or the configuration cannot be used.
    """
    parsed = parse_stages(stages, config) if stages else []
    planned = Planned.create(config, slice_name, mesh, slices)
    measured = planned.measure(config.data.frames)
    figures = {
        "topology": slice_name,
        "slices": slices,
        "devices": planned.mesh.size,
        "mesh": dict(planned.mesh.shape),
        "config": config.to_dict(),
        **measured.to_json(),
    }
    if not measured.fits:
        return figures
    state = device_bytes(planned.state)
    figures |= {
        "state": state,
        "donated": measured.memory["aliased"] >= state,
        "pace": pace(config, measured.cost.seconds),
    }
    if parsed:
        known = {config.data.frames: measured}
        figures["curriculum"] = curriculum(
            parsed, config.data.hours, lambda n: known.get(n) or planned.measure(n)
        )
    return figures


def pace(config: ConfigDict, seconds: float) -> dict[str, float]:
    """What a modelled time of a step of `seconds` means for training."""
    days = (config.data.frames - 1) * config.data.hours / 24
    return {
        "rollout_days": days,
        "seconds_per_simulated_day": seconds / days,
        "samples_per_second": config.train.batch / seconds,
    }


@dataclasses.dataclass(frozen=True)
class Planned:
    """A training step and the devices that it is planned for.

    Attributes:
      config: of the run.
      spec: of its model.
      mesh: of all devices.
      slice_name: such as `v5p:2x2x1`.
      slices: how many of them.
    """

    config: ConfigDict
    spec: ModelSpec
    mesh: Mesh
    slice_name: str
    slices: int

    @classmethod
    def create(
        cls, config: ConfigDict, slice_name: str, mesh: str | None, slices: int
    ) -> "Planned":
        """Arguments and errors are those of `plan`."""
        devices = topology.devices(slice_name, slices)
        spec = build.build_spec(config, *data_grid(config))
        build.check_rollout(config)
        shape = mesh_shape(config, mesh, len(devices))
        shape.check(spec, config.train.batch, config.train.members)
        return cls(config, spec, make_mesh(shape, devices), slice_name, slices)

    @functools.cached_property
    def model(self) -> NeuralGCM:
        """Shapes of the model's tables."""
        model = abstract_model(self.spec, self.mesh.shape["lat"])
        return abstract(model, tree_shardings(self.mesh, model.layout()))

    @functools.cached_property
    def state(self) -> TrainState:
        """Shapes of what training changes."""
        optimizer = build.build_optimizer(self.config)
        state = jax.eval_shape(
            lambda: initial_state(self.spec, optimizer, self.config.seed)
        )
        rules = self.config.mesh.parameters
        return abstract(state, state_shardings(self.mesh, state, rules))

    def measure(self, frames: int) -> Measurement:
        """Compiles the step with windows of so many frames."""
        config = self.config
        step = make_train_step(
            build.build_optimizer(config),
            build.build_objective(config),
            config.optimizer.ema_decay,
            self.mesh,
            jax.tree.map(lambda x: x.sharding, self.state),
        )
        rows = config.train.batch * config.train.members
        batch = abstract_batch(self.spec, self.mesh, rows, frames)
        count = f"{self.slices} slices of " if self.slices > 1 else ""
        print(
            f"plan: compiling {frames} frames for {count}{self.slice_name} ...",
            file=sys.stderr,
            flush=True,
        )
        chip = CHIPS[topology.chip_name(self.slice_name)]
        arguments = (self.model, self.state, batch)
        return measure(step, arguments, self.mesh, chip, self.slices)


def data_grid(config: ConfigDict) -> tuple[GaussianGrid, Sequence[float]]:
    """Grid and pressure levels of the data: of the store, or as configured.

    Raises:
      UserError: if there is no store, and `config.data.grid` names no grid.
    """
    path = config.data.store
    if path and open_path(path).exists():
        store = open_store(path)
        return store.grid, store.levels
    if not config.data.grid:
        raise UserError(
            f"there is no store {path!r}: make it, or plan without it by "
            "--config.data.grid=TL63 (ERA5's 37 levels are assumed)"
        )
    try:
        return parse_grid(config.data.grid), PRESSURE_LEVELS
    except ValueError as error:
        raise UserError(f"config.data.grid: {error}") from error


def mesh_shape(config: ConfigDict, mesh: str | None, devices: int) -> MeshShape:
    """The mesh to plan for.

    Args:
      config: its `mesh` is taken if `mesh` is None; unless another axis of it fills,
        `data` does, for the slice decides how many devices there are.
      mesh: `AXIS=SIZE,...`; axes that it does not name are 1, but `data`.
      devices: of the slices. Unless `mesh` names `data`, that takes what the other axes
        leave.

    Raises:
      UserError: if the mesh cannot be read, or does not use all devices.
    """
    if mesh is None:
        sizes = {axis: config.mesh[axis] for axis in AXES}
        if -1 not in sizes.values():
            sizes["data"] = -1
    else:
        sizes = {"data": -1} | topology.parse_mesh(mesh, AXES)
    shape = MeshShape(**sizes).filled(devices)
    used = int(np.prod(dataclasses.astuple(shape)))
    if used != devices:
        raise UserError(
            f"the mesh {dataclasses.asdict(shape)} has {used} devices, but the slice "
            f"has {devices}: set --mesh to use them all"
        )
    return shape


def abstract_model(spec: ModelSpec, shards: int) -> NeuralGCM:
    """The tables of a model on a TPU, with a flat ground and scales as shapes."""
    ground = np.zeros(spec.grid.shape)
    model = NeuralGCM.create(
        spec, ground, ground, precision=transform_precision("tpu"), shards=shards
    )
    return dataclasses.replace(model, scales=abstract_scales(spec))
