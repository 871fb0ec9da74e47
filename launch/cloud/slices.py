"""What a TPU slice is called: by `podgcm plan`, by `gcloud`, by Kubernetes."""

import dataclasses
import itertools
import math
import re

from launch.tpu.topology import chip_name
from pipeline.errors import UserError


@dataclasses.dataclass(frozen=True)
class _Names:
    """Of a chip: the prefix of its accelerator types, what one counts (chips, or
    TensorCores), the software of its VMs, its label and machines on GKE."""

    accelerator: str
    cores: int
    runtime: str
    label: str
    machine: str


_NAMES = {
    "v4": _Names("v4", 2, "tpu-ubuntu2204-base", "tpu-v4-podslice", "ct4p-hightpu"),
    "v5e": _Names(
        "v5litepod", 1, "v2-alpha-tpuv5-lite", "tpu-v5-lite-podslice", "ct5lp-hightpu"
    ),
    "v5p": _Names("v5p", 2, "v2-alpha-tpuv5", "tpu-v5p-slice", "ct5p-hightpu"),
    "v6e": _Names("v6e", 1, "v2-alpha-tpuv6e", "tpu-v6e-slice", "ct6e-standard"),
}


@dataclasses.dataclass(frozen=True)
class Slice:
    """A TPU slice.

    Attributes:
      chip: such as `v5p`.
      shape: of the torus, in chips.
    """

    chip: str
    shape: tuple[int, ...]

    @property
    def topology(self) -> str:
        return "x".join(map(str, self.shape))

    @property
    def chips(self) -> int:
        return math.prod(self.shape)

    @property
    def chips_per_host(self) -> int:
        # Eight chips in two dimensions are one machine; more are machines of four.
        return self.chips if self.chips <= 8 and len(self.shape) == 2 else 4

    @property
    def hosts(self) -> int:
        return self.chips // self.chips_per_host

    @property
    def accelerator_type(self) -> str:
        """Of `gcloud`; v4 and v5p count TensorCores there."""
        names = _NAMES[self.chip]
        return f"{names.accelerator}-{self.chips * names.cores}"

    @property
    def runtime_version(self) -> str:
        return _NAMES[self.chip].runtime

    @property
    def gke_accelerator(self) -> str:
        return _NAMES[self.chip].label

    @property
    def machine_type(self) -> str:
        return f"{_NAMES[self.chip].machine}-{self.chips_per_host}t"


def parse_slice(topology: str) -> Slice:
    """The slice called such as `v5p:4x4x8`.

    Raises:
      UserError: if there is no such slice.
    """
    chip = chip_name(topology)
    shape = tuple(int(n) for n in topology.partition(":")[2].split("x"))
    if shape not in _shapes(chip, math.prod(shape)):
        near = sorted(
            _all_shapes(chip), key=lambda s: abs(math.prod(s) - math.prod(shape))
        )
        names = ", ".join("x".join(map(str, s)) for s in near[:4])
        raise UserError(
            f"--topology={topology}: there is no such slice; near it are {names}"
        )
    return Slice(chip, shape)


def require_queued(slice_: Slice) -> None:
    """Checks that a queued resource can have this shape.

    It is asked for by the number of chips, which has one shape only.

    Raises:
      UserError: if that is another one.
    """
    usual = min(_shapes(slice_.chip, slice_.chips), key=sum)
    if slice_.shape != usual:
        raise UserError(
            f"{slice_.accelerator_type} is {'x'.join(map(str, usual))}: as a queued "
            f"resource there is no {slice_.chip}:{slice_.topology} (GKE has it)"
        )


def hosts_of(accelerator_type: str) -> int:
    """How many hosts a node of this accelerator type has.

    Raises:
      UserError: if the type is not known here.
    """
    match = re.fullmatch(r"(\w+)-(\d+)", accelerator_type)
    for chip, names in _NAMES.items():
        if match and match.group(1) == names.accelerator:
            shapes = _shapes(chip, int(match.group(2)) // names.cores)
            if shapes:
                return Slice(chip, shapes[0]).hosts
    raise UserError(f"accelerator type {accelerator_type} is not one of podgcm's")


def _shapes(chip: str, chips: int) -> list[tuple[int, ...]]:
    return [shape for shape in _all_shapes(chip) if math.prod(shape) == chips]


def _all_shapes(chip: str) -> list[tuple[int, ...]]:
    """All slices of a chip, as far as accelerator types name them."""
    if chip in ("v5e", "v6e"):
        return [(1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16)]
    # Blocks of 4x4x4, in ascending order, or parts of one.
    largest = 4096 if chip == "v4" else 6144
    cubes = itertools.combinations_with_replacement(range(4, 257, 4), 3)
    return [
        *[(2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4)],
        *(shape for shape in cubes if math.prod(shape) <= largest),
    ]
