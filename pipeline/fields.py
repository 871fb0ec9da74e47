"""Plain Zarr stores of fields: the sample planet is written to one.

Zarr format 2, as ARCO-ERA5 is, so that every reader opens them.
"""

import pathlib
from collections.abc import Mapping

import numcodecs
import numpy as np
import xarray
import zarr

from pipeline.variables import VARIABLES

_UNITS = {
    "level": "hPa",
    "latitude": "degrees_north",
    "longitude": "degrees_east",
}


def create_fields(
    path: pathlib.Path,
    coordinates: Mapping[str, np.ndarray],
    dimensions: Mapping[str, tuple[str, ...]],
    attributes: Mapping[str, str | int],
    note: str,
) -> zarr.Group:
    """Creates a store whose fields are still undefined.

    Args:
      path: of the store.
      coordinates: values by dimension; `time` as datetime64.
      dimensions: of each field, by ERA5 name.
      attributes: of the store.
      note: attribute of every field.

    Returns:
      The group; assign to its arrays, e.g. group["temperature"][0].
    """
    xarray.Dataset(
        coords={
            name: (name, values, {"units": _UNITS[name]} if name in _UNITS else {})
            for name, values in coordinates.items()
        },
        attrs=dict(attributes),
    ).to_zarr(
        path,
        zarr_format=2,
        consolidated=False,
        encoding={"time": {"units": "hours since 1970-01-01", "dtype": "int64"}},
    )
    group = zarr.open_group(path, mode="r+", zarr_format=2)
    for name, dims in dimensions.items():
        shape = tuple(len(coordinates[dim]) for dim in dims)
        array = group.create_array(
            name,
            shape=shape,
            dtype=np.float32,
            chunks=tuple(
                1 if dim == "time" else size
                for dim, size in zip(dims, shape, strict=True)
            ),
            compressors=numcodecs.Blosc("lz4", shuffle=numcodecs.Blosc.SHUFFLE),
            fill_value=np.nan,
        )
        array.attrs.update(
            _ARRAY_DIMENSIONS=list(dims),
            units=VARIABLES[name].units,
            long_name=VARIABLES[name].long_name,
            note=note,
        )
    return group
