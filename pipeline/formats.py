"""Opens whatever a path holds as xarray datasets: Zarr, NetCDF, GRIB.

Only metadata and coordinates are read here; values are read when they are asked for.
"""

import glob
import os
import warnings
from pathlib import Path

import xarray

from pipeline.errors import UserError
from pipeline.files import one_line
from pipeline.zarr_source import open_zarr

_GRIB_SUFFIXES = (".grib", ".grb", ".grib1", ".grb1", ".grib2", ".grb2")
_NETCDF_SUFFIXES = (".nc", ".nc4", ".cdf")


def source_paths(source: str) -> list[str]:
    """Paths and addresses of a source's parts.

    Args:
      source: paths and addresses, separated by commas; in paths, `*` and `?` stand for
        any characters.

    Raises:
      UserError: if a path does not exist.
    """
    paths = []
    for pattern in source.split(","):
        if "://" in pattern:
            if "*" in pattern:
                raise UserError(
                    f"source {pattern}: wildcards are for local files, name each "
                    "address, separated by commas"
                )
            paths.append(pattern)
            continue
        found = sorted(glob.glob(pattern))
        if not found:
            raise UserError(f"source {pattern} does not exist")
        paths += found
    return paths


def open_datasets(path: str) -> list[xarray.Dataset]:
    """Opens a Zarr store (a folder or an address), a NetCDF or a GRIB file.

    Returns:
      One dataset; several for a GRIB file whose variables differ in their axes.

    Raises:
      UserError: if it cannot be opened.
    """
    if "://" in path and path.endswith(_GRIB_SUFFIXES + _NETCDF_SUFFIXES):
        raise UserError(f"{path} is a file: copy it here, only Zarr stores are remote")
    try:
        if os.path.isdir(path) or "://" in path:
            kind = "Zarr store"
            return [open_zarr(path)]
        if _is_grib(path):
            kind = "GRIB file"
            return _open_grib(path)
        kind = "NetCDF file"
        return [
            xarray.open_dataset(
                path, engine="netcdf4", cache=False, decode_timedelta=False
            )
        ]
    except UserError:
        raise
    except (OSError, EOFError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"cannot open {path} as a {kind}: {one_line(error)}") from error


def _is_grib(path: str) -> bool:
    if path.endswith(_GRIB_SUFFIXES):
        return True
    with Path(path).open("rb") as file:
        return file.read(4) == b"GRIB"


def _open_grib(path: str) -> list[xarray.Dataset]:
    try:
        import cfgrib
    except (ImportError, RuntimeError) as error:  # RuntimeError: no ecCodes library
        raise UserError(
            f"{path} is a GRIB file: pip install 'podgcm[grib]' to read it "
            f"({one_line(error)})"
        ) from error
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        # No index: it would be a file beside the source.
        datasets = cfgrib.open_datasets(
            path, backend_kwargs={"indexpath": ""}, cache=False, decode_timedelta=False
        )
    if not datasets:
        raise UserError(f"{path} holds no GRIB messages")
    return datasets
