"""The device mesh and what lies where on it.

Axes: `data` (samples), `ensemble` (members of a sample), `level` and `lat` (one
sample's atmosphere; `model.partitioning`). Parameters, optimizer state and tables are
replicated; the fields of a batch are split by sample, latitude bands over `lat` and
longitudes over `level`, whole columns everywhere.
"""

import dataclasses

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from model.spec import ModelSpec
from pipeline.errors import UserError

AXES = ("data", "ensemble", "level", "lat")


@dataclasses.dataclass(frozen=True)
class MeshShape:
    """Number of devices along each axis of the mesh."""

    data: int = 1
    ensemble: int = 1
    level: int = 1
    lat: int = 1

    def check(self, spec: ModelSpec, batch: int) -> None:
        """Raises UserError where this mesh does not fit the model or the batch."""
        sizes = dataclasses.asdict(self)
        for axis, size in sizes.items():
            if size < 1:
                raise UserError(f"mesh.{axis}={size} must be at least 1")
        if self.ensemble != 1:
            raise UserError(
                f"mesh.ensemble={self.ensemble}: this model is deterministic and has "
                "one member; set mesh.ensemble=1 and give the devices to mesh.data"
            )
        rules = [
            ("data", batch, "the batch size train.batch"),
            ("level", spec.sigma.layers, "model.layers"),
            ("level", spec.grid.longitudes, "the longitudes of the data"),
            ("lat", spec.grid.latitudes, "the latitudes of the data"),
            ("lat", spec.dycore_grid.latitudes, "the latitudes of model.dycore_grid"),
        ]
        for axis, number, what in rules:
            if number % sizes[axis]:
                raise UserError(
                    f"mesh.{axis}={sizes[axis]} does not divide {what} ({number}): "
                    f"use one of {_divisors(number)}"
                )


def _divisors(number: int) -> str:
    return ", ".join(str(d) for d in range(1, number + 1) if number % d == 0)


def make_mesh(shape: MeshShape) -> Mesh:
    """A mesh of the first devices, with automatic axes.

    Raises:
      UserError: if there are fewer devices than the mesh needs.
    """
    sizes = tuple(getattr(shape, axis) for axis in AXES)
    devices = jax.devices()
    needed = int(np.prod(sizes))
    if needed > len(devices):
        raise UserError(
            f"the mesh {dict(zip(AXES, sizes, strict=True))} needs {needed} devices, "
            f"here are {len(devices)}: set mesh.* to fit, or, on CPUs, "
            f"JAX_NUM_CPU_DEVICES={needed}"
        )
    return Mesh(np.array(devices[:needed]).reshape(sizes), AXES)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    """Sharding of one array of a batch: [sample, ...] or [sample, ..., lat, lon]."""
    if len(shape) < 3:
        return NamedSharding(mesh, P("data"))
    inner = (None,) * (len(shape) - 3)
    return NamedSharding(mesh, P("data", *inner, "lat", "level"))
