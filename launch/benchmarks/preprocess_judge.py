"""dinosaur's regridding in xarray-beam, for `launch.benchmarks.preprocess`.

One reading of the source is regridded to every grid, and undefined cells are filled
from the nearest defined ones, as NeuralGCM's data were made. Needs `judges`.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import xarray
import xarray_beam
from apache_beam.options.pipeline_options import PipelineOptions
from zarr.codecs import BloscCodec

from model.sphere.grids import GaussianGrid, parse_grid
from pipeline.errors import UserError

try:
    from dinosaur import horizontal_interpolation, spherical_harmonic, xarray_utils
except ImportError:
    raise UserError(
        "bench preprocess: pip install --constraint constraints.txt '.[judges]'"
    ) from None


@dataclasses.dataclass(frozen=True)
class Settings:
    """How the judge is run.

    Attributes:
      read_threads: chunks that are read at once; None reads them in turn.
      workers: threads of the runner, each with elements of its own.
    """

    read_threads: int | None
    workers: int

    def __str__(self) -> str:
        return f"read_threads={self.read_threads}, workers={self.workers}"

    def beam_options(self, runner: str) -> PipelineOptions:
        flags = []
        if self.workers > 1:
            flags = [
                f"--direct_num_workers={self.workers}",
                "--direct_running_mode=multi_threading",
            ]
        return PipelineOptions(flags, runner=runner)


# More threads than these were no faster on two cores, nor were both kinds together.
SETTINGS = (
    Settings(read_threads=None, workers=1),
    Settings(read_threads=2, workers=1),
    Settings(read_threads=None, workers=2),
)


def regridder(
    latitudes: int, longitudes: int, grid: GaussianGrid
) -> horizontal_interpolation.ConservativeRegridder:
    """dinosaur's regridder from equal angles, poles included, to a Gaussian grid."""
    source = spherical_harmonic.Grid(
        latitude_nodes=latitudes,
        longitude_nodes=longitudes,
        latitude_spacing="equiangular_with_poles",
    )
    target = spherical_harmonic.Grid(
        latitude_nodes=grid.latitudes, longitude_nodes=grid.longitudes
    )
    return horizontal_interpolation.ConservativeRegridder(source, target, skipna=True)


def preprocess(
    settings: Settings, runner: str, source: str, output: str, grids: Sequence[str]
) -> None:
    """Writes OUTPUT/GRID, an unsharded Zarr v3 store with a time in a chunk, for each.

    Chunks are compressed as ours are. With a time in a chunk, as dinosaur's users have
    it for reading at random, nothing needs to be consolidated between workers.
    """
    dataset, chunks = xarray_beam.open_zarr(source)
    pipeline = beam.Pipeline(options=settings.beam_options(runner))
    read = pipeline | xarray_beam.DatasetToChunks(
        dataset, chunks, split_vars=True, num_threads=settings.read_threads
    )
    latitudes, longitudes = dataset.sizes["latitude"], dataset.sizes["longitude"]
    for name in grids:
        to_grid = regridder(latitudes, longitudes, parse_grid(name))
        regrid_chunk = functools.partial(_regrid_chunk, to_grid)
        template = _template(dataset, to_grid)
        _ = (
            read
            | f"Regrid to {name}" >> beam.MapTuple(regrid_chunk)
            | f"Write {name}"
            >> xarray_beam.ChunksToZarr(
                str(pathlib.Path(output) / name),
                template,
                {dim: 1 if dim == "time" else -1 for dim in template.sizes},
                zarr_format=3,
                encoding=_encoding(template),
            )
        )
    pipeline.run().wait_until_finish()


def regrid(
    fields: xarray.Dataset | xarray.DataArray,
    regridder: horizontal_interpolation.ConservativeRegridder,
) -> xarray.Dataset | xarray.DataArray:
    """Area means, NaN where no part of a cell is defined."""
    return xarray_utils.regrid_horizontal(fields, regridder)


def _regrid_chunk(
    regridder: horizontal_interpolation.ConservativeRegridder,
    key: xarray_beam.Key,
    chunk: xarray.Dataset,
) -> tuple[xarray_beam.Key, xarray.Dataset]:
    return key, xarray_utils.fill_nan_with_nearest(regrid(chunk, regridder))


def _template(
    dataset: xarray.Dataset, regrid: horizontal_interpolation.ConservativeRegridder
) -> xarray.Dataset:
    """The dataset to be, without values; dinosaur has longitude before latitude."""
    grid = regrid.target_grid
    places = {
        "longitude": np.rad2deg(grid.longitudes),
        "latitude": np.rad2deg(grid.latitudes),
    }
    columns = dataset.isel(latitude=0, longitude=0, drop=True)
    template = xarray_beam.make_template(columns).expand_dims(places)
    return template.transpose(..., "longitude", "latitude")


def _encoding(template: xarray.Dataset) -> dict[str, Any]:
    codec = BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle", typesize=4)
    return {name: {"compressors": codec} for name in template.data_vars}
