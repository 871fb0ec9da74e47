"""The device mesh and what lies where on it.

Axes: `data` (samples of a batch), `ensemble` (their members, or more samples if each
has one), `level` and `lat` (one sample's atmosphere; `model.partitioning`). The fields
of a batch are split by sample, latitude pairs over `lat` and longitudes over `level`,
whole columns everywhere. Parameters, their average and the optimizer's state are
replicated, or split by a table of rules.

On a TPU, axes are placed on the torus of the slice by how much they exchange: `lat`
first, on neighbours, then `level`, on a ring where one is left, `data` on the rest.
Between slices, over the data-centre network, and between processes on CPUs goes
`data` before all others.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from model.partitioning import AXES, COLUMN_SURFACE, SAMPLES
from model.spec import ModelSpec
from pipeline.errors import UserError

T = TypeVar("T")

Rules = Sequence[tuple[str, Sequence[str | None]]]
"""Where parameters lie: (regular expression, mesh axis or None of each dimension). The
first expression that is found in an array's path, such as `physics/encode/kernel`,
decides; an array that none matches is replicated."""


@dataclasses.dataclass(frozen=True)
class MeshShape:
    """Number of devices along each axis of the mesh; -1 for what the others leave."""

    data: int = 1
    ensemble: int = 1
    level: int = 1
    lat: int = 1

    def filled(self, devices: int) -> "MeshShape":
        """This shape, with the devices that the others leave along an axis of -1.

        Without such an axis it is this shape, whether or not that uses all devices.

        Raises:
          UserError: if there are two such axes, or the others do not divide `devices`.
        """
        sizes = dataclasses.asdict(self)
        unknown = [axis for axis, size in sizes.items() if size == -1]
        if not unknown:
            return self
        others = {axis: n for axis, n in sizes.items() if n not in (-1, 1)}
        if len(unknown) > 1:
            raise UserError(
                f"mesh.{' and mesh.'.join(unknown)} are -1: only one axis can take the "
                "devices that the others leave"
            )
        for axis, size in others.items():
            _check_size(axis, size)
        product = int(np.prod(list(others.values()), dtype=int))
        if devices % product:
            raise UserError(
                f"mesh.{unknown[0]}=-1 cannot take what the other axes leave: their "
                f"product, {' * '.join(f'{a}={n}' for a, n in others.items())}, does "
                f"not divide the number of devices ({devices})"
            )
        return dataclasses.replace(self, **{unknown[0]: devices // product})

    def check(self, spec: ModelSpec, batch: int, members: int = 1) -> None:
        """Raises UserError where this mesh does not fit the model or the batch.

        With several members of each sample, they are spread over `ensemble`.
        """
        sizes = dataclasses.asdict(self)
        for axis, size in sizes.items():
            _check_size(axis, size)
        if batch < 1:
            raise UserError(f"train.batch={batch} must be at least 1")
        if members < 1:
            raise UserError(f"train.members={members} must be at least 1")
        if members > 1 and not spec.networks.noise:
            raise UserError(
                f"train.members={members} needs model.noise: without random fields "
                "members are equal"
            )
        if members > 1:
            self._check_members(batch, members)
            batch *= members
        if batch % (self.data * self.ensemble):
            fitting = [
                f"{n // self.ensemble}"
                for n in range(self.ensemble, batch + 1, self.ensemble)
                if batch % n == 0
            ]
            raise UserError(
                f"mesh.data={self.data} times mesh.ensemble={self.ensemble} does not "
                f"divide the batch size train.batch ({batch}): use one of mesh.data="
                f"{', '.join(fitting) or 'none'} with this mesh.ensemble, or another "
                "batch"
            )
        rules = [
            ("level", spec.sigma.layers, "model.layers"),
            ("level", spec.grid.longitudes, "the longitudes of the data"),
            ("lat", spec.grid.latitudes // 2, "the latitude pairs of the data"),
            (
                "lat",
                spec.dycore_grid.latitudes // 2,
                "the latitude pairs of model.dycore_grid",
            ),
        ]
        for axis in ("level", "lat"):
            numbers = [number for a, number, _ in rules if a == axis]
            for a, number, what in rules:
                if a == axis and number % sizes[axis]:
                    raise UserError(
                        f"mesh.{axis}={sizes[axis]} does not divide {what} ({number}): "
                        f"use one of {_divisors(int(np.gcd.reduce(numbers)))}"
                    )

    def _check_members(self, batch: int, members: int) -> None:
        for axis, number, what in [
            ("data", batch, "train.batch"),
            ("ensemble", members, "train.members"),
        ]:
            if number % getattr(self, axis):
                raise UserError(
                    f"mesh.{axis}={getattr(self, axis)} does not divide {what} "
                    f"({number}): use one of {_divisors(number)}"
                )


def _check_size(axis: str, size: int) -> None:
    if size < 1:
        raise UserError(
            f"mesh.{axis}={size} must be at least 1, or -1 on one axis for the devices "
            "that the others leave"
        )


def _divisors(number: int) -> str:
    return ", ".join(str(d) for d in range(1, number + 1) if number % d == 0)


def make_mesh(shape: MeshShape, devices: Sequence | None = None) -> Mesh:
    """A mesh of `devices` (default: all of JAX's), with automatic axes.

    Of the devices of a single process, the first are taken if it needs fewer.

    Args:
      shape: its axis of -1, if there is one, is filled.
      devices: of one or more slices, all of them.

    Raises:
      UserError: if there are fewer devices than the mesh needs, devices of several
        processes would be left idle, or slices do not divide `data`.
    """
    devices = jax.devices() if devices is None else devices
    shape = shape.filled(len(devices))
    sizes = tuple(getattr(shape, axis) for axis in AXES)
    needed = int(np.prod(sizes))
    if needed > len(devices):
        raise UserError(
            f"the mesh {dict(zip(AXES, sizes, strict=True))} needs {needed} devices, "
            f"here are {len(devices)}: set mesh.* to fit, or, on CPUs, "
            f"JAX_NUM_CPU_DEVICES={needed}"
        )
    processes = len({device.process_index for device in devices})
    if needed < len(devices) and processes > 1:
        raise UserError(
            f"the mesh {dict(zip(AXES, sizes, strict=True))} uses {needed} of the "
            f"{len(devices)} devices of {processes} processes: set mesh.* to use all, "
            "such as by mesh.data=-1"
        )
    if needed == len(devices) and devices[0].platform == "tpu":
        return Mesh(_on_torus(sizes, devices), AXES)
    in_order = sorted(devices, key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(in_order[:needed]).reshape(sizes), AXES)


def _on_torus(sizes: tuple[int, ...], devices: Sequence) -> np.ndarray:
    """All chips of TPU slices as an array of `sizes`, of `AXES`.

    `AXES` are in the order of what they exchange, least first, as JAX wants it.
    """
    # Devices of a single slice need not know of slices.
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if sizes[0] % slices:
        raise UserError(
            f"mesh.data={sizes[0]} is not a multiple of the {slices} slices: only "
            "`data` spans slices, whose network is slow"
        )
    # A physical axis may be split where no mesh axis fills it.
    if slices == 1:
        return mesh_utils.create_device_mesh(
            sizes, devices, allow_split_physical_axes=True
        )
    return mesh_utils.create_hybrid_device_mesh(
        (sizes[0] // slices, *sizes[1:]),
        (slices, *[1] * len(sizes[1:])),
        devices,
        allow_split_physical_axes=True,
    )


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def batch_layout(ndim: int) -> P:
    """Where an array of a batch lies.

    It is [sample, ...] or, with `ndim` above 3, [sample, ..., 2, latitude, longitude].
    """
    if ndim < 4:
        return P(SAMPLES)
    return P(SAMPLES, *(None,) * (ndim - 4), *COLUMN_SURFACE)


def tree_shardings(mesh: Mesh, layout: T) -> T:
    """Shardings in the places of a tree of `PartitionSpec`s."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), layout)


def state_shardings(mesh: Mesh, state: T, rules: Rules) -> T:
    """Shardings of parameters, or of all that training changes, by `rules`.

    Args:
      mesh: the mesh.
      state: arrays or their shapes, as a tree.
      rules: see `Rules`.

    Raises:
      UserError: if a rule is none, or does not fit an array.
    """

    for rule in rules:
        try:
            pattern, axes = rule
            re.compile(pattern)
            named = [axis for axis in axes if axis is not None]
            good = set(named) <= set(AXES) and len(set(named)) == len(named)
        except (ValueError, TypeError, re.error):
            good = False
        if not good:
            raise UserError(
                f"config.mesh.parameters: {rule!r} is no (regular expression, axes) "
                f"with one of {', '.join(AXES)} or None for each dimension"
            )

    def sharding(path: tuple, x: jax.ShapeDtypeStruct) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        for pattern, axes in rules:
            if not re.search(pattern, name):
                continue
            if len(axes) > x.ndim:
                raise UserError(
                    f"the rule {(pattern, tuple(axes))} of config.mesh.parameters does "
                    f"not fit {name} {x.shape}: it has fewer dimensions"
                )
            for axis, length in zip(axes, x.shape, strict=False):
                if axis and length % mesh.shape[axis]:
                    raise UserError(
                        f"the rule {(pattern, tuple(axes))} of config.mesh.parameters "
                        f"splits {name} {x.shape} over {mesh.shape[axis]} devices of "
                        f"mesh.{axis}, which do not divide {length}"
                    )
            return NamedSharding(mesh, P(*axes))
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(sharding, state)


def place(tree: T, shardings: T) -> T:
    """Arrays of the host, the same on every process, laid out on a mesh.

    Unlike `jax.device_put` it does not compare the processes' values, which would send
    all of them around.
    """

    def placed(x: np.ndarray, sharding: NamedSharding) -> jax.Array:
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(placed, tree, shardings)
