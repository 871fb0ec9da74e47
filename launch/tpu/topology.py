"""TPU slices that are not there: devices to compile for.

The compiler is in the package `libtpu`, which works without a TPU.
"""

import glob
import os
import re
from collections.abc import Sequence

from launch.tpu.chips import CHIPS
from pipeline.errors import UserError

EXAMPLES = "v5p:2x2x1, v5p:4x4x8, v5e:4x4, v6e:8x8, v4:2x2x4"


def prepare() -> None:
    """Sets what JAX and libtpu read when they start; call it before that.

    JAX itself stays on the CPU, and asks no metadata server what TPU this is.
    """
    os.environ["JAX_PLATFORMS"] = "cpu"
    for name, value in {
        "TPU_SKIP_MDS_QUERY": "1",
        # What libtpu would otherwise look for, in vain and aloud. It compiles for the
        # slice that it is asked for, whatever these say.
        "TPU_ACCELERATOR_TYPE": "v5p-8",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_STDERR_LOG_LEVEL": "3",
        "TPU_MIN_LOG_LEVEL": "3",
    }.items():
        os.environ.setdefault(name, value)
    if not glob.glob("/dev/accel*") + glob.glob("/dev/vfio/*"):
        # Only one process may use a TPU, and libtpu locks it; without one, several
        # may compile at once.
        os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")


def chip_name(topology: str) -> str:
    """`v5p` of `v5p:2x2x1`.

    Raises:
      UserError: if it is none of the chips that are known.
    """
    match = re.fullmatch(r"(\w+):(\d+)x(\d+)(x\d+)?", topology)
    if match is None or match.group(1) not in CHIPS:
        raise UserError(
            f"--topology={topology}: write CHIP:SHAPE with one of {', '.join(CHIPS)}, "
            f"such as {EXAMPLES}"
        )
    return match.group(1)


def parse_mesh(text: str, axes: Sequence[str]) -> dict[str, int]:
    """Sizes by axis, of `AXIS=SIZE,...`.

    Raises:
      UserError: if the text is something else.
    """
    sizes = {}
    for part in text.split(","):
        axis, _, size = part.partition("=")
        if axis not in axes or not size.isdigit() or int(size) < 1:
            raise UserError(
                f"--mesh={text}: write AXIS=SIZE,... with axes of {', '.join(axes)}, "
                "such as level=4,lat=1"
            )
        sizes[axis] = int(size)
    return sizes


def devices(topology: str, slices: int = 1) -> Sequence:
    """The devices of one or more equal slices, one for each chip.

    Raises:
      UserError: if there is no such slice, or no compiler for it.
    """
    if slices < 1:
        raise UserError(f"--slices={slices} must be at least 1")
    name = chip_name(topology)
    try:
        import libtpu  # noqa: F401, the compiler
    except ImportError:
        raise UserError(
            "compiling for TPUs needs the package libtpu: "
            "pip install --constraint constraints.txt '.[plan]'"
        ) from None
    from jax.experimental import topologies

    # On v4 the two cores of a chip can be one device, as they always are on v5p.
    options = {"chip_config_name": "megacore"} if name == "v4" else {}
    if slices > 1:
        options["num_slices"] = slices
    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=topology, **options
        )
    except Exception as error:  # JAX raises several kinds for a name that is wrong
        line = str(error).strip().splitlines()[0]
        raise UserError(
            f"--topology={topology}: the compiler knows no such slice ({line}); "
            f"slices are such as {EXAMPLES}"
        ) from error
    return found.devices
