"""How arrays, shards and coordinates of a store become bytes: Zarr v3, sharded.

Everything is encoded in memory, by TensorStore, and then written as whole objects:
the same plan and values always give the same bytes, and their digests are known.
"""

from typing import Any

import numcodecs
import numpy as np

from model.sphere.grids import GaussianGrid
from pipeline.plan import STACKED_ARRAY, Plan
from pipeline.variables import VARIABLES
from pipeline.zarr_v3 import array_files, coordinate_files, group_file

SHARD_BYTES = 150_000_000
# A band of latitudes is no thinner, or chunks get too small to be read quickly.
_LEAST_ROWS = 8


def default_shard_steps(grid: GaussianGrid, channels: int) -> int:
    """Times in a shard of about `SHARD_BYTES`.

    A power of two, so that shards of one grid are whole numbers of another's.
    """
    step_bytes = 4 * max(1, channels) * grid.latitudes * grid.longitudes
    return 2 ** max(0, round(np.log2(SHARD_BYTES / step_bytes)))


def default_latitude_chunks(grid: GaussianGrid) -> int:
    """Bands of latitude: eight serve meshes that split mirror pairs in 1, 2 or 4."""
    return next(
        n
        for n in (8, 4, 2, 1)
        if n == 1 or (grid.latitudes % n == 0 and grid.latitudes // n >= _LEAST_ROWS)
    )


def shard_name(plan: Plan, array: str, shard: int) -> str:
    """The object of a shard."""
    zeros = ["0"] * (len(plan.dimensions(array)) - 1)
    return "/".join([array, "c", str(shard), *zeros])


def encode_shard(plan: Plan, array: str, data: np.ndarray) -> bytes:
    """The object of one shard.

    Args:
      data: float32 and finite, the array's shape with the times of the shard.
    """
    expected = plan.shape(array)
    if not plan.is_static(array):
        expected = (len(data), *expected[1:])
    if data.shape != expected:
        raise ValueError(f"shard of {array} has shape {data.shape}, not {expected}")
    if not np.isfinite(data).all():
        raise ValueError(f"a shard of {array} is not finite")
    if plan.keep_bits is not None and not plan.is_static(array):
        # The codec rounds in place of what it is given.
        rounded = numcodecs.BitRound(plan.keep_bits).encode(data.copy())
        data = rounded.view(np.float32).reshape(data.shape)
    files = array_files(array_metadata(plan, array) | {"shape": data.shape}, data)
    (name,) = (name for name in files if name != "zarr.json")
    return files[name]


def store_files(plan: Plan, group_attributes: dict[str, Any]) -> dict[str, bytes]:
    """All files of a store but shards and what is of this project alone.

    Coordinates, metadata of all arrays, and the group's, which repeats them so that
    readers need to ask for one file only.
    """
    files = {}
    for name, (values, attributes) in coordinates(plan).items():
        files |= coordinate_files(name, values, attributes)
    for array in plan.arrays:
        files[f"{array}/zarr.json"] = array_files(array_metadata(plan, array))[
            "zarr.json"
        ]
    files["zarr.json"] = group_file(group_attributes, files)
    # Zarr libraries warn of folders that are not groups.
    return files | {f"{name}/zarr.json": group_file({}) for name in OTHER_FOLDERS}


OTHER_FOLDERS = ("_build", "stats")


def coordinates(plan: Plan) -> dict[str, tuple[np.ndarray, dict[str, str]]]:
    """Values and CF attributes of the coordinates."""
    result = {
        "latitude": (
            plan.target.latitude_degrees,
            {"units": "degrees_north", "standard_name": "latitude"},
        ),
        "longitude": (
            plan.target.longitude_degrees,
            {"units": "degrees_east", "standard_name": "longitude"},
        ),
    }
    kinds = {plan.kind(name) for name in plan.variables}
    if kinds - {"static"}:
        result["time"] = (
            plan.times.astype("datetime64[h]").astype(np.int64),
            {
                "units": "hours since 1970-01-01",
                "calendar": "proleptic_gregorian",
                "standard_name": "time",
            },
        )
    if "levels" in kinds and plan.layout == "variables":
        if plan.sigma_layers is None:
            attributes = {"units": "hPa", "standard_name": "air_pressure"}
            values = np.array(plan.levels)
        else:
            attributes = {
                "units": "1",
                "standard_name": "atmosphere_sigma_coordinate",
                "formula_terms": "sigma: sigma ps: surface_pressure",
            }
            values = plan.sigma
        result[plan.vertical] = (values, attributes | {"positive": "down"})
    return result


def channel_names(plan: Plan, array: str) -> list[str]:
    """Name of each channel of a stacked array: `temperature_500`, `..._surface`."""
    labels = [f"{level:g}" for level in plan.levels]
    if plan.sigma_layers is not None:
        labels = [f"{sigma:g}" for sigma in plan.sigma]
    return [
        f"{name}_{label}"
        for name in plan.arrays[array]
        for label in (labels if plan.kind(name) == "levels" else ["surface"])
    ]


def array_metadata(plan: Plan, array: str) -> dict[str, Any]:
    """Zarr v3 metadata of an array, as TensorStore takes them."""
    shape = plan.shape(array)
    chunk = list(shape)
    chunk[-2] //= plan.latitude_chunks
    shard = list(shape)
    if not plan.is_static(array):
        chunk[0], shard[0] = 1, plan.shard_steps
    if array == STACKED_ARRAY:
        attributes: dict[str, Any] = {"channels": channel_names(plan, array)}
    else:
        variable = VARIABLES[array]
        attributes = {"units": variable.units, "long_name": variable.long_name}
    if plan.keep_bits is not None and not plan.is_static(array):
        # The name that netCDF gives it.
        attributes["_QuantizeBitRoundNumberOfSignificantBits"] = plan.keep_bits
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    blosc = {
        "name": "blosc",
        "configuration": {
            "cname": "lz4",
            "clevel": 5,
            "shuffle": "bitshuffle",
            "typesize": 4,
        },
    }
    # Blosc alone gives wrong values for most flipped bits.
    checksum = {"name": "crc32c"}
    return {
        "shape": shape,
        "data_type": "float32",
        # Defined data never equal it, so that no chunk is left out as 'empty'.
        "fill_value": "NaN",
        "dimension_names": list(plan.dimensions(array)),
        "attributes": attributes,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shard}},
        "codecs": [
            {
                "name": "sharding_indexed",
                "configuration": {
                    "chunk_shape": chunk,
                    "codecs": [little, blosc, checksum],
                    "index_codecs": [little, checksum],
                    "index_location": "end",
                },
            }
        ],
    }
