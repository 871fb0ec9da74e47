"""`podgcm plan`: what a training step would cost on a TPU slice that is not there."""

import dataclasses
import os
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from launch.tpu import topology
from launch.tpu.cost import CHIPS
from launch.tpu.measure import abstract, measure
from model.neural_gcm import NeuralGCM
from model.partitioning import AXES
from model.precision import transform_precision
from model.spec import LEVEL_VARIABLES, SURFACE_VARIABLES, ModelSpec
from model.sphere.grids import GaussianGrid, parse_grid
from pipeline.errors import UserError
from pipeline.store import open_store
from pipeline.variables import PRESSURE_LEVELS
from train import build
from train.calibration import abstract_scales
from train.mesh import (
    MeshShape,
    batch_layout,
    make_mesh,
    state_shardings,
    tree_shardings,
)
from train.step import initial_state, make_train_step


def plan(
    config: ConfigDict, slice_name: str, mesh: str | None = None
) -> dict[str, Any]:
    """Compiles the training step of `config` for a slice, and accounts for it.

    Args:
      config: of the run.
      slice_name: such as `v5p:2x2x1`.
      mesh: see `mesh_shape`.

    Returns:
      The figures of one device (`launch.tpu.measure.Measurement`), with the `topology`,
      its `devices`, the `mesh` and the `config` that they belong to.

    Raises:
      UserError: if the slice, the mesh or the configuration cannot be used.
    """
    devices = topology.devices(slice_name)
    spec = build.build_spec(config, *data_grid(config))
    build.check_rollout(config)
    shape = mesh_shape(config, mesh, len(devices))
    shape.check(spec, config.train.batch)
    on = make_mesh(shape, devices)
    optimizer = build.build_optimizer(config)
    state = jax.eval_shape(lambda: initial_state(spec, optimizer, config.seed))
    shardings = state_shardings(on, state, config.mesh.parameters)
    step = make_train_step(
        optimizer,
        build.build_loss_weights(config),
        config.data.hours,
        config.optimizer.ema_decay,
        on,
        shardings,
    )
    model = abstract_model(spec, shape.lat)
    batch = abstract_batch(spec, config.train.batch, config.data.frames)
    arguments = (
        abstract(model, tree_shardings(on, model.layout())),
        abstract(state, shardings),
        abstract(
            batch,
            tree_shardings(on, jax.tree.map(lambda x: batch_layout(x.ndim), batch)),
        ),
    )
    chip = topology.chip_name(slice_name)
    print(f"plan: compiling for {slice_name} ...", file=sys.stderr, flush=True)
    measurement = measure(step, arguments, on, CHIPS[chip])
    return {
        "topology": slice_name,
        "devices": len(devices),
        "mesh": dataclasses.asdict(shape),
        "config": config.to_dict(),
        **measurement.to_json(),
    }


def data_grid(config: ConfigDict) -> tuple[GaussianGrid, Sequence[float]]:
    """Grid and pressure levels of the data: of the store, or as configured.

    Raises:
      UserError: if there is no store, and `config.data.grid` names no grid.
    """
    path = config.data.store
    if path and os.path.exists(path):
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
      config: its `mesh` is taken if `mesh` is None, all but `data`.
      mesh: `AXIS=SIZE,...`; axes that it does not name are 1, but `data`.
      devices: of the slice. Unless `mesh` names `data`, that takes what the other axes
        leave.

    Raises:
      UserError: if the mesh cannot be read, or does not use all devices.
    """
    if mesh is None:
        sizes = {axis: config.mesh[axis] for axis in AXES if axis != "data"}
    else:
        sizes = topology.parse_mesh(mesh, AXES)
    others = int(np.prod([n for axis, n in sizes.items() if axis != "data"]))
    sizes.setdefault("data", max(1, devices // max(1, others)))
    shape = MeshShape(**sizes)
    if sizes["data"] * others != devices:
        raise UserError(
            f"the mesh {dataclasses.asdict(shape)} has {sizes['data'] * others} "
            f"devices, but the slice has {devices}: set --mesh to use them all"
        )
    return shape


def abstract_model(spec: ModelSpec, shards: int) -> NeuralGCM:
    """The tables of a model on a TPU, with a flat ground and scales as shapes."""
    ground = np.zeros(spec.grid.shape)
    model = NeuralGCM.create(
        spec, ground, ground, precision=transform_precision("tpu"), shards=shards
    )
    return dataclasses.replace(model, scales=abstract_scales(spec))


def abstract_batch(spec: ModelSpec, samples: int, frames: int) -> dict[str, Any]:
    """Shapes of a batch (`train.data.Batch`)."""
    latitudes, longitudes = spec.grid.shape
    points = (2, latitudes // 2, longitudes)

    def of(*shape: int, dtype: type = jnp.float32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((samples, *shape), dtype)

    fields = {n: of(frames, len(spec.levels), *points) for n in LEVEL_VARIABLES}
    fields |= {name: of(frames, *points) for name in SURFACE_VARIABLES}
    times = {name: of(dtype=jnp.int32) for name in ("days", "seconds")}
    return {"frames": fields, **times}


def format_plan(figures: dict[str, Any]) -> str:
    """The figures as a page for people."""
    memory = figures["memory"]
    mesh = ", ".join(f"{axis}={n}" for axis, n in figures["mesh"].items())
    lines = [f"{figures['topology']}: {figures['devices']} devices, mesh {mesh}"]
    verdict = "fits" if figures["fits"] else "DOES NOT FIT"
    lines += [
        f"{verdict}: {_size(memory['peak'])} of {_size(memory['available'])} a device"
    ]
    if not figures["fits"]:
        return "\n".join(lines)
    lines += [
        f"  {name:14}{_size(memory[name]):>10}"
        for name in ("arguments", "outputs", "aliased", "temporaries", "program")
    ]
    times = figures["modelled_seconds"]
    lines += [
        "a step on each device",
        f"  matrix products {figures['flops'] / 1e9:14,.1f} GFLOP, with passes "
        f"{figures['mxu_flops'] / 1e9:,.1f}",
        f"  HBM traffic     {_size(figures['bytes']):>14}",
        f"  modelled time   {1e3 * times['total']:14,.2f} ms (alone: products "
        f"{1e3 * times['compute']:,.2f}, memory {1e3 * times['memory']:,.2f}, "
        f"collectives {1e3 * times['collectives']:,.2f})",
        f"  {'collectives':22}{'over':20}{'count':>8}{'received':>12}{'modelled':>12}",
    ]
    lines += [
        f"  {c['kind']:22}{c['axes']:20}{c['count']:>8}{_size(c['bytes']):>12}"
        f"{1e3 * c['seconds']:>9,.2f} ms"
        for c in figures["collectives"]
    ]
    if figures["unknown_custom_calls"]:
        lines.append(f"  custom calls not modelled: {figures['unknown_custom_calls']}")
    lines.append(
        "Modelled from the compiled program (launch/tpu/cost.py), not measured; the "
        f"compiler's own optimal_seconds is {figures['compiler']['optimal_seconds']}. "
        f"Compiled in {figures['compile_seconds']} s."
    )
    return "\n".join(lines)


def _size(value: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:,.1f} {unit}"
        value /= 1024
    return f"{value:,.1f} GiB"
