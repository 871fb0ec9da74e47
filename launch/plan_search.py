"""`podgcm plan --search` and `--all`: many programs, compiled one after another.

A search tries the meshes of a slice, a survey the slices of all chips. Each program
takes as long as a plan of its own; rows are printed to stderr as they come.
"""

import math
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from ml_collections import ConfigDict

from launch.plan import Planned, data_grid, mesh_shape, pace
from launch.tpu import topology
from launch.tpu.chips import CHIPS
from model.spec import ModelSpec
from pipeline.errors import UserError
from train import build
from train.mesh import MeshShape

# Slices that a survey looks at, as long as their chips divide the work.
SLICES = {
    "v4": ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8"),
    "v5e": ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    "v5p": ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8"),
    "v6e": ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
}


def search(config: ConfigDict, slice_name: str, slices: int = 1) -> dict[str, Any]:
    """The sensible meshes of a slice, by modelled time of a step.

    Sensible are those that spread the batch over as many devices as can be, or half as
    many, and split samples over the rest in any way that fits the model.

    Args:
      config: of the run; its mesh is not looked at.
      slice_name, slices: as in `plan.plan`.

    Returns:
      The `topology`, `slices` and `rows`: first those that fit, the fastest first.

    Raises:
      UserError: if the slice cannot be used, or no mesh fits the model.
    """
    devices = len(topology.devices(slice_name, slices))
    spec = build.build_spec(config, *data_grid(config))
    shapes = sensible_meshes(devices, slices, spec, config.train.batch)
    if not shapes:
        raise UserError(
            f"no mesh of {devices} devices fits a batch of {config.train.batch} and "
            "the model's layers and latitudes: use another slice or train.batch"
        )
    return {
        "topology": slice_name,
        "slices": slices,
        "rows": _rank(
            _row(config, slice_name, slices, shape, f"{i + 1} of {len(shapes)}")
            for i, shape in enumerate(shapes)
        ),
    }


def sensible_meshes(
    devices: int, slices: int, spec: ModelSpec, batch: int
) -> list[MeshShape]:
    """See `search`; those with most devices along `data`, then `level`, first."""
    fitting = []
    for data in range(slices, min(devices, batch) + 1, slices):
        if devices % data:
            continue
        rest = devices // data
        for level in range(1, rest + 1):
            if rest % level == 0:
                shape = MeshShape(data=data, level=level, lat=rest // level)
                try:
                    shape.check(spec, batch)
                except UserError:
                    continue
                fitting.append(shape)
    most = max((shape.data for shape in fitting), default=0)
    fitting = [shape for shape in fitting if 2 * shape.data >= most]
    return sorted(fitting, key=lambda s: (-s.data, -s.level))


def survey(config: ConfigDict) -> dict[str, Any]:
    """The slices of all chips that the batch and the mesh of `config` can fill.

    `data` takes the devices that the other axes leave.

    Returns:
      `rows`, as of `search`.

    Raises:
      UserError: if there is no such slice.
    """
    spec = build.build_spec(config, *data_grid(config))
    found = []
    for chip, sizes in SLICES.items():
        for size in sizes:
            devices = math.prod(map(int, size.split("x")))
            try:
                shape = mesh_shape(config, None, devices)
                shape.check(spec, config.train.batch)
            except UserError:
                continue
            found.append((f"{chip}:{size}", shape))
    if not found:
        raise UserError(
            f"config.mesh and train.batch={config.train.batch} fill no slice of "
            f"{', '.join(CHIPS)}: change them"
        )
    return {
        "rows": _rank(
            _row(config, name, 1, shape, f"{i + 1} of {len(found)}")
            for i, (name, shape) in enumerate(found)
        )
    }


def _row(
    config: ConfigDict, slice_name: str, slices: int, shape: MeshShape, which: str
) -> dict[str, Any]:
    """Figures of one program."""
    mesh = ",".join(f"{axis}={n}" for axis, n in vars(shape).items())
    print(f"plan: {which}: {mesh}", file=sys.stderr, flush=True)
    planned = Planned.create(config, slice_name, mesh, slices)
    measured = planned.measure(config.data.frames)
    row = {
        "topology": slice_name,
        "devices": planned.mesh.size,
        "mesh": dict(planned.mesh.shape),
        "fits": measured.fits,
        "memory": measured.memory,
    }
    if measured.fits:
        seconds = measured.cost.seconds
        row |= {"seconds_per_step": seconds, **pace(config, seconds)}
    print(format_rows([row]), file=sys.stderr, flush=True)
    return row


def _rank(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda r: (not r["fits"], r.get("seconds_per_step", 0.0)))


def format_rows(rows: Sequence[dict[str, Any]]) -> str:
    """A line for each program."""
    lines = []
    for row in rows:
        mesh = ",".join(f"{axis}={n}" for axis, n in row["mesh"].items() if n > 1)
        memory = f"{row['memory']['peak'] / 2**30:.1f} GiB"
        line = (
            f"{row['topology']:12}{row['devices']:>5} {mesh or 'data=1':28}{memory:>11}"
        )
        if not row["fits"]:
            missing = row["memory"]["missing"] / 2**30
            lines.append(f"{line}  does not fit, {missing:.1f} GiB are missing")
            continue
        chip_seconds = row["devices"] / row["samples_per_second"]
        lines.append(
            f"{line}{1e3 * row['seconds_per_step']:>12,.1f} ms a step"
            f"{row['samples_per_second']:>10,.2f} samples/s"
            f"{chip_seconds:>10,.2f} chip seconds a sample"
        )
    return "\n".join(lines)
